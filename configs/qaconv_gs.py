"""QAConv-GS: graph sampling and a hard triplet loss (Liao and Shao, CVPR 2022, arXiv 2104.01546).

    python -m jaxreid.main --config=qaconv_gs --workdir=runs/qaconv_gs
    python -m jaxreid.main --config=qaconv_gs:market1501 --config.data.dir=... \
        --config.init_from=resnet50_ibn_b.safetensors --workdir=...

The argument is as for qaconv.py, without the versions. `market1501` is the recipe of the published
code, version 2.1. `synthetic` and `small` are our recipe for a small network from random weights:
graph sampling with the pairwise loss of version 2.0, AdamW and a cosine schedule.
"""

from ml_collections import ConfigDict

from jaxreid.configs import common


def get_config(arg: str = "synthetic") -> ConfigDict:
    chosen = common.parse(arg, ("small", "debug"), backbones=common.BACKBONES)
    config = common.base(chosen.dataset)
    config.init_expects = "ImageNet"
    # "for a better generalization" in the original code; the affine weights are still trained
    config.model.freeze_stats = True
    config.model.dtype = "float32"  # the published code uses AMP; its counterpart is "bfloat16"
    config.model.backbone = ConfigDict({"name": "resnet50_ibn_b", "cut": "layer3", "width": 64})
    config.model.neck = ConfigDict({"name": "map", "channels": 128, "norm": "none"})
    config.model.matcher = ConfigDict(
        {
            "name": "qaconv",
            "head": "v2.1",
            "initial_logit": 0.0,
            "statistics_chunk": 0,  # only for a class memory, which this recipe does not have
            "patch": 1,  # side of the matched patches, odd; 1: single positions
        }
    )
    # "pairwise" would be the loss of version 2.0.
    config.objective = ConfigDict(
        {
            "name": "triplet",
            "margin": 16.0,  # in logits
        }
    )
    config.batch_size = 64
    config.epochs = 60  # maximum; Market-1501 takes about 10
    config.sampler.update(name="graph", instances=2)
    config.optim.update(lr=0.005, backbone_lr=0.0005, clip_norm=8.0)
    config.schedule.update(name="adaptive", factor=0.1, threshold=0.7)
    common.augment_more(config)

    if "small" in chosen:
        common.small(config)
        config.model.freeze_stats = False  # random weights have no statistics worth keeping
        # As in qaconv.py.
        config.model.backbone.update(name="resnet18_ibn_b", width=16, cut="layer2")
        config.model.neck.channels = 64
        config.model.matcher.initial_logit = -2.7  # log odds of a match: 2 of 32 images
        # From random weights the hardest negative scores higher than the hardest positive, so the
        # triplet loss first makes all scores equal; the loss of version 2.0 does not.
        config.objective = ConfigDict({"name": "pairwise"})
        config.batch_size = 32
        config.epochs = 8
        config.optim.update(lr=6e-3, backbone_lr=6e-3, clip_norm=0.0)  # AdamW needs no clipping
    if "debug" in chosen:
        common.few(config)
        config.model.backbone.update(name="resnet18", cut="layer2", width=8)
        config.model.neck.channels = 16
    if chosen.backbone:
        common.backbone(config, chosen.backbone)
    return config.lock()
