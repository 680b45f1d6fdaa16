"""QAConv-MS: best local matches of several scales, each scored by a head of its own.

Letters: Q queries, G gallery images, h w map size, n = h * w positions, d channels.

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

HEADS = ("perceptron", "linear")
# Hidden activations that scoring makes at once, for each direction: 16 MiB.
HIDDEN_SIZE = 2**22


class Parts(NamedTuple):
    """What the logits of some pairs are made of, part by part.

    logit = sum of the parts' logits + offset, up to rounding.

    Attributes:
        parts: of each part, by name, what its contribution to the logit is made of.
        logit: [Q, G] float.
        offset: scalar, what every pair gets.
    """

    parts: dict[str, Explanation]
    logit: jax.Array
    offset: jax.Array


class PerceptronHead(nn.Module):
    """Scores of pairs by a perceptron that sees the best matches of all positions at once.

    The n best matches of one direction are normalised and go through a hidden layer, which is
    batch-normalised and rectified, to one number; the other direction goes the same way, and the
    normalised sum is the score. Every normalisation is over all pairs and both directions.

    Attributes:
        hidden: units of the hidden layer.
        initial_logit: as for `QAConv`.
        axis_name: mesh axis over which gallery or queries are spread in training.
        bias_init: initializer of the biases of a layer, by its number of inputs.
    """

    hidden: int = 2048
    initial_logit: float = 0.0
    axis_name: str | None = None
    bias_init: Callable[[float], nn.initializers.Initializer] = uniform_init

    def setup(self) -> None:
        """Makes the three normalisations."""
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
        """Scores all pairs.

        Args:
            of_query: [Q, G, h, w] float, the best match of each query position.
            of_gallery: [Q, G, h, w] float, the best match of each gallery position.
            train: as for `QAConv`.
            mask: as for `QAConv`.

        Returns:
            [Q, G] float logits.

        Raises:
            ValueError: maps of another size than the weights were made for.
        """
        weights = self._weights(*of_query.shape[2:])
        matches = _flat(of_query), _flat(of_gallery)
        if not train:
            return _by_pieces(self._folded(*weights), matches)
        kernel, bias, out, out_bias = weights
        given = {"train": True, "mask": mask}
        both = self.norm_in(jnp.stack(matches, axis=2), **given)
        hidden = nn.relu(self.norm_hidden(both @ kernel + bias, **given))
        return self.norm_out((hidden @ out).sum(2) + 2 * out_bias, **given)

    def explain(
        self,
        of_query: jax.Array,
        of_gallery: jax.Array,
        in_gallery: jax.Array,
        in_query: jax.Array,
    ) -> Explanation:
        """What the scores of a few pairs are made of, in evaluation.

        A position contributes its best match times the gradient of the logit with respect to it.
        Between the kinks of the hidden layer the logit is affine in the matches, so contributions
        and offset do add up to it, but the gradient, and with it the offset [Q, G], is the pair's
        own: unlike those of a linear head they tell how the logit would move with a match, and not
        what it would be without it.

        Args:
            of_query: as for scoring.
            of_gallery: as for scoring.
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
        """The weights in evaluation, where each normalisation is a gain and a shift."""
        gain_in, shift_in = self.norm_in.affine()
        gain_hidden, shift_hidden = self.norm_hidden.affine()
        gain, shift = self.norm_out.affine()
        bias = (shift_in * kernel.sum(0) + bias) * gain_hidden + shift_hidden
        return gain_in * kernel * gain_hidden, bias, gain * out, 2 * gain * out_bias + shift

    @nn.compact
    def _weights(self, h: int, w: int) -> tuple[jax.Array, ...]:
        """Kernel [n, hidden] and bias of the hidden layer, weights [hidden] and bias of the sum."""
        if self.has_variable("params", "kernel"):
            made_for = self.get_variable("params", "kernel").shape
            if made_for != (h, w, self.hidden):
                raise ValueError(
                    f"this matcher has weights for {made_for[0]}x{made_for[1]} maps and "
                    f"{made_for[2]} hidden units, and the maps are {h}x{w} with {self.hidden}; use "
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
    """Scores of every query with every gallery image: the sum over the parts of their features.

    Attributes:
        parts: channels of each part, by name, in the order in which the neck lays them side by
            side.
        shared: channels after the parts that are compared along with each of them.
        head: "perceptron", or "linear", that of QAConv 2.1: a weight for each position.
        hidden: units of the perceptrons.
        initial_logit: as for `QAConv`.
        axis_name: mesh axis over which gallery or queries are spread in training.

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
        """Checks the options.

        Raises:
            ValueError: an option is out of its range.
        """
        check_name(self.head, HEADS, "matcher.head")
        check_at_least({"hidden": self.hidden}, {"hidden": 1}, "matcher")

    @classmethod
    def takes(cls, features: Features) -> bool:
        """True for maps in parts of known widths."""
        return super().takes(features) and 0 not in features.parts.values()

    def setup(self) -> None:
        """Makes a head for each part, and the last normalisation where there are several."""
        several = len(self.parts) > 1
        options = {
            "initial_logit": 0.0 if several else self.initial_logit,
            "axis_name": self.axis_name,
        }
        if self.head == "perceptron":
            options["hidden"] = self.hidden
        make = QAConv if self.head == "linear" else PerceptronHead
        # By name: a file of weights gives each head to the part it was trained for, or to none.
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
        """Scores all pairs; as `Matcher.__call__`.

        Args:
            query: [Q, h, w, d] float, the parts side by side; no norm is assumed.
            gallery: [G, h, w, d] float, the same.
            train: as there.
            mask: as there.

        Returns:
            [Q, G] float logits.

        Raises:
            ValueError: maps of different sizes, of another size than the weights were made for, or
                with other channels than the parts.
        """
        scores = sum(
            self.heads[name](*self._compared(maps), train=train, mask=mask)
            for name, maps in self._split(query, gallery).items()
        )
        return self.norm(scores, train=train, mask=mask) if len(self.parts) > 1 else scores

    def explain(self, query: jax.Array, gallery: jax.Array) -> Parts:
        """What the scores of a few pairs are made of, in evaluation.

        A linear head's contributions are exact sums; for a perceptron's see there.

        Args:
            query: [Q, h, w, d] float.
            gallery: [G, h, w, d] float.

        Raises:
            ValueError: as for scoring.
        """
        parts = {
            name: self.heads[name].explain(*self._compared(maps, positions=True))
            for name, maps in self._split(query, gallery).items()
        }
        return sum_of_parts(parts, self.norm if len(parts) > 1 else None)

    def _compared(
        self, maps: tuple[jax.Array, jax.Array], *, positions: bool = False
    ) -> tuple[jax.Array, ...]:
        """What a part's head takes: the best matches of its maps, or the maps themselves."""
        return maps if self.head == "linear" else map_matches(*maps, positions=positions)

    def _split(
        self, query: jax.Array, gallery: jax.Array
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Query and gallery maps of each part."""
        check_sizes(query, gallery)
        widths = tuple(self.parts.values())
        if query.shape[-1] != sum(widths) + self.shared:
            raise ValueError(
                f"features have {query.shape[-1]} channels, and this matcher compares parts of "
                f"{widths} with {self.shared} shared; use the neck's own parts."
            )

        def split(x: jax.Array) -> list[jax.Array]:
            *parts, shared = jnp.split(x, np.cumsum(widths), axis=-1)
            # What is shared is copied, so that one correlation compares both.
            return [jnp.concatenate([x, shared], axis=-1) for x in parts] if self.shared else parts

        return dict(zip(self.parts, zip(split(query), split(gallery), strict=True), strict=True))


def sum_of_parts(parts: Mapping[str, Explanation], norm: ScoreNorm | None) -> Parts:
    """Explains the normalised sum of the parts' logits, in evaluation.

    Args:
        parts: of each part, by name, what its own logit is made of.
        norm: of the sum; None where it is not normalised.
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
    """[Q, G, h, w] as [Q, G, n]."""
    return matches.reshape(*matches.shape[:2], -1)


def _by_pieces(folded: tuple[jax.Array, ...], matches: tuple[jax.Array, ...]) -> jax.Array:
    """Scores [Q, G] of best matches [Q, G, n], both ways, as many pairs at a time as fit."""
    kernel, bias, out, offset = folded
    score = lambda pair: sum(nn.relu(x @ kernel + bias) @ out for x in pair)  # noqa: E731
    pairs = tuple(m.reshape(-1, m.shape[-1]) for m in matches)
    at_once = max(1, HIDDEN_SIZE // len(out))
    return jax.lax.map(score, pairs, batch_size=at_once).reshape(matches[0].shape[:2]) + offset
