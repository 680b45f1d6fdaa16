"""GMN's metric network: a small network scores the difference of two embeddings.

Notation: Q queries, G gallery images, d channels of an embedding.

Source: Qi et al., 2023, arXiv 2306.11991, for the pair feature (p - q)^2 and a "lightweight"
network on it that is also used at test time. Its code is not public: the layers, and the
normalisation of the embeddings, are our reading.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.mesh import ANY, platform
from jaxreid.models.matchers.matcher import Matcher
from jaxreid.models.matchers.qaconv import ScoreNorm
from jaxreid.names import check_at_least, check_name
from jaxreid.ops.metrics import similarity
from jaxreid.ops.normalize import l2_normalize

NETS = ("perceptron", "linear")
# Pair features per scoring step: 16 MiB with 2,048 channels.
PAIRS_AT_ONCE = 2048


class MetricNetwork(Matcher):
    """Scores of all query-gallery pairs from squared embedding differences.

    Attributes:
        net: "perceptron": batch norm, hidden layer, batch norm, ReLU, linear output. "linear", the
            minimal reading: a positively weighted mean of the squared differences, negated and
            batch-normalised, i.e. a negative Mahalanobis distance with a diagonal matrix.
        hidden: hidden units of the perceptron.
        normalize: scale embeddings to norm sqrt(d) first, so that their entries are of order 1.
        initial_logit: initial mean logit: exact for "linear", approximate for "perceptron". The
            loss of GMN balances positive and negative pairs, for which 0 is the prior.
        axis_name: mesh axis over which queries (or gallery) are sharded in training.
    """

    TAKES = "embeddings"
    LEARNS = {"name": "gmn", "dropout": 0.0}

    net: str = "perceptron"
    hidden: int = 512
    normalize: bool = True
    initial_logit: float = 0.0
    axis_name: str | None = None

    @nn.nowrap
    def validate(self) -> None:
        """Raise ValueError if an option is out of range."""
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
        """Score all pairs of embeddings [Q, d] and [G, d]; see `Matcher.__call__`.

        The logits are symmetric in query and gallery. `mask` may also be [Q, G] bool, which
        excludes single pairs from the statistics.

        Raises:
            ValueError: if the embedding sizes differ from each other or from the weights.
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
        """Score all pairs in training, clean and perturbed.

        Perturbed pairs are normalised with the batch statistics of the clean ones.

        Args:
            query: see `__call__`.
            gallery: see `__call__`.
            factor: [Q, G, d] float, multiplies the pair features.
            mask: [Q, G] bool, see `__call__`.

        Returns:
            [Q, G] logits of the clean and [Q, G] logits of the perturbed pairs.
        """
        pairs = _pair_features(*self._prepared(query, gallery))
        both = jnp.concatenate([pairs, pairs * factor.astype(pairs.dtype)], axis=1)
        mask = jnp.concatenate([mask, jnp.zeros_like(mask)], axis=1)
        return tuple(jnp.split(self._trained(both, mask), 2, axis=1))

    def _trained(self, pairs: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Score pair features [Q, G, d] as [Q, G], with the batch statistics of the mask."""
        mode = {"train": True, "mask": mask}
        if self.net == "linear":
            weight, norm = self._layers(pairs.shape[-1])
            return norm(-(pairs @ weight), **mode)
        norm_in, kernel, norm_hidden, out, bias = self._layers(pairs.shape[-1])
        return nn.relu(norm_hidden(norm_in(pairs, **mode) @ kernel, **mode)) @ out + bias

    def _by_pieces(self, query: jax.Array, gallery: jax.Array) -> jax.Array:
        """Score all pairs [Q, G] with the perceptron in evaluation, in batches of queries.

        Each normalisation is then affine and is folded into the weights.
        """
        # Expanding (p - q)^2 K into p^2 K + q^2 K - 2 q (diag(p) K) saves nothing. The last product
        # is as large as the one below, since each hidden unit weights the channels differently, and
        # building diag(p) K for each query costs as much as building the pairs of a tile
        # (`tools/benchmark.py embeddings`, d = 2048 and 512 units on a CPU: 91 % of the speed, and
        # 71 % with all pairs at once, in 12 times the memory). The difference also avoids
        # cancellation for nearly identical images.
        norm_in, kernel, norm_hidden, out, bias = self._layers(query.shape[-1])
        (gain_in, shift_in), (gain, shift) = norm_in.affine(), norm_hidden.affine()
        shift = (shift_in @ kernel) * gain + shift
        kernel = gain_in[:, None] * kernel * gain

        def score(one: jax.Array) -> jax.Array:
            return nn.relu(jnp.square(one - gallery) @ kernel + shift) @ out

        if platform() == ANY:
            return jax.vmap(score)(query) + bias
        at_once = min(len(query), max(1, PAIRS_AT_ONCE // len(gallery)))
        return jax.lax.map(score, query, batch_size=at_once) + bias

    def _linear(self, query: jax.Array, gallery: jax.Array) -> jax.Array:
        """Score all pairs [Q, G] with the linear net in evaluation: one matrix product."""
        weight, norm = self._layers(query.shape[-1])
        root = jnp.sqrt(weight)
        return norm(similarity(query * root, gallery * root, "euclidean"))

    @property
    def directional(self) -> bool:
        """Whether embeddings count by their directions alone: normalised ones do."""
        return self.normalize

    def _prepared(self, *embeddings: jax.Array) -> list[jax.Array]:
        """Check and normalise query and gallery embeddings, in float32 or wider."""
        sizes = [x.shape[-1] for x in embeddings]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"query embeddings have {sizes[0]} channels, gallery embeddings {sizes[1]}; "
                "extract both with the same model."
            )
        wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in embeddings]
        return [l2_normalize(x) * sizes[0] ** 0.5 for x in wide] if self.normalize else wide

    @nn.compact
    def _layers(self, d: int) -> tuple:
        """Create or look up the layers for embeddings of d channels.

        Returns:
            For "perceptron": a normalisation, the kernel [d, hidden], a normalisation, output
            weights [hidden] and bias. For "linear": positive weights [d], initially 1 / d, and a
            normalisation.
        """
        name, shape = ("weight", (d,)) if self.net == "linear" else ("kernel", (d, self.hidden))
        if self.has_variable("params", name):
            made_for = self.get_variable("params", name).shape
            if made_for != shape:
                raise ValueError(
                    f"the matcher has weights {list(made_for)}, but embeddings of {d} channels "
                    f"need {list(shape)}; use the neck and the hidden units it was trained with."
                )
        if self.net == "linear":
            # The softplus of this constant is 1.
            constant = nn.initializers.constant(math.log(math.e - 1))
            weight = nn.softplus(self.param("weight", constant, shape)) / d
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
    """Compute squared differences [Q, G, d]."""
    return jnp.square(query[:, None] - gallery)
