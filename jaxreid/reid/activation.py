"""Activation maps: where in an image the features of a model come from."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreid.data.images.pillow import ImageSource, image_batches
from jaxreid.models.model import Model
from jaxreid.pictures.activations import activation_picture
from jaxreid.pictures.canvas import image_name, save
from jaxreid.reid.inputs import people_in


@dataclasses.dataclass(frozen=True, eq=False)
class Activations:
    """Activation maps of N images.

    Attributes:
        images: the images, as they were given.
        maps: [N, h, w] float32 in [0, 1], shares of the strongest position of each image.
        size: width and height of the model's images, for the aspect ratio in the picture.
    """

    images: list[ImageSource]
    maps: np.ndarray
    size: tuple[int, int]

    def save(self, path: str | os.PathLike, *, height: int = 384) -> None:
        """Write each image beside its map as a picture (PNG), `height` pixels high."""
        width = max(1, round(height * self.size[0] / self.size[1]))
        titles = [image_name(image) for image in self.images]
        save(activation_picture(self.images, self.maps, titles, size=(width, height)), path)


def activations_of(reid: Any, images: ImageSource | Sequence[ImageSource]) -> Activations:
    """Return the activation maps of images; see `ReID.activations`."""
    images, names = people_in(images, None, None)
    size = min(len(images), 64)
    batches = image_batches(images, names, **reid.model.image_format, batch_size=size)
    maps = [np.asarray(reid.energy(reid.variables, batch)) for batch in batches]
    energy = np.concatenate(maps)[: len(images)]
    strongest = energy.max((1, 2), keepdims=True)
    shares = energy / np.where(strongest > 0, strongest, 1)
    return Activations(images, shares, (reid.model.width, reid.model.height))


def make_energy(model: Model) -> Callable[[Any, np.ndarray], jax.Array]:
    """Compile (variables, image [B, H, W, 3]) -> squared maps, summed over channels [B, h, w]."""

    @jax.jit
    def energy(variables: Any, image: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            maps: Any = model.apply(variables, image, method="maps")
        return jnp.square(maps.astype(jnp.float32)).sum(-1)

    return energy
