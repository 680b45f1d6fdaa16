"""GMN: a metric network on pairs of images (Qi et al., TCSVT 2024, arXiv 2306.11991).

    python -m jaxreid.main --config=gmn --workdir=runs/gmn
    python -m jaxreid.main --config=gmn:market1501 --config.data.dir=... \
        --config.init_from=resnet50.safetensors --workdir=...

The argument is `dataset[,option...]`, where the data set is `synthetic` (embedded, the default),
another one (`market1501`, `msmt17`, ...), or what to train and to test on, as in
`market1501->msmt17` (protocols.py). Options:

    target=NAME      test domain of `synthetic` (default: station); training uses the other three
    baseline         identity and triplet loss only; embeddings compared by cosine
    mnet             baseline and metric network, without perturbed pairs or the centre loss
    dp               mnet and perturbed pairs, without the centre loss; the default has all four
    ibn_a            IBN-a: half of the channels of early layers are instance-normalised
    small            network and recipe of the embedded data, on any data; our values
    debug            runs in seconds

or the name of a backbone. The paper has no public code. The losses and their sum are the paper's,
the rest is the recipe that the methods it compares with build on, and values without a source are
ours.
"""

from ml_collections import ConfigDict

from jaxreid.configs import common


def get_config(arg: str = "synthetic") -> ConfigDict:
    options = ("baseline", "mnet", "dp", "ibn_a", "small", "debug")
    exclusive = [("baseline", "mnet", "dp")]
    chosen = common.parse(
        arg, options, values=("target",), backbones=common.BACKBONES, one_of=exclusive
    )
    if "ibn_a" in chosen and chosen.backbone:
        raise ValueError(f"ibn_a and {chosen.backbone}: each names a network; give one of them.")
    config = common.base(chosen.dataset)
    config.init_expects = "ImageNet"
    config.model.update(height=256, width=128, interpolation="bilinear")
    config.model.update(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))  # ImageNet
    config.model.backbone = ConfigDict(
        {
            "name": "resnet50",
            "cut": "layer4",  # last layer used
            "last_stride": 1,  # stride of layer4; Luo et al., 2019
            "width": 64,  # channels of the first layer
        }
    )
    config.model.neck = ConfigDict(
        {
            "name": "pooled",
            "pool": "gem",  # "gem" (generalised mean) or "average"
            "bn": True,  # BN neck: the classifier sees batch-normalised embeddings
        }
    )
    config.model.matcher = ConfigDict(
        {
            "name": "metric_network",
            "net": "perceptron",  # "perceptron", or "linear": one weight per channel
            "hidden": 512,  # hidden units of "perceptron"
            "normalize": True,  # scale embeddings to norm sqrt(d) before subtraction
            "initial_logit": 0.0,  # logit of every pair before training
        }
    )
    config.batch_size = 64
    config.epochs = 60
    config.objective = ConfigDict(
        {
            "name": "gmn",
            "smoothing": 0.1,  # label smoothing of the identity loss
            "triplet": 1.0,  # weight of the triplet loss; the identity loss has weight 1
            "margin": 0.3,  # margin of the triplet loss
            "metric": "euclidean",  # of the triplet loss: "euclidean" or "cosine"
            "gmn": 1.0,  # weight of the pair loss; the option `baseline` removes it
            "pairs": "balanced",  # "random" and "hardest": alternative readings of the paper
            "dropout": 0.5,  # dropout rate of perturbed pairs; 0: none
            "dropout_from": config.get_ref("epochs") // 3,  # first epoch; scales with epochs
            "pic": 0.1,  # lambda, the weight of the centre loss
            "pic_pairs": "all",  # "positive": only pairs of one identity
        }
    )
    config.sampler.update(name="pk", instances=4)
    # As in BAU (Cho et al., NeurIPS 2024).
    config.optim.update(name="adam", lr=3.5e-4, backbone_lr=3.5e-4, nesterov=False)
    config.schedule.update(name="step", step_epochs=0, drop_epochs=(30, 50), per_epoch=True)
    config.schedule.warmup_epochs = 10  # epochs of linear warm-up
    # No random erasing: it hurts on unseen cameras. Colour ranges of torchreid's color_jitter.
    config.augment.update(pad=10, occlusion=(0.0, 0.0))
    config.augment.update(brightness=(0.8, 1.2), contrast=(0.85, 1.15))

    if "small" in chosen:
        common.small(config)
        # Backbone as in qaconv.py.
        config.model.backbone.update(name="resnet18_ibn_b", width=16, cut="layer3")
        config.model.matcher.hidden = 128
        config.batch_size = 48
        config.epochs = 8  # as many images as in the small recipes of the other methods
        # At a third of these rates the identity loss stays at chance for several epochs.
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
    if "dp" in chosen:  # the losses of mnet, with perturbed pairs
        config.objective.pic = 0.0
    if chosen.dataset == "synthetic":
        target = chosen.values.get("target", "station")
        if target not in common.DOMAINS:
            valid = ", ".join(common.DOMAINS)
            raise ValueError(f"unknown domain {target!r} in target={target}; valid: {valid}.")
        # Three embedded domains contribute equally to each batch; the fourth is the test set.
        sources = [domain for domain in common.DOMAINS if domain != target]
        config.data.train = tuple(f"synthetic_people/{domain}" for domain in sources)
        config.data.test = (f"synthetic_people/{target}",)
        config.sampler.quota = (config.batch_size // len(sources),) * len(sources)
    elif "target" in chosen:
        raise ValueError(
            f"target={chosen.values['target']} with the data set {chosen.dataset!r}: target names "
            "a test domain of 'synthetic'; for other data set --config.data.train and "
            "--config.data.test."
        )
    if chosen.backbone:
        common.backbone(config, chosen.backbone)
    return config.lock()
