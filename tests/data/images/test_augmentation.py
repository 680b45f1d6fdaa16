import functools
import hashlib
import json
import random

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance

from jaxreid.data.images import augmentation, colour, covering, geometry, parameters
from jaxreid.data.images.decoding import resize

OFF = {
    "flip": 0.0,
    "pad": 0,
    "rotation": 0.0,
    "brightness": None,
    "contrast": None,
    "saturation": None,
    "hue": None,
    "occlusion": None,
    "translation": 0.0,
    "patch": 0.0,
    "erasing": 0.0,
}
ON = {
    "flip": 1.0,
    "pad": 3,
    "rotation": 5.0,
    "brightness": (0.5, 2),
    "contrast": (0.5, 2),
    "saturation": (0.5, 2),
    "hue": (-0.1, 0.1),
    "occlusion": (0.0, 0.8),
    "translation": 0.5,
    "patch": 0.5,
    "erasing": 0.5,
    "donor": lambda: tf.constant(DONOR),
}
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 24, 3), np.uint8)
DONOR = np.random.default_rng(1).integers(0, 256, (40, 24, 3), np.uint8)


def pillow_hue(picture, factor):
    """What torchvision does to the hue of a PIL image."""
    hue, saturation, value = picture.convert("HSV").split()
    shift = np.array(int(factor * 255)).astype(np.uint8)
    hue = Image.fromarray(np.asarray(hue) + shift)
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


PILLOW = {
    "rotate": lambda picture, degrees: picture.rotate(degrees),
    "brightness": lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    "contrast": lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    "saturation": lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
    "hue": pillow_hue,
}


@functools.cache
def graph(name):
    """One operation as a graph, as it runs in the pipeline."""
    call = {
        "rotate": lambda x, degrees: geometry.rotate(x, geometry.turn(*x.shape[:2], degrees)),
        "brightness": colour.adjust_brightness,
        "contrast": colour.adjust_contrast,
        "saturation": colour.adjust_saturation,
        "hue": lambda x, factor: colour.adjust_hue(x, colour.hue_steps(factor)),
    }[name]
    return tf.function(call)


def apply(name, image, value):
    return graph(name)(tf.constant(image), tf.constant(value, tf.float64)).numpy()


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("shape", [(40, 24), (31, 31)])
def test_operations_are_pillows_to_the_bit(name, shape):
    random = np.random.default_rng(1)
    fixed = {"rotate": [0, 90, -90, 180, 45, 360], "hue": [-0.5, 0.0, 0.5, -0.1, 0.1]}
    limits = {"rotate": (-180, 180), "hue": (-0.5, 0.5)}.get(name, (0, 3))
    values = [*fixed.get(name, [0, 0.5, 1, 2]), *random.uniform(*limits, 25)]
    for value in map(float, values):
        image = random.integers(0, 256, (*shape, 3), np.uint8)
        expected = np.asarray(PILLOW[name](Image.fromarray(image), value))
        np.testing.assert_array_equal(apply(name, image, value), expected, err_msg=str(value))


@pytest.mark.parametrize("factor", [0.0, -0.07])
def test_hue_of_all_colours_near_grey_and_near_full(factor):
    # Every red with the greens and blues where rounding and ties are hardest.
    edge = np.concatenate([np.arange(40), np.arange(216, 256)]).astype(np.uint8)
    grid = np.meshgrid(np.arange(256, dtype=np.uint8), edge, edge, indexing="ij")
    image = np.stack(grid, -1).reshape(256, -1, 3)
    expected = np.asarray(pillow_hue(Image.fromarray(image), factor))
    np.testing.assert_array_equal(apply("hue", image, factor), expected)


@pytest.mark.golden
def test_operations_equal_golden(golden_dir):
    arrays = np.load(golden_dir / "transforms.npz")
    source = arrays["image0"]
    image = tf.constant(source)
    height, width, _ = source.shape
    seen = set()
    for key in arrays.files:
        if not key.startswith("f/"):
            continue
        name, *rest = key[2:].split("_")
        if name == "hflip":
            result = geometry.flip_horizontal(image).numpy()
        elif name == "jitter":
            result = source
            for step in rest:
                kind = step.rstrip("0123456789.-")
                result = apply(kind, result, float(step.removeprefix(kind)))
        elif name.startswith("pad"):
            pad = int(name.removeprefix("pad"))
            if rest[:1] == ["crop"]:
                top, left = int(rest[1][1:]), int(rest[2][1:])
                result = geometry.pad_and_crop(image, pad, top, left).numpy()
            else:  # the padded image itself: its four corner windows
                expected = arrays[key]
                for top in (0, 2 * pad):
                    for left in (0, 2 * pad):
                        result = geometry.pad_and_crop(image, pad, top, left).numpy()
                        window = expected[top : top + height, left : left + width]
                        np.testing.assert_array_equal(result, window, err_msg=key)
                continue
        else:
            result = apply(name, source, float(rest[0]))
        np.testing.assert_array_equal(result, arrays[key], err_msg=key)
        seen.add(name)
    assert {"hflip", "rotate", "brightness", "contrast", "saturation", "hue", "jitter"} <= seen


@pytest.mark.golden
def test_occlusion_statistics_equal_golden(golden_dir):
    statistics = json.loads((golden_dir / "transforms.json").read_text())
    boxes = np.load(golden_dir / "transforms.npz")
    cases = [k for k in statistics if k.startswith("occlusion/") and "draws" in statistics[k]]
    assert cases
    for case in cases:
        expected = statistics[case]
        size, low, high = case.split("/")[1].split("_")
        height, width = map(int, size.split("x"))
        draws = 4000
        top, left, side = draw_boxes(draws, height, width, float(low), float(high))
        shorter = min(height, width)
        smallest, largest = max(1, int(shorter * float(low))), int(shorter * float(high)) - 1
        assert smallest <= side.min()
        assert side.max() <= largest
        assert (left >= 0).all()
        assert (left <= width - side - 1).all()
        assert (top >= 0).all()
        assert (top <= height - side - 1).all()
        area = side.astype(float) ** 2 / (height * width)
        error = expected["std_area_fraction"] / np.sqrt(draws)
        assert abs(area.mean() - expected["exact_expected_area_fraction"]) < 4 * error, case
        both = np.sqrt(1 / draws + 1 / expected["draws"])  # golden means are of draws as well
        for values, name, spread in (
            (side, "s_mean", side.std()),
            (left + side / 2, "x_center_mean", (left + side / 2).std()),
            (top + side / 2, "y_center_mean", (top + side / 2).std()),
        ):
            assert abs(values.mean() - expected[name]) < 4 * spread * both + 0.5, (case, name)
        first = boxes[f"{case}/boxes_x0y0x1y1_first200"]
        assert (first[:, 2] - first[:, 0] <= largest).all()


def draw_boxes(draws, height, width, low, high):
    def draw(i):
        u = tf.random.stateless_uniform([3], [7, i], dtype=tf.float64)
        return parameters.draw_square(u, height, width, low, high)

    batch = tf.data.Dataset.range(draws).map(lambda i: draw(tf.cast(i, tf.int32))).batch(draws)
    return [x.astype(int) for x in next(batch.as_numpy_iterator())]


@pytest.mark.golden
def test_occlusion_paints_golden_boxes(golden_dir):
    arrays = np.load(golden_dir / "transforms.npz")
    source, expected = arrays["image0"], arrays["occlusion/applied_image0"]
    rows, columns = np.nonzero((source != expected).any(-1))
    assert (expected[rows, columns] == 255).all()
    top, left = rows.min(), columns.min()
    size = max(rows.max() - top, columns.max() - left) + 1
    result = covering.occlude(tf.constant(source), top, left, size).numpy()
    np.testing.assert_array_equal(result, expected)


def many(draws, image=IMAGE, **arguments):
    """Augment one image with ``draws`` seeds."""
    image_tensor = tf.constant(image)
    dataset = tf.data.Dataset.range(draws).map(
        lambda i: augmentation.augment(image_tensor, tf.stack([3, i]), **{**OFF, **arguments}),
        num_parallel_calls=2,
    )
    return next(dataset.batch(draws).as_numpy_iterator())


def test_all_off_changes_nothing():
    np.testing.assert_array_equal(many(2), np.stack([IMAGE, IMAGE]))
    np.testing.assert_array_equal(many(1, occlusion=(0.0, 0.0))[0], IMAGE)


def test_defaults_give_the_bytes_of_the_first_release():
    # Before translation, patch and erasing were added: they must leave other runs as they were.
    call = tf.function(augmentation.augment)
    seeds = [tf.constant([3, i], tf.int64) for i in range(8)]
    images = np.stack([call(tf.constant(IMAGE), seed) for seed in seeds])
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    assert digest == "e243153c93666e91454c7eac61737cbc8a92a0d4d00f1a19f94656020b7cdba9"


def test_new_operations_leave_the_numbers_of_others_alone():
    before = many(6, flip=0.5, brightness=(0.5, 2))
    erased = many(6, flip=0.5, brightness=(0.5, 2), erasing=0.7, erasing_fill=(0, 0, 0))
    changed = (before != erased).any(-1)
    assert 0 < changed.mean() < 0.5
    assert not erased[changed].any()


def test_numbers_are_those_of_tensorflows_stateless_uniform():
    place = parameters.AUGMENTATION_STREAMS.index("hue")
    for key, i in ((0, 0), (-(2**63), 3), (2**62 + 12345, 2**31)):
        seed = tf.constant([key, i * parameters.AUGMENTATION_STRIDE + place], tf.int64)
        expected = tf.random.stateless_uniform([5], seed, dtype=tf.float64, alg="philox")
        result = parameters.uniform(tf.constant([key, i], tf.int64), "hue", 5)
        np.testing.assert_array_equal(result, expected)


def test_flip_has_its_probability():
    mirrored = (many(800, flip=0.3) == IMAGE[:, ::-1]).all((1, 2, 3))
    assert abs(mirrored.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 800)


def test_crop_takes_every_window_equally_often():
    pad, draws = 1, 900
    padded = np.pad(IMAGE, ((pad, pad), (pad, pad), (0, 0)))
    results = many(draws, pad=pad)
    counts = [
        (results == padded[y : y + 40, x : x + 24]).all((1, 2, 3)).sum()
        for y in range(3)
        for x in range(3)
    ]
    assert sum(counts) == draws
    assert np.square(np.array(counts) - draws / 9).sum() / (draws / 9) < 26  # chi2(8), p = 0.001


def test_brightness_factors_are_uniform():
    draws = 1000
    white = np.full((2, 2, 3), 100, np.uint8)
    factor = many(draws, white, brightness=(0.5, 2))[:, 0, 0, 0] / 100
    assert factor.min() >= 0.49
    assert factor.max() <= 2.0
    assert abs(factor.mean() - 1.245) < 4 * 1.5 / np.sqrt(12 * draws)  # 1.25 less the truncation
    assert abs(factor.std() - 1.5 / np.sqrt(12)) < 0.03


def test_rotation_angles_cover_both_ways():
    line = np.zeros((101, 101, 3), np.uint8)
    line[50] = 255
    results = many(400, line, rotation=5.0)
    rise = 50 - results[:, :, 95, 0].argmax(1)  # 45 pixels right of the centre
    degrees = np.rad2deg(np.arctan(rise / 45))
    assert abs(degrees.mean()) < 4 * 10 / np.sqrt(12 * 400)
    assert -5.7 < degrees.min() < -4
    assert 4 < degrees.max() < 5.7


def test_jitter_uses_all_orders():
    # Doubling 200 saturates, halving the contrast before that does not: the orders differ.
    image = np.stack([np.full((4, 4, 3), 200, np.uint8), np.full((4, 4, 3), 20, np.uint8)], 1)
    image = image.reshape(4, 8, 3)
    picture = Image.fromarray(image)
    bright, contrast = ImageEnhance.Brightness, ImageEnhance.Contrast
    first = np.asarray(contrast(bright(picture).enhance(2.0)).enhance(0.5))
    second = np.asarray(bright(contrast(picture).enhance(0.5)).enhance(2.0))
    results = many(200, image, brightness=(2, 2), contrast=(0.5, 0.5))
    is_first = (results == first).all((1, 2, 3))
    assert (is_first | (results == second).all((1, 2, 3))).all()
    assert 70 < is_first.sum() < 130


def test_operations_draw_from_streams_of_their_own():
    alone = many(6, flip=0.5)
    with_more = many(6, flip=0.5, brightness=(1, 1))
    np.testing.assert_array_equal(alone, with_more)


def test_full_augmentation_depends_on_the_seed_alone():
    call = tf.function(functools.partial(augmentation.augment, **ON))
    image = tf.constant(IMAGE)
    first = call(image, tf.constant([1, 2], tf.int64)).numpy()
    assert first.dtype == np.uint8
    assert first.shape == IMAGE.shape
    again = augmentation.augment(image, tf.constant([1, 2]), **ON).numpy()  # eager, 32-bit seed
    np.testing.assert_array_equal(first, again)
    assert (first != call(image, tf.constant([1, 3], tf.int64)).numpy()).any()
    assert (first != call(image, tf.constant([2, 2], tf.int64)).numpy()).any()


def pillow_translation(image, height, width, top, left):
    larger = Image.fromarray(image).resize(
        (round(width * 1.125), round(height * 1.125)), Image.Resampling.BILINEAR
    )
    return np.asarray(larger.crop((left, top, left + width, top + height)))


@pytest.mark.golden
def test_translation_equals_golden(golden_dir):
    facts = json.loads((golden_dir / "transforms.json").read_text())["translation2d/first4"]
    with np.load(golden_dir / "transforms.npz") as arrays:
        source, results = arrays[facts["source"]], arrays["translation2d/first4"]
    height, width = facts["h"], facts["w"]
    python = random.Random(facts["python_seed"])
    moved = 0
    for expected in results:
        if python.uniform(0, 1) > 0.5:
            result = resize(tf.constant(source), height, width, "bilinear")
        else:
            left = round(python.uniform(0, round(width * 1.125) - width))
            top = round(python.uniform(0, round(height * 1.125) - height))
            result = geometry.translate(tf.constant(source), height, width, top, left)
            moved += 1
        np.testing.assert_array_equal(result, expected)
    assert moved


def test_translation_takes_the_windows_of_torchreid():
    draws, most_top, most_left = 1200, 45 - 40, 27 - 24
    windows = {
        (top, left): pillow_translation(IMAGE, 40, 24, top, left)
        for top in range(most_top + 1)
        for left in range(most_left + 1)
    }
    results = many(draws, translation=0.6)
    still = (results == IMAGE).all((1, 2, 3))
    assert abs(still.mean() - 0.4) < 4 * np.sqrt(0.4 * 0.6 / draws)
    count = {at: (results == w).all((1, 2, 3)).sum() for at, w in windows.items()}
    assert sum(count.values()) + still.sum() == draws
    # Rounding makes the first and the last place half as likely.
    weight = {at: (0.5 if at[0] in (0, 5) else 1) * (0.5 if at[1] in (0, 3) else 1) for at in count}
    total = (~still).sum() / sum(weight.values())
    chi2 = sum((count[at] - weight[at] * total) ** 2 / (weight[at] * total) for at in count)
    assert chi2 < 50  # chi2(23), p = 0.001


@pytest.mark.golden
def test_erasing_is_as_frequent_and_as_large_as_golden(golden_dir):
    facts = json.loads((golden_dir / "transforms.json").read_text())["erasing/torchreid"]
    draws = 1500
    black = np.zeros((*facts["size"], 3), np.uint8)
    share = (many(draws, black, erasing=0.5) != 0).any(-1).mean((1, 2))
    both = np.sqrt(1 / draws + 1 / facts["draws"])
    assert abs((share > 0).mean() - facts["probability_applied"]) < 4 * 0.5 * both
    assert abs(share.mean() - facts["mean_area_fraction"]) < 4 * share.std() * both


@pytest.mark.golden
def test_erasing_fills_what_normalises_to_golden(golden_dir):
    facts = json.loads((golden_dir / "transforms.json").read_text())["erasing/torchreid"]
    black = np.zeros((20, 20, 3), np.uint8)
    (image,) = many(1, black, erasing=1.0)
    (colour,) = np.unique(image[image.any(-1)], axis=0)
    normalised = (colour / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    half_a_level = 0.5 / 255 / 0.224
    np.testing.assert_allclose(normalised, facts["value"], rtol=0, atol=half_a_level)


def test_erasing_comes_after_all_colours():
    image = np.full((20, 20, 3), 100, np.uint8)
    results = many(40, image, erasing=1.0, brightness=(0.2, 0.3), occlusion=(0.0, 0.8))
    erased = (results == (152, 142, 127)).all(-1)
    assert erased.any((1, 2)).all()


def test_patch_comes_from_the_donor():
    donor = np.full_like(IMAGE, 255)
    image = np.full_like(IMAGE, 100)
    results = many(600, image, patch=0.4, donor=lambda: tf.constant(donor))
    pasted = (results == 255).all(-1)
    black = (results == 0).all(-1)  # corners of turned patches
    assert (pasted | black | (results == 100).all(-1)).all()
    share = (pasted | black).mean((1, 2))
    assert abs((share > 0).mean() - 0.4) < 4 * np.sqrt(0.4 * 0.6 / 600)
    assert share[share > 0].min() > 0.005
    assert 0.45 < share.max() < 0.51
    assert black.any()


def test_donor_is_called_only_for_a_patch():
    def broken():
        return tf.ensure_shape(tf.io.decode_jpeg(b"no image", channels=3), IMAGE.shape)

    call = tf.function(
        functools.partial(augmentation.augment, **OFF | {"patch": 0.5}, donor=broken)
    )
    failed = 0
    for i in range(40):
        try:
            result = call(tf.constant(IMAGE), tf.constant([3, i], tf.int64))
        except tf.errors.InvalidArgumentError:
            failed += 1
        else:
            np.testing.assert_array_equal(result, IMAGE)
    assert 8 < failed < 32


def test_donors_are_drawn_equally_often_by_the_seed():
    draw = tf.function(lambda i: parameters.draw_donor(tf.stack([5, i]), 7))
    donors = [int(draw(tf.constant(i))) for i in range(700)]
    assert donors == [int(draw(tf.constant(i))) for i in range(700)]
    assert np.square(np.bincount(donors, minlength=7) - 100).sum() / 100 < 22.5  # chi2(6), 0.001


def test_jitter_of_torchreid_computes_two_operations_alone(monkeypatch):
    def refuse(image, factor):
        raise AssertionError("computed although switched off")

    monkeypatch.setattr(augmentation, "adjust_saturation", refuse)
    monkeypatch.setattr(augmentation, "adjust_hue", refuse)
    # ColorJitter(brightness=0.2, contrast=0.15, saturation=0, hue=0)
    off = {"saturation": (1, 1), "hue": (0, 0)}
    bright = many(300, np.full_like(IMAGE, 200), brightness=(0.8, 1.2), **off)[:, 0, 0, 0] / 200
    assert 0.795 <= bright.min() < 0.82
    assert 1.18 < bright.max() <= 1.2
    two = np.where(np.arange(24)[None, :, None] < 12, 50, 150) * np.ones_like(IMAGE)
    contrast = many(300, two.astype(np.uint8), contrast=(0.85, 1.15), **off).astype(int)
    ratio = (contrast[:, 0, -1, 0] - contrast[:, 0, 0, 0]) / 100
    assert 0.84 <= ratio.min() < 0.87
    assert 1.13 < ratio.max() <= 1.16
    both = many(4, brightness=(0.8, 1.2), contrast=(0.85, 1.15), **off)
    none = many(4, brightness=(0.8, 1.2), contrast=(0.85, 1.15))
    np.testing.assert_array_equal(both, none)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flip": 1.5}, "flip is 1.5; expected a probability"),
        ({"translation": -0.1}, "translation is -0.1; expected a probability"),
        ({"patch": 2}, "patch is 2; expected a probability"),
        ({"erasing": 1.1}, "erasing is 1.1; expected a probability"),
        ({"patch": 0.5}, "patch is 0.5, but donor is None: give one"),
        ({"patch": 0.5, "patch_area": (0.5, 0.1)}, "patch_area is"),
        ({"erasing": 0.5, "erasing_area": (0.2, 1.1)}, "erasing_area is"),
        ({"erasing": 0.5, "erasing_aspect": 0}, "erasing_aspect is 0"),
        ({"erasing": 0.5, "erasing_fill": (0, 256, 0)}, r"erasing_fill is \(0, 256, 0\)"),
        ({"erasing": 0.5, "erasing_fill": (0.5, 0, 0)}, "erasing_fill is"),
        ({"erasing": 0.5, "erasing_fill": (0, 0)}, "erasing_fill is"),
        ({"pad": -1}, "pad is -1"),
        ({"rotation": 200}, "rotation is 200"),
        ({"brightness": (2, 0.5)}, r"brightness is \(2, 0.5\); expected 0 <= low"),
        ({"contrast": (-1, 2)}, "contrast"),
        ({"saturation": (1,)}, "saturation is .* expected a pair"),
        ({"hue": (-0.6, 0)}, "hue is .* expected -0.5 <= low"),
        (
            {"occlusion": (0.5, 0.5)},
            r"occlusion \(0.5, 0.5\) on 40 x 24 leaves sides from 12 to 11",
        ),
        ({"occlusion": (0.0, 1.5)}, "occlusion"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        augmentation.augment(tf.constant(IMAGE), tf.constant([0, 0]), **{**OFF, **arguments})


def test_dynamic_shapes_are_refused():
    call = tf.function(lambda x: augmentation.augment(x, tf.constant([0, 0])))
    with pytest.raises(ValueError, match="static shape"):
        call.get_concrete_function(tf.TensorSpec([None, None, 3], tf.uint8))
