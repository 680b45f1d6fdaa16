import functools
import json
import random

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from jaxreid.data.images import covering, geometry, parameters

NOISE = np.random.default_rng(0)
IMAGE, DONOR = NOISE.integers(0, 256, (2, 40, 24, 3), np.uint8)
TORCHREID = {"area": (0.02, 0.4), "aspect": 0.3}


def test_erase_fills_the_box_alone():
    expected = IMAGE.copy()
    expected[3:10, 20:24] = (1, 2, 255)
    result = covering.erase(tf.constant(IMAGE), (3, 20, 7, 4), (1, 2, 255))
    np.testing.assert_array_equal(result, expected)


def test_occlude_pastes_a_white_square():
    expected = IMAGE.copy()
    expected[35:38, 0:3] = 255
    np.testing.assert_array_equal(covering.occlude(tf.constant(IMAGE), 35, 0, 3), expected)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, -10, 7, 10])
def test_paste_is_pillows(mirrored, degrees):
    call = tf.function(covering.paste)
    for _ in range(20):
        height, width = NOISE.integers(1, 40), NOISE.integers(1, 24)
        box_top, top = NOISE.integers(0, 40 - height, 2, endpoint=True)
        box_left, left = NOISE.integers(0, 24 - width, 2, endpoint=True)
        patch = Image.fromarray(DONOR).crop((box_left, box_top, box_left + width, box_top + height))
        if mirrored:
            patch = patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        expected = Image.fromarray(IMAGE)
        expected.paste(patch.rotate(degrees), (left, top))
        integers = [tf.constant(x, tf.int32) for x in (box_top, box_left, height, width, top, left)]
        *box, top, left = integers
        flag, turn = tf.constant(mirrored), geometry.turn(height, width, degrees)
        result = call(tf.constant(IMAGE), tf.constant(DONOR), tf.stack(box), top, left, flag, turn)
        np.testing.assert_array_equal(result, expected)


def draws(call, numbers, count):
    """Results [count] of a function of random numbers."""
    u = np.random.default_rng(3).random((count, numbers))
    return tf.nest.map_structure(np.asarray, tf.vectorized_map(call, tf.constant(u)))


def draw_boxes(count, height, width, area, aspect):
    call = functools.partial(
        parameters.draw_box, height=height, width=width, area=area, aspect=aspect
    )
    found, box = draws(call, parameters.BOX_NUMBERS, count)
    return found, [side.astype(int) for side in box]


@pytest.mark.parametrize(
    ("area", "aspect"), [((0.02, 0.4), 0.3), ((0.01, 0.5), 0.1), ((0.1, 0.1), 1.0)]
)
def test_boxes_keep_their_limits_and_reach_all_borders(area, aspect):
    height, width = 60, 30
    found, (top, left, rows, columns) = draw_boxes(3000, height, width, area, aspect)
    assert found.all()
    assert (rows < height).all()
    assert (columns < width).all()
    assert top.min() == left.min() == 0
    assert (top + rows).max() == height
    assert (left + columns).max() == width
    # Each side is rounded by half a pixel at most.
    size = height * width
    assert ((rows - 0.5) * (columns - 0.5) <= area[1] * size).all()
    assert ((rows + 0.5) * (columns + 0.5) >= area[0] * size).all()
    assert ((rows - 0.5) / (columns + 0.5) <= 1 / aspect).all()
    assert ((rows + 0.5) / np.maximum(columns - 0.5, 0.1) >= aspect).all()
    # The corner is uniform over the places that are left.
    place = (top + 0.5) / (height - rows + 1)
    assert abs(place.mean() - 0.5) < 4 / np.sqrt(12 * 3000)


def test_a_box_is_not_found_where_none_fits():
    found, _ = draw_boxes(20, 40, 24, (1.0, 1.0), 1.0)
    assert not found.any()


@pytest.mark.golden
def test_sizes_of_boxes_equal_golden(golden_dir):
    """Feed torchreid's own random numbers."""
    facts = json.loads((golden_dir / "transforms.json").read_text())["erasing/torchreid"]
    boxes = np.load(golden_dir / "transforms.npz")["erasing/torchreid/boxes_y0x0y1x1_first200"]
    height, width = facts["size"]
    python = random.Random(facts["python_seed"])
    call = tf.function(lambda u: parameters.draw_box(u, height, width, **TORCHREID))
    for box in boxes:
        if python.uniform(0, 1) > 0.5:
            assert not box.any()
            continue
        # As many pairs as torchreid took; its corner is drawn by other means.
        state, u = python.getstate(), np.zeros(parameters.BOX_NUMBERS)
        u[2:] = [python.random() for _ in u[2:]]
        found, (_, _, rows, columns) = call(tf.constant(u))
        assert found
        np.testing.assert_array_equal([rows, columns], box[2:] - box[:2])
        python.setstate(state)
        while True:
            area, aspect = 0.02 + 0.38 * python.random(), python.uniform(0.3, 1 / 0.3)
            fits = (area * height * width * aspect) ** 0.5, (area * height * width / aspect) ** 0.5
            if round(fits[0]) < height and round(fits[1]) < width:
                break
        corner = python.randint(0, height - int(rows)), python.randint(0, width - int(columns))
        np.testing.assert_array_equal(corner, box[:2])


@pytest.mark.golden
def test_areas_of_boxes_are_golden(golden_dir):
    facts = json.loads((golden_dir / "transforms.json").read_text())["erasing/torchreid"]
    boxes = np.load(golden_dir / "transforms.npz")["erasing/torchreid/boxes_y0x0y1x1_first200"]
    height, width = facts["size"]
    _, (top, left, rows, columns) = draw_boxes(4000, height, width, **TORCHREID)
    area = rows * columns / (height * width)
    error = area.std() * np.sqrt(1 / 4000 + 1 / (facts["draws"] * facts["probability_applied"]))
    assert abs(area.mean() - facts["mean_area_fraction_when_applied"]) < 4 * error
    boxes = boxes[boxes.any(1)]
    for values, theirs in (
        (top + rows / 2, (boxes[:, 0] + boxes[:, 2]) / 2),
        (left + columns / 2, (boxes[:, 1] + boxes[:, 3]) / 2),
        (rows, boxes[:, 2] - boxes[:, 0]),
        (columns, boxes[:, 3] - boxes[:, 1]),
    ):
        error = values.std() * np.sqrt(1 / 4000 + 1 / len(boxes))
        assert abs(values.mean() - theirs.mean()) < 4 * error


def test_patches_are_turned_half_the_time_and_fit_where_they_go():
    height, width, count = 60, 30, 3000
    call = functools.partial(
        parameters.draw_patch, height=height, width=width, area=(0.01, 0.5), aspect=0.1
    )
    found, (box, top, left, mirrored, degrees) = draws(call, parameters.PATCH_NUMBERS, count)
    assert found.all()
    assert top.min() == left.min() == 0
    assert (top + box[2]).max() == height
    assert (left + box[3]).max() == width
    assert (top != box[0]).any()  # a place of its own, not that in the donor
    error = 4 * 0.5 / np.sqrt(count)
    assert abs(mirrored.mean() - 0.5) < error
    assert abs((degrees == 0).mean() - (0.5 + 0.5 / 21)) < error
    assert set(degrees.tolist()) == set(range(-10, 11))


@pytest.mark.parametrize(
    ("area", "aspect", "message"),
    [
        ((0.5, 0.2), 0.3, r"patch_area is \(0.5, 0.2\); expected a pair 0 <= smallest"),
        ((-0.1, 0.2), 0.3, "patch_area is"),
        ((0.1, 1.2), 0.3, "patch_area is"),
        ((0.1,), 0.3, r"patch_area is \(0.1,\)"),
        ((0.1, 0.2), 0.0, "patch_aspect is 0.0"),
        ((0.1, 0.2), 1.5, "patch_aspect is 1.5"),
        (
            (0.7, 0.8),
            1.0,
            "patch: no box with at least 0.7 of the area .* fits into 40 x 24: lower",
        ),
    ],
)
def test_bad_limits_are_named(area, aspect, message):
    with pytest.raises(ValueError, match=message):
        parameters.check_box("patch", 40, 24, area, aspect)


@pytest.mark.parametrize("largest", [0.5, 0.6, 0.7, 0.9])
def test_limits_are_refused_only_where_no_box_is_found(largest):
    limits = {"area": (largest, largest), "aspect": 0.8}
    found, _ = draw_boxes(50, 40, 24, **limits)
    try:
        parameters.check_box("patch", 40, 24, **limits)
    except ValueError:
        assert not found.any()
    else:
        assert found.any()
