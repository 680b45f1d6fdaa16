"""Files of weights: whole, said to be what they are, refused where they do not fit."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from jaxreid.mesh import make_mesh
from jaxreid.models.model import abstract_variables, make_model
from jaxreid.training.optim import make_optimizer
from jaxreid.training.state import create_state, variables_of
from jaxreid.weights.file import Selection, read_card, read_selection, save_weights
from jaxreid.weights.loading import load_weights

MODEL = {
    "backbone": {"name": "resnet18", "cut": "layer3", "width": 8},
    "neck": {"name": "map", "channels": 8, "norm": "none"},
    "matcher": {"name": "qaconv", "head": "v2.1"},
    "height": 64,
    "width": 32,
    "mean": (0.5, 0.5, 0.5),
    "std": (1.0, 1.0, 1.0),
}


def with_part(part, **changes):
    return MODEL | {part: MODEL[part] | changes}


@pytest.fixture(scope="module")
def variables():
    abstract = abstract_variables(make_model(**MODEL))
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda x: generator.uniform(0.5, 1, x.shape).astype(np.float32), abstract)


@pytest.fixture
def file(variables, tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(path, variables, MODEL, source="a test")
    return path


def without(variables, part):
    flat = traverse_util.flatten_dict(variables)
    return traverse_util.unflatten_dict({k: x for k, x in flat.items() if k[1] != part})


def test_a_choice_travels_with_the_weights_and_nonsense_is_ignored(file, variables, tmp_path):
    assert read_selection(file) is None
    chosen = Selection("market1501", "mAP", 0.25, 500)
    best = tmp_path / "best.safetensors"
    save_weights(best, variables, MODEL, source="a test", selection=chosen)
    assert read_selection(best) == chosen
    _, messages = load_weights(best, MODEL, whole=True)
    assert messages[1] == (
        f"WARNING: {best} was chosen by mAP of market1501, 25.0% at step 500; its results on "
        "market1501 are optimistic"
    )
    with safetensors.safe_open(best, framework="numpy") as opened:
        metadata, tensors = opened.metadata(), {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118
    for nonsense in ("", "{", "[]", "{}", '{"set": 1, "metric": 2, "value": "x", "step": 1}'):
        safetensors.numpy.save_file(tensors, best, metadata | {"selection": nonsense})
        assert read_selection(best) is None, nonsense


def test_a_file_holds_the_variables_and_says_what_they_are(file, variables):
    loaded, messages = load_weights(file, MODEL, whole=True)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert len(messages) == 1
    assert make_model(**read_card(file)) == make_model(**MODEL)
    with safetensors.safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata()
    assert metadata["architecture"] == "resnet18"
    assert metadata["input_size"] == "64x32"
    assert metadata["mean"] == "[0.5, 0.5, 0.5]"
    assert metadata["source"] == "a test"


def test_the_same_weights_are_the_same_bytes(variables, tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path in paths:
        save_weights(path, variables, MODEL, source="a test, with ümlaut")
    first, *others = (path.read_bytes() for path in paths)
    assert all(content == first for content in others)
    assert int.from_bytes(first[:8], "little") % 8 == 0


def test_a_state_starts_from_them(file, variables):
    tx = make_optimizer(lr=0.1, backbone_lr=0.1)
    loaded, _ = load_weights(file, MODEL, skip=("matcher",))
    mesh = make_mesh(jax.devices()[:2])
    state = create_state(
        make_model(**MODEL), tx, num_classes=None, seed=0, mesh=mesh, weights=loaded
    )
    for part in ("backbone", "neck"):
        jax.tree.map(np.testing.assert_array_equal, state.params[part], variables["params"][part])
    weight = variables_of(state)["params"]["matcher"]["weight"]
    np.testing.assert_allclose(weight, 1 / 8)  # 4 x 2 positions: as without a file


def test_class_memory_comes_along(variables, tmp_path):
    feature = np.random.default_rng(1).standard_normal((5, 4, 2, 8)).astype(np.float32)
    memory = {"feature": feature, "valid": np.array([1, 1, 0, 1, 0], bool)}
    path = tmp_path / "model.safetensors"
    save_weights(path, variables | {"memory": memory}, MODEL, source="a test")
    tx = make_optimizer(lr=0.1, backbone_lr=0.1)
    common = {"seed": 0, "mesh": make_mesh(jax.devices()[:2])}
    loaded, _ = load_weights(path, MODEL)
    state = create_state(make_model(**MODEL), tx, num_classes=5, weights=loaded, **common)
    np.testing.assert_array_equal(state.memory.feature[:5], feature)
    np.testing.assert_array_equal(state.memory.valid[:6], [1, 1, 0, 1, 0, 0])
    with pytest.raises(ValueError, match=r"expected \(7, .*init_skip=.*memory"):
        create_state(make_model(**MODEL), tx, num_classes=7, weights=loaded, **common)
    loaded, _ = load_weights(path, MODEL, skip=("memory",))
    assert "memory" not in loaded


def test_parts_that_are_not_there_start_at_random_and_it_is_said(variables, tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(path, without(variables, "matcher"), MODEL, source="a test")
    loaded, messages = load_weights(path, MODEL)
    assert "matcher" not in loaded["params"]
    assert any("newly initialised: matcher" in sentence for sentence in messages)
    with pytest.raises(ValueError, match="matcher/.* is not in the file.*something was skipped"):
        load_weights(path, MODEL, whole=True)


def test_a_classifier_is_taken_if_it_tells_as_many_apart(tmp_path):
    matcher = {"name": "embedding"}
    model = MODEL | {"neck": {"name": "linear", "channels": 8}, "matcher": matcher, "classes": 5}
    abstract = abstract_variables(make_model(**model))
    variables = jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), abstract)
    path = tmp_path / "classes.safetensors"
    save_weights(path, variables, model, source="a test")
    loaded, messages = load_weights(path, model)
    assert loaded["params"]["classifier"]["kernel"].shape == (8, 5)
    assert "classifier loaded, because the number of classes matches (5)" in messages
    for classes, new in ((7, ["classifier"]), (0, [])):
        loaded, messages = load_weights(path, model | {"classes": classes})
        assert loaded["params"].keys() == {"backbone", "neck"}
        assert "classifier not loaded, because it has 5 classes" in messages
        assert [line.split(": ")[1] for line in messages if "newly initialised" in line] == new
    with pytest.raises(ValueError, match="classifier/bias is not in the file"):
        load_weights(path, model | {"classes": 7}, whole=True)


def test_another_architecture_of_the_same_name_is_refused(tmp_path):
    parts = {"neck": {"name": "linear", "channels": 8}, "matcher": {"name": "embedding"}}
    model = MODEL | parts | {"backbone": {"name": "osnet_x0_25"}}
    abstract = abstract_variables(make_model(**model))
    variables = jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), abstract)
    path = tmp_path / "osnet.safetensors"
    save_weights(path, variables, model, source="a test")
    load_weights(path, model)
    for option in ({"stem": "instance"}, {"blocks": ["sum"] * 6}):
        with pytest.raises(ValueError, match=f"has {next(iter(option))} .*, expected "):
            load_weights(path, model | {"backbone": {"name": "osnet_x0_25", **option}})


def test_images_resized_another_way_are_told(file):
    _, messages = load_weights(file, MODEL | {"interpolation": "bilinear"})
    assert "interpolation of its images was bicubic, is now bilinear" in messages


def test_what_the_model_has_not_is_not_used_and_it_is_said(file):
    shorter = with_part("backbone", cut="layer2") | {"neck": {"name": "map", "channels": 0}}
    loaded, messages = load_weights(file, shorter | {"height": 32, "width": 16})
    assert "layer3_0" not in loaded["params"]["backbone"]
    assert any("not used: backbone" in sentence and "neck" in sentence for sentence in messages)
    assert any("height of its images was 64, is now 32" in sentence for sentence in messages)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (with_part("backbone", name="resnet34"), "holds the backbone resnet18, expected resnet34"),
        (MODEL | {"height": 128}, r"matcher/weight is \(1, 4, 2\) in the file, expected \(1, 8, 2\)"
         r".*model.height is 64 in the file, expected 128.*init_skip=\"\('matcher',\)\""),
        (with_part("backbone", width=16), "model.backbone.width is 8 in the file, expected 16"),
        (with_part("backbone", cut="layer4"), "model.backbone.cut is layer3 in the file"),
        (with_part("neck", norm="batch"),
         "neck/bn/mean is not in the file.*neck.norm is none in the file"),
        (with_part("matcher", head="v1"), "model.matcher.head is v2.1 in the file, expected v1"),
    ],
)  # fmt: skip
def test_a_model_that_differs_is_refused(file, model, message):
    with pytest.raises(ValueError, match=message):
        load_weights(file, model)


def test_damaged_and_foreign_files_are_refused(file, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no file .*nothing\.safetensors; expected .*init_from"
    ):
        read_card(tmp_path / "nothing.safetensors")
    whole = file.read_bytes()
    for length in (0, 5, 200, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="incomplete|damaged"):
            load_weights(file, MODEL)
    safetensors.numpy.save_file({"x": np.zeros(3)}, file)
    with pytest.raises(ValueError, match="without a description of its model"):
        load_weights(file, MODEL)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "jaxreid 2", "model": "{}"}, "file in the format 'jaxreid 2'.*convert"),
        ({"format": "jaxreid 1"}, "an invalid description of its model .*'model'"),
        ({"format": "jaxreid 1", "model": "{"}, "an invalid description of its model"),
        ({"format": "jaxreid 1", "model": "[]"}, "an invalid description of its model"),
        ({"format": "jaxreid 1", "model": "[" * 10_000}, "an invalid description of its model"),
        ({"format": "jaxreid 1", "model": json.dumps(MODEL | {"height": "64"})},
         "model.height is '64'; expected a whole number"),
        ({"format": "jaxreid 1", "model": json.dumps(MODEL | {"std": [float("nan")] * 3})},
         "model.std is .nan, nan, nan.; expected a tuple of 3 numbers above 0"),
        ({"format": "jaxreid 1", "model": json.dumps(MODEL | {"hight": 64})}, "hight"),
        ({"format": "jaxreid 1", "model": json.dumps(MODEL | {"matcher": "qaconv"})},
         "model.matcher is 'qaconv'; expected a dictionary with a name"),
        ({"format": "jaxreid 1", "model": "{}"}, "an invalid description of its model"),
    ],
)  # fmt: skip
def test_files_that_do_not_say_what_they_hold_are_refused(tmp_path, metadata, message):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(3)}, path, metadata)
    with pytest.raises(ValueError, match=message):
        read_card(path)


def test_unknown_parts_to_skip_are_refused(file):
    with pytest.raises(ValueError, match=r"init_skip names \['mather'\]; valid: neck, matcher"):
        load_weights(file, MODEL, skip=("mather",))
    assert load_weights(None, MODEL) == ({}, [])


def test_a_changed_byte_is_found_by_the_digest(file):
    whole = file.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    card = whole.index(b"[0.5, 0.5, 0.5], ", whole.index(rb"\"mean\"") + 5)
    for place, new in ((8 + header + 1000, b"\x01"), (card + 3, b"4")):
        file.write_bytes(whole[:place] + new + whole[place + 1 :])
        with pytest.raises(ValueError, match="damaged, or was changed .* sha256 .*expected"):
            load_weights(file, MODEL)
    # Files of earlier versions have none.
    tensors = safetensors.numpy.load(whole)
    metadata = {"format": "jaxreid 1", "model": json.dumps(MODEL)}
    safetensors.numpy.save_file(tensors, file, metadata)
    load_weights(file, MODEL, whole=True)


def test_numbers_that_are_not_finite_are_neither_written_nor_read(variables, tmp_path):
    path = tmp_path / "model.safetensors"
    changed = jax.tree.map(np.copy, variables)
    changed["params"]["matcher"]["weight"][0, 0, 0] = np.inf
    message = "1 of .* numbers of params/matcher/weight are NaN or infinite"
    with pytest.raises(ValueError, match=f"was not written: {message}"):
        save_weights(path, changed, MODEL, source="a test")
    assert not path.exists()
    tensors = {"/".join(k): x for k, x in traverse_util.flatten_dict(changed).items()}
    metadata = {"format": "jaxreid 1", "model": json.dumps(MODEL)}
    safetensors.numpy.save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=f"is refused: {message}"):
        load_weights(path, MODEL)


def test_half_precision_is_widened_and_other_types_are_refused(variables, tmp_path):
    path = tmp_path / "model.safetensors"
    for dtype in (np.float16, jax.numpy.bfloat16):
        save_weights(path, jax.tree.map(lambda x: x.astype(dtype), variables), MODEL, source="")  # noqa: B023
        loaded, _ = load_weights(path, MODEL, whole=True)
        assert {x.dtype for x in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    save_weights(path, jax.tree.map(lambda x: x.astype(np.int8), variables), MODEL, source="")
    with pytest.raises(ValueError, match="as int8, expected float32; convert"):
        load_weights(path, MODEL)
