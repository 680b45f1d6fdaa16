"""The bundled model `drawn`: QAConv-GS trained on drawn people alone, for cameras of any kind.

    python -m jaxreid.main --config=drawn --workdir=runs/drawn
    jaxreid weights runs/drawn drawn.safetensors

4,000 people in 160 domains that are drawn themselves (`synthetic_people/random`), a small network
from random weights, graph sampling with the pairwise loss. The class graph matches pooled maps, so
that it costs a sixteenth. The argument is as for qaconv_gs.py: another data set, and `debug`.
"""

from ml_collections import ConfigDict

from jaxreid.configs import common, qaconv_gs

TRAIN = "synthetic_people/random?train_ids=4000&test_ids=1&distractors=0&domains=160"
# Other people in other domains.
TEST = "synthetic_people/random?train_ids=1&test_ids=200&distractors=400&domains=8&seed=1"


def get_config(arg: str = "synthetic") -> ConfigDict:
    chosen = common.parse(arg, ("small", "debug"))
    config = qaconv_gs.get_config(f"{chosen.dataset},small")
    config.unlock()
    if chosen.dataset == "synthetic":
        config.data.train = (TRAIN,)
        config.data.test = (TEST, *(f"synthetic_people/{domain}" for domain in common.DOMAINS))
    config.model.backbone.width = 32
    config.sampler.graph_window = (2, 2)
    config.epochs = 4
    # The cameras are drawn with colours, light and tilt of their own; jitter on top of that costs
    # 5 points of mAP on photographs, and half of the speed.
    config.augment.update(rotation=0.0, hue=(0.0, 0.0), brightness=(1.0, 1.0))
    config.augment.update(contrast=(1.0, 1.0), saturation=(1.0, 1.0))
    config.schedule.warmup_steps = 200
    config.optim.update(lr=4e-3, backbone_lr=4e-3)
    config.checkpoint.every_steps = 500
    config.log.every_steps = 100
    if "debug" in chosen:
        common.few(config)
        if chosen.dataset == "synthetic":
            config.data.train = ("synthetic_people/random?train_ids=12&test_ids=4&distractors=0",)
            config.data.test = config.data.train
        config.model.backbone.width = 8
        config.model.neck.channels = 16
    return config.lock()
