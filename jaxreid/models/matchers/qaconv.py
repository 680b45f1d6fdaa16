"""QAConv: scores from best local matches.

Notation: Q queries, G gallery images, h w map size, n = h * w positions, d channels.

Source: Liao and Shao, ECCV 2020, arXiv 1904.10424 (head "v1"); the shared, symmetric head "v2.1" is
from QAConv-GS, CVPR 2022, arXiv 2104.01546.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.layers import uniform_init
from jaxreid.models.matchers.matcher import Matcher
from jaxreid.names import check_at_least, check_name
from jaxreid.ops.correlation import best_matches, match_scores
from jaxreid.ops.normalize import affine, batch_norm, chunked_batch_norm
from jaxreid.ops.patch_matching import patch_matches

HEADS = ("v1", "v2.1")


class ScoreNorm(nn.Module):
    """Batch normalisation of scores, by default with one scalar mean and variance.

    Attributes:
        axis_name: mesh axis over which the scores are sharded.
        initial_bias: initial bias, i.e. the initial mean of the normalised scores.
        chunk: gallery rows that are normalised together in training; 0 for all.
        shape: shape of the trailing axes with statistics of their own per entry; () with `chunk`.
    """

    axis_name: str | None = None
    initial_bias: float = 0.0
    chunk: int = 0
    shape: tuple[int, ...] = ()

    def setup(self) -> None:
        """Create scale, bias, mean and variance."""
        self.scale = self.param("scale", nn.initializers.ones, self.shape)
        self.bias = self.param("bias", nn.initializers.constant(self.initial_bias), self.shape)
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, self.shape)
        self.var = self.variable("batch_stats", "var", jnp.ones, self.shape)

    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalise scores.

        Args:
            x: [Q, G, ...] float.
            train: use and update batch statistics; otherwise use the running ones.
            mask: [G] bool, or without `chunk` also [Q, G]; rows or pairs that are False are
                excluded from the statistics.
        """
        if not train or self.is_initializing():
            gain, shift = self.affine()
            return x * gain + shift
        arguments = x, self.scale, self.bias, (self.mean.value, self.var.value)
        if self.chunk:
            y, running = chunked_batch_norm(
                *arguments, axis=1, chunk=self.chunk, mask=mask, axis_name=self.axis_name
            )
        else:
            axes = tuple(range(x.ndim - len(self.shape)))
            mask = None if mask is None else mask.reshape(*mask.shape, *[1] * (x.ndim - 2))
            y, running = batch_norm(
                *arguments, axes=axes, train=True, mask=mask, axis_name=self.axis_name
            )
        self.mean.value, self.var.value = running
        return y

    def affine(self) -> tuple[jax.Array, jax.Array]:
        """Return gain and shift in evaluation: normalised x = x * gain + shift."""
        return affine(self.scale, self.bias, self.mean.value, self.var.value)


class Explanation(NamedTuple):
    """Logits of some pairs, decomposed by position.

    logit = gain * (sum of from_gallery + sum of from_query) + offset, up to rounding.

    Attributes:
        from_gallery: [Q, G, h, w] float, contribution of each gallery position: its normalised best
            match times its weight.
        from_query: [Q, G, h, w] float, contribution of each query position.
        match_in_query: [Q, G, h, w] int32, the query position (row * w + column) that each gallery
            position matches best.
        match_in_gallery: [Q, G, h, w] int32, the gallery position that each query position matches
            best.
        logit: [Q, G] float.
        gain: scalar, gain of the last normalisation.
        offset: scalar if shared by all pairs, else [Q, G].
    """

    from_gallery: jax.Array
    from_query: jax.Array
    match_in_query: jax.Array
    match_in_gallery: jax.Array
    logit: jax.Array
    gain: jax.Array
    offset: jax.Array


def check_sizes(query: jax.Array, gallery: jax.Array) -> None:
    """Check that maps [Q, h, w, d] and [G, h, w, d] have the same size.

    Raises:
        ValueError: if they do not.
    """
    if query.shape[1:] != gallery.shape[1:]:
        raise ValueError(
            f"query maps are {query.shape[1:]} and gallery maps {gallery.shape[1:]}; QAConv "
            "compares maps of one size: extract both with the same model and image size."
        )


def rows(maps: jax.Array) -> jax.Array:
    """Reshape [N, h, w, d] to [N, n, d]."""
    return maps.reshape(maps.shape[0], -1, maps.shape[-1])


def map_matches(
    query: jax.Array,
    gallery: jax.Array,
    *,
    gate: jax.Array | None = None,
    positions: bool = False,
) -> tuple[jax.Array, ...]:
    """Run `best_matches` on maps [Q, h, w, d] and [G, h, w, d]; each result is [Q, G, h, w]."""
    matches = best_matches(rows(query), rows(gallery), gate=gate, positions=positions)
    return tuple(x.reshape(*x.shape[:2], *query.shape[1:3]) for x in matches)


class QAConv(Matcher):
    """Query-adaptive convolution: scores of all query-gallery pairs.

    Each position of one map is matched with its best position in the other, in both directions. The
    2n best correlations are normalised, weighted by position, summed and normalised again.

    Attributes:
        head: "v2.1": one weight per position for both directions, so the score is symmetric. "v1":
            separate weights, first for gallery positions, then for query positions.
        initial_logit: initial mean logit; 0 in the papers. A network with random weights trains
            faster from about the log odds of a match: -log(C - 1) for C classes, the prior of Lin
            et al., ICCV 2017, Section 4.1. From 0 it first learns to give all pairs the same low
            score.
        statistics_chunk: gallery rows (classes of the memory) whose scores are normalised together
            in training; 0 for all at once, as in QAConv 1.0 and 1.1. Version 1.2 uses chunks of 16;
            every chunk that is not all padding updates the running statistics.
        patch: size of the compared patches, odd; 1 compares single positions. Larger patches are
            the baseline that QAConv-MS improves on.
        axis_name: mesh axis over which gallery (or queries) are sharded in training. With
            `statistics_chunk` it must be the gallery, in order, with whole chunks on each device.
    """

    TAKES = "maps"

    head: str = "v2.1"
    initial_logit: float = 0.0
    statistics_chunk: int = 0
    patch: int = 1
    axis_name: str | None = None

    @nn.nowrap
    def validate(self) -> None:
        """Raise ValueError if an option is out of range."""
        check_name(self.head, HEADS, "matcher.head")
        least = {"patch": 1, "statistics_chunk": 0}
        check_at_least({name: getattr(self, name) for name in least}, least, "matcher")
        if self.patch % 2 == 0:
            raise ValueError(f"matcher.patch is {self.patch}; expected an odd number.")

    @property
    def can_pool(self) -> bool:
        """Whether `patch` is 1; patches of pooled cells would cover a different area."""
        return self.patch == 1

    @nn.nowrap
    def pooled(self, params: Mapping[str, Any], window: tuple[int, int]) -> dict[str, Any]:
        """Convert parameters to pooled maps: a cell's weight is the sum of its positions' weights.

        See `Matcher.pooled`.
        """
        if not self.can_pool:
            return super().pooled(params, window)
        directions, h, w = params["weight"].shape
        rows, columns = window
        cells = params["weight"].reshape(directions, h // rows, rows, w // columns, columns)
        return {**params, "weight": cells.sum((2, 4))}

    def setup(self) -> None:
        """Create the two normalisations."""
        options = {"axis_name": self.axis_name, "chunk": self.statistics_chunk}
        self.norm_in = ScoreNorm(**options)
        self.norm_out = ScoreNorm(**options, initial_bias=self.initial_logit)

    def __call__(
        self,
        query: jax.Array,
        gallery: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Score all pairs of maps with unit norm along d as logits; see `Matcher.__call__`.

        QAConv's similarity is sigmoid(logit / 10), which ranks the same.

        Raises:
            ValueError: if the map sizes differ from each other or from the weights, or the chunks
                do not fit the devices.
        """
        if train and self.statistics_chunk and self.axis_name and mask is None:
            raise ValueError(
                f"statistics_chunk={self.statistics_chunk} divides a class memory, but this "
                "objective has none: every device holds different queries; set it to 0."
            )
        weight, bias = self._prepared(query, gallery)
        if train:
            contribution = self._contributions(self._matches(query, gallery), weight, True, mask)
            return self.norm_out(contribution.sum((2, 3)) + bias, train=True, mask=mask)
        # With running statistics the score is affine in the matches: two dot products and a
        # constant per pair.
        gain_in, shift_in = self.norm_in.affine()
        gain, shift = self.norm_out.affine()
        of_gallery, of_query = weight * gain_in * gain
        if self.patch == 1:
            scores = match_scores(rows(query), rows(gallery), of_query, of_gallery)
        else:
            query_match, gallery_match = self._matches(query, gallery)
            scores = query_match @ of_query + gallery_match @ of_gallery
        return scores + (gain * (shift_in * weight.sum() + bias) + shift)

    def explain(self, query: jax.Array, gallery: jax.Array) -> Explanation:
        """Decompose the scores of a few pairs by position, in evaluation.

        Raises:
            ValueError: if the map sizes differ from each other or from the weights.

        Source: QAConv's `matching/qaconv_match.py` (contributions, positions).
        Differs: the original passes its probe images as our gallery, which swaps the weights of the
            two directions with head "v1", and does not say how the parts add up to the score.
        """
        maps = (len(query), len(gallery), *query.shape[1:3])
        weight, bias = self._prepared(query, gallery)
        of_query, of_gallery, in_gallery, in_query = self._matches(query, gallery, positions=True)
        contribution = self._contributions((of_query, of_gallery), weight)
        gain, shift = self.norm_out.affine()
        return Explanation(
            from_gallery=contribution[:, :, 0].reshape(maps),
            from_query=contribution[:, :, 1].reshape(maps),
            match_in_query=in_query.astype(jnp.int32).reshape(maps),
            match_in_gallery=in_gallery.astype(jnp.int32).reshape(maps),
            logit=self.norm_out(contribution.sum((2, 3)) + bias),
            gain=gain,
            offset=bias * gain + shift,
        )

    def _prepared(self, query: jax.Array, gallery: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Check the maps; return weights [2, n] and the total bias of a pair.

        Weights of gallery positions come first, then those of query positions: the published order.
        """
        check_sizes(query, gallery)
        weight, bias = self._head(*query.shape[1:3])
        return jnp.broadcast_to(weight, (2, weight.shape[1])), bias * (2 // len(weight))

    def _matches(
        self, query: jax.Array, gallery: jax.Array, *, positions: bool = False
    ) -> tuple[jax.Array, ...]:
        """Run `best_matches` on maps, or `patch_matches` on their patches."""
        if self.patch == 1:
            return best_matches(rows(query), rows(gallery), positions=positions)
        return patch_matches(query, gallery, size=self.patch, positions=positions)

    def _contributions(
        self,
        matches: tuple[jax.Array, jax.Array],
        weight: jax.Array,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Return the contributions [Q, G, 2, n] of gallery and query positions."""
        of_query, of_gallery = matches
        both = jnp.stack([of_gallery, of_query], axis=2)
        return self.norm_in(both, train=train, mask=mask) * weight

    @nn.compact
    def _head(self, h: int, w: int) -> tuple[jax.Array, jax.Array]:
        """Create or look up the position weights [1 or 2, n] and the bias, for h x w maps."""
        directions = {"v1": 2, "v2.1": 1}[self.head]
        n = h * w
        uniform = uniform_init(n * directions)
        constant = nn.initializers.constant(1 / n)
        weight_init = constant if self.head == "v2.1" else uniform
        if self.has_variable("params", "weight"):
            made_for = self.get_variable("params", "weight").shape
            if made_for != (directions, h, w):
                raise ValueError(
                    f"the matcher has weights for {made_for[1]}x{made_for[2]} maps in "
                    f"{made_for[0]} direction(s), but the maps are {h}x{w} with head "
                    f"{self.head!r}; use the image size, cut and head it was trained with."
                )
        weight = self.param("weight", weight_init, (directions, h, w)).reshape(directions, n)
        return weight, self.param("bias", uniform, ())
