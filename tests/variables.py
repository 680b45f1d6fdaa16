"""Variables of models without their initialisation, for tests that need numbers alone."""

import jax
import numpy as np

from jaxreid.models.model import abstract_variables, make_model


def filled(card, draw):
    """Variables of the model of a card; `draw` makes the numbers of a shape."""
    abstract = abstract_variables(make_model(**card))
    return jax.tree.map(lambda leaf: draw(leaf.shape).astype(np.float32), abstract)
