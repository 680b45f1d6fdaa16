"""Reading golden sets: the rule for weights and inputs, and names between PyTorch and us.

Seeds, shapes and names always come from the set's own files.
"""

import functools
import json
import os
import pathlib
import zlib

import numpy as np

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def find():
    """The folder of $JAXREID_GOLDEN, else the full public set, else the cut in the repository."""
    if given := os.environ.get("JAXREID_GOLDEN"):
        if not (pathlib.Path(given) / "index.json").is_file():
            raise FileNotFoundError(f"JAXREID_GOLDEN={given} holds no index.json")
        return pathlib.Path(given)
    full = REPOSITORY.parent / "shared" / "golden" / "public"
    return full if full.is_dir() else REPOSITORY / "tests" / "golden"


def seed_of(folder):
    return json.loads((folder / "set.json").read_text())["seed"]


@functools.cache
def arrays_of(path):
    """All arrays of a file, by name; read once."""
    with np.load(path) as file:
        return dict(file)


def rng(seed, name):
    return np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}/{name}".encode())))


def param(seed, name, shape):
    """The value of an official parameter or buffer, from its name."""
    leaf, g = name.split(".")[-1], rng(seed, name)
    if leaf == "running_mean":
        value = 0.1 * g.standard_normal(shape)
    elif leaf == "running_var":
        value = g.uniform(0.5, 1.5, shape)
    elif len(shape) >= 2:
        value = np.sqrt(2.0 / np.prod(shape[1:])) * g.standard_normal(shape)
    elif leaf.endswith("weight"):
        value = g.uniform(0.4, 1.1, shape)
    else:
        value = 0.1 * g.standard_normal(shape)
    return np.asarray(value, np.float64).astype(np.float32)


def checkpoint(seed, names, *, empty=False):
    """A `state_dict` by the rule; `empty` gives shapes alone, for tests of names."""
    make = (
        (lambda name, shape: np.empty(shape, np.float32)) if empty else lambda *a: param(seed, *a)
    )
    return {
        name: np.zeros(shape) if name.endswith("num_batches_tracked") else make(name, tuple(shape))
        for name, shape in names
    }


def normal(seed, name, shape):
    return rng(seed, "input/" + name).standard_normal(shape).astype(np.float32)


def image(seed, name, shape, block=16):
    n, c, h, w = shape
    g = rng(seed, "input/" + name)
    whole = g.standard_normal((n, c, 1, 1))
    blocks = g.standard_normal((n, c, -(-h // block), -(-w // block)))
    pixels = g.standard_normal((n, c, h, w))
    blocks = blocks.repeat(block, 2).repeat(block, 3)[:, :, :h, :w]
    return (whole + blocks + 0.5 * pixels).astype(np.float32)


def nhwc(x):
    return np.moveaxis(np.asarray(x), -3, -1)


def nchw(x):
    return np.moveaxis(np.asarray(x), -1, -3)


def qaconv_variables(seed, head, h, w, dtype, *, official_init=False):
    """Variables of our QAConv by the rule; "v1" has the weights of both directions."""
    directions = {"v1": 2, "v2.1": 1}[head]

    def value(name, shape=(1,)):
        return param(seed, name, shape).astype(dtype)

    weight = value("fc.weight", (1, directions * h * w)).reshape(directions, h, w)
    if official_init:
        weight = np.full_like(weight, 1 / weight.size)
    params = {"weight": weight, "bias": value("fc.bias")[0]}
    stats = {}
    for ours, theirs in (("norm_in", "bn"), ("norm_out", "logit_bn")):
        if official_init:
            params[ours] = {"scale": dtype(1), "bias": dtype(0)}
            stats[ours] = {"mean": dtype(0), "var": dtype(1)}
        else:
            params[ours] = {
                "scale": value(f"{theirs}.weight")[0],
                "bias": value(f"{theirs}.bias")[0],
            }
            stats[ours] = {
                "mean": value(f"{theirs}.running_mean")[0],
                "var": value(f"{theirs}.running_var")[0],
            }
    return {"params": params, "batch_stats": stats}


def transmatcher_name(path):
    """The original's name of a variable of our TransMatcher, its path beginning with the part."""
    # Here, because programs that must not import JAX use this module.
    from jaxreid.weights.layouts.qaconv import TRANSMATCHER

    parts = "map", *(f"encoder_{i}" for i in range(1, 4))
    return TRANSMATCHER.name(path, "resnet18", parts).removeprefix("criterion.")


def transmatcher_shape(name, shape):
    """The shape in the original's TransMatcher of our variable of a name there."""
    if name.endswith("score_embed"):
        return 1, 1, shape[0] * shape[1], shape[2] * shape[3]
    if len(shape) == 3:  # weights of the positions' matches
        return shape[2], shape[0] * shape[1]
    return {0: (1,), 1: shape, 2: shape[::-1], 4: shape[2:][::-1] + shape[:2]}[len(shape)]


def from_transmatcher(name, tensor, shape):
    """A tensor of the original's TransMatcher as our variable of a shape."""
    axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(tensor.ndim)
    if axes and not name.endswith("score_embed"):
        tensor = tensor.transpose(axes)
    return tensor.reshape(shape)
