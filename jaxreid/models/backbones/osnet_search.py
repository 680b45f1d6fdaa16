"""Super-network of the architecture search for OSNet-AIN: each block mixes four candidates.

Source: Zhou et al., TPAMI 2021, arXiv 1910.06827, Section 3.3.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.backbones.osnet import BLOCKS, PLACES, WIDTHS, ConvNorm, OSNet, Streams
from jaxreid.models.layers import BatchNorm, InstanceNorm

# Keeps logarithms finite for non-positive weights and for draws of 0.
TINY = 1e-12

# Names, and the options they imply. Weights of super-networks are not published.
FAMILY = {f"osnet_search_{width}": {"channels": channels} for width, channels in WIDTHS.items()}


def gumbel(uniform: jax.Array) -> jax.Array:
    """Transform uniform draws in [0, 1) into Gumbel noise, finite for every draw."""
    return -jnp.log(-jnp.log(uniform + TINY))


def shares(weights: jax.Array, noise: jax.Array, temperature: jax.Array) -> jax.Array:
    """Compute the mixing weights of a block's candidates (Gumbel softmax).

    Args:
        weights: [..., 4] architecture weights; non-positive ones count as `TINY`.
        noise: broadcasts to `weights`; with noise 0 and temperature 1 the result is each weight
            divided by their sum.
        temperature: scalar; lower values approach a one-hot choice.

    Returns:
        [..., 4] float, non-negative; the last axis sums to 1.

    Differs: the original adds `TINY` to the softmax denominator, and so loses a fifth of the
    output if no weight is positive.
    """
    return nn.softmax((jnp.log(nn.relu(weights) + TINY) + noise) / temperature)


class Candidate(Streams):
    """An `OmniScaleBlock` that takes the positions of instance norm as call arguments.

    Both variants are computed and one is selected. All candidates are then the same computation,
    which XLA compiles once instead of four times.
    """

    @nn.compact
    def __call__(self, x: jax.Array, inside: jax.Array, outside: jax.Array) -> jax.Array:
        """Map [B, h, w, C] to [B, h, w, features]; `inside` and `outside` are bool []."""
        y = self.streams(x)
        y = ConvNorm(self.features, norm="none", relu=False, **self.mode, name="conv3")(y)
        batch = BatchNorm(self.train, self.axis_name, affine=self.affine, name="bn")(y)
        y = self.shortcut(x) + jnp.where(inside, InstanceNorm(self.affine)(y), batch)
        return nn.relu(jnp.where(outside, InstanceNorm(self.affine)(y), y))


class SearchBlock(Streams):
    """Mean of the four candidates of `PLACES`, weighted by `shares`.

    The variables of the candidates are stacked in the order of `PLACES`.
    """

    @nn.compact
    def __call__(self, x: jax.Array, noise: jax.Array, temperature: jax.Array) -> jax.Array:
        """Map [B, h, w, C] to [B, h, w, features]; for noise [4] and temperature see `shares`."""
        weights = self.param("weights", nn.initializers.ones, (len(PLACES),))
        candidates = nn.vmap(
            Candidate,
            in_axes=(None, 0, 0),
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
        )(self.features, **self.mode, name="candidates")
        inside = jnp.array([place in ("residual", "both") for place in PLACES])
        outside = jnp.array([place in ("sum", "both") for place in PLACES])
        y = candidates(x, inside, outside)
        return jnp.tensordot(shares(weights, noise, temperature).astype(y.dtype), y, 1)


class SuperNet(OSNet):
    """OSNet super-network: images to a feature map of stride 16, mixing the whole search space.

    A training step passes the result of `draw` as the variables {"drawn": {"noise",
    "temperature"}}. Without them the noise is 0 and the temperature 1.

    Attributes:
        stem: see `OSNet`; "instance" in the search.
        blocks: unused; every block mixes all four of `PLACES`.
        affine: see `OSNet`; the search learns no scales and biases in normalisations.
        initializer: see `OSNet`; PyTorch's default in the search.
        temperature: temperature of the first epoch.
        temperature_factor: multiplier of the temperature schedule.
        temperature_every: epochs between two multiplications.
        temperature_floor: minimum temperature.

    Differs: the original also draws noise in evaluation, which makes its scores meaningless. In
        training, each of its replicas (eight GPUs that split the batch) draws its own noise in
        every step. Here all devices share one draw, so that the state does not depend on their
        number.
    """

    IMPLIED = ("channels", "stem", "blocks", "affine", "initializer")

    stem: str = "instance"
    blocks: tuple[str, ...] = ()
    affine: bool = False
    initializer: str = "uniform"
    temperature: float = 10.0
    temperature_factor: float = 0.5
    temperature_every: int = 20
    temperature_floor: float = 1.0

    @nn.nowrap
    def validate(self) -> None:
        """Raise ValueError if a temperature option is out of range."""
        if min(self.temperature, self.temperature_factor, self.temperature_floor) <= 0:
            raise ValueError(
                "backbone.temperature, temperature_factor and temperature_floor are "
                f"{self.temperature}, {self.temperature_factor} and {self.temperature_floor}; all "
                "must be greater than 0."
            )
        if self.temperature_factor > 1:
            raise ValueError(
                f"backbone.temperature_factor is {self.temperature_factor}; expected at most 1, "
                "because the temperature falls."
            )
        if self.temperature_every < 1:
            raise ValueError(
                f"backbone.temperature_every is {self.temperature_every}; expected at least 1."
            )

    @nn.nowrap
    def draw(self, epoch: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """Draw Gumbel "noise" [6, 4] and "temperature" [] of one step; see `Backbone.draw`.

        Both have the default float dtype. Needs no variables.
        """
        noise = gumbel(jax.random.uniform(key, (len(BLOCKS), len(PLACES))))
        decayed = self.temperature * self.temperature_factor ** (epoch // self.temperature_every)
        temperature = jnp.maximum(decayed, self.temperature_floor).astype(noise.dtype)
        return {"noise": noise, "temperature": temperature}

    @nn.nowrap
    def block(self, x: jax.Array, number: int, **options: Any) -> jax.Array:
        """Apply one of the six blocks, mixing all four candidates; see `OSNet.block`."""
        noise, temperature = 0.0, 1.0
        if self.has_variable("drawn", "noise"):
            noise = self.get_variable("drawn", "noise")[number]
            temperature = self.get_variable("drawn", "temperature")
        return SearchBlock(**options)(x, noise, temperature)
