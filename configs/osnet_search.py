"""The search that found OSNet-AIN (Zhou et al., TPAMI 2021, arXiv 1910.06827, Section 3.3).

    python -m jaxreid.main --config=configs/osnet_search.py --workdir=runs/search
    python -m jaxreid.main --workdir=runs/found \
        --config=configs/osnet.py:synthetic,architecture=runs/search/architecture.json

A super-network holds four candidates for each of six blocks; the weights of its layers and those of
the candidates learn together. Every epoch writes `architecture.json` (the best candidates so far)
and `architecture.png` (how their shares came about). The argument is `dataset[,option...]`:
`synthetic` (embedded, the default) or `market1501`; `x0_75`, `x0_5` or `x0_25` (the width of the
network); `small` (the recipe of the embedded data, on any data; its numbers are ours) and `debug`
(seconds).
"""

import functools
import pathlib
import sys

import ml_collections

sys.path.append(str(pathlib.Path(__file__).resolve().parent))  # from wherever it is loaded
import osnet  # noqa: E402
import qaconv  # noqa: E402


def get_config(arg: str = "synthetic") -> ml_collections.ConfigDict:
    widths = {
        width: functools.partial(osnet.rename, pattern=r"x\d_\d+$", by=width)
        for width in osnet.WIDTHS
    }
    options = {"small": small} | widths | {"debug": debug}
    return qaconv.configure(arg, paper(), options, families=())


def paper() -> ml_collections.ConfigDict:
    """The published search; on MSMT17, and on eight GPUs."""
    config = osnet.published()
    config.model.backbone = ml_collections.ConfigDict(
        {
            "name": "osnet_search_x1_0",
            # 10 in the first 20 epochs, half of it in the next, and so on down to 1.
            "temperature": 10.0,
            "temperature_factor": 0.5,
            "temperature_every": 20,
            "temperature_floor": 1.0,
        }
    )
    config.model.neck.affine = False  # as the normalisations of the super-network
    osnet.generalise(config)
    config.batch_size = 512
    config.epochs = 120
    config.freeze_epochs = 0  # from random weights
    config.optim.update(name="sgd", lr=0.1, backbone_lr=0.1, nesterov=False)
    return config


def small(config: ml_collections.ConfigDict) -> None:
    """The recipe of the embedded data, half as long: a step costs as much as those of four."""
    osnet.small(config)
    config.model.backbone.update(name="osnet_search_x0_25", temperature_every=2)
    config.epochs = 12


def debug(config: ml_collections.ConfigDict) -> None:
    """Seconds instead of hours: every part runs on a few people, little is learned."""
    osnet.debug(config)
    config.freeze_epochs = 0
    config.model.backbone.temperature_every = 1
