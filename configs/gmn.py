"""GMN: a metric network on pairs of images (Qi et al., TCSVT 2024, arXiv 2306.11991).

    python -m jaxreid.main --config=gmn --workdir=runs/gmn
    python -m jaxreid.main --config=gmn:market1501 --config.data.dir=... \
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

or the name of a ResNet. The paper has no public code: losses and their sum are its own, the rest is
the recipe that the methods it is compared with are built on, and the numbers here are ours where no
source is named.
"""

from ml_collections import ConfigDict

from jaxreid.configs import common


def get_config(arg: str = "synthetic") -> ConfigDict:
    options = ("baseline", "mnet", "dp", "ibn_a", "small", "debug")
    exclusive = [("baseline", "mnet", "dp")]
    chosen = common.parse(arg, options, values=("target",), backbones=("resnet",), one_of=exclusive)
    if "ibn_a" in chosen and chosen.backbone:
        raise ValueError(f"ibn_a and {chosen.backbone}: each names a network; give one of them.")
    config = common.base(chosen.dataset)
    config.init_expects = "ImageNet"
    config.model.update(height=256, width=128, interpolation="bilinear")
    config.model.update(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))  # ImageNet's
    config.model.backbone = ConfigDict(
        {
            "name": "resnet50",
            "cut": "layer4",  # the last layer
            "last_stride": 1,  # of layer4; Luo et al., 2019
            "width": 64,  # channels of the first layer
        }
    )
    config.model.neck = ConfigDict(
        {
            "name": "pooled",
            "pool": "gem",  # generalised mean; "average"
            "bn": True,  # the classifier sees normalised embeddings
        }
    )
    config.model.matcher = ConfigDict(
        {
            "name": "metric_network",
            "net": "perceptron",  # "linear": a weight for each channel
            "hidden": 512,  # units of "perceptron"
            "normalize": True,  # embeddings to the length sqrt(d) before they are subtracted
            "initial_logit": 0.0,  # of every pair before training
        }
    )
    config.batch_size = 64
    config.epochs = 60
    config.objective = ConfigDict(
        {
            "name": "gmn",
            "smoothing": 0.1,  # of the identities' labels
            "triplet": 1.0,  # weight; that of the identities is 1
            "margin": 0.3,  # of the triplets
            "metric": "euclidean",  # of the triplets; "cosine"
            "gmn": 1.0,  # weight of the loss of pairs; see `baseline` for going without
            "pairs": "balanced",  # "random" and "hardest" are other readings
            "dropout": 0.5,  # of perturbed pairs; 0 for none
            "dropout_from": config.get_ref("epochs") // 3,  # first epoch; follows their number
            "pic": 0.1,  # lambda, the weight of the centres
            "pic_pairs": "all",  # "positive": of one identity
        }
    )
    config.sampler.update(name="pk", instances=4)
    # BAU (Cho et al., NeurIPS 2024) trains so.
    config.optim.update(name="adam", lr=3.5e-4, backbone_lr=3.5e-4, nesterov=False)
    config.schedule.update(name="step", step_epochs=0, drop_epochs=(30, 50), per_epoch=True)
    config.schedule.warmup_epochs = 10  # of a linear rise at the start
    # No erasing, which harms on cameras unseen; torchreid's color_jitter.
    config.augment.update(pad=10, occlusion=(0.0, 0.0))
    config.augment.update(brightness=(0.8, 1.2), contrast=(0.85, 1.15))

    if "small" in chosen:
        common.small(config)
        # As in qaconv.py.
        config.model.backbone.update(name="resnet18_ibn_b", width=16, cut="layer3")
        config.model.matcher.hidden = 128
        config.batch_size = 48
        config.epochs = 8  # as many images as the small recipes of the other methods see
        # With a third of these rates the loss of identities stays at chance for several epochs.
        config.optim.update(lr=1e-2, backbone_lr=6e-3)
        config.schedule.update(drop_epochs=(), per_epoch=False, warmup_epochs=0)
    if "debug" in chosen:
        common.few(config)
        config.model.backbone.update(name="resnet18", cut="layer2", width=8)
        config.schedule.warmup_epochs = 0
        config.batch_size = 24
    if "ibn_a" in chosen:
        depth = config.model.backbone.name.partition("_")[0]
        config.model.backbone.name = f"{depth}_ibn_a"
    if "baseline" in chosen:  # L_cls + L_tri
        config.objective.update(gmn=0.0, pic=0.0)
        config.model.matcher = ConfigDict({"name": "embedding", "metric": "cosine"})
    if "mnet" in chosen:  # L_cls + L_tri + L_gmn
        config.objective.update(dropout=0.0, pic=0.0)
    if "dp" in chosen:  # the same with perturbed pairs
        config.objective.pic = 0.0
    if chosen.dataset == "synthetic":
        target = chosen.values.get("target", "station")
        if target not in common.DOMAINS:
            valid = ", ".join(common.DOMAINS)
            raise ValueError(f"unknown domain {target!r} in target={target}; valid: {valid}.")
        # Three of the embedded domains in equal shares of a batch; the other is tested.
        sources = [domain for domain in common.DOMAINS if domain != target]
        config.data.train = tuple(f"synthetic_people/{domain}" for domain in sources)
        config.data.test = (f"synthetic_people/{target}",)
        config.sampler.quota = (config.batch_size // len(sources),) * len(sources)
    elif "target" in chosen:
        raise ValueError(
            f"target={chosen.values['target']} with the data set {chosen.dataset!r}: one domain of "
            "'synthetic' is tested; for other data give --config.data.train and --config.data.test."
        )
    if chosen.backbone:
        common.backbone(config, chosen.backbone)
    return config.lock()
