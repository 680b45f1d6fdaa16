"""TransMatcher: best local matches after cross-attention scores, without softmax and values.

Letters: Q queries, G gallery images, h w map size, n = h * w positions, d channels of a part;
t a query position, s a gallery position.

For each part of the features, W and b being a layer `fc1` that both sides share and E an embedding
of pairs of positions,

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

BiasInit = Callable[[float], nn.initializers.Initializer]  # from the number of inputs


class DecoderLayer(nn.Module):
    """Scores one part of the features by gated best matches and a perceptron.

    Attributes:
        hidden: units of the perceptron.
        axis_name: as for `TransMatcher`.
        bias_init: as for `PerceptronHead`.
    """

    hidden: int = 2048
    axis_name: str | None = None
    bias_init: BiasInit = uniform_init

    def setup(self) -> None:
        """Makes the perceptron."""
        self.head = PerceptronHead(self.hidden, axis_name=self.axis_name, bias_init=self.bias_init)

    def __call__(
        self,
        query: jax.Array,
        gallery: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Scores [Q, G] of maps [Q, h, w, d] and [G, h, w, d]; arguments as for `TransMatcher`."""
        return self.head(*self.matches(query, gallery), train=train, mask=mask)

    def explain(self, query: jax.Array, gallery: jax.Array) -> Explanation:
        """What the scores are made of, in evaluation; as `PerceptronHead.explain`."""
        return self.head.explain(*self.matches(query, gallery, positions=True))

    @nn.compact
    def matches(
        self, query: jax.Array, gallery: jax.Array, *, positions: bool = False
    ) -> tuple[jax.Array, ...]:
        """Gated best matches of all pairs.

        Args:
            query: [Q, h, w, d] float.
            gallery: [G, h, w, d] float.
            positions: return where the best matches are, too.

        Returns:
            [Q, G, h, w] of each query position, [Q, G, h, w] of each gallery position, and with
            `positions` the gallery and the query positions they are with, as `best_matches`.

        Raises:
            ValueError: maps of another size than the embedding was made for.
        """
        h, w, d = query.shape[1:]
        n = h * w
        if self.has_variable("params", "score_embed"):
            made_for = self.get_variable("params", "score_embed").shape[:2]
            if made_for != (h, w):
                raise ValueError(
                    f"this matcher has an embedding for {made_for[0]}x{made_for[1]} maps, and the "
                    f"maps are {h}x{w}; use the image size and cut it was trained with."
                )
        xavier, bias_init = nn.initializers.xavier_uniform(), self.bias_init(d)
        fc1 = nn.Dense(d, kernel_init=xavier, bias_init=bias_init, name="fc1")
        # Row and column of the gallery position, then of the query position, as in the original.
        # Xavier's bound for n^2 inputs and as many outputs is sqrt(3) / n.
        embedding = self.param("score_embed", uniform_init(n * n / 3), (h, w, h, w))
        gate = nn.sigmoid(embedding.reshape(n, n).T)  # [query, gallery]
        return map_matches(fc1(query), fc1(gallery), gate=gate, positions=positions)


class TransMatcher(Matcher):
    """Scores of every query with every gallery image: the normalised sum over the parts.

    Scores are not symmetric: nothing makes the embedding E of pairs of positions so. Before
    training the layers' weights differ and their biases are equal, as in the original, which
    copies one layer and then draws only the weights again.

    Attributes:
        parts: channels of each part, by name, all equal, in the order in which the neck lays them
            side by side; only the names are read.
        hidden: units of the perceptrons.
        initial_logit: as for `QAConv`.
        axis_name: mesh axis over which gallery or queries are spread in training.

    Source: Liao and Shao, NeurIPS 2021; normalisations and initialisation as in the authors' code.
    Differs: the original keeps the unused layer that the others were copied from.
    """

    TAKES = "maps in parts"

    parts: Mapping[str, int]
    hidden: int = 2048
    initial_logit: float = 0.0
    axis_name: str | None = None

    @nn.nowrap
    def validate(self) -> None:
        """Checks the options.

        Raises:
            ValueError: an option is out of its range.
        """
        check_at_least({"hidden": self.hidden}, {"hidden": 1}, "matcher")

    @classmethod
    def takes(cls, features: Features) -> bool:
        """True for maps in parts of equal width."""
        equal = len(set(features.parts.values())) == 1 and not features.shared
        return super().takes(features) and equal

    def setup(self) -> None:
        """Makes a layer for each part, and the last normalisation."""
        key = self.make_rng("params") if self.is_initializing() else jax.random.key(0)

        def equal_init(inputs: float) -> nn.initializers.Initializer:
            """The same numbers in every layer, whatever key the layer has."""
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
        """Scores all pairs; as `Matcher.__call__`.

        Args:
            query: [Q, h, w, parts * d] float, the parts side by side; no norm is assumed.
            gallery: [G, h, w, parts * d] float, the same.
            train: as there.
            mask: as there.

        Returns:
            [Q, G] float logits.

        Raises:
            ValueError: maps of different sizes, of another size than the embeddings were made for,
                or with channels that the parts do not divide.
        """
        scores = sum(
            self.layers[name](*maps, train=train, mask=mask)
            for name, maps in self._split(query, gallery).items()
        )
        return self.norm(scores, train=train, mask=mask)

    def explain(self, query: jax.Array, gallery: jax.Array) -> Parts:
        """What the scores of a few pairs are made of, in evaluation.

        Args:
            query: [Q, h, w, parts * d] float.
            gallery: [G, h, w, parts * d] float.

        Raises:
            ValueError: as for scoring.

        Source: TransMatcher's `matching/transmatcher_match.py` (positions).
        Differs: it returns the gated products themselves (`DecoderLayer.matches`), and does not say
            how they add up to the score.
        """
        parts = {
            name: self.layers[name].explain(*maps)
            for name, maps in self._split(query, gallery).items()
        }
        return sum_of_parts(parts, self.norm)

    def _split(
        self, query: jax.Array, gallery: jax.Array
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Query and gallery maps of each part."""
        check_sizes(query, gallery)
        count = len(self.parts)
        if query.shape[-1] % count:
            raise ValueError(
                f"features have {query.shape[-1]} channels, and this matcher compares {count} "
                "parts of equal width; use the neck's own parts."
            )
        split = (jnp.split(x, count, axis=-1) for x in (query, gallery))
        return dict(zip(self.parts, zip(*split, strict=True), strict=True))
