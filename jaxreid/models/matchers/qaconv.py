"""QAConv: two images are as alike as their best local matches say.

Letters: Q queries, G gallery images, h w map size, n = h * w positions, d channels.

Source: Liao and Shao, ECCV 2020, arXiv 1904.10424 (head "v1"); the shared, symmetric head "v2.1" is
that of QAConv-GS, CVPR 2022, arXiv 2104.01546.
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
    """Batch normalisation of scores: one mean and one variance over everything.

    Attributes:
        axis_name: mesh axis over which the scores are spread.
        initial_bias: the mean of the normalised scores before training.
        chunk: gallery rows that are normalised together in training; 0 for all.
        shape: of the last axes, whose entries are normalised each by itself; none by default, and
            none with `chunk`.
    """

    axis_name: str | None = None
    initial_bias: float = 0.0
    chunk: int = 0
    shape: tuple[int, ...] = ()

    def setup(self) -> None:
        """Makes scale, bias, mean and variance."""
        self.scale = self.param("scale", nn.initializers.ones, self.shape)
        self.bias = self.param("bias", nn.initializers.constant(self.initial_bias), self.shape)
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, self.shape)
        self.var = self.variable("batch_stats", "var", jnp.ones, self.shape)

    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalises scores.

        Args:
            x: [Q, G, ...] float.
            train: use and update batch statistics, else use the running ones.
            mask: [G] bool, or without `chunk` [Q, G]; rows or pairs that are False do not enter the
                statistics.
        """
        if not train or self.is_initializing():
            gain, shift = self.affine()
            return x * gain + shift
        given = x, self.scale, self.bias, (self.mean.value, self.var.value)
        if self.chunk:
            y, running = chunked_batch_norm(
                *given, axis=1, chunk=self.chunk, mask=mask, axis_name=self.axis_name
            )
        else:
            axes = tuple(range(x.ndim - len(self.shape)))
            mask = None if mask is None else mask.reshape(*mask.shape, *[1] * (x.ndim - 2))
            y, running = batch_norm(
                *given, axes=axes, train=True, mask=mask, axis_name=self.axis_name
            )
        self.mean.value, self.var.value = running
        return y

    def affine(self) -> tuple[jax.Array, jax.Array]:
        """Gain and shift in evaluation: the normalised x is x * gain + shift."""
        return affine(self.scale, self.bias, self.mean.value, self.var.value)


class Explanation(NamedTuple):
    """Logits of some pairs, taken apart by positions.

    logit = gain * (sum of from_gallery + sum of from_query) + offset, up to rounding.

    Attributes:
        from_gallery: [Q, G, h, w] float, contribution of each gallery position: its best match,
            normalised, times its weight.
        from_query: [Q, G, h, w] float, the same of each query position.
        match_in_query: [Q, G, h, w] int32, the query position (row * w + column) that each gallery
            position matches best.
        match_in_gallery: [Q, G, h, w] int32, the gallery position that each query position matches
            best.
        logit: [Q, G] float.
        gain: scalar, of the last normalisation.
        offset: scalar, the same for every pair; [Q, G] where each pair has its own.
    """

    from_gallery: jax.Array
    from_query: jax.Array
    match_in_query: jax.Array
    match_in_gallery: jax.Array
    logit: jax.Array
    gain: jax.Array
    offset: jax.Array


def check_sizes(query: jax.Array, gallery: jax.Array) -> None:
    """Raises ValueError where maps [Q, h, w, d] and [G, h, w, d] are not of one size."""
    if query.shape[1:] != gallery.shape[1:]:
        raise ValueError(
            f"query maps are {query.shape[1:]} and gallery maps {gallery.shape[1:]}; QAConv "
            "compares maps of one size: extract both with the same model and image size."
        )


def rows(maps: jax.Array) -> jax.Array:
    """[N, h, w, d] as [N, n, d]."""
    return maps.reshape(len(maps), -1, maps.shape[-1])


def map_matches(
    query: jax.Array,
    gallery: jax.Array,
    *,
    gate: jax.Array | None = None,
    positions: bool = False,
) -> tuple[jax.Array, ...]:
    """`best_matches` of maps [Q, h, w, d] and [G, h, w, d], each result as maps [Q, G, h, w]."""
    matches = best_matches(rows(query), rows(gallery), gate=gate, positions=positions)
    return tuple(x.reshape(*x.shape[:2], *query.shape[1:3]) for x in matches)


class QAConv(Matcher):
    """Query-adaptive convolution: scores of every query with every gallery image.

    Each position of one map is compared with its best match in the other, both ways; the 2n best
    correlations are normalised, weighted by position, summed and normalised again.

    Attributes:
        head: "v2.1", one weight per position, the same both ways: the score is symmetric; or "v1",
            separate weights, first for gallery positions, then for query positions.
        initial_logit: mean logit before training; 0 in the papers. A network that starts from
            random weights learns sooner from about the log odds of a match: against C classes,
            -log(C - 1), the prior of Lin et al., ICCV 2017, Section 4.1. From 0 it first learns to
            give all pairs the same low score.
        statistics_chunk: gallery rows, that is classes of the memory, whose scores are normalised
            together in training; 0 for all at once, as QAConv 1.0 and 1.1 do. Version 1.2 takes 16
            after 16, and each chunk that is not all padding updates the running statistics.
        patch: rows and columns of the patches that are compared, odd; 1 compares single positions.
            Larger ones are the baseline that QAConv-MS improves on.
        axis_name: mesh axis over which gallery (or queries) are spread in training; with
            `statistics_chunk` the gallery, in order, each device holding whole chunks.
    """

    TAKES = "maps"

    head: str = "v2.1"
    initial_logit: float = 0.0
    statistics_chunk: int = 0
    patch: int = 1
    axis_name: str | None = None

    @nn.nowrap
    def validate(self) -> None:
        """Checks the options.

        Raises:
            ValueError: an option is out of its range.
        """
        check_name(self.head, HEADS, "matcher.head")
        least = {"patch": 1, "statistics_chunk": 0}
        check_at_least({name: getattr(self, name) for name in least}, least, "matcher")
        if self.patch % 2 == 0:
            raise ValueError(f"matcher.patch is {self.patch}; needed is an odd number.")

    @property
    def can_pool(self) -> bool:
        """True for single positions: a patch of coarser cells is another thing."""
        return self.patch == 1

    @nn.nowrap
    def pooled(self, params: Mapping[str, Any], window: tuple[int, int]) -> dict[str, Any]:
        """Parameters for coarser maps: the weight of a cell is the sum of those it replaces.

        Args:
            params: as for `Matcher.pooled`.
            window: the same.
        """
        if not self.can_pool:
            return super().pooled(params, window)
        directions, h, w = params["weight"].shape
        rows, columns = window
        cells = params["weight"].reshape(directions, h // rows, rows, w // columns, columns)
        return {**params, "weight": cells.sum((2, 4))}

    def setup(self) -> None:
        """Makes the two normalisations."""
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
        """Scores all pairs; as `Matcher.__call__`.

        Args:
            query: [Q, h, w, d] float, unit norm along d.
            gallery: [G, h, w, d] float, unit norm along d.
            train: as there.
            mask: as there.

        Returns:
            [Q, G] float logits. QAConv's similarity is sigmoid(logit / 10), which ranks the same.

        Raises:
            ValueError: maps of different sizes, or of another size than the weights were made for;
                chunks that do not fit the devices.
        """
        if train and self.statistics_chunk and self.axis_name and mask is None:
            raise ValueError(
                f"statistics_chunk={self.statistics_chunk} divides a class memory, and this "
                "objective has none: every device holds other queries; set it to 0."
            )
        weight, bias = self._prepared(query, gallery)
        if train:
            contribution = self._contributions(self._matches(query, gallery), weight, True, mask)
            return self.norm_out(contribution.sum((2, 3)) + bias, train=True, mask=mask)
        # Without batch statistics all is affine: two dot products and a constant for each pair.
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
        """Contributions of positions to the scores of a few pairs, in evaluation.

        Args:
            query: [Q, h, w, d] float, unit norm along d.
            gallery: [G, h, w, d] float, unit norm along d.

        Raises:
            ValueError: as for scoring.

        Source: QAConv's `matching/qaconv_match.py` (contributions, positions).
        Differs: it passes its probe images as our gallery, which with head "v1" exchanges the
            weights of the two directions; it does not say how the parts add up to the score.
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
        """Weights [2, n] and the bias of a pair, for maps that fit each other.

        The weights are of gallery positions, then of query positions: the published order.
        """
        check_sizes(query, gallery)
        weight, bias = self._head(*query.shape[1:3])
        return jnp.broadcast_to(weight, (2, weight.shape[1])), bias * (2 // len(weight))

    def _matches(
        self, query: jax.Array, gallery: jax.Array, *, positions: bool = False
    ) -> tuple[jax.Array, ...]:
        """`best_matches` of maps, or of their patches."""
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
        """[Q, G, 2, n] of gallery and of query positions."""
        of_query, of_gallery = matches
        both = jnp.stack([of_gallery, of_query], axis=2)
        return self.norm_in(both, train=train, mask=mask) * weight

    @nn.compact
    def _head(self, h: int, w: int) -> tuple[jax.Array, jax.Array]:
        """Weights [1 or 2, n] of positions, and the bias; makes them for h x w maps."""
        directions = {"v1": 2, "v2.1": 1}[self.head]
        n = h * w
        uniform = uniform_init(n * directions)
        constant = nn.initializers.constant(1 / n)
        weight_init = constant if self.head == "v2.1" else uniform
        if self.has_variable("params", "weight"):
            made_for = self.get_variable("params", "weight").shape
            if made_for != (directions, h, w):
                raise ValueError(
                    f"this matcher has weights for {made_for[1]}x{made_for[2]} maps in "
                    f"{made_for[0]} direction(s), and the maps are {h}x{w} with head "
                    f"{self.head!r}; use the image size, cut and head it was trained with."
                )
        weight = self.param("weight", weight_init, (directions, h, w)).reshape(directions, n)
        return weight, self.param("bias", uniform, ())
