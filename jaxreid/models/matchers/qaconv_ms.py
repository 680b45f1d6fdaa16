"""QAConv-MS: best local matches of several scales, each scored by a head of its own.

Letters: Q queries, G gallery images, h w map size, n = h * w positions, d channels.

Source: Chen et al., ICME 2023, and TCSVT 34(9), 2024; the perceptron is the head of TransMatcher
(Liao and Shao, NeurIPS 2021), which their code uses.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxreid.models.features import Features
from jaxreid.models.layers import uniform_init
from jaxreid.models.matchers.matcher import Matcher
from jaxreid.models.matchers.qaconv import Explanation, QAConv, ScoreNorm, check_sizes, rows
from jaxreid.names import check_at_least, check_name
from jaxreid.ops.correlation import best_matches

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
    """Scores of maps by a perceptron that sees the best matches of all positions at once.

    The n best matches of one direction are normalised and go through a hidden layer, which is
    batch-normalised and rectified, to one number; the other direction goes the same way, and the
    normalised sum is the score. Every normalisation is over all pairs and both directions.

    Attributes:
        hidden: units of the hidden layer.
        initial_logit: as for `QAConv`.
        axis_name: mesh axis over which gallery or queries are spread in training.
    """

    hidden: int = 2048
    initial_logit: float = 0.0
    axis_name: str | None = None

    def setup(self) -> None:
        """Makes the three normalisations."""
        self.norm_in = ScoreNorm(self.axis_name)
        self.norm_hidden = ScoreNorm(self.axis_name, shape=(self.hidden,))
        self.norm_out = ScoreNorm(self.axis_name, initial_bias=self.initial_logit)

    def __call__(
        self,
        query: jax.Array,
        gallery: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Scores [Q, G] of maps [Q, h, w, d] and [G, h, w, d]; arguments as for `QAConv`."""
        weights = self._weights(*query.shape[1:3])
        matches = best_matches(*map(rows, (query, gallery)))
        if not train:
            return _by_pieces(self._folded(*weights), matches)
        kernel, bias, out, out_bias = weights
        given = {"train": True, "mask": mask}
        both = self.norm_in(jnp.stack(matches, axis=2), **given)
        hidden = nn.relu(self.norm_hidden(both @ kernel + bias, **given))
        return self.norm_out((hidden @ out).sum(2) + 2 * out_bias, **given)

    def explain(self, query: jax.Array, gallery: jax.Array) -> Explanation:
        """What the scores of a few pairs are made of, in evaluation.

        A position contributes its best match times the gradient of the logit with respect to it.
        Between the kinks of the hidden layer the logit is affine in the matches, so contributions
        and offset do add up to it, but the gradient, and with it the offset [Q, G], is the pair's
        own: unlike those of a linear head they tell how the logit would move with a match, and not
        what it would be without it.

        Args:
            query: [Q, h, w, d] float.
            gallery: [G, h, w, d] float.
        """
        maps = (len(query), len(gallery), *query.shape[1:3])
        found = best_matches(*map(rows, (query, gallery)), positions=True)
        matches, (in_gallery, in_query) = found[:2], found[2:]
        folded = self._folded(*self._weights(*query.shape[1:3]))
        logit, gradient = jax.vjp(lambda matches: _by_pieces(folded, matches), matches)
        slopes = gradient(jnp.ones_like(logit))[0]
        of_query, of_gallery = (m * slope for m, slope in zip(matches, slopes, strict=True))
        return Explanation(
            from_gallery=of_gallery.reshape(maps),
            from_query=of_query.reshape(maps),
            match_in_query=in_query.astype(jnp.int32).reshape(maps),
            match_in_gallery=in_gallery.astype(jnp.int32).reshape(maps),
            logit=logit,
            gain=jnp.ones((), logit.dtype),
            offset=logit - of_query.sum(-1) - of_gallery.sum(-1),
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
        bias = self.param("bias", uniform_init(h * w), (self.hidden,))
        return kernel, bias, out, self.param("out_bias", uniform_init(self.hidden), ())


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
        make = QAConv if self.head == "linear" else functools.partial(PerceptronHead, self.hidden)
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
            gallery: [G, h, w, d] float, likewise.
            train: as there.
            mask: as there.

        Returns:
            [Q, G] float logits.

        Raises:
            ValueError: maps of different sizes, of another size than the weights were made for, or
                with other channels than the parts.
        """
        split = self._split(query, gallery)
        scores = sum(self.heads[k](*maps, train=train, mask=mask) for k, maps in split.items())
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
        split = self._split(query, gallery)
        told = {name: self.heads[name].explain(*maps) for name, maps in split.items()}
        logit, gain, shift = sum(part.logit for part in told.values()), 1.0, jnp.zeros(())
        if len(told) > 1:
            logit, (gain, shift) = self.norm(logit), self.norm.affine()
        scaled = ("logit", "gain", "offset")
        parts = {
            name: part._replace(**{k: gain * getattr(part, k) for k in scaled})
            for name, part in told.items()
        }
        return Parts(parts, logit, shift)

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


def _by_pieces(folded: tuple[jax.Array, ...], matches: tuple[jax.Array, ...]) -> jax.Array:
    """Scores [Q, G] of best matches [Q, G, n], both ways, as many pairs at a time as fit."""
    kernel, bias, out, offset = folded
    score = lambda pair: sum(nn.relu(x @ kernel + bias) @ out for x in pair)  # noqa: E731
    pairs = tuple(m.reshape(-1, m.shape[-1]) for m in matches)
    at_once = max(1, HIDDEN_SIZE // len(out))
    return jax.lax.map(score, pairs, batch_size=at_once).reshape(matches[0].shape[:2]) + offset
