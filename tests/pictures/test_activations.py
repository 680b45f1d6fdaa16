"""Activation maps as pictures."""

import numpy as np

from jaxreid.pictures.activations import activation_picture, covered
from jaxreid.pictures.matches import RAMP


def test_strong_positions_are_covered_most():
    image, map_ = np.full((64, 32, 3), 255, np.uint8), np.zeros((4, 2))
    map_[1, 1] = 1.0
    pixels = covered(image, map_, (32, 64)).astype(int)
    # The middle of the cell, beside which interpolation has begun.
    strongest = pixels[24, 24]
    np.testing.assert_allclose(strongest, 0.25 * 255 + 0.75 * np.array(RAMP[-1]), atol=12)
    weakest = 0.85 * 255 + 0.15 * np.array(RAMP[0])
    np.testing.assert_allclose(pixels[60, 4], weakest, atol=2)


def test_every_image_stands_beside_its_map():
    images = [np.full((64, 32, 3), grey, np.uint8) for grey in (0, 120, 240, 60, 180)]
    picture = activation_picture(images, np.zeros((5, 4, 2)), [""] * 5, size=(32, 64))
    pixels = np.asarray(picture)
    for grey in (0, 120, 240, 60, 180):
        assert (pixels == grey).all(-1).sum() >= 64 * 32
    assert picture.height > 2 * 64  # a second row
