"""A backbone that is soon compiled, for tests of what surrounds it."""

import flax.linen as nn
import jax.numpy as jnp

from jaxreid.models.backbones.backbone import Backbone
from jaxreid.models.layers import BatchNorm, Conv


class OneLayer(Backbone):
    """A convolution and a batch normalisation: what can differ between devices."""

    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, *, train=False):
        x = Conv(4, 3, stride=4, dtype=self.dtype)(x)
        return nn.relu(BatchNorm(train, self.axis_name)(x))


ONE_LAYER = {"name": f"{__name__}:OneLayer"}
