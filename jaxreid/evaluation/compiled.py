"""Compiled functions of evaluation on a mesh: features of images, and scores of pairs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxreid.mesh import AXIS, shardings
from jaxreid.models.model import Model
from jaxreid.programs import network_options, shared


@shared
def make_encode(
    model: Model, mesh: Mesh, *, flip: bool = False, precision: str = "highest"
) -> Callable[..., jax.Array]:
    """Compile (variables, image [B, H, W, 3]) -> features [B, ...], both sharded over `AXIS`.

    With `flip`, the neck averages the features of an image and of its mirror image, mirrored back
    if they are maps. `precision` is as for `Scorer`.
    """

    def encode(variables: dict[str, Any], image: jax.Array) -> jax.Array:
        extract = lambda x: model.apply(variables, x, method="encode").astype(jnp.float32)  # noqa: E731
        with jax.default_matmul_precision(precision):
            if not flip:
                return extract(image)
            feature, mirrored = extract(image), extract(image[:, :, ::-1])
        mirrored = mirrored[:, :, ::-1] if mirrored.ndim == 4 else mirrored
        return model.neck.average(feature, mirrored)

    sharded = jax.shard_map(encode, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS))
    return jax.jit(sharded, compiler_options=network_options(mesh))


def _score(
    model: Model, precision: str, variables: Any, query: jax.Array, gallery: jax.Array
) -> jax.Array:
    """Score features to [Q, G] float32."""
    with jax.default_matmul_precision(precision):
        return model.apply(variables, query, gallery, method="match").astype(jnp.float32)


@shared
def make_score(model: Model, mesh: Mesh, *, precision: str = "highest") -> Callable[..., jax.Array]:
    """Compile (variables, query [Q, ...], gallery [G, ...] sharded over `AXIS`) -> scores [Q, G].

    Queries and scores are replicated on every device. `precision` is as for `Scorer`.
    """
    score = functools.partial(_score, model, precision)
    sharded = jax.shard_map(score, mesh=mesh, in_specs=(P(), P(), P(AXIS)), out_specs=P(None, AXIS))
    return jax.jit(sharded, out_shardings=shardings(mesh, P()))


@shared
def make_listed(model: Model, mesh: Mesh, *, precision: str) -> Callable[..., jax.Array]:
    """Compile (variables, query [D, ...], gallery [D, m, ...]) -> scores [D, m], all sharded.

    `precision` is as for `Scorer`.
    """

    def listed(variables: Any, query: jax.Array, gallery: jax.Array) -> jax.Array:
        return _score(model, precision, variables, query, gallery[0])

    specs = (P(), P(AXIS), P(AXIS))
    sharded = jax.shard_map(listed, mesh=mesh, in_specs=specs, out_specs=P(AXIS))
    return jax.jit(sharded, out_shardings=shardings(mesh, P()))


@shared
def make_nearest(
    model: Model, mesh: Mesh, *, precision: str
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Compile (variables, query [Q, ...], gallery [G, ...], real, count) -> scores, indices.

    The gallery tile is sharded. Each device returns the best `count` of the first `real` images in
    its shard, as [Q, count]; the results [Q, k] join those of all devices. Other images have the
    score -inf. `precision` is as for `Scorer`.
    """

    def nearest(variables: Any, query: Any, gallery: Any, real: Any, count: int) -> Any:
        scores = _score(model, precision, variables, query, gallery)
        place = jax.lax.axis_index(AXIS) * len(gallery) + jnp.arange(len(gallery))
        best, at = jax.lax.top_k(jnp.where(place < real, scores, -jnp.inf), count)
        return best, place[at]

    @functools.partial(jax.jit, static_argnums=4, out_shardings=shardings(mesh, P()))
    def run(variables: Any, query: Any, gallery: Any, real: Any, count: int) -> Any:
        each = functools.partial(nearest, count=min(count, len(gallery) // mesh.size))
        specs = (P(), P(), P(AXIS), P())
        sharded = jax.shard_map(each, mesh=mesh, in_specs=specs, out_specs=P(None, AXIS))
        return sharded(variables, query, gallery, real)

    return run
