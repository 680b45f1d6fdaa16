"""Exported functions of a model: of arrays, with their weights, for any number of images."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.export import symbolic_shape

from jaxreid.data.images.pillow import ImageSource, read_image, resize
from jaxreid.data.synthetic.generation import draw_all, plan
from jaxreid.export.formats import LIKE, PARTS
from jaxreid.mesh import ANY, compile_for
from jaxreid.names import check_name
from jaxreid.reid.loaded import ReID
from jaxreid.weights.layouts.layout import IMAGENET

# Of the pixels that trackers give to a model.
MEAN, STD = (np.array(IMAGENET[key], np.float32) for key in ("mean", "std"))


@dataclasses.dataclass(frozen=True)
class Program:
    """Function of a model.

    Attributes:
        part: one of `PARTS`.
        function: takes arrays of `inputs` in order and returns one array.
        inputs: shapes and types by name; numbers of images are symbolic.
        output: name of the result.
        like: "boxmot" for a tracker's input, else "".
        reid: the model, in float32.
    """

    part: str
    function: Callable[..., jax.Array]
    inputs: Mapping[str, jax.ShapeDtypeStruct]
    output: str
    like: str
    reid: ReID

    def pixels(self, images: Sequence[ImageSource]) -> np.ndarray:
        """Return images as an encoder takes them."""
        form = self.reid.model.image_format
        pixels = np.stack([resize(read_image(image), **form) for image in images])
        if not self.like:
            return pixels
        normalised = (pixels.astype(np.float32) / 255 - MEAN) / STD
        return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))

    def samples(self, images: Sequence[ImageSource]) -> tuple[list[np.ndarray], np.ndarray]:
        """Return inputs made of at least two images, and what the library computes from them."""
        features = self.reid.embed(images)
        if self.part == "encoder":
            return [self.pixels(images)], features
        # Another number of gallery images than of queries.
        arrays = features if self.part == "matcher" else self.pixels(images)
        return [arrays[:-1], arrays], self.reid.score(features[:-1], features)


def make_program(reid: ReID, part: str = "encoder", like: str = "") -> Program:
    """Return a function of a model.

    Args:
        reid: the model.
        part: "encoder": images to features; "matcher": features of queries and of a gallery to
            scores [Q, G]; "pair": images of queries and of a gallery to scores.
        like: "boxmot": the encoder takes what BoxMOT gives to a model, float [B, 3, H, W]
            normalised by ImageNet's mean and standard deviation. Else uint8 [B, H, W, 3].

    Raises:
        ValueError: an unknown part, or features that a tracker cannot compare.
    """
    check_name(part, PARTS, "part")
    if like:
        check_name(like, LIKE, "tracker")
        _check_vector(reid, part)
    exact = ReID(reid.card | {"dtype": "float32"}, reid.variables, path=reid.path, step=reid.step)
    model, variables = exact.model, jax.tree.map(np.asarray, exact.variables)

    def apply(method: Any, *arrays: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            result: Any = model.apply(variables, *arrays, method=method)
            return result.astype(jnp.float32)

    def encode(image: jax.Array) -> jax.Array:
        return apply("encode", image)

    def encode_normalised(image: jax.Array) -> jax.Array:
        pixels = image.transpose(0, 2, 3, 1)
        gain, shift = STD / model.std, (MEAN - model.mean) / model.std
        if not (np.allclose(gain, 1, atol=1e-6) and np.allclose(shift, 0, atol=1e-6)):
            pixels = pixels * gain.astype(np.float32) + shift.astype(np.float32)
        return apply(lambda m, x: m.neck(m.backbone(x, train=False), train=False), pixels)

    def match(query: jax.Array, gallery: jax.Array) -> jax.Array:
        return apply("match", query, gallery)

    def pair(query: jax.Array, gallery: jax.Array) -> jax.Array:
        return match(encode(query), encode(gallery))

    size = (model.height, model.width)
    function: Callable[..., jax.Array]
    if part == "encoder":
        (count,) = symbolic_shape("batch")
        shape = (count, 3, *size) if like else (count, *size, 3)
        inputs = {"images": jax.ShapeDtypeStruct(shape, jnp.float32 if like else jnp.uint8)}
        function = encode_normalised if like else encode
        return Program(part, _portable(function), inputs, "features", like, exact)
    counts = symbolic_shape("queries, gallery")
    entry = (exact.feature_shape, jnp.float32) if part == "matcher" else ((*size, 3), jnp.uint8)
    names = ("query", "gallery")
    inputs = {
        name: jax.ShapeDtypeStruct((count, *entry[0]), entry[1])
        for name, count in zip(names, counts, strict=True)
    }
    function = match if part == "matcher" else pair
    return Program(part, _portable(function), inputs, "scores", like, exact)


def drawn_people(count: int) -> list[bytes]:
    """Draw images of people, for a check without images of one's own."""
    splits = plan("plaza", train_ids=1, test_ids=-(-count // 4), images_per_id=4, distractors=0)
    planned = [*splits["query"], *splits["gallery"]][:count]
    return [sighting.image for sighting in draw_all(planned, workers=1)]


def _portable(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def traced(*arrays: jax.Array) -> jax.Array:
        with compile_for(ANY):
            return function(*arrays)

    return traced


def _check_vector(reid: ReID, part: str) -> None:
    if part != "encoder":
        raise ValueError(
            f"a tracker takes one vector of each box and compares them itself; {part} is not for "
            "it. Leave out --part, or --like."
        )
    if len(reid.feature_shape) != 1:
        shape = "x".join(map(str, reid.feature_shape))
        raise ValueError(
            f"this model makes maps ({shape}) that its matcher {reid.card['matcher']['name']!r} "
            "compares position by position; a tracker compares one vector of each box by its "
            "cosine, which means nothing for them. Train a model with embeddings, as in jaxreid "
            "train osnet, or use the matcher yourself: --part=matcher without --like."
        )
