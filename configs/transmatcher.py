"""TransMatcher: gated best matches of encoded maps (Liao and Shao, NeurIPS 2021, arXiv 2105.14432).

    python -m jaxreid.main --config=transmatcher --workdir=runs/transmatcher
    python -m jaxreid.main --config=transmatcher:market1501 --config.data.dir=... \
        --config.init_from=resnet50_ibn_b.safetensors --workdir=...

The argument is as for qaconv.py, without the versions. `market1501` is the recipe of the authors'
code; the smaller model of their Table 2 has 128 channels, one attention layer and 512 hidden units
in neck and matcher. `synthetic` and `small` are our recipe for a small network from random weights:
AdamW, eight epochs and a cosine schedule.
"""

from ml_collections import ConfigDict

from jaxreid.configs import common


def get_config(arg: str = "synthetic") -> ConfigDict:
    chosen = common.parse(arg, ("small", "debug"), backbones=common.BACKBONES)
    config = common.base(chosen.dataset)
    config.init_expects = "ImageNet"
    config.model.freeze_stats = True  # as in qaconv_gs.py
    config.model.backbone = ConfigDict({"name": "resnet50_ibn_b", "cut": "layer3", "width": 64})
    config.model.neck = ConfigDict(
        {
            "name": "transformer",
            "channels": 512,  # 0: as many as the backbone
            "attention_layers": 2,  # encoder layers; each adds a part to match besides the map
            "hidden": 2048,  # hidden units of the encoder's feed-forward network
            "heads": 1,  # attention heads
        }
    )
    config.model.matcher = ConfigDict(
        {
            "name": "transmatcher",
            "hidden": 2048,  # hidden units of the perceptron
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
    # Maps have 1,536 channels and take 1.1 MiB per image, hence smaller tiles. Market-1501 takes
    # 27 GB in total, half of that with eval.dtype="bfloat16".
    config.eval.update(query_tile=32, gallery_tile=64)

    if "small" in chosen:
        common.small(config)
        config.model.freeze_stats = False  # random weights have no statistics worth keeping
        config.model.backbone.update(name="resnet18_ibn_b", width=16)  # as in qaconv.py
        config.model.neck.update(channels=64, hidden=256)
        # Log odds of a match: 4 of 32 images.
        config.model.matcher.update(hidden=256, initial_logit=-2.0)
        config.batch_size = 32
        config.epochs = 8
        config.optim.update(lr=1e-3, backbone_lr=6e-3, clip_norm=0.0)
        config.eval.update(query_tile=32, gallery_tile=512)
    if "debug" in chosen:
        common.few(config)
        config.model.backbone.update(name="resnet18", cut="layer2", width=8)
        config.model.neck.update(channels=16, hidden=32)
        config.model.matcher.hidden = 32
    if chosen.backbone:
        common.backbone(config, chosen.backbone)
    return config.lock()
