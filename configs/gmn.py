"""GMN: a metric network on pairs of images (Qi et al., TCSVT 2024, arXiv 2306.11991).

    python -m jaxreid.main --config=configs/gmn.py --workdir=runs/gmn
    python -m jaxreid.main --config=configs/gmn.py:market1501 --config.data.dir=... \
        --config.init_from=resnet50.safetensors --workdir=...

The argument is `dataset[,option...]`: `synthetic` (embedded, the default) or `market1501`;

    target=NAME      which domain of `synthetic` is tested, station if none is named; the network
                     learns from the other three
    baseline         identities and triplets alone, embeddings compared by their cosine
    mnet             and the metric network, without perturbed pairs and without centres
    dp               and perturbed pairs, without centres; the default has all four
    ibn_a            half of the channels of early layers normalised by instance
    small            the network and recipe of the embedded data, on any data; its numbers are ours
    debug            seconds

or the name of a ResNet. The paper has no public code: losses and their sum are its own, and the
numbers here are ours where no source is named.
"""

import functools
import pathlib
import sys

import ml_collections

sys.path.append(str(pathlib.Path(__file__).resolve().parent))  # from wherever it is loaded
import osnet  # noqa: E402
import qaconv  # noqa: E402
from qaconv import DOMAINS  # noqa: E402

ROWS = ("baseline", "mnet", "dp")


def get_config(arg: str = "synthetic") -> ml_collections.ConfigDict:
    dataset, *chosen = (arg or "synthetic").split(",")
    if len(rows := [option for option in chosen if option in ROWS]) > 1:
        raise ValueError(f"{' and '.join(rows)}: each says which losses; give one of them.")
    targets = [option for option in chosen if option.startswith("target=")]
    if dataset == "synthetic" and not targets:
        targets = ["target=station"]
        chosen += targets
    if len(targets) > 1 or targets and dataset != "synthetic":
        raise ValueError(
            f"{' and '.join(targets)} with the data set {dataset!r}: one domain of 'synthetic' is "
            "tested; for other data give --config.data.train and --config.data.test."
        )
    if "ibn_a" in chosen and (named := [name for name in chosen if name.startswith("resnet")]):
        raise ValueError(f"ibn_a and {named[0]}: each says which network; give one of them.")
    changes = {"small": small, "debug": debug, "ibn_a": ibn_a}
    changes |= {row: globals()[row] for row in ROWS}
    for target in targets:
        name = target.removeprefix("target=")
        if name not in DOMAINS:
            raise ValueError(f"unknown domain {name!r} in target={name}; valid: {DOMAINS}.")
        changes[target] = functools.partial(leave_out, target=name)
    return qaconv.configure(",".join([dataset, *chosen]), paper(), changes, families=("resnet",))


def paper() -> ml_collections.ConfigDict:
    """The recipe that the methods it is compared with are built on, with GMN's losses."""
    config = osnet.published()
    config.model.backbone = ml_collections.ConfigDict(
        {"name": "resnet50", "cut": "layer4", "last_stride": 1, "width": 64}  # Luo et al., 2019
    )
    config.model.neck = ml_collections.ConfigDict({"name": "pooled", "pool": "gem", "bn": True})
    config.model.matcher = ml_collections.ConfigDict(
        {
            "name": "metric_network",
            "net": "perceptron",  # "linear": a weight for each channel
            "hidden": 512,
            "normalize": True,  # embeddings to the length sqrt(d) before they are subtracted
            "initial_logit": 0.0,
        }
    )
    config.batch_size = 64
    config.epochs = 60
    config.freeze_epochs = 0
    config.objective = ml_collections.ConfigDict(
        {
            "name": "gmn",
            "smoothing": 0.1,
            "triplet": 1.0,  # weight; that of the identities is 1
            "margin": 0.3,
            "metric": "euclidean",
            "gmn": 1.0,  # weight of the loss of pairs; see `baseline` for going without
            "pairs": "balanced",  # "random" and "hardest" are other readings
            "dropout": 0.5,  # of perturbed pairs; 0 for none
            "dropout_from": config.get_ref("epochs") // 3,  # follows the number of epochs
            "pic": 0.1,  # lambda
            "pic_pairs": "all",  # "positive": of one identity
        }
    )
    config.sampler.update(name="pk", instances=4)
    # BAU (Cho et al., NeurIPS 2024) trains so.
    config.optim.update(name="adam", lr=3.5e-4, backbone_lr=3.5e-4, weight_decay=5e-4)
    config.schedule.update(name="step", step_epochs=0, drop_epochs=(30, 50), warmup_epochs=10)
    config.augment.update(pad=10)
    osnet.jitter(config)  # no erasing, which harms on cameras unseen
    return config


def leave_out(config: ml_collections.ConfigDict, target: str) -> None:
    """Trains on three of the embedded domains, in equal shares of a batch, and tests the other."""
    sources = [domain for domain in DOMAINS if domain != target]
    config.data.train = tuple(f"synthetic_people/{domain}" for domain in sources)
    config.data.test = (f"synthetic_people/{target}",)
    config.sampler.quota = (config.batch_size // len(sources),) * len(sources)


def baseline(config: ml_collections.ConfigDict) -> None:
    """L_cls + L_tri."""
    config.objective.update(gmn=0.0, pic=0.0)
    config.model.matcher = ml_collections.ConfigDict({"name": "embedding", "metric": "cosine"})


def mnet(config: ml_collections.ConfigDict) -> None:
    """L_cls + L_tri + L_gmn."""
    config.objective.update(dropout=0.0, pic=0.0)


def dp(config: ml_collections.ConfigDict) -> None:
    """The same with perturbed pairs."""
    config.objective.pic = 0.0


def ibn_a(config: ml_collections.ConfigDict) -> None:
    """ResNet-IBN-a, of the same depth."""
    depth = config.model.backbone.name.partition("_")[0]
    config.model.backbone.name = f"{depth}_ibn_a"


def small(config: ml_collections.ConfigDict) -> None:
    """From random weights on a CPU. All numbers ours."""
    config.model.update(height=128, width=64)
    # As in qaconv.py.
    config.model.backbone.update(name="resnet18_ibn_b", width=16, cut="layer3")
    config.model.matcher.hidden = 128
    config.batch_size = 48
    config.epochs = 8  # as many images as the small recipes of the other methods see
    # With a third of these rates the loss of identities stays at chance for several epochs.
    config.optim.update(name="adamw", lr=1e-2, backbone_lr=6e-3, weight_decay=1e-2)
    config.schedule.update(name="cosine", drop_epochs=(), per_epoch=False)
    config.schedule.update(warmup_steps=50, warmup_epochs=0)
    config.augment.update(pad=6, brightness=(0.6, 1.6), contrast=(0.7, 1.4))
    config.augment.update(saturation=(0.7, 1.4), occlusion=(0.0, 0.4))
    config.checkpoint.every_steps = 100


def debug(config: ml_collections.ConfigDict) -> None:
    """Seconds instead of hours: every part runs on a few people, little is learned."""
    qaconv.few(config)
    config.model.backbone.update(name="resnet18", cut="layer2", width=8)
    config.schedule.warmup_epochs = 0
    config.batch_size = 24
