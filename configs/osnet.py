"""OSNet and OSNet-AIN (Zhou et al., ICCV 2019, arXiv 1905.00953; TPAMI 2021, arXiv 1910.06827).

    python -m jaxreid.main --config=osnet --workdir=runs/osnet
    python -m jaxreid.main --config=osnet:market1501,ain --config.data.dir=... \
        --config.init_from=osnet_ain_x1_0.safetensors --workdir=...

The argument is `dataset[,option...]`, where the data set is `synthetic` (embedded, the default),
another one (`market1501`, `msmt17`, ...), or what to train and to test on, as in
`market1501->msmt17` (protocols.py). Options:

    x0_75, x0_5, x0_25   width of the network
    ibn, ain             OSNet-IBN or OSNet-AIN (instance normalisation); ain also selects the
                         recipe for unseen cameras
    architecture=FILE    placement of instance normalisation found by osnet_search.py; starts from
                         random weights because no others exist
    paper                longer training, as for the paper's table
    scratch              from random weights
    triplet              batch-hard triplet loss on embeddings in addition to classification
    small                recipe of the embedded data, on any data; x0_25 if no width is given; our
                         values
    debug                runs in seconds

or the name of a ResNet or a ViT, as a baseline. The recipes are those of torchreid's published
models, tested on the data set they were trained on. All but `scratch`, `small` and `architecture`
start from ImageNet weights (--config.init_from).
"""

import json
import pathlib

from ml_collections import ConfigDict

from jaxreid.configs import common

FORMAT = "jaxreid architecture 1"  # as written by jaxreid/training/search.py
WIDTHS = ("x1_0", "x0_75", "x0_5", "x0_25")


def get_config(arg: str = "synthetic") -> ConfigDict:
    options = (*WIDTHS, "ibn", "ain", "paper", "scratch", "small", "triplet", "debug")
    exclusive = [WIDTHS, ("ibn", "ain", "architecture")]
    chosen = common.parse(
        arg, options, values=("architecture",), backbones=("resnet", "vit"), one_of=exclusive
    )
    norms = "ibn_" if "ibn" in chosen else "ain_" if "ain" in chosen else ""
    config = common.base(chosen.dataset)
    # torchreid, which the results are published with, leaves the validation list out.
    published_list = {"msmt17": "msmt17?train_split=train"}
    config.data.train = tuple(published_list.get(name, name) for name in config.data.train)
    published(config)
    config.model.backbone = ConfigDict({"name": f"osnet_{norms}{width_of(chosen)}"})
    if "x0_5" in chosen or "x0_25" in chosen:  # these widths have their own recipe
        config.batch_size = 128
        config.epochs = 180
        config.optim.update(lr=0.003, backbone_lr=0.003)
        config.schedule.step_epochs = 80
    if "ibn" in chosen:
        config.augment.update(brightness=(0.8, 1.2), contrast=(0.85, 1.15))  # color_jitter
    if "ain" in chosen:
        generalise(config)
    if "architecture" in chosen:
        config.model.backbone.update(architecture(chosen.values["architecture"]))
        generalise(config)
        config.init_expects = ""
        config.freeze_epochs = 0
    if "paper" in chosen:  # for the paper's numbers, tested on the training data set
        config.epochs = 250
        config.schedule.update(name="cosine", step_epochs=0)
        config.augment.erasing = 0.5
        config.model.matcher.metric = "cosine"
    if "scratch" in chosen:  # the paper's training without ImageNet weights
        config.init_expects = ""
        config.batch_size = 64
        config.epochs = 350
        config.freeze_epochs = 0
        config.optim.update(name="sgd", lr=0.065, backbone_lr=0.065)
        config.schedule.update(name="step", step_epochs=0, drop_epochs=(150, 225, 300))
        config.augment.update(translation=0.5, erasing=0.5)
    if "small" in chosen:
        small(config)
    if "triplet" in chosen:  # both losses, on batches with four images per identity
        config.objective.triplet = 1.0
        config.sampler.update(name="pk", instances=4)
    if "debug" in chosen:
        common.few(config)
        config.model.neck.channels = 16
        config.freeze_epochs = 1
    if chosen.backbone:
        common.backbone(config, chosen.backbone)
    return config.lock()


def width_of(chosen: common.Argument) -> str:
    """Return the selected network width."""
    if "debug" in chosen:
        return "x0_25"
    named = [width for width in WIDTHS if width in chosen]
    return named[0] if named else "x0_25" if "small" in chosen else "x1_0"


def published(config: ConfigDict) -> None:
    """Apply the recipe of torchreid's model zoo for OSNet x1.0."""
    config.init_expects = "ImageNet"
    config.model.update(height=256, width=128, interpolation="bilinear")
    config.model.update(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))  # ImageNet
    config.model.neck = ConfigDict({"name": "linear", "channels": 512})
    config.model.matcher = ConfigDict(
        {
            "name": "embedding",
            "metric": "euclidean",  # "euclidean" or "cosine"
        }
    )
    config.objective = ConfigDict(
        {
            "name": "softmax",
            "smoothing": 0.1,  # label smoothing of the identity loss
            "triplet": 0.0,  # weight of the triplet loss on embeddings
            "margin": 0.3,  # margin of the triplet loss
            "metric": "euclidean",  # of the triplet loss: "euclidean" or "cosine"
        }
    )
    config.batch_size = 64
    config.epochs = 150
    config.freeze_epochs = 10
    config.optim.update(name="amsgrad", lr=0.0015, backbone_lr=0.0015, nesterov=False)
    config.schedule.update(name="step", step_epochs=60, per_epoch=True)
    config.augment.occlusion = (0.0, 0.0)  # only flips


def generalise(config: ConfigDict) -> None:
    """Apply the recipe of OSNet-AIN, for unseen cameras."""
    config.augment.update(brightness=(0.8, 1.2), contrast=(0.85, 1.15))  # color_jitter
    config.model.matcher.metric = "cosine"
    config.epochs = 100  # 50 on MSMT17 and when training on several data sets
    config.schedule.update(name="cosine", step_epochs=0)


def small(config: ConfigDict) -> None:
    """Set up training from random weights on a CPU. Our values, the same for all networks."""
    common.small(config)
    config.model.matcher.metric = "cosine"
    config.batch_size = 16
    config.epochs = 22  # as many images as in qaconv.py
    config.freeze_epochs = 0
    config.optim.update(lr=2e-3, backbone_lr=2e-3)
    config.schedule.update(step_epochs=0, per_epoch=False)


def architecture(file: str) -> dict[str, object]:
    """Load the architecture found by a search; resuming a run reads the file again."""
    try:
        record = json.loads(pathlib.Path(file).expanduser().read_text())
        if record["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT!r}, got {record['format']!r}")
        return {"stem": record["stem"], "blocks": tuple(record["blocks"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = "not JSON" if isinstance(error, json.JSONDecodeError) else error
        raise ValueError(
            f"architecture={file}: {reason}; expected an architecture.json written by a run of "
            "osnet_search."
        ) from error
