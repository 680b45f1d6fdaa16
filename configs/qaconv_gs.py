"""QAConv-GS: graph sampling and a hard triplet loss (Liao and Shao, CVPR 2022, arXiv 2104.01546).

    python -m jaxreid.main --config=configs/qaconv_gs.py --workdir=runs/qaconv_gs
    python -m jaxreid.main --config=configs/qaconv_gs.py:market1501 --config.data.dir=... \
        --config.init_from=resnet50_ibn_b.safetensors --workdir=...

The argument is as for qaconv.py, without its versions. The recipe of `market1501` is that of the
published code, version 2.1. `synthetic` and `small` are ours, for a small network from random
weights: graph sampling with the pairwise loss of version 2.0, AdamW and a cosine schedule.
"""

import pathlib
import sys

import ml_collections

sys.path.append(str(pathlib.Path(__file__).resolve().parent))  # from wherever it is loaded
import qaconv  # noqa: E402


def get_config(arg: str = "synthetic") -> ml_collections.ConfigDict:
    return qaconv.configure(arg, paper(), {"small": small, "debug": qaconv.debug})


def paper() -> ml_collections.ConfigDict:
    """The recipe of QAConv 2.1, on Market-1501."""
    config = qaconv.paper()
    config.model.backbone.name = "resnet50_ibn_b"
    config.model.freeze_stats = True  # "for a better generalization"; affine weights still learn
    config.model.neck.update(channels=128, norm="none")  # with bias
    config.model.dtype = "float32"  # published with AMP; its counterpart is "bfloat16"
    config.model.matcher.head = "v2.1"
    config.objective = ml_collections.ConfigDict({"name": "triplet", "margin": 16.0})
    config.batch_size = 64
    config.epochs = 60  # at most; Market-1501 takes about 10
    config.sampler.update(name="graph", instances=2)
    config.optim.update(lr=0.005, backbone_lr=0.0005, clip_norm=8.0)
    config.schedule.update(name="adaptive", factor=0.1, threshold=0.7)
    qaconv.augment_more(config)
    return config


def small(config: ml_collections.ConfigDict) -> None:
    """The small network of qaconv.py, from random weights. All numbers ours."""
    qaconv.small(config)  # with its AdamW, which needs no clipping, and its schedule
    config.model.freeze_stats = False  # there are none yet
    # From random weights the hardest negative is more alike than the hardest positive, and the
    # triplet loss first learns to make all scores equal; the loss of version 2.0 does not.
    config.objective = ml_collections.ConfigDict({"name": "pairwise"})
    config.model.matcher.initial_logit = -2.7  # log odds of a match: 2 of 32 images
    config.optim.clip_norm = 0.0
    config.batch_size = 32
    config.epochs = 8
