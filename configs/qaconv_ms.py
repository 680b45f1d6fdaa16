"""QAConv-MS: local matches of several scales (Chen et al., ICME 2023, and TCSVT 34(9), 2024).

    python -m jaxreid.main --config=configs/qaconv_ms.py --workdir=runs/qaconv_ms
    python -m jaxreid.main --config=configs/qaconv_ms.py:market1501 --config.data.dir=... \
        --config.init_from=resnet50_ibn_b.safetensors --workdir=...

The argument is as for qaconv.py, without its versions, and with `multi`: the recipe for several
training sets, an epoch of each in turn (--config.sampler.alternate=False mixes them in batches),
which --config.data.train="('market1501', ...)" has to name.

The recipe of `market1501` is that of the authors' code. Which of its settings gave the published
numbers is not known: by default all parts are compared, and options of `model.neck` and
`model.matcher` are the other readings. `synthetic` and `small` are ours, for a small network from
random weights: with linear heads, eight epochs and a cosine schedule, whatever `multi` says.
"""

import pathlib
import sys

import ml_collections

sys.path.append(str(pathlib.Path(__file__).resolve().parent))  # from wherever it is loaded
import qaconv  # noqa: E402
import qaconv_gs  # noqa: E402


def get_config(arg: str = "synthetic") -> ml_collections.ConfigDict:
    return qaconv.configure(arg, paper(), {"multi": multi, "small": small, "debug": debug})


def paper() -> ml_collections.ConfigDict:
    """The recipe of the authors' code, on one training set."""
    config = qaconv_gs.paper()
    config.model.neck = ml_collections.ConfigDict(
        {
            "name": "multi_scale",
            "channels": 512,
            "scales": (1, 3, 5),  # of the template kernels; () for none
            "template_channels": 0,  # as many as channels
            "norm": "position",  # of their output; "both" and "channel" are other readings
            "attention_layers": 2,  # 0 leaves the branch out
            "hidden": 2048,
            "fusion": "score",  # "feature": the branch is compared along with every other part
        }
    )
    config.model.matcher = ml_collections.ConfigDict(
        {
            "name": "qaconv_ms",
            "head": "perceptron",  # "linear": a weight for each position, as in QAConv 2.1
            "hidden": 2048,
            "initial_logit": 0.0,
        }
    )
    config.objective = ml_collections.ConfigDict({"name": "pairwise"})
    config.epochs = 15
    config.sampler.instances = 4
    config.optim.clip_norm = 4.0
    config.schedule.update(name="step", step_epochs=10)
    # Maps have 2,560 channels, 1.9 MiB an image: smaller tiles, and for Market-1501 45 GB in all;
    # half of it with eval.dtype="bfloat16".
    config.eval.update(query_tile=16, gallery_tile=64)
    return config


def multi(config: ml_collections.ConfigDict) -> None:
    """The recipe of the authors' code for several training sets."""
    config.model.neck.scales = (1, 3, 5, 7)
    config.sampler.alternate = True
    config.epochs = 80
    config.schedule.step_epochs = 20
    if config.data.train == ("synthetic_people/plaza",):
        config.data.train = ("synthetic_people/plaza", "synthetic_people/mall")


def small(config: ml_collections.ConfigDict) -> None:
    """The small network of qaconv.py, from random weights. All numbers ours."""
    qaconv_gs.small(config)
    config.model.neck.update(channels=64, hidden=256)
    # Of the two heads the linear one learns more from random weights; `hidden` is of the other.
    config.model.matcher.update(head="linear", hidden=256)
    config.model.matcher.initial_logit = -2.0  # log odds of a match: 4 of 32 images
    config.optim.lr = 1e-3  # the backbone's 6e-3 is too much for encoder and perceptrons
    config.eval.update(query_tile=32, gallery_tile=512)


def debug(config: ml_collections.ConfigDict) -> None:
    """Seconds instead of hours: every part runs on a few people, little is learned."""
    qaconv.debug(config)
    config.model.neck.hidden = config.model.matcher.hidden = 32
    config.model.matcher.head = "perceptron"
