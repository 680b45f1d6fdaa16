"""GMN's metric network: two images are as alike as a small network finds their difference.

Letters: Q queries, G gallery images, d channels of an embedding.

Source: Qi et al., 2023, arXiv 2306.11991, for the pair feature (p - q)^2 and a "lightweight"
network on it that is used in testing as well. There is no public code: its layers, and that
embeddings are normalised first, are our reading.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.matchers.matcher import Matcher
from jaxreid.models.matchers.qaconv import ScoreNorm
from jaxreid.names import check_at_least, check_name
from jaxreid.ops.metrics import similarity
from jaxreid.ops.normalize import l2_normalize

NETS = ("perceptron", "linear")
PAIRS_AT_ONCE = 2048  # pair features that scoring makes: 16 MiB of 2,048 channels


class MetricNetwork(Matcher):
    """Scores of every query with every gallery image, from the squared difference of the two.

    Attributes:
        net: "perceptron" (batch normalisation, a hidden layer, which is batch-normalised and
            rectified, and one number), or "linear", the smallest reading: a weighted mean of the
            squared differences with positive weights, normalised: the negative of a Mahalanobis
            distance whose matrix is diagonal.
        hidden: units of the perceptron.
        normalize: scale embeddings to the length sqrt(d) first, so that their entries are about 1.
        initial_logit: before training, the mean logit of "linear", and about that of "perceptron".
            The loss of GMN weighs positive and negative pairs alike, for which 0 is the prior.
        axis_name: mesh axis over which queries (or gallery) are spread in training.
    """

    TAKES = "embeddings"

    net: str = "perceptron"
    hidden: int = 512
    normalize: bool = True
    initial_logit: float = 0.0
    axis_name: str | None = None

    @nn.nowrap
    def validate(self) -> None:
        """Checks the options.

        Raises:
            ValueError: an option is out of its range.
        """
        check_name(self.net, NETS, "matcher.net")
        check_at_least({"hidden": self.hidden}, {"hidden": 1}, "matcher")

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
            query: [Q, d] float.
            gallery: [G, d] float.
            train: as there.
            mask: [G] bool as there, or [Q, G]: pairs that do not enter the statistics.

        Returns:
            [Q, G] float32 or wider logits; the same of (p, q) and of (q, p).

        Raises:
            ValueError: embeddings of different sizes, or of another than the weights were made for.
        """
        query, gallery = self._prepared(query, gallery)
        if train:
            return self._trained(_pair_features(query, gallery), mask)
        if self.net == "linear":
            return self._linear(query, gallery)
        return self._by_pieces(query, gallery)

    def perturbed(
        self, query: jax.Array, gallery: jax.Array, factor: jax.Array, *, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Scores in training, of all pairs and of all pairs perturbed.

        Perturbed pairs are normalised as the others are, and have no part in the statistics.

        Args:
            query: as for the call.
            gallery: as for the call.
            factor: [Q, G, d] float, by which pair features are multiplied.
            mask: [Q, G] bool, as for the call.

        Returns:
            [Q, G] logits and [Q, G] logits of the perturbed pairs.
        """
        pairs = _pair_features(*self._prepared(query, gallery))
        both = jnp.concatenate([pairs, pairs * factor.astype(pairs.dtype)], axis=1)
        mask = jnp.concatenate([mask, jnp.zeros_like(mask)], axis=1)
        return tuple(jnp.split(self._trained(both, mask), 2, axis=1))

    def _trained(self, pairs: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Scores [Q, G] of pair features [Q, G, d] by the statistics of those in the mask."""
        given = {"train": True, "mask": mask}
        if self.net == "linear":
            weight, norm = self._layers(pairs.shape[-1])
            return norm(-(pairs @ weight), **given)
        norm_in, kernel, norm_hidden, out, bias = self._layers(pairs.shape[-1])
        return nn.relu(norm_hidden(norm_in(pairs, **given) @ kernel, **given)) @ out + bias

    def _by_pieces(self, query: jax.Array, gallery: jax.Array) -> jax.Array:
        """Scores [Q, G] of the perceptron in evaluation, as many queries at a time as fit.

        Every normalisation is then a gain and a shift, which the weights take in.
        """
        # (p - q)^2 K could be taken apart into p^2 K + q^2 K - 2 q (diag(p) K). That saves nothing:
        # the last product is as large as the one here, since each hidden unit weighs the channels
        # in its own way, and the K of each query is as much to make as the pairs of a tile are
        # (`tools/benchmark.py embeddings`, d = 2048 and 512 units on a CPU: 91 % of the speed, and
        # 71 % with all pairs at once, in 12 times the memory). And here nothing cancels where two
        # images are nearly the same.
        norm_in, kernel, norm_hidden, out, bias = self._layers(query.shape[-1])
        (gain_in, shift_in), (gain, shift) = norm_in.affine(), norm_hidden.affine()
        shift = (shift_in @ kernel) * gain + shift
        kernel = gain_in[:, None] * kernel * gain

        def score(one: jax.Array) -> jax.Array:
            return nn.relu(jnp.square(one - gallery) @ kernel + shift) @ out

        at_once = min(len(query), max(1, PAIRS_AT_ONCE // len(gallery)))
        return jax.lax.map(score, query, batch_size=at_once) + bias

    def _linear(self, query: jax.Array, gallery: jax.Array) -> jax.Array:
        """Scores [Q, G] of the weighted mean in evaluation: one matrix product."""
        weight, norm = self._layers(query.shape[-1])
        root = jnp.sqrt(weight)
        return norm(similarity(query * root, gallery * root, "euclidean"))

    def _prepared(self, *embeddings: jax.Array) -> list[jax.Array]:
        """Query and gallery as they are subtracted, in float32 or wider."""
        sizes = [x.shape[-1] for x in embeddings]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"embeddings of queries have {sizes[0]} channels and those of the gallery "
                f"{sizes[1]}; extract both with the same model."
            )
        wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in embeddings]
        return [l2_normalize(x) * sizes[0] ** 0.5 for x in wide] if self.normalize else wide

    @nn.compact
    def _layers(self, d: int) -> tuple:
        """Layers of the net, for embeddings of d channels.

        Of "perceptron": a normalisation, the kernel [d, hidden], a normalisation, weights [hidden]
        and bias; of "linear" positive weights [d], 1 / d before training, and a normalisation.
        """
        name, shape = ("weight", (d,)) if self.net == "linear" else ("kernel", (d, self.hidden))
        if self.has_variable("params", name):
            made_for = self.get_variable("params", name).shape
            if made_for != shape:
                raise ValueError(
                    f"this matcher has weights {list(made_for)}, and embeddings of {d} channels "
                    f"need {list(shape)}; use the neck and the hidden units it was trained with."
                )
        if self.net == "linear":
            one = nn.initializers.constant(math.log(math.e - 1))  # whose softplus is 1
            weight = nn.softplus(self.param("weight", one, shape)) / d
            return weight, ScoreNorm(self.axis_name, self.initial_logit, name="norm_out")
        xavier = nn.initializers.xavier_uniform()
        return (
            ScoreNorm(self.axis_name, shape=(d,), name="norm_in"),
            self.param("kernel", xavier, shape),
            ScoreNorm(self.axis_name, shape=(self.hidden,), name="norm_hidden"),
            self.param("out_kernel", xavier, (self.hidden, 1))[:, 0],
            self.param("out_bias", nn.initializers.constant(self.initial_logit), ()),
        )


def _pair_features(query: jax.Array, gallery: jax.Array) -> jax.Array:
    """Squared differences [Q, G, d]."""
    return jnp.square(query[:, None] - gallery)
