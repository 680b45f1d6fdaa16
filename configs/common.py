"""Shared by the recipes: settings and their comments, the argument, data sets, small networks.

`python -m jaxreid.main --config=qaconv --print_config` prints the settings of a recipe with the
comments of this file and of the recipe's own: one stands behind a setting or on the lines above it.
"""

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jaxreid.names import nearest

DOMAINS = ("plaza", "station", "mall", "campus")  # of the embedded people

# A recipe's argument begins with one of these: training sets and test sets, as TFDS names them.
DATA = {
    "synthetic": (
        ("synthetic_people/plaza",),
        tuple(f"synthetic_people/{domain}" for domain in DOMAINS),
    ),
    "market1501": (("market1501",), ("market1501",)),
}


@dataclasses.dataclass(frozen=True)
class Argument:
    """The argument of a recipe, taken apart.

    Attributes:
        dataset: a key of `DATA`.
        options: those given, and "small" with "synthetic", which a small network learns.
        values: of the options NAME=VALUE that are given.
        backbone: the name of a backbone, or "" for the recipe's own.
    """

    dataset: str
    options: frozenset[str]
    values: dict[str, str]
    backbone: str

    def __contains__(self, option: str) -> bool:
        return option in self.options or option in self.values


def parse(
    arg: str,
    options: Sequence[str],
    *,
    values: Sequence[str] = (),
    backbones: Sequence[str] = (),
    one_of: Sequence[Sequence[str]] = (),
) -> Argument:
    """Takes the argument of a recipe apart: `dataset[,option...]`, in any order of options.

    Args:
        arg: the argument; "" is "synthetic".
        options: valid ones.
        values: names of the valid options NAME=VALUE.
        backbones: how the names of backbones begin that may be given; the model knows the names.
        one_of: groups of options that exclude each other.

    Raises:
        ValueError: an unknown data set or option, or two that exclude each other.
    """
    dataset, *given = [part.strip() for part in (arg or "synthetic").split(",")]
    if dataset not in DATA:
        raise ValueError(
            f"unknown data set {dataset!r} in the recipe's argument, which is dataset[,option...]; "
            f"valid: {', '.join(nearest(dataset, DATA))}."
        )
    given = [option for option in given if option]
    named = [option for option in given if backbones and option.startswith(tuple(backbones))]
    valid = [*options, *(f"{name}=..." for name in values)]
    valid += [f"{family}... (a backbone)" for family in backbones]
    for option in given:
        if option not in options and option not in named and _value(option)[0] not in values:
            raise ValueError(
                f"unknown option {option!r} in the recipe's argument; valid: "
                f"{', '.join(nearest(option, valid))}."
            )
    for group in (*one_of, *((name,) for name in values), named):
        chosen = [option for option in dict.fromkeys(given) if _value(option)[0] in group]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} exclude each other; give one of them.")
    pairs = dict(_value(option) for option in given if _value(option)[0] in values)
    small = {"small"} if dataset == "synthetic" and "small" in options else set()
    chosen = frozenset(small.union(given) & set(options))
    return Argument(dataset, chosen, pairs, named[0] if named else "")


def _value(option: str) -> tuple[str, str]:
    """An option that takes a value is its name and the value; others are their name alone."""
    name, _, value = option.partition("=")
    return name, value


def base(dataset: str) -> ConfigDict:
    """The settings of every recipe; a recipe adds model and objective."""
    config = ConfigDict()
    config.seed = 0  # of weights, data order and augmentation
    # Of float32 products in training: "default" (TF32 or bfloat16 on accelerators) or "highest".
    config.precision = "default"
    config.batch_size = 32  # images per step, over all devices
    config.epochs = 60  # at most: "adaptive" may end earlier
    config.freeze_epochs = 0  # the first of them, in which only the classifier learns

    # a run, or a file of weights (.safetensors) to start from; None: random weights
    config.init_from = placeholder(str)
    config.init_skip = ()  # parts of it to leave out: "neck", "matcher", "classifier", "memory"
    # Weights that the recipe is published with ("ImageNet"): a run without them says so. "": none.
    config.init_expects = ""

    data = config.data = ConfigDict()
    data.train, data.test = DATA[dataset]  # one or several data sets, as TFDS names them
    data.dir = placeholder(str)  # folder of a data set that is read from files
    data.prepared_dir = placeholder(str)  # of prepared copies; None: TFDS's own
    data.identities = 0  # for trying things: only this many people of each split; 0 keeps all

    model = config.model = ConfigDict()
    model.height, model.width = 384, 128  # of the images, in pixels
    # Of the pixels, which are in [0, 1]: subtracted, and divided by.
    model.mean, model.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    model.interpolation = "bicubic"  # of the resize; "bilinear" is torchreid's
    model.freeze_stats = False  # batch normalisations of the backbone keep their statistics
    model.dtype = "float32"  # of the computation; "bfloat16" on accelerators
    model.backbone = ConfigDict()  # images to maps; its name and the options of that name
    model.neck = ConfigDict()  # maps to features; its name and the options of that name
    model.matcher = ConfigDict()  # features to scores; its name and the options of that name
    config.objective = ConfigDict()  # scores to a loss; its name and the options of that name

    sampler = config.sampler = ConfigDict()
    sampler.name = "random"  # "pk": identities x instances; "graph": the nearest classes together
    sampler.instances = 4  # images per identity in a batch, of "pk" and "graph"
    sampler.quota = ()  # of several training sets: images of each in a batch
    sampler.alternate = False  # of several training sets: an epoch of each in turn
    sampler.save_graph = False  # keeps the graph of every epoch of "graph" in the work directory

    optim = config.optim = ConfigDict()
    optim.name = "sgd"  # "adam", "amsgrad", "adamw"
    optim.lr = 0.01  # learning rate of everything but the backbone
    optim.backbone_lr = 0.001  # learning rate of the backbone
    optim.momentum = 0.9  # of "sgd"
    optim.nesterov = True  # of "sgd"
    optim.betas = (0.9, 0.999)  # of "adam", "amsgrad" and "adamw"
    optim.eps = 1e-8  # of "adam", "amsgrad" and "adamw"
    optim.weight_decay = 5e-4  # on everything, batch normalisation included
    optim.clip_norm = 0.0  # largest norm of the gradient; 0 does not clip

    schedule = config.schedule = ConfigDict()
    schedule.name = "step"  # "cosine", or "adaptive": drops once, when the loss has fallen
    schedule.step_epochs = 40  # of "step": epochs between two drops; 0: none
    schedule.drop_epochs = ()  # of "step", instead of step_epochs: the epochs after which it drops
    schedule.factor = 0.1  # of one drop
    schedule.warmup_steps = 0  # of a linear rise at the start
    schedule.per_epoch = False  # of "cosine": constant within each epoch, as in PyTorch
    schedule.threshold = 0.7  # of "adaptive": the loss has fallen to this share

    augment = config.augment = ConfigDict()
    augment.flip = 0.5  # probability
    augment.pad = 0  # pixels on each side before a crop
    augment.rotation = 0.0  # largest angle in degrees, both ways
    augment.brightness = (1.0, 1.0)  # range of the factor
    augment.contrast = (1.0, 1.0)  # range of the factor
    augment.saturation = (1.0, 1.0)  # range of the factor
    augment.hue = (0.0, 0.0)  # range of the shift, within -0.5 and 0.5
    augment.occlusion = (0.0, 0.8)  # range of the white square's side, as a share of the width
    augment.translation = 0.0  # probability; torchreid's random_crop
    augment.patch = 0.0  # probability; torchreid's random_patch
    augment.erasing = 0.0  # probability; torchreid's random_erase
    augment.after_accuracy = 0.0  # images stay as they are until an epoch is more accurate

    # Below: not part of the method. A run may be continued with other values.
    test = config.eval = ConfigDict()
    test.batch_size = 64  # images whose features are computed at once
    test.query_tile = 32  # queries that are scored at once
    test.gallery_tile = 512  # gallery images that are scored at once
    test.dtype = "float32"  # of features; "bfloat16" is smaller and faster, scores are rounded
    test.flip = False  # mean of the features of an image and of its mirror image
    test.junk = "auto"  # matches that do not count: "camera", or "none" where cameras are unknown
    test.average_precision = "standard"  # "trapezoid" in QAConv 1.0 and 1.1
    test.rerank = False  # k-reciprocal re-ranking, as another row of the results
    test.rerank_options = ConfigDict()  # the numbers of the paper's code
    test.rerank_options.k1 = 20  # neighbours of an image, itself not counted
    test.rerank_options.k2 = 6  # nearest images whose descriptions are averaged; 1: none
    test.rerank_options.weight = 0.3  # of the original distance
    test.tlift = False  # TLift, after re-ranking if that is on, as another row
    test.tlift_options = ConfigDict()
    test.tlift_options.tau = 100.0  # seconds within which a query's companions pass
    test.tlift_options.sigma = 200.0  # seconds from a pivot within which an image is lifted
    test.tlift_options.k = 10  # pivots of a query in each gallery camera
    test.tlift_options.alpha = 0.2  # share of a score that is left without any lift
    # From coarse to fine: this many gallery images for each query, found on maps pooled by the
    # window, are scored exactly, as another row; 0: not.
    test.shortlist = 0
    test.shortlist_window = (2, 4)  # rows and columns
    test.every_epochs = 0  # evaluate every N epochs; 0: only before the first and after the last
    test.untrained = True  # evaluate before the first epoch
    test.pictures = 4  # queries of each test set in ranking.png

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 500  # steps between two
    config.checkpoint.keep = 2  # the newest
    config.checkpoint.keep_every = 0  # and for ever every step that is a multiple of it; 0: none
    config.log = ConfigDict()
    config.log.every_steps = 20  # steps between two lines of metrics.jsonl
    return config


def augment_more(config: ConfigDict) -> None:
    """The augmentation of QAConv 1.2 and later."""
    config.augment.update(pad=10, rotation=5.0, hue=(-0.1, 0.1))
    config.augment.update(brightness=(0.5, 2.0), contrast=(0.5, 2.0), saturation=(0.5, 2.0))


def small(config: ConfigDict) -> None:
    """Small images, from random weights, on small data and a CPU. All numbers ours.

    From random weights the papers' SGD ends where all scores are equal; AdamW does not.
    """
    config.init_expects = ""
    config.model.update(height=128, width=64)
    config.optim.update(name="adamw", weight_decay=1e-2)
    config.schedule.update(name="cosine", warmup_steps=50)
    config.augment.update(pad=6, brightness=(0.6, 1.6), contrast=(0.7, 1.4))
    config.augment.update(saturation=(0.7, 1.4), occlusion=(0.0, 0.4))
    config.checkpoint.every_steps = 100


def few(config: ConfigDict) -> None:
    """Seconds instead of hours: a few small images, steps and pictures; little is learned."""
    config.init_expects = ""
    config.data.identities = 12
    config.data.test = config.data.test[:1]
    config.model.update(height=64, width=32)
    config.batch_size = 16
    config.epochs = 3
    config.schedule.update(warmup_steps=0)
    config.eval.update(batch_size=32, pictures=2)
    config.checkpoint.every_steps = 5
    config.log.every_steps = 2


def backbone(config: ConfigDict, name: str) -> None:
    """Another backbone, in its full width; a ResNet is cut as the recipe's own."""
    options = {"cut": "layer4", **config.model.backbone, "width": 64}
    kept = ("cut", "last_stride", "width") if name.startswith("resnet") else ()
    options = {option: options[option] for option in kept if option in options}
    config.model.backbone = ConfigDict({"name": name, **options})
