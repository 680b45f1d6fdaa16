"""TransMatcher: best local matches of cross-attention scores, without softmax and values.

Notation: Q queries, G gallery images, h w map size, n = h * w positions, d channels of a part;
t a query position, s a gallery position.

For each part of the features, with a shared linear layer `fc1` (W, b) and an embedding E of
position pairs,

    S[t, s] = <W q[t] + b, W g[s] + b> * sigmoid(E[s, t])
    logit of the part = perceptron(max over s of S[t, s], max over t of S[t, s])
    logit = norm(sum of the parts' logits)

Source: Liao and Shao, NeurIPS 2021, arXiv 2105.14432.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.features import Features
from jaxreid.models.layers import uniform_init
from jaxreid.models.matchers.matcher import Matcher
from jaxreid.models.matchers.qaconv import Explanation, ScoreNorm, check_sizes, map_matches
from jaxreid.models.matchers.qaconv_ms import Parts, PerceptronHead, sum_of_parts
from jaxreid.names import check_at_least

# Maps a fan-in to an initializer.
BiasInit = Callable[[float], nn.initializers.Initializer]


class DecoderLayer(nn.Module):
    """Scores of one part of the features, from gated best matches and a perceptron.

    Attributes:
        hidden: hidden units of the perceptron.
        axis_name: see `TransMatcher`.
        bias_init: see `PerceptronHead`.
    """

    hidden: int = 2048
    axis_name: str | None = None
    bias_init: BiasInit = uniform_init

    def setup(self) -> None:
        """Create the perceptron."""
        self.head = PerceptronHead(self.hidden, axis_name=self.axis_name, bias_init=self.bias_init)

    def __call__(
        self,
        query: jax.Array,
        gallery: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Score maps [Q, h, w, d] and [G, h, w, d] as [Q, G]; see `Matcher.__call__`."""
        return self.head(*self.matches(query, gallery), train=train, mask=mask)

    def explain(self, query: jax.Array, gallery: jax.Array) -> Explanation:
        """Decompose the scores by position, in evaluation; see `PerceptronHead.explain`."""
        return self.head.explain(*self.matches(query, gallery, positions=True))

    @nn.compact
    def matches(
        self, query: jax.Array, gallery: jax.Array, *, positions: bool = False
    ) -> tuple[jax.Array, ...]:
        """Compute the gated best matches of all pairs.

        Args:
            query: [Q, h, w, d] float.
            gallery: [G, h, w, d] float.
            positions: also return the positions of the best matches.

        Returns:
            [Q, G, h, w] for each query position, [Q, G, h, w] for each gallery position, and with
            `positions` the matched gallery and query positions, as in `best_matches`.

        Raises:
            ValueError: if the map size differs from that of the embedding.
        """
        h, w, d = query.shape[1:]
        n = h * w
        if self.has_variable("params", "score_embed"):
            made_for = self.get_variable("params", "score_embed").shape[:2]
            if made_for != (h, w):
                raise ValueError(
                    f"the matcher has an embedding for {made_for[0]}x{made_for[1]} maps, but the "
                    f"maps are {h}x{w}; use the image size and cut it was trained with."
                )
        xavier, bias_init = nn.initializers.xavier_uniform(), self.bias_init(d)
        fc1 = nn.Dense(d, kernel_init=xavier, bias_init=bias_init, name="fc1")
        # Row and column of the gallery position, then of the query position, as in the original.
        # The Xavier bound for fan-in and fan-out n^2 is sqrt(3) / n.
        embedding = self.param("score_embed", uniform_init(n * n / 3), (h, w, h, w))
        gate = nn.sigmoid(embedding.reshape(n, n).T)  # [query, gallery]
        return map_matches(fc1(query), fc1(gallery), gate=gate, positions=positions)


class TransMatcher(Matcher):
    """Scores of all query-gallery pairs: the normalised sum over the parts.

    Scores are not symmetric, because the embedding E of position pairs is not. The layers start
    with different weights but equal biases, as in the original, which copies one layer and then
    re-initialises only the weights.

    Attributes:
        parts: channels of each part, by name, all equal, in the neck's concatenation order; only
            the names are used.
        hidden: hidden units of the perceptrons.
        initial_logit: see `QAConv`.
        axis_name: mesh axis over which gallery or queries are sharded in training.

    Source: Liao and Shao, NeurIPS 2021; normalisations and initialisation as in the authors' code.
    Differs: the original keeps the unused layer from which the others were copied.
    """

    TAKES = "maps in parts"

    parts: Mapping[str, int]
    hidden: int = 2048
    initial_logit: float = 0.0
    axis_name: str | None = None

    @nn.nowrap
    def validate(self) -> None:
        """Raise ValueError if an option is out of range."""
        check_at_least({"hidden": self.hidden}, {"hidden": 1}, "matcher")

    @classmethod
    def takes(cls, features: Features) -> bool:
        """Return whether the features are maps in parts of equal width."""
        equal = len(set(features.parts.values())) == 1 and not features.shared
        return super().takes(features) and equal

    def setup(self) -> None:
        """Create one layer per part, and the last normalisation."""
        key = self.make_rng("params") if self.is_initializing() else jax.random.key(0)

        def equal_init(inputs: float) -> nn.initializers.Initializer:
            """Ignore the layer's key, so that all layers get the same numbers."""
            return lambda _, *rest: uniform_init(inputs)(jax.random.fold_in(key, inputs), *rest)

        options = {"axis_name": self.axis_name, "bias_init": equal_init}
        self.layers = {name: DecoderLayer(self.hidden, **options) for name in self.parts}
        self.norm = ScoreNorm(self.axis_name, initial_bias=self.initial_logit)

    def __call__(
        self,
        query: jax.Array,
        gallery: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Score all pairs of maps [N, h, w, parts * d]; see `Matcher.__call__`.

        The maps need not be normalised.

        Raises:
            ValueError: if the map sizes differ from each other or from the embeddings, or the
                number of parts does not divide the channels.
        """
        scores = sum(
            self.layers[name](*maps, train=train, mask=mask)
            for name, maps in self._split(query, gallery).items()
        )
        return self.norm(scores, train=train, mask=mask)

    def explain(self, query: jax.Array, gallery: jax.Array) -> Parts:
        """Decompose the scores of a few pairs by part and position, in evaluation.

        Raises:
            ValueError: see `__call__`.

        Source: TransMatcher's `matching/transmatcher_match.py` (positions).
        Differs: the original returns the gated products themselves (`DecoderLayer.matches`), and
            does not say how they add up to the score.
        """
        parts = {
            name: self.layers[name].explain(*maps)
            for name, maps in self._split(query, gallery).items()
        }
        return sum_of_parts(parts, self.norm)

    def _split(
        self, query: jax.Array, gallery: jax.Array
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Split query and gallery maps into parts."""
        check_sizes(query, gallery)
        count = len(self.parts)
        if query.shape[-1] % count:
            raise ValueError(
                f"features have {query.shape[-1]} channels, but the matcher compares {count} "
                "parts of equal width; use the parts of the neck."
            )
        split = (jnp.split(x, count, axis=-1) for x in (query, gallery))
        return dict(zip(self.parts, zip(*split, strict=True), strict=True))
