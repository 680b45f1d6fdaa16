"""Exponential moving average of the weights of a training."""

import math
from typing import Any

import jax
import jax.numpy as jnp


def updated(average: Any, variables: Any, step: jax.Array, decay: float) -> Any:
    """Return the average after one more update.

    It is the mean of the weights after every update, each weighted `decay` times as much as the
    next: corrected for its start, so that random initial weights never enter. Batch statistics are
    averaged like parameters.

    Args:
        average: average so far, a tree like `variables`; zeros before the first update.
        variables: {"params", "batch_stats"} after the update.
        step: [] int32, updates before this one.
        decay: share of the average that stays, in (0, 1).

    Source: Polyak and Juditsky, SIAM J. Control Optim., 1992; Kingma and Ba, ICLR 2015, Section
        7.2, for the exponential average and its correction.
    Differs: stochastic weight averaging (Izmailov et al., UAI 2018) computes the batch statistics
        of the average from the training images again, for it averages distant weights. This one
        holds recent weights, and averages their statistics, as timm's `ModelEmaV2` and PyTorch's
        `AveragedModel(use_buffers=True)` do.
    """
    # (1 - decay) / (1 - decay^count).
    log = math.log(decay)
    weight = jnp.expm1(jnp.float32(log)) / jnp.expm1((step + 1) * jnp.float32(log))
    return jax.tree.map(lambda a, v: a + weight.astype(a.dtype) * (v - a), average, variables)
