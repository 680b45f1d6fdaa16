"""Shared by the recipes: settings and their comments, argument parsing, data sets, small networks.

`python -m jaxreid.main --config=qaconv --print_config` prints the settings of a recipe with the
comments from this file and from the recipe: a comment follows its setting or precedes it on lines
of its own.
"""

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jaxreid.configs import protocols
from jaxreid.names import nearest

DOMAINS = ("plaza", "station", "mall", "campus")  # of synthetic_people

SYNTHETIC = (
    ("synthetic_people/plaza",),
    tuple(f"synthetic_people/{domain}" for domain in DOMAINS),
)

# Families of backbones whose names a recipe's argument may hold.
BACKBONES = ("resnet", "osnet", "vit")


@dataclasses.dataclass(frozen=True)
class Argument:
    """The parsed argument of a recipe.

    Attributes:
        dataset: "synthetic", or a word of `protocols`: a data set or sets to train and to test on.
        options: selected options; "synthetic" implies "small" if the recipe has it.
        values: values of the NAME=VALUE options, by name.
        backbone: name of a backbone; "" for the recipe's default.
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
    """Parse the argument of a recipe: `dataset[,option...]`, options in any order.

    A protocol may stand for the data set (`protocols`): "market1501->msmt17", "p1", ...

    Args:
        arg: the argument; "" means "synthetic".
        options: valid options.
        values: names of valid NAME=VALUE options.
        backbones: accepted prefixes of backbone names; the model checks the full name.
        one_of: groups of mutually exclusive options.

    Raises:
        ValueError: unknown data set or option, or mutually exclusive options.
    """
    dataset, *requested = [part.strip() for part in (arg or "synthetic").split(",")]
    dataset = dataset.removeprefix("protocol=")
    sets_of(dataset)
    requested = [option for option in requested if option]
    named = [option for option in requested if backbones and option.startswith(tuple(backbones))]
    valid = [*options, *(f"{name}=..." for name in values)]
    valid += [f"{family}... (a backbone)" for family in backbones]
    for option in requested:
        if option not in options and option not in named and _value(option)[0] not in values:
            raise ValueError(
                f"unknown option {option!r} in the recipe's argument; valid: "
                f"{', '.join(nearest(option, valid))}."
            )
    for group in (*one_of, *((name,) for name in values), named):
        chosen = [option for option in dict.fromkeys(requested) if _value(option)[0] in group]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} are mutually exclusive; give one of them.")
    pairs = dict(_value(option) for option in requested if _value(option)[0] in values)
    small = {"small"} if dataset == "synthetic" and "small" in options else set()
    chosen = frozenset(small.union(requested) & set(options))
    return Argument(dataset, chosen, pairs, named[0] if named else "")


def sets_of(dataset: str) -> protocols.Sets:
    """Return the training and test sets of the first word of a recipe's argument.

    Raises:
        ValueError: unknown data set or protocol.
    """
    found = SYNTHETIC if dataset == "synthetic" else protocols.find(dataset)
    if found is None:
        if dataset.endswith("-"):
            raise ValueError(
                f"{dataset!r} ends where a shell takes > as a redirection; put quotes around the "
                "word, as in 'qaconv:market1501->msmt17', and remove the file that was made."
            )
        valid = ["synthetic", *protocols.WHOLE, *protocols.NAMES]
        raise ValueError(
            f"unknown data set {dataset!r} in the recipe's argument, which is dataset[,option...]; "
            f"valid: {', '.join(nearest(dataset, valid))}, or SET->SET to train and to test on "
            "any others."
        )
    return found


def _value(option: str) -> tuple[str, str]:
    """Split NAME=VALUE; the value is "" for an option without one."""
    name, _, value = option.partition("=")
    return name, value


def base(dataset: str) -> ConfigDict:
    """Return the settings shared by all recipes; a recipe adds model and objective."""
    config = ConfigDict()
    config.seed = 0  # seed of weights, data order and augmentation
    # matmul precision of float32 training: "default" (TF32 or bfloat16 on accelerators), "highest"
    config.precision = "default"
    # save memory: keep results of convolutions for the gradient, compute norms and ReLUs again
    config.remat = False
    # average the weights as well: share of the average that each step keeps, as in 0.999; the
    # average is evaluated beside the weights and written to averaged.safetensors; 0: no average
    config.ema = 0.0
    config.batch_size = 32  # images per step, over all devices
    config.epochs = 60  # maximum; the "adaptive" schedule may end earlier
    config.freeze_epochs = 0  # initial epochs that train only the classifier

    # initial weights: a run or a weights file (.safetensors); None: random
    config.init_from = placeholder(str)
    config.init_skip = ()  # parts of init_from to skip: "neck", "matcher", "classifier", "memory"
    # weights the published recipe starts from ("ImageNet"); a run without them warns; "": none
    config.init_expects = ""

    data = config.data = ConfigDict()
    data.train, data.test = sets_of(dataset)  # one or more data sets: SET[:PLACE][?OPTION=VALUE]
    # where data sets named without a place are, several folders with commas; None: $JAXREID_DATA
    data.dir = placeholder(str)
    # folder of prepared copies, of folders too; None: folders are read where they are, and drawn
    # people are kept in the default folder of TFDS
    data.prepared_dir = placeholder(str)
    data.skip_broken = False  # leave broken images out with a warning, instead of refusing them
    data.identities = 0  # for quick experiments: identities kept per split; 0: all

    model = config.model = ConfigDict()
    model.height, model.width = 384, 128  # input size in pixels
    # normalisation of pixels in [0, 1]: (x - mean) / std
    model.mean, model.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    model.interpolation = "bicubic"  # of the resize: "bicubic", or "bilinear" as in torchreid
    model.freeze_stats = False  # keep the batch-norm statistics of backbone and neck fixed
    model.dtype = "float32"  # computation type; "bfloat16" on accelerators
    model.backbone = ConfigDict()  # images to maps: a name and its options
    model.neck = ConfigDict()  # maps to features: a name and its options
    model.matcher = ConfigDict()  # features to scores: a name and its options
    config.objective = ConfigDict()  # scores to a loss: a name and its options

    sampler = config.sampler = ConfigDict()
    # "random"; "pk": identities x instances; "pk_cameras": the same, instances from many cameras;
    # "graph": nearest classes together
    sampler.name = "random"
    sampler.instances = 4  # all but "random": images per identity in a batch
    sampler.quota = ()  # several training sets: images of each per batch
    sampler.alternate = False  # several training sets: one epoch of each in turn
    # "graph": match maps pooled by this window of rows and columns for the graph, which is then
    # cheaper by the fourth power; (1, 1): the maps themselves, as published
    sampler.graph_window = (1, 1)
    sampler.save_graph = False  # "graph": save the graph of every epoch in the work directory

    optim = config.optim = ConfigDict()
    optim.name = "sgd"  # "sgd", "adam", "amsgrad", "adamw"
    optim.lr = 0.01  # learning rate of everything but the backbone
    optim.backbone_lr = 0.001  # learning rate of the backbone
    optim.momentum = 0.9  # for "sgd"
    optim.nesterov = True  # for "sgd"
    optim.betas = (0.9, 0.999)  # for "adam", "amsgrad", "adamw"
    optim.eps = 1e-8  # for "adam", "amsgrad", "adamw"
    optim.weight_decay = 5e-4  # on all parameters, including batch norm
    optim.clip_norm = 0.0  # largest norm of the gradient; 0: no clipping

    schedule = config.schedule = ConfigDict()
    schedule.name = "step"  # "step"; "cosine"; "adaptive": a single drop once the loss has fallen
    schedule.step_epochs = 40  # "step": epochs between drops; 0: none
    schedule.drop_epochs = ()  # "step": drop after these epochs, instead of step_epochs
    schedule.factor = 0.1  # learning rate factor of a drop
    schedule.warmup_steps = 0  # steps of linear warm-up
    schedule.per_epoch = False  # "cosine": constant within an epoch, as in PyTorch
    schedule.threshold = 0.7  # "adaptive": drop when the loss has fallen to this fraction

    augment = config.augment = ConfigDict()
    augment.flip = 0.5  # probability
    augment.pad = 0  # pixels added on each side before a random crop
    augment.rotation = 0.0  # largest angle in degrees, in either direction
    augment.brightness = (1.0, 1.0)  # range of the factor
    augment.contrast = (1.0, 1.0)  # range of the factor
    augment.saturation = (1.0, 1.0)  # range of the factor
    augment.hue = (0.0, 0.0)  # range of the shift, within [-0.5, 0.5]
    augment.occlusion = (0.0, 0.8)  # range of the white square's side, relative to the width
    augment.translation = 0.0  # probability; torchreid's random_crop
    augment.patch = 0.0  # probability; torchreid's random_patch
    augment.erasing = 0.0  # probability; torchreid's random_erase
    augment.after_accuracy = 0.0  # augment only after an epoch exceeds this training accuracy
    # where, with the same images: "host"; "device": in the training step; "auto": there unless it
    # runs on a CPU
    augment.on = "auto"

    # The settings below are not part of the method. A resumed run may change them.
    test = config.eval = ConfigDict()
    test.batch_size = 64  # images embedded at once
    test.query_tile = 32  # queries scored at once
    test.gallery_tile = 512  # gallery images scored at once, at most
    test.dtype = "float32"  # type of features; "bfloat16" is smaller, faster and rounds scores
    # precision of float32 products: "highest" is float32 on any device; "default" is the device's
    # fastest (TF32 or bfloat16 on accelerators)
    test.precision = "highest"
    # GB of features of a test set in memory, more are kept in a file; 0: half of the memory
    test.memory = 0.0
    test.memory_dir = placeholder(str)  # folder of that file; None: the system's temporary folder
    test.flip = False  # average the features of an image and its mirror image
    # matches to ignore: "camera" (from the query's camera), "same-image" (the query's own file),
    # "none"; "auto": "camera" if cameras are known, else "same-image" if the gallery contains the
    # queries, else "none"
    test.junk = "auto"
    test.average_precision = "standard"  # "standard", or "trapezoid" as in QAConv 1.0 and 1.1
    test.rerank = False  # k-reciprocal re-ranking, reported in a row of its own
    test.rerank_options = ConfigDict()  # defaults of the paper's code
    test.rerank_options.k1 = 20  # neighbours of an image, excluding itself
    test.rerank_options.k2 = 6  # nearest images in local query expansion; 1: none
    test.rerank_options.weight = 0.3  # weight of the original distance
    test.tlift = False  # TLift, applied after re-ranking if both are on, in a row of its own
    test.tlift_options = ConfigDict()
    test.tlift_options.tau = 100.0  # seconds within which a query's companions pass
    test.tlift_options.sigma = 200.0  # seconds from a pivot within which an image is lifted
    test.tlift_options.k = 10  # pivots of a query in each gallery camera
    test.tlift_options.alpha = 0.2  # factor of a score without any lift
    # coarse to fine: retrieve this many gallery images per query with maps pooled by the window
    # and score only those exactly, reported in a row of its own; 0: off
    test.shortlist = 0
    test.shortlist_window = (2, 4)  # rows and columns of the pooling window
    # average query expansion: search again by the mean of a query and this many best gallery
    # images, reported in a row of its own; 0: off; embeddings only
    test.expand = 0
    test.expand_alpha = 3.0  # an image counts as its similarity to this power; 0: all alike
    # the images of a person from one camera search together, reported in a row of its own: "mean"
    # or "max" of their embeddings, or the mean of their "scores"; "none": off
    test.multi_query = "none"
    test.every_epochs = 0  # evaluate every N epochs; 0: only before the first and after the last
    test.untrained = True  # evaluate before the first epoch
    test.pictures = 4  # queries of each test set in ranking.png

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 500  # steps between checkpoints
    config.checkpoint.keep = 2  # number of newest checkpoints kept
    config.checkpoint.keep_every = 0  # also keep every step that is a multiple of this; 0: none
    # keep the best weights as best.safetensors, by a metric of a test set, as in
    # "synthetic_people/mall:mAP": selection on the target, so that results there are optimistic;
    # it chooses among the evaluations of eval.every_epochs; "": no choice
    config.checkpoint.best = ""
    config.log = ConfigDict()
    config.log.every_steps = 20  # steps between lines of metrics.jsonl
    config.log.profile = 0  # steps to trace (jax.profiler) after the first ten; 0: none
    return config


def augment_more(config: ConfigDict) -> None:
    """Apply the augmentation of QAConv 1.2 and later."""
    config.augment.update(pad=10, rotation=5.0, hue=(-0.1, 0.1))
    config.augment.update(brightness=(0.5, 2.0), contrast=(0.5, 2.0), saturation=(0.5, 2.0))


def small(config: ConfigDict) -> None:
    """Set up training of a small network from random weights on a CPU. All values are ours.

    From random weights, the papers' SGD collapses to equal scores for all pairs; AdamW does not.
    """
    config.init_expects = ""
    config.model.update(height=128, width=64)
    config.optim.update(name="adamw", weight_decay=1e-2)
    config.schedule.update(name="cosine", warmup_steps=50)
    config.augment.update(pad=6, brightness=(0.6, 1.6), contrast=(0.7, 1.4))
    config.augment.update(saturation=(0.7, 1.4), occlusion=(0.0, 0.4))
    config.checkpoint.every_steps = 100


def few(config: ConfigDict) -> None:
    """Shrink data, images and training to a run of seconds; it learns little."""
    config.init_expects = ""
    config.data.identities = 12
    if config.data.test == SYNTHETIC[1]:
        config.data.test = config.data.test[:1]
    config.model.update(height=64, width=32)
    config.batch_size = 16
    config.epochs = 3
    config.schedule.update(warmup_steps=0)
    config.eval.update(batch_size=32, pictures=2)
    config.checkpoint.every_steps = 5
    config.log.every_steps = 2


def backbone(config: ConfigDict, name: str) -> None:
    """Replace the backbone, at full width; a ResNet keeps the recipe's cut.

    The class token of a ViT is its embedding, where a neck makes one.
    """
    options = {"cut": "layer4", **config.model.backbone, "width": 64}
    kept = ("cut", "last_stride", "width") if name.startswith("resnet") else ()
    options = {option: options[option] for option in kept if option in options}
    if name.startswith("vit") and config.model.neck.name in ("pooled", "linear"):
        options = {"output": "class"}
        if "pool" in config.model.neck:
            config.model.neck.pool = "average"  # of one token: itself; GeM would cut off below 0
    config.model.backbone = ConfigDict({"name": name, **options})
