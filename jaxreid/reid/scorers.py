"""Scorers of a model in few sizes, so that few programs are compiled."""

from typing import Any

from jax.sharding import Mesh

from jaxreid.evaluation.scoring import Scorer
from jaxreid.models.model import Model


class Scorers(dict[tuple[tuple[str, int], ...], Scorer]):
    """Scorers of one model by their sizes, each made once.

    Args:
        model: model outside a mesh.
        mesh: devices.
        variables: its variables on the devices.
    """

    def __init__(self, model: Model, mesh: Mesh, variables: Any) -> None:
        super().__init__()
        self._model, self._mesh, self._variables = model, mesh, variables

    def of(self, **sizes: int) -> Scorer:
        """Return the scorer of some sizes; the others are its own."""
        key = tuple(sorted(sizes.items()))
        if key not in self:
            devices = self._mesh.size
            up = {
                k: v if k == "query_tile" else -(-v // devices) * devices for k, v in sizes.items()
            }
            default: dict[str, Any] = {"batch_size": 64 * devices, "gallery_tile": 512 * devices}
            self[key] = Scorer(self._model, self._mesh, self._variables, **default | up)
        return self[key]


def fitting(count: int, most: int) -> int:
    """Return the smallest of 1, 8, 64, ... >= `count`, at most `most`: few shapes to compile."""
    size = 1
    while size < min(count, most):
        size *= 8
    return min(size, most)
