"""OSNet and OSNet-AIN (Zhou et al., ICCV 2019, arXiv 1905.00953; TPAMI 2021, arXiv 1910.06827).

    python -m jaxreid.main --config=configs/osnet.py --workdir=runs/osnet
    python -m jaxreid.main --config=configs/osnet.py:market1501,ain --config.data.dir=... \
        --config.init_from=osnet_ain_x1_0.safetensors --workdir=...

The argument is `dataset[,option...]`: `synthetic` (embedded, the default) or `market1501`;

    x0_75, x0_5, x0_25   the width of the network
    ibn, ain             where it has instance normalisations, and the recipe for cameras unseen
    architecture=FILE    where configs/osnet_search.py has found that it should have them; from
                         random weights, since there are no others
    paper                the longer training of the paper's table
    scratch              from random weights
    triplet              the hardest triplets of embeddings beside the classification
    small                the recipe of the embedded data, on any data, of x0_25 if no width is
                         given; its numbers are ours
    debug                seconds

or the name of a ResNet, to compare with. The recipes are those of the published models. All but
`scratch`, `small` and `architecture` begin with ImageNet weights (--config.init_from).
"""

import functools
import json
import pathlib
import re
import sys

import ml_collections

sys.path.append(str(pathlib.Path(__file__).resolve().parent))  # from wherever it is loaded
import qaconv  # noqa: E402

FORMAT = "jaxreid architecture 1"  # of jaxreid/search.py
WIDTHS = ("x1_0", "x0_75", "x0_5", "x0_25")


def get_config(arg: str = "synthetic") -> ml_collections.ConfigDict:
    return qaconv.configure(arg, published(), options_of(arg), families=("resnet",))


def options_of(arg: str) -> dict:
    """What may follow the data set, in the order in which it changes the configuration."""
    chosen = (arg or "").split(",")
    options = {width: functools.partial(narrow, width=width) for width in WIDTHS}
    options |= {"ibn": ibn, "ain": ain}
    files = [option for option in chosen if option.startswith("architecture=")]
    if len(places := [*files, *({"ibn", "ain"} & set(chosen))]) > 1:
        raise ValueError(f"{' and '.join(places)}: each says where norms are; give one of them.")
    for option in files:
        file = option.removeprefix("architecture=")
        options[option] = functools.partial(architecture, file=file)
    options |= {"paper": paper, "scratch": scratch, "small": small, "triplet": triplet}
    if not set(WIDTHS) & set(chosen):
        options["small"] = small_and_narrow
    return options | {"debug": debug}


def published() -> ml_collections.ConfigDict:
    """The recipe of torchreid's model zoo for OSNet x1.0, tested where it was trained."""
    config = qaconv.paper()
    config.model = ml_collections.ConfigDict(
        {
            "height": 256,
            "width": 128,
            "mean": (0.485, 0.456, 0.406),  # ImageNet's
            "std": (0.229, 0.224, 0.225),
            "interpolation": "bilinear",
            "freeze_stats": False,
            "dtype": "float32",
            "backbone": {"name": "osnet_x1_0"},
            "neck": {"name": "linear", "channels": 512},
            "matcher": {"name": "embedding", "metric": "euclidean"},
        }
    )
    config.objective = ml_collections.ConfigDict(
        {
            "name": "softmax",
            "smoothing": 0.1,
            "triplet": 0.0,  # weight of the triplet loss on embeddings
            "margin": 0.3,
            "metric": "euclidean",
        }
    )
    config.batch_size = 64
    config.epochs = 150
    config.freeze_epochs = 10
    config.optim.update(name="amsgrad", lr=0.0015, backbone_lr=0.0015, nesterov=False)
    config.schedule.update(name="step", step_epochs=60, per_epoch=True)
    config.augment.occlusion = (0.0, 0.0)  # flipping alone
    return config


def narrow(config: ml_collections.ConfigDict, width: str) -> None:
    """A network of another width; the two smallest have a recipe of their own."""
    rename(config, r"x\d_\d+$", width)
    if width in ("x0_5", "x0_25"):
        config.batch_size = 128
        config.epochs = 180
        config.optim.update(lr=0.003, backbone_lr=0.003)
        config.schedule.step_epochs = 80


def rename(config: ml_collections.ConfigDict, pattern: str, by: str) -> None:
    """Changes a part of the backbone's name."""
    config.model.backbone.name = re.sub(pattern, by, config.model.backbone.name)


def jitter(config: ml_collections.ConfigDict) -> None:
    """What torchreid calls color_jitter."""
    config.augment.update(brightness=(0.8, 1.2), contrast=(0.85, 1.15))


def ibn(config: ml_collections.ConfigDict) -> None:
    """Instance normalisation in the stem and on the sums of the first stage."""
    rename(config, "osnet_", "osnet_ibn_")
    jitter(config)


def ain(config: ml_collections.ConfigDict) -> None:
    """Instance normalisation where the search found that it should be."""
    rename(config, "osnet_", "osnet_ain_")
    generalise(config)


def generalise(config: ml_collections.ConfigDict) -> None:
    """The recipe of OSNet-AIN, for cameras that it has not seen."""
    jitter(config)
    config.model.matcher.metric = "cosine"
    config.epochs = 100  # 50 on MSMT17, and on several data sets
    config.schedule.update(name="cosine", step_epochs=0)


def architecture(config: ml_collections.ConfigDict, file: str) -> None:
    """What a search has found; the same command, which continues a run, reads the file again."""
    try:
        found = json.loads(pathlib.Path(file).expanduser().read_text())
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']!r} and not {FORMAT!r}")
        places = {"stem": found["stem"], "blocks": tuple(found["blocks"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"architecture={file}: {error}; needed is an architecture.json that a run of "
            "configs/osnet_search.py has written."
        ) from error
    config.model.backbone.update(places)
    generalise(config)
    config.freeze_epochs = 0


def paper(config: ml_collections.ConfigDict) -> None:
    """The paper's numbers on the data it was trained on: longer, with random erasing."""
    config.epochs = 250
    config.schedule.update(name="cosine", step_epochs=0)
    config.augment.erasing = 0.5
    config.model.matcher.metric = "cosine"


def scratch(config: ml_collections.ConfigDict) -> None:
    """The paper's training without ImageNet."""
    config.batch_size = 64
    config.epochs = 350
    config.freeze_epochs = 0
    config.optim.update(name="sgd", lr=0.065, backbone_lr=0.065)
    config.schedule.update(name="step", step_epochs=0, drop_epochs=(150, 225, 300))
    config.augment.update(translation=0.5, erasing=0.5)


def triplet(config: ml_collections.ConfigDict) -> None:
    """Both losses, on batches of four images of each person."""
    config.objective.triplet = 1.0
    config.sampler.update(name="pk", instances=4)


def small(config: ml_collections.ConfigDict) -> None:
    """From random weights on a CPU. All numbers ours, and the same for all networks."""
    config.model.update(height=128, width=64)
    config.model.matcher.metric = "cosine"
    config.batch_size = 16
    config.epochs = 22  # as many images as qaconv.py sees
    config.freeze_epochs = 0
    config.optim.update(name="adamw", lr=2e-3, backbone_lr=2e-3, weight_decay=1e-2)
    config.schedule.update(name="cosine", step_epochs=0, warmup_steps=50, per_epoch=False)
    config.augment.update(pad=6, brightness=(0.6, 1.6), contrast=(0.7, 1.4))
    config.augment.update(saturation=(0.7, 1.4), occlusion=(0.0, 0.4))
    config.checkpoint.every_steps = 100


def small_and_narrow(config: ml_collections.ConfigDict) -> None:
    """The same, of the smallest network."""
    rename(config, r"x\d_\d+$", "x0_25")
    small(config)


def debug(config: ml_collections.ConfigDict) -> None:
    """Seconds instead of hours: every part runs on a few people, little is learned."""
    qaconv.few(config)
    rename(config, r"x\d_\d+$", "x0_25")
    config.model.neck.channels = 16
    config.freeze_epochs = 1
