"""QAConv-MS: local matches of several scales (Chen et al., ICME 2023, and TCSVT 34(9), 2024).

    python -m jaxreid.main --config=qaconv_ms --workdir=runs/qaconv_ms
    python -m jaxreid.main --config=qaconv_ms:market1501 --config.data.dir=... \
        --config.init_from=resnet50_ibn_b.safetensors --workdir=...

The argument is as for qaconv.py, without the versions and with the option `multi`: the recipe for
several training sets, one epoch of each in turn (--config.sampler.alternate=False mixes them within
batches). With `market1501`, list the sets in --config.data.train="('market1501', ...)".

`market1501` is the recipe of the authors' code. It is not known which of its settings gave the
published results: the default compares all parts, and options of `model.neck` and `model.matcher`
select the other readings. `synthetic` and `small` are our recipe for a small network from random
weights: linear heads, eight epochs and a cosine schedule, with or without `multi`.
"""

from ml_collections import ConfigDict

from jaxreid.configs import common


def get_config(arg: str = "synthetic") -> ConfigDict:
    chosen = common.parse(arg, ("multi", "small", "debug"), backbones=common.BACKBONES)
    config = common.base(chosen.dataset)
    config.init_expects = "ImageNet"
    config.model.freeze_stats = True  # as in qaconv_gs.py
    config.model.backbone = ConfigDict({"name": "resnet50_ibn_b", "cut": "layer3", "width": 64})
    config.model.neck = ConfigDict(
        {
            "name": "multi_scale",
            "channels": 512,
            "scales": (1, 3, 5),  # sizes of the template kernels; (): none
            "template_channels": 0,  # template kernels per scale; 0: as many as channels
            "norm": "position",  # of the template output: "position", "both" or "channel"
            "attention_layers": 2,  # encoder layers of the attention branch; 0: no branch
            "hidden": 2048,  # hidden units of the encoder's feed-forward network
            "fusion": "score",  # "score", or "feature": compare the branch along with every part
        }
    )
    config.model.matcher = ConfigDict(
        {
            "name": "qaconv_ms",
            "head": "perceptron",  # "perceptron"; "linear": a weight per position, as in QAConv 2.1
            "hidden": 2048,  # hidden units of "perceptron"
            "initial_logit": 0.0,  # logit of every pair before training
        }
    )
    config.objective = ConfigDict({"name": "pairwise"})
    config.batch_size = 64
    config.epochs = 15
    config.sampler.update(name="graph", instances=4)
    config.optim.update(lr=0.005, backbone_lr=0.0005, clip_norm=4.0)
    config.schedule.update(name="step", step_epochs=10)
    common.augment_more(config)
    # Maps have 2,560 channels and take 1.9 MiB per image, hence smaller tiles. Market-1501 takes
    # 45 GB in total, half of that with eval.dtype="bfloat16".
    config.eval.update(query_tile=16, gallery_tile=64)

    if "multi" in chosen:
        config.model.neck.scales = (1, 3, 5, 7)
        config.sampler.alternate = True
        config.epochs = 80
        config.schedule.step_epochs = 20
        if chosen.dataset == "synthetic":
            config.data.train = ("synthetic_people/plaza", "synthetic_people/mall")
    if "small" in chosen:
        common.small(config)
        config.model.freeze_stats = False  # random weights have no statistics worth keeping
        config.model.backbone.update(name="resnet18_ibn_b", width=16)  # as in qaconv.py
        config.model.neck.update(channels=64, hidden=256)
        # The linear head learns more from random weights; `hidden` belongs to the other head.
        config.model.matcher.update(head="linear", hidden=256)
        config.model.matcher.initial_logit = -2.0  # log odds of a match: 4 of 32 images
        config.batch_size = 32
        config.epochs = 8
        # The backbone's 6e-3 is too high for encoder and perceptrons.
        config.optim.update(lr=1e-3, backbone_lr=6e-3, clip_norm=0.0)
        config.eval.update(query_tile=32, gallery_tile=512)
    if "debug" in chosen:
        common.few(config)
        config.model.backbone.update(name="resnet18", cut="layer2", width=8)
        config.model.neck.update(channels=16, hidden=32)
        config.model.matcher.update(head="perceptron", hidden=32)
    if chosen.backbone:
        common.backbone(config, chosen.backbone)
    return config.lock()
