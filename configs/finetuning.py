"""Fine-tuning on a user's own people, from a few images of them. All values are ours.

`jaxreid finetune` adds the model, the objective of its matcher and the data. Rates are low and the
batch-norm statistics stay, so that little is forgotten.
"""

from ml_collections import ConfigDict

from jaxreid.configs import common

# Updates of a training, if the epochs that they take are between the limits.
STEPS, EPOCHS = 300, (4, 40)


def get_settings(people: int, images: int, devices: int = 1) -> ConfigDict:
    """Return the settings without model, objective and data.

    Args:
        people: people to learn from, at least 2.
        images: their images.
        devices: devices that share a batch.
    """
    config = common.base("synthetic")
    config.sampler.update(name="pk", instances=4)
    places = [count for count in range(min(8, people), 0, -1) if 4 * count % devices == 0]
    config.batch_size = 4 * (places[0] if places else devices)
    steps = max(1, images // config.batch_size)
    config.epochs = min(max(-(-STEPS // steps), EPOCHS[0]), EPOCHS[1])
    config.optim.update(name="adamw", lr=1e-3, backbone_lr=1e-4, weight_decay=1e-2)
    config.schedule.update(name="cosine", warmup_steps=20)
    config.augment.update(pad=6, brightness=(0.8, 1.25), contrast=(0.8, 1.25))
    config.augment.update(occlusion=(0.0, 0.4))
    config.checkpoint.every_steps = 100
    config.log.every_steps = 10
    return config
