"""QAConv-MS: best local matches at several scales, with one scoring head per scale.

Notation: Q queries, G gallery images, h w map size, n = h * w positions, d channels.

Source: Chen et al., ICME 2023, and TCSVT 34(9), 2024; the perceptron is the head of TransMatcher
(Liao and Shao, NeurIPS 2021), which their code uses.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxreid.models.features import Features
from jaxreid.models.layers import uniform_init
from jaxreid.models.matchers.matcher import Matcher
from jaxreid.models.matchers.qaconv import (
    Explanation,
    QAConv,
    ScoreNorm,
    check_sizes,
    map_matches,
)
from jaxreid.names import check_at_least, check_name
from jaxreid.ops.tiles import map_rows

HEADS = ("perceptron", "linear")
# Hidden activations per scoring step and direction: 16 MiB.
HIDDEN_SIZE = 2**22


class Parts(NamedTuple):
    """Logits of some pairs, decomposed by part.

    logit = sum of the parts' logits + offset, up to rounding.

    Attributes:
        parts: explanation of each part's share of the logit, by name.
        logit: [Q, G] float.
        offset: scalar, shared by all pairs.
    """

    parts: dict[str, Explanation]
    logit: jax.Array
    offset: jax.Array


class PerceptronHead(nn.Module):
    """Perceptron that scores a pair from the best matches of all positions.

    The n best matches of each direction are normalised and mapped to one number by a hidden layer
    with batch norm and ReLU; both directions share the weights. The score is the normalised sum.
    Every normalisation takes its statistics over all pairs and both directions.

    Attributes:
        hidden: hidden units.
        initial_logit: see `QAConv`.
        axis_name: mesh axis over which gallery or queries are sharded in training.
        bias_init: maps a layer's fan-in to the initializer of its biases.
    """

    hidden: int = 2048
    initial_logit: float = 0.0
    axis_name: str | None = None
    bias_init: Callable[[float], nn.initializers.Initializer] = uniform_init

    def setup(self) -> None:
        """Create the three normalisations."""
        self.norm_in = ScoreNorm(self.axis_name)
        self.norm_hidden = ScoreNorm(self.axis_name, shape=(self.hidden,))
        self.norm_out = ScoreNorm(self.axis_name, initial_bias=self.initial_logit)

    def __call__(
        self,
        of_query: jax.Array,
        of_gallery: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Score all pairs.

        Args:
            of_query: [Q, G, h, w] float, the best match of each query position.
            of_gallery: [Q, G, h, w] float, the best match of each gallery position.
            train: see `Matcher.__call__`.
            mask: see `Matcher.__call__`.

        Returns:
            [Q, G] float logits.

        Raises:
            ValueError: if the map size differs from that of the weights.
        """
        weights = self._weights(*of_query.shape[2:])
        matches = _flat(of_query), _flat(of_gallery)
        if not train:
            return _by_pieces(self._folded(*weights), matches)
        kernel, bias, out, out_bias = weights
        mode = {"train": True, "mask": mask}
        both = self.norm_in(jnp.stack(matches, axis=2), **mode)
        hidden = nn.relu(self.norm_hidden(both @ kernel + bias, **mode))
        return self.norm_out((hidden @ out).sum(2) + 2 * out_bias, **mode)

    def explain(
        self,
        of_query: jax.Array,
        of_gallery: jax.Array,
        in_gallery: jax.Array,
        in_query: jax.Array,
    ) -> Explanation:
        """Decompose the scores of a few pairs by position, in evaluation.

        A position contributes its best match times the gradient of the logit with respect to it.
        The logit is piecewise affine in the matches, so contributions and offset add up to it. The
        gradient, and therefore the offset [Q, G], differs from pair to pair. Unlike for a linear
        head, a contribution says how the logit changes with a match, not what the logit would be
        without it.

        Args:
            of_query: see `__call__`.
            of_gallery: see `__call__`.
            in_gallery: [Q, G, h, w] int, the gallery position that each query position matches.
            in_query: [Q, G, h, w] int, the query position that each gallery position matches.
        """
        maps, matches = of_query.shape, (_flat(of_query), _flat(of_gallery))
        folded = self._folded(*self._weights(*maps[2:]))
        logit, gradient = jax.vjp(lambda matches: _by_pieces(folded, matches), matches)
        slopes = gradient(jnp.ones_like(logit))[0]
        from_query, from_gallery = (m * slope for m, slope in zip(matches, slopes, strict=True))
        return Explanation(
            from_gallery=from_gallery.reshape(maps),
            from_query=from_query.reshape(maps),
            match_in_query=in_query.astype(jnp.int32),
            match_in_gallery=in_gallery.astype(jnp.int32),
            logit=logit,
            gain=jnp.ones((), logit.dtype),
            offset=logit - from_query.sum(-1) - from_gallery.sum(-1),
        )

    def _folded(
        self, kernel: jax.Array, bias: jax.Array, out: jax.Array, out_bias: jax.Array
    ) -> tuple[jax.Array, ...]:
        """Fold the normalisations, which are affine in evaluation, into the weights."""
        gain_in, shift_in = self.norm_in.affine()
        gain_hidden, shift_hidden = self.norm_hidden.affine()
        gain, shift = self.norm_out.affine()
        bias = (shift_in * kernel.sum(0) + bias) * gain_hidden + shift_hidden
        return gain_in * kernel * gain_hidden, bias, gain * out, 2 * gain * out_bias + shift

    @nn.compact
    def _weights(self, h: int, w: int) -> tuple[jax.Array, ...]:
        """Create or look up kernel [n, hidden], bias, output weights [hidden] and output bias."""
        if self.has_variable("params", "kernel"):
            made_for = self.get_variable("params", "kernel").shape
            if made_for != (h, w, self.hidden):
                raise ValueError(
                    f"the matcher has weights for {made_for[0]}x{made_for[1]} maps and "
                    f"{made_for[2]} hidden units, but the maps are {h}x{w} with {self.hidden}; use "
                    "the image size, cut and hidden units it was trained with."
                )
        xavier = nn.initializers.variance_scaling(
            1.0, "fan_avg", "uniform", in_axis=(0, 1), out_axis=2
        )
        kernel = self.param("kernel", xavier, (h, w, self.hidden)).reshape(h * w, self.hidden)
        out = self.param("out_kernel", nn.initializers.xavier_uniform(), (self.hidden, 1))[:, 0]
        bias = self.param("bias", self.bias_init(h * w), (self.hidden,))
        return kernel, bias, out, self.param("out_bias", self.bias_init(self.hidden), ())


class QAConvMS(Matcher):
    """Scores of all query-gallery pairs, summed over the parts of the features.

    Attributes:
        parts: channels of each part, by name, in the neck's concatenation order.
        shared: channels after the parts, compared together with every part.
        head: "perceptron", or "linear": the head of QAConv 2.1, one weight per position.
        hidden: hidden units of the perceptrons.
        initial_logit: see `QAConv`.
        axis_name: mesh axis over which gallery or queries are sharded in training.

    Source: Chen et al., ICME 2023; the perceptron and the sum as in the authors' code.
    """

    TAKES = "maps in parts"

    parts: Mapping[str, int]
    shared: int = 0
    head: str = "perceptron"
    hidden: int = 2048
    initial_logit: float = 0.0
    axis_name: str | None = None

    @nn.nowrap
    def validate(self) -> None:
        """Raise ValueError if an option is out of range."""
        check_name(self.head, HEADS, "matcher.head")
        check_at_least({"hidden": self.hidden}, {"hidden": 1}, "matcher")

    @classmethod
    def takes(cls, features: Features) -> bool:
        """Return whether the features are maps in parts of known widths."""
        return super().takes(features) and 0 not in features.parts.values()

    def setup(self) -> None:
        """Create one head per part, and the last normalisation if there are several parts."""
        several = len(self.parts) > 1
        options = {
            "initial_logit": 0.0 if several else self.initial_logit,
            "axis_name": self.axis_name,
        }
        if self.head == "perceptron":
            options["hidden"] = self.hidden
        make = QAConv if self.head == "linear" else PerceptronHead
        # Keyed by name, so that a weights file loads each head for the part it was trained on, or
        # for none.
        self.heads = {name: make(**options) for name in self.parts}
        if several:
            self.norm = ScoreNorm(self.axis_name, initial_bias=self.initial_logit)

    def __call__(
        self,
        query: jax.Array,
        gallery: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Score all pairs of maps [N, h, w, d] of concatenated parts; see `Matcher.__call__`.

        The maps need not be normalised.

        Raises:
            ValueError: if the map sizes differ from each other or from the weights, or the channels
                do not match the parts.
        """
        scores = sum(
            self.heads[name](*self._compared(maps), train=train, mask=mask)
            for name, maps in self._split(query, gallery).items()
        )
        return self.norm(scores, train=train, mask=mask) if len(self.parts) > 1 else scores

    def explain(self, query: jax.Array, gallery: jax.Array) -> Parts:
        """Decompose the scores of a few pairs by part and position, in evaluation.

        The contributions of a linear head are exact summands of the logit; for the perceptron see
        `PerceptronHead.explain`.

        Raises:
            ValueError: see `__call__`.
        """
        parts = {
            name: self.heads[name].explain(*self._compared(maps, positions=True))
            for name, maps in self._split(query, gallery).items()
        }
        return sum_of_parts(parts, self.norm if len(parts) > 1 else None)

    def _compared(
        self, maps: tuple[jax.Array, jax.Array], *, positions: bool = False
    ) -> tuple[jax.Array, ...]:
        """Return the inputs of a part's head: best matches, or the maps for a linear head."""
        return maps if self.head == "linear" else map_matches(*maps, positions=positions)

    def _split(
        self, query: jax.Array, gallery: jax.Array
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Split query and gallery maps into parts."""
        check_sizes(query, gallery)
        widths = tuple(self.parts.values())
        if query.shape[-1] != sum(widths) + self.shared:
            raise ValueError(
                f"features have {query.shape[-1]} channels, but the matcher compares parts of "
                f"{widths} with {self.shared} shared; use the parts of the neck."
            )

        def split(x: jax.Array) -> list[jax.Array]:
            *parts, shared = jnp.split(x, np.cumsum(widths), axis=-1)
            # Append a copy of the shared channels to every part: one correlation compares both.
            return [jnp.concatenate([x, shared], axis=-1) for x in parts] if self.shared else parts

        return dict(zip(self.parts, zip(split(query), split(gallery), strict=True), strict=True))


def sum_of_parts(parts: Mapping[str, Explanation], norm: ScoreNorm | None) -> Parts:
    """Combine the explanations of the parts into that of their normalised sum, in evaluation.

    Args:
        parts: explanation of each part's own logit, by name.
        norm: normalisation of the sum; None if it is not normalised.
    """
    logit = sum(part.logit for part in parts.values())
    gain, shift = (1.0, jnp.zeros(())) if norm is None else norm.affine()
    scaled = ("logit", "gain", "offset")
    parts = {
        name: part._replace(**{k: gain * getattr(part, k) for k in scaled})
        for name, part in parts.items()
    }
    return Parts(parts, logit if norm is None else norm(logit), shift)


def _flat(matches: jax.Array) -> jax.Array:
    """Reshape [Q, G, h, w] to [Q, G, n]."""
    return matches.reshape(*matches.shape[:2], -1)


def _by_pieces(folded: tuple[jax.Array, ...], matches: tuple[jax.Array, ...]) -> jax.Array:
    """Score best matches [Q, G, n] of both directions as [Q, G], in batches of pairs."""
    kernel, bias, out, offset = folded
    score = lambda pair: sum(nn.relu(x @ kernel + bias) @ out for x in pair)  # noqa: E731
    pairs = tuple(m.reshape(-1, m.shape[-1]) for m in matches)
    at_once = max(1, HIDDEN_SIZE // len(out))
    return map_rows(score, pairs, at_once=at_once).reshape(matches[0].shape[:2]) + offset
