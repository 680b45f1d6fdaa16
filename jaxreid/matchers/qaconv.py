"""QAConv: two images are as alike as their best local matches say.

Letters: Q queries, G gallery images, h w map size, n = h * w positions, d channels.

Source: Liao and Shao, ECCV 2020, arXiv 1904.10424 (head "v1"); the shared, symmetric head "v2.1" is
that of QAConv-GS, CVPR 2022, arXiv 2104.01546.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.ops.correlation import best_matches
from jaxreid.ops.normalize import batch_norm

HEADS = ("v1", "v2.1")


class ScoreNorm(nn.Module):
    """Batch normalisation of scores: one mean and one variance over everything.

    Attributes:
        axis_name: mesh axis over which the scores are spread.
        initial_bias: the mean of the normalised scores before training.
    """

    axis_name: str | None = None
    initial_bias: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalises `x` of any shape; elements where `mask` is False are not counted."""
        scale = self.param("scale", nn.initializers.ones, ())
        bias = self.param("bias", nn.initializers.constant(self.initial_bias), ())
        mean = self.variable("batch_stats", "mean", jnp.zeros, ())
        var = self.variable("batch_stats", "var", jnp.ones, ())
        use_batch = train and not self.is_initializing()
        y, running = batch_norm(
            x,
            scale,
            bias,
            (mean.value, var.value),
            axes=tuple(range(x.ndim)),
            train=use_batch,
            mask=mask,
            axis_name=self.axis_name,
        )
        if use_batch:
            mean.value, var.value = running
        return y


class QAConv(nn.Module):
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
        axis_name: mesh axis over which gallery (or queries) are spread in training.
    """

    head: str = "v2.1"
    initial_logit: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        query: jax.Array,
        gallery: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Scores all pairs.

        Args:
            query: [Q, h, w, d] float, unit norm along d.
            gallery: [G, h, w, d] float, unit norm along d.
            train: normalise with the statistics of these pairs and update the running ones.
            mask: [G] bool; gallery rows that are False are padding: they are scored, but do not
                enter the statistics.

        Returns:
            [Q, G] float logits; larger is more alike. QAConv's similarity is
            sigmoid(logit / 10), which ranks the same.

        Raises:
            ValueError: maps of different sizes, or of another size than the weights were made for.
        """
        if query.shape[1:] != gallery.shape[1:]:
            raise ValueError(
                f"query maps are {query.shape[1:]} and gallery maps {gallery.shape[1:]}; QAConv "
                "compares maps of one size: extract both with the same model and image size."
            )
        _, h, w, d = query.shape
        n, directions = h * w, {"v1": 2, "v2.1": 1}[self.head]
        fan_in = n * directions
        bound = fan_in**-0.5

        def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

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
        bias = self.param("bias", uniform, ())

        over_gallery, over_query = best_matches(query.reshape(-1, n, d), gallery.reshape(-1, n, d))
        response = jnp.stack([over_gallery, over_query], axis=2)  # [Q, G, 2, n]
        columns = None if mask is None else mask[None, :]
        response = ScoreNorm(self.axis_name, name="norm_in")(
            response, train=train, mask=None if mask is None else columns[..., None, None]
        )
        logit = jnp.sum(response * weight, axis=(2, 3)) + bias * (2 // directions)
        return ScoreNorm(self.axis_name, self.initial_logit, name="norm_out")(
            logit, train=train, mask=columns
        )
