"""QAConv with class memory (Liao and Shao, ECCV 2020, arXiv 1904.10424).

    python -m jaxreid.main --config=qaconv --workdir=runs/qaconv
    python -m jaxreid.main --config=qaconv:market1501 --config.data.dir=... \
        --config.init_from=resnet50.safetensors --workdir=...

The argument is `dataset[,option...]`, where the data set is `synthetic` (embedded, the default) or
`market1501` (the paper's recipe with the values of its published code, version 1.0). Options:

    v1.1, v1.2   these versions, without their pre-training (the best of ten trial first epochs)
    small        network and recipe of the embedded data, on any data; our values, chosen by
                 measurement
    debug        a few steps; runs in seconds

or the name of a backbone (`resnet50_ibn_b`, `osnet_ain_x1_0`, `vit_small_patch16`, ...).
"""

from ml_collections import ConfigDict

from jaxreid.configs import common


def get_config(arg: str = "synthetic") -> ConfigDict:
    options = ("v1.1", "v1.2", "small", "debug")
    chosen = common.parse(arg, options, backbones=common.BACKBONES, one_of=[("v1.1", "v1.2")])
    config = common.base(chosen.dataset)
    config.init_expects = "ImageNet"
    config.model.backbone = ConfigDict(
        {
            "name": "resnet50",
            "cut": "layer3",  # last layer used; stride 16: 24 x 8 positions
            "width": 64,  # channels of the first layer
        }
    )
    config.model.neck = ConfigDict(
        {
            "name": "map",
            "channels": 128,  # channels of the matched maps
            "norm": "batch",  # "batch": batch norm without bias; "none": bias without batch norm
        }
    )
    config.model.matcher = ConfigDict(
        {
            "name": "qaconv",
            "head": "v1",  # "v1": two weights per position; "v2.1": one, for both directions
            "initial_logit": 0.0,  # logit of every pair before training
            "statistics_chunk": 0,  # memory classes that share batch-norm statistics; 0: all
            "patch": 1,  # side of the matched patches, odd; 1: single positions
        }
    )
    config.objective = ConfigDict(
        {
            "name": "class_memory",
            "valid_flags": False,  # True: ignore classes that have not been seen yet
        }
    )

    if "v1.1" in chosen or "v1.2" in chosen:
        config.objective.valid_flags = True
        config.model.backbone.name = "resnet50_ibn_b"
        config.model.neck.channels = 64
        config.batch_size = 8
        config.epochs = 15
        config.optim.update(lr=0.005, backbone_lr=0.0005)
        config.schedule.step_epochs = 10
        config.augment.after_accuracy = 0.6
    if "v1.2" in chosen:
        config.model.matcher.statistics_chunk = 16
        common.augment_more(config)

    if "small" in chosen:
        common.small(config)
        # IBN-b as in version 1.1: without it a small network learns camera colours first. A small
        # network also gains from a finer grid, 16 x 8 positions: docs/results.md.
        config.model.backbone.update(name="resnet18_ibn_b", width=16, cut="layer2")
        config.model.neck.channels = 64
        config.model.matcher.update(head="v2.1", initial_logit=-3.0)
        config.objective.valid_flags = True
        config.epochs = 22
        config.optim.update(lr=6e-3, backbone_lr=6e-3)
    if "debug" in chosen:
        common.few(config)
        config.model.backbone.update(name="resnet18", cut="layer2", width=8)
        config.model.neck.channels = 16
    if chosen.backbone:
        common.backbone(config, chosen.backbone)
    return config.lock()
