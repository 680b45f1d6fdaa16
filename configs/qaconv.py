"""QAConv with class memory (Liao and Shao, ECCV 2020, arXiv 1904.10424).

    python -m jaxreid.main --config=configs/qaconv.py --workdir=runs/qaconv
    python -m jaxreid.main --config=configs/qaconv.py:market1501 --config.data.dir=... --workdir=...

The argument is `dataset[,option...]`: `synthetic` (embedded, the default) or `market1501` (the
paper's recipe, with the numbers of its published code, version 1.0); `v1.1` or `v1.2` (those
versions); `small` (the network and recipe of the embedded data, on any data; its numbers are ours,
chosen by measurement), `debug` (a few steps, seconds) and the name of a backbone (`resnet50_ibn_b`,
`osnet_ain_x1_0`, ...).
"""

from collections.abc import Callable

import ml_collections

DOMAINS = ("plaza", "station", "mall", "campus")  # of the embedded people
DATASETS = ("synthetic", "market1501")
BACKBONES = ("resnet", "osnet")  # how their names begin; the model knows them all


def get_config(arg: str = "synthetic") -> ml_collections.ConfigDict:
    options = {"v1.1": version_1_1, "v1.2": version_1_2, "small": small, "debug": debug}
    return configure(arg, paper(), options)


def configure(
    arg: str,
    config: ml_collections.ConfigDict,
    options: dict[str, Callable[[ml_collections.ConfigDict], None]],
    families: tuple[str, ...] = BACKBONES,
) -> ml_collections.ConfigDict:
    """The recipe `config`, on the data set and with the options of `arg`.

    A backbone may be named as well, if its name begins with one of `families`.
    """
    dataset, *chosen = (arg or "synthetic").split(",")
    if dataset not in DATASETS:
        raise ValueError(f"unknown data set {dataset!r} in the config argument; valid: {DATASETS}.")
    backbones = [option for option in chosen if option.startswith(families)]
    for option in chosen:
        if option not in (*options, *backbones):
            named = ", ".join(f"{family}..." for family in families)
            raise ValueError(
                f"unknown option {option!r} in the config argument; valid: {', '.join(options)}"
                + (f", or the name of a backbone ({named})." if families else ".")
            )
    if dataset == "synthetic":
        config.data.train = ("synthetic_people/plaza",)
        config.data.test = tuple(f"synthetic_people/{domain}" for domain in DOMAINS)
        chosen.append("small")  # the embedded people are learned by a small network
    for name, change in options.items():
        if name in chosen:
            change(config)
    for name in backbones:
        backbone(config, name)
    return config.lock()


def paper() -> ml_collections.ConfigDict:
    """The recipe of QAConv 1.0, on Market-1501."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    # Of float32 products in training: "default" is TF32 or bfloat16 on accelerators.
    config.precision = "default"
    # A file of tools/convert_torch.py to start from; parts of it to leave out, as in ("matcher",).
    config.init_from = ml_collections.config_dict.placeholder(str)
    config.init_skip = ()

    data = config.data = ml_collections.ConfigDict()
    data.train = ("market1501",)  # one or several data sets, as TFDS names them
    data.test = ("market1501",)  # one or several
    data.dir = ml_collections.config_dict.placeholder(str)  # holds the published folders
    data.prepared_dir = ml_collections.config_dict.placeholder(str)  # default: TFDS's own
    data.identities = 0  # for trying things: only this many people of each split; 0 keeps all

    model = config.model = ml_collections.ConfigDict()
    model.height, model.width = 384, 128
    model.mean = (0.0, 0.0, 0.0)  # no normalisation in any version: pixels in [0, 1]
    model.std = (1.0, 1.0, 1.0)
    model.interpolation = "bicubic"  # torchreid's models: "bilinear"
    model.freeze_stats = False  # batch statistics are trained up to version 2.0
    model.dtype = "float32"  # bfloat16 on accelerators
    model.backbone = ml_collections.ConfigDict(
        {
            "name": "resnet50",  # "resnet50_ibn_b" from version 1.1 on
            "cut": "layer3",  # stride 16: 24 x 8 positions
            "width": 64,
        }
    )
    # batch: no bias, batch normalisation
    model.neck = ml_collections.ConfigDict({"name": "map", "channels": 128, "norm": "batch"})
    model.matcher = ml_collections.ConfigDict(
        {
            "name": "qaconv",
            "head": "v1",  # two weights per position; "v2.1" has one for both directions
            "initial_logit": 0.0,
            "statistics_chunk": 0,  # 16 in version 1.2
            "patch": 1,  # rows and columns of what is compared; 3 or 5: patches of positions
        }
    )
    # Classes not seen yet count; not any more from version 1.1 on.
    config.objective = ml_collections.ConfigDict({"name": "class_memory", "valid_flags": False})

    config.batch_size = 32
    config.epochs = 60
    config.freeze_epochs = 0  # of them, at first, in which only a classifier learns
    config.sampler = ml_collections.ConfigDict(
        {
            "name": "random",
            "instances": 4,
            "quota": (),  # of several training sets: images of each in a batch
            "alternate": False,  # of several training sets: an epoch of each in turn
            "save_graph": False,
        }
    )
    config.optim = ml_collections.ConfigDict(
        {
            "name": "sgd",
            "lr": 0.01,  # neck and matcher
            "backbone_lr": 0.001,
            "momentum": 0.9,
            "nesterov": True,
            "betas": (0.9, 0.999),  # of "adam", "amsgrad" and "adamw"
            "eps": 1e-8,
            "weight_decay": 5e-4,  # on everything, batch normalisation included
            "clip_norm": 0.0,  # none before version 2.0
        }
    )
    config.schedule = ml_collections.ConfigDict(
        {
            "name": "step",
            "step_epochs": 40,
            "drop_epochs": (),  # instead of step_epochs: the epochs after which it drops
            "factor": 0.1,
            "warmup_steps": 0,
            "per_epoch": False,  # cosine: constant within each epoch, as in PyTorch
            "threshold": 0.7,  # of "adaptive"
        }
    )
    config.augment = ml_collections.ConfigDict(
        {
            "flip": 0.5,
            "pad": 0,  # 10 from version 1.2 on
            "rotation": 0.0,  # 5.0 degrees from 1.2 on
            "brightness": (1.0, 1.0),  # (0.5, 2.0) from 1.2 on
            "contrast": (1.0, 1.0),  # (0.5, 2.0) from 1.2 on
            "saturation": (1.0, 1.0),  # (0.5, 2.0) from 1.2 on
            "hue": (0.0, 0.0),  # (-0.1, 0.1) from 1.2 on
            "occlusion": (0.0, 0.8),
            "translation": 0.0,  # torchreid's random_crop, random_patch and random_erase
            "patch": 0.0,
            "erasing": 0.0,
            "after_accuracy": 0.0,  # 0.6 in 1.1 and 1.2: images stay as they are until then
        }
    )

    # Not part of the method; the work directory may be continued with other values.
    config.eval = ml_collections.ConfigDict(
        {
            "batch_size": 64,
            "query_tile": 32,
            "gallery_tile": 512,
            "dtype": "float32",  # of features; bfloat16 is smaller and faster, scores are rounded
            "flip": False,  # mean of the features of an image and of its mirror image
            "junk": "auto",  # "camera", unless cameras are unknown
            "average_precision": "standard",  # versions 1.0 and 1.1 took "trapezoid"
            # Further rows in the table of results, with the numbers of the paper's code.
            "rerank": False,  # k-reciprocal; "weight" is that of the original distance
            "rerank_options": {"k1": 20, "k2": 6, "weight": 0.3},
            "tlift": False,  # after re-ranking, if that is on; times in seconds
            "tlift_options": {"tau": 100.0, "sigma": 200.0, "k": 10, "alpha": 0.2},
            # From coarse to fine: so many images for each query, found on maps pooled by the
            # window, are scored exactly; 0 for not.
            "shortlist": 0,
            "shortlist_window": (2, 4),
            "every_epochs": 0,
            "pictures": 4,
        }
    )
    config.checkpoint = ml_collections.ConfigDict({"every_steps": 500, "keep": 2, "keep_every": 0})
    config.log = ml_collections.ConfigDict({"every_steps": 20})
    return config


def version_1_1(config: ml_collections.ConfigDict) -> None:
    """As published, but for its ten trials of a first epoch, of which it keeps the best."""
    config.objective.valid_flags = True
    config.model.backbone.name = "resnet50_ibn_b"
    config.model.neck.channels = 64
    config.batch_size = 8
    config.epochs = 15
    config.optim.update(lr=0.005, backbone_lr=0.0005)
    config.schedule.step_epochs = 10
    config.augment.after_accuracy = 0.6


def version_1_2(config: ml_collections.ConfigDict) -> None:
    """As 1.1, with statistics of 16 classes at a time and more augmentation."""
    version_1_1(config)
    config.model.matcher.statistics_chunk = 16
    augment_more(config)


def augment_more(config: ml_collections.ConfigDict) -> None:
    """The augmentation of version 1.2 and later."""
    config.augment.update(pad=10, rotation=5.0, hue=(-0.1, 0.1))
    config.augment.update(brightness=(0.5, 2.0), contrast=(0.5, 2.0), saturation=(0.5, 2.0))


def small(config: ml_collections.ConfigDict) -> None:
    """A small network from random weights, for small data sets and CPUs. All numbers ours."""
    config.model.height, config.model.width = 128, 64
    # IBN-b as in QAConv 1.1: without it a small network learns the cameras' colours first.
    config.model.backbone.update(name="resnet18_ibn_b", width=16)
    config.model.neck.channels = 64
    config.model.matcher.update(head="v2.1", initial_logit=-3.0)
    config.objective.valid_flags = True
    config.epochs = 22
    # From random weights the paper's SGD ends where all scores are equal; AdamW does not.
    config.optim.update(name="adamw", lr=6e-3, backbone_lr=6e-3, weight_decay=1e-2)
    config.schedule.update(name="cosine", warmup_steps=50)
    config.augment.update(pad=6, brightness=(0.6, 1.6), contrast=(0.7, 1.4))
    config.augment.update(saturation=(0.7, 1.4), occlusion=(0.0, 0.4))
    config.checkpoint.every_steps = 100


def backbone(config: ml_collections.ConfigDict, name: str) -> None:
    """Another backbone, in its full width."""
    options = {"cut": "layer4", **config.model.backbone, "width": 64}
    options = {k: options[k] for k in ("cut", "last_stride", "width") if k in options}
    options = options if name.startswith("resnet") else {}
    config.model.backbone = ml_collections.ConfigDict({"name": name, **options})


def debug(config: ml_collections.ConfigDict) -> None:
    """Seconds instead of hours: every part runs on a few people, little is learned."""
    few(config)
    config.model.backbone.update(name="resnet18", cut="layer2", width=8)
    config.model.neck.channels = 16


def few(config: ml_collections.ConfigDict) -> None:
    """A few small images, steps and pictures."""
    config.data.identities = 12
    config.data.test = config.data.test[:1]
    config.model.height, config.model.width = 64, 32
    config.batch_size = 16
    config.epochs = 3
    config.schedule.update(warmup_steps=0)
    config.eval.update(batch_size=32, pictures=2)
    config.checkpoint.every_steps = 5
    config.log.every_steps = 2
