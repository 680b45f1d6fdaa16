"""The super-network in which OSNet-AIN was found: every block is four candidates at once.

Source: Zhou et al., TPAMI 2021, arXiv 1910.06827, Section 3.3.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.backbones.osnet import BLOCKS, PLACES, WIDTHS, ConvNorm, OSNet, Streams
from jaxreid.models.layers import BatchNorm, InstanceNorm

TINY = 1e-12  # keeps logarithms finite: of a weight that is not positive, of a draw of 0

# Names, and the options that they imply. Nobody publishes weights of a super-network.
FAMILY = {f"osnet_search_{width}": {"channels": channels} for width, channels in WIDTHS.items()}


def gumbel(uniform: jax.Array) -> jax.Array:
    """Gumbel noise from draws in [0, 1), of the same shape; finite for every draw."""
    return -jnp.log(-jnp.log(uniform + TINY))


def shares(weights: jax.Array, noise: jax.Array, temperature: jax.Array) -> jax.Array:
    """How much each candidate of a block contributes.

    Args:
        weights: [..., 4], of the architecture; those that are not positive count as `TINY`.
        noise: broadcasts to `weights`; 0 gives the weights as shares of their sum, at temperature
            1.
        temperature: scalar; the lower, the closer to one candidate alone.

    Returns:
        [..., 4] float, not negative; the sum of the last axis is 1.

    Differs: the original adds `TINY` to the sum that the softmax divides by, and so loses a fifth
    of the output where no weight is positive.
    """
    return nn.softmax((jnp.log(nn.relu(weights) + TINY) + noise) / temperature)


class Candidate(Streams):
    """An `OmniScaleBlock` whose places of instance normalisation are arguments of the call.

    Both ways are computed, and one is taken: candidates with different places are then one
    computation, of which XLA compiles one copy and not four.
    """

    @nn.compact
    def __call__(self, x: jax.Array, inside: jax.Array, outside: jax.Array) -> jax.Array:
        """[B, h, w, C], bool [] and bool [] -> [B, h, w, features]."""
        y = self.streams(x)
        y = ConvNorm(self.features, norm="none", relu=False, **self.mode, name="conv3")(y)
        batch = BatchNorm(self.train, self.axis_name, affine=self.affine, name="bn")(y)
        y = self.shortcut(x) + jnp.where(inside, InstanceNorm(self.affine)(y), batch)
        return nn.relu(jnp.where(outside, InstanceNorm(self.affine)(y), y))


class SearchBlock(Streams):
    """The mean of the four candidates of `PLACES`, weighted by `shares`.

    The variables of the candidates are stacked, in the order of `PLACES`.
    """

    @nn.compact
    def __call__(self, x: jax.Array, noise: jax.Array, temperature: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, features]; noise [4] and temperature as for `shares`."""
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
    """Images to a feature map of stride 16, by all architectures of the search space together.

    A training passes what `draw` gives for its step as the variables {"drawn": {"noise",
    "temperature"}}. Without them there is no noise, and the temperature is 1.

    Attributes:
        channels: as for `OSNet`; so are dtype and axis_name.
        stem: as for `OSNet`; "instance" in the search.
        blocks: none; every block is all four of `PLACES`.
        affine: as for `OSNet`; the search learns no scales and biases of normalisations.
        initializer: as for `OSNet`; PyTorch's default in the search.
        temperature: of the first epoch.
        temperature_factor: by which it is multiplied now and then.
        temperature_every: epochs between two multiplications.
        temperature_floor: below which it does not fall.

    Differs: the original draws noise in evaluation as well, which makes its scores meaningless. In
        training, each of its replicas (eight GPUs with a share of the batch each) draws its own
        noise in every step; here all devices use one draw, so that the state does not depend on
        their number.
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
        """Checks the options.

        Raises:
            ValueError: a temperature that would not stay positive.
        """
        if min(self.temperature, self.temperature_factor, self.temperature_floor) <= 0:
            raise ValueError(
                "backbone.temperature, temperature_factor and temperature_floor are "
                f"{self.temperature}, {self.temperature_factor} and {self.temperature_floor}; all "
                "must be greater than 0."
            )
        if self.temperature_every < 1:
            raise ValueError(
                f"backbone.temperature_every is {self.temperature_every}; needed is at least 1."
            )

    @nn.nowrap
    def draw(self, epoch: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """Noise and temperature of one training step; needs no variables.

        Args:
            epoch: int, from 0.
            key: of seed and step alone, so that all devices draw the same.

        Returns:
            "noise" [6, 4], Gumbel noise, and "temperature" [], both of the default float type.
        """
        noise = gumbel(jax.random.uniform(key, (len(BLOCKS), len(PLACES))))
        fallen = self.temperature * self.temperature_factor ** (epoch // self.temperature_every)
        temperature = jnp.maximum(fallen, self.temperature_floor).astype(noise.dtype)
        return {"noise": noise, "temperature": temperature}

    @nn.nowrap
    def block(self, x: jax.Array, number: int, **options: Any) -> jax.Array:
        """As `OSNet.block`, of all four candidates."""
        noise, temperature = 0.0, 1.0
        if self.has_variable("drawn", "noise"):
            noise = self.get_variable("drawn", "noise")[number]
            temperature = self.get_variable("drawn", "temperature")
        return SearchBlock(**options)(x, noise, temperature)
