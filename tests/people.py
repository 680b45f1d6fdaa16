"""Tiny data sets in Market-1501's layout and a tiny model, for tests that need such."""

import pathlib

import jax
import numpy as np
from PIL import Image

from jaxreid.data.sets import market1501
from jaxreid.models.model import init_variables, make_model
from jaxreid.weights.file import save_weights

# Of scores from -60 to 0, whose log odds are from -3 to 3.
CALIBRATION = {
    "format": "jaxreid calibration 1",
    "sets": [
        {"name": "a set", "fingerprint": "0", "people": 9, "positives": 50, "negatives": 1000}
    ],
    "model_digest": "0",
    "score": [-60, 0],
    "log_ratio": [-3, 3],
    "rate_score": [-60, -10, 0],
    "rate": [1, 0.01, 0.001],
    "thresholds": [{"rate": 0.01, "score": -10, "error": 0.002, "by_set": [0.01]}],
    "own": False,
}
MODEL = {
    "backbone": {"name": "resnet18", "cut": "layer1", "width": 4},
    "neck": {"name": "map", "channels": 4},
    "matcher": {"name": "qaconv"},
    "height": 32,
    "width": 16,
}


def save_model(path, **parts):
    """Writes the tiny model, with other parts if they are given, untrained; returns the path."""
    card = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)} | MODEL | parts
    variables = jax.jit(lambda: init_variables(make_model(**card), 0))()
    save_weights(path, jax.tree.map(np.asarray, variables), card, source="a test")
    return path


def draw(pid, camid, shot, size=(32, 64), world=7):
    """A person of four coloured blocks before clutter, under a camera's light."""
    look = np.random.default_rng([world, pid]).integers(40, 216, (4, 1, 3))
    generator = np.random.default_rng([world + 4, pid, camid, shot])
    clutter = generator.integers(40, 216, (8, 4, 3))
    picture = clutter.repeat(size[1] // 8, 0).repeat(size[0] // 4, 1).astype(float)
    x = size[0] // 4
    picture[:, x : 3 * x] = look.repeat(size[1] // 4, 0)
    light = np.array([[1.0, 0.9, 0.8], [0.8, 0.9, 1.0]])[camid]
    picture = picture * light + generator.normal(0, 15, picture.shape)
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def market_tree(root, *, train=12, test=6, shots=3, world=7):
    """Writes `train` and `test` people of a world, seen `shots` times by each of two cameras."""
    parts = {"bounding_box_train": [], "query": [], "bounding_box_test": []}
    frame = 0
    for pid in range(1, train + test + 1):
        for camid in range(2):
            for shot in range(shots):
                frame += 25
                part = "bounding_box_train"
                if pid > train:
                    part = "bounding_box_test" if shot else "query"
                parts[part].append((pid, camid, shot, frame))
    parts["bounding_box_test"] += [(0, 0, 0, frame + 25), (0, 1, 1, frame + 50)]
    for part, images in parts.items():
        (root / part).mkdir(parents=True)
        for pid, camid, shot, frame in images:
            name = f"{pid:04d}_c{camid + 1}s1_{frame:06d}_00.jpg"
            draw(pid, camid, shot, world=world).save(root / part / name, quality=90)
    return root


def strangers(folder):
    """Data set `people:strangers`: people of another world, in a folder of that name."""
    return market1501.find(pathlib.Path(folder) / "strangers")
