"""Models in other programs' formats: the same results for any number of images."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import traverse_util
from golden import REPOSITORY
from people import MODEL, draw, save_model
from variables import filled

import jaxreid
from jaxreid import cli
from jaxreid.export import exporting
from jaxreid.export.programs import drawn_people, make_program
from jaxreid.models.model import init_variables, make_model
from jaxreid.reid.loaded import ReID
from jaxreid.weights.conversion import convert_file
from jaxreid.weights.file import save_weights
from jaxreid.weights.loading import load_weights
from jaxreid.weights.pytorch import published

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("one_device")
VECTOR = {"neck": {"name": "pooled"}, "matcher": {"name": "embedding"}}
PEOPLE = [np.asarray(draw(1 + n // 2, n % 2, n)) for n in range(16)]


@pytest.fixture(scope="module")
def maps(tmp_path_factory, one_device):
    return jaxreid.load(save_model(tmp_path_factory.mktemp("maps") / "maps.safetensors"))


@pytest.fixture(scope="module")
def vectors(tmp_path_factory, one_device):
    path = tmp_path_factory.mktemp("vectors") / "vectors.safetensors"
    return jaxreid.load(save_model(path, **VECTOR))


def run(path, *arrays):
    session = onnxruntime.InferenceSession(path)
    names = [each.name for each in session.get_inputs()]
    return session.run(None, dict(zip(names, arrays, strict=True)))[0]


def test_an_encoder_and_a_matcher_as_onnx_take_any_number_of_images(maps, tmp_path):
    encoder, matcher = tmp_path / "encoder.onnx", tmp_path / "matcher.onnx"
    made = jaxreid.export_model(maps, encoder, format="onnx", images=PEOPLE[:8])
    assert made.inputs == {"images": "uint8 [batch, 32, 16, 3]"}
    assert made.error < 1e-5 < made.largest
    assert "--part=matcher" in made.messages[0]
    jaxreid.export_model(maps, matcher, format="onnx", part="matcher", images=PEOPLE[:8])
    program = make_program(maps)
    features = [run(encoder, program.pixels(PEOPLE[:n])) for n in (1, 3, 5)]
    for found in features:
        np.testing.assert_allclose(found, maps.embed(PEOPLE[: len(found)]), atol=1e-5)
    for query, gallery in ((0, 2), (1, 0), (2, 2)):
        scores = run(matcher, features[query], features[gallery])
        expected = maps.score(features[query], features[gallery])
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_an_onnx_file_holds_its_card(maps, tmp_path):
    path = tmp_path / "pair.onnx"
    jaxreid.export_model(maps, path, format="onnx", part="pair", images=PEOPLE[:3])
    model = onnx.load(path)
    card = {each.key: each.value for each in model.metadata_props}
    assert make_model(**json.loads(card["model"])) == maps.model
    assert card["pixels"] == "uint8 RGB, channels last, 0 to 255"
    assert [each.name for each in model.graph.input] == ["query", "gallery"]
    # Normalisations are part of the convolutions, which have channels first.
    operators = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in operators
    assert operators.count("Transpose") < operators.count("Conv")


def test_a_trackers_input_gives_the_same_vectors(vectors, tmp_path):
    path = tmp_path / "tracker.onnx"
    made = jaxreid.export_model(vectors, path, format="onnx", like="boxmot", images=PEOPLE[:4])
    assert made.inputs == {"images": "float32 [batch, 3, 32, 16]"}
    found = run(path, make_program(vectors, like="boxmot").pixels(PEOPLE[:3]))
    np.testing.assert_allclose(found, vectors.embed(PEOPLE[:3]), atol=1e-4)


def test_eight_bits_give_nearly_the_same_vectors(vectors, tmp_path):
    pytest.importorskip("sympy")
    path = tmp_path / "small.onnx"
    made = jaxreid.export_model(vectors, path, format="onnx", int8=True, images=PEOPLE)
    assert 0.9 < made.cosine < 1
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    assert onnx.load(path).metadata_props


PARTS = {
    "instance norms and GeM": {
        "backbone": {"name": "resnet18_ibn_a", "cut": "layer1", "width": 4},
        "neck": {"name": "pooled", "pool": "gem"},
        "matcher": {"name": "metric_network", "hidden": 4},
    },
    "a linear metric network": VECTOR | {"matcher": {"name": "metric_network", "net": "linear"}},
    "patches": {"matcher": {"name": "qaconv", "patch": 3, "head": "v1"}},
    "several scales": {
        "neck": {"name": "multi_scale", "channels": 4, "hidden": 4, "attention_layers": 1},
        "matcher": {"name": "qaconv_ms", "hidden": 4},
    },
    "an encoder": {
        "neck": {
            "name": "transformer",
            "channels": 4,
            "hidden": 4,
            "heads": 2,
            "attention_layers": 1,
        },
        "matcher": {"name": "transmatcher", "hidden": 4},
    },
    "a vision transformer": {
        "backbone": {"name": "vit_small_patch16", "width": 8, "depth": 1, "heads": 2, "patch": 8}
    },
}


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(parts, id=name, marks=pytest.mark.full if i > 1 else ())
        for i, (name, parts) in enumerate(PARTS.items())
    ],
)
def test_every_neck_and_matcher_has_its_operations(parts):
    from jaxreid.export.onnx_file import run_onnx, write_onnx

    card = MODEL | parts
    variables = jax.jit(lambda: init_variables(make_model(**card), 0))()
    program = make_program(ReID(card, variables), "pair")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 16, 3), dtype=np.uint8)
    found = run_onnx(write_onnx(program, {}), [pixels[:2], pixels])
    model = program.reid.model

    @jax.jit
    def score(pixels):
        features = model.apply(variables, pixels, method="encode")
        return model.apply(variables, features[:2], features, method="match")

    np.testing.assert_allclose(found, score(pixels), rtol=1e-4, atol=1e-5)


def test_a_stablehlo_file_runs_without_flax_and_without_this_package(maps, tmp_path):
    path = tmp_path / "pair.stablehlo"
    jaxreid.export_model(maps, path, format="stablehlo", part="pair", images=PEOPLE[:3])
    assert json.loads((tmp_path / "pair.stablehlo.json").read_text())["part"] == "pair"
    pixels = make_program(maps).pixels(PEOPLE[:5])
    np.save(tmp_path / "pixels.npy", pixels)
    code = (
        "import sys; sys.modules['flax'] = sys.modules['jaxreid'] = None\n"
        "import jax, numpy as np\n"
        f"program = jax.export.deserialize(bytearray(open({str(path)!r}, 'rb').read()))\n"
        f"pixels = np.load({str(tmp_path / 'pixels.npy')!r})\n"
        f"np.save({str(tmp_path / 'scores.npy')!r}, program.call(pixels[:2], pixels))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    features = maps.embed(PEOPLE[:5])
    expected = maps.score(features[:2], features)
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected, atol=1e-5)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_tensorflows_formats_take_any_number_of_images(maps, tmp_path):
    from jaxreid.export.tensorflow_file import run_saved_model, run_tflite

    folder, file = tmp_path / "saved", tmp_path / "encoder.tflite"
    jaxreid.export_model(maps, folder, format="savedmodel", images=PEOPLE[:4])
    jaxreid.export_model(maps, file, format="tflite", images=PEOPLE[:4])
    program = make_program(maps)
    pixels, expected = program.pixels(PEOPLE[:3]), maps.embed(PEOPLE[:3])
    found = run_saved_model(folder, [pixels], program)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    found = run_tflite(file.read_bytes(), [pixels], program)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(FileExistsError, match="exists"):
        jaxreid.export_model(maps, folder, format="savedmodel", images=PEOPLE[:4])


OSNET = {
    "backbone": {"name": "osnet_ain_x0_25"},
    "neck": {"name": "linear"},
    "matcher": {"name": "embedding"},
    "height": 256,
    "width": 128,
    "classes": 5,
}
QACONV = {
    "backbone": {"name": "resnet18_ibn_b", "cut": "layer2"},
    "neck": {"name": "map", "channels": 128, "norm": "none"},
    "matcher": {"name": "qaconv", "head": "v2.1"},
    "height": 384,
    "width": 128,
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(("card", "options"), [(OSNET, {}), (QACONV, {"cut": "layer2"})])
def test_weights_in_pytorchs_names_come_back_to_the_bit(card, options, suffix, tmp_path):
    torch = pytest.importorskip("torch")
    sys.path.insert(0, str(REPOSITORY / "tools"))
    import torch_networks

    generator = np.random.default_rng(0)
    name, held = card["backbone"]["name"], filled(card, lambda s: generator.normal(size=s))
    start, out, back = tmp_path / "a.safetensors", tmp_path / f"b{suffix}", tmp_path / "c"
    save_weights(start, held, card, source="a test")
    jaxreid.export_model(start, out, format="torch")
    convert_file(out, back.with_suffix(".safetensors"), name)
    found, _ = load_weights(back.with_suffix(".safetensors"), card, whole=True)
    for key, value in traverse_util.flatten_dict(held).items():
        np.testing.assert_array_equal(traverse_util.flatten_dict(found)[key], value)
    if suffix == ".pth":
        content = torch.load(out, weights_only=True)
        options = options | ({"neck": 128} if options else {"classes": 5})
        network = torch_networks.make(name, **options)
        network.load_state_dict(content.get("model", content), strict=True)
        if "criterion" in content:
            assert content["criterion"]["matcher.fc.weight"].shape == (1, 48 * 16)


def test_what_cannot_be_is_refused_before_any_work(maps, vectors, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "load", lambda path: pytest.fail("work was begun"))

    def refused(match, name="x.onnx", model="a run", **options):
        with pytest.raises((ValueError, OSError), match=match):
            jaxreid.export_model(model, tmp_path / name, **{"format": "onnx"} | options)

    refused("must end in .onnx", "x.pth")
    refused("must end in .pth or .safetensors", format="torch")
    refused("it is a folder", format="savedmodel")
    refused("no folder", "absent/x.onnx")
    refused("unknown format 'onx'; valid: onnx", format="onx")
    refused("is for --format=onnx", "x.tflite", format="tflite", like="boxmot")
    refused("expected at least 16, better 200, .* got 3", int8=True, images=PEOPLE[:3])
    refused("is exported in float32", int8=True, part="matcher", images=PEOPLE)
    refused("holds all weights", "x.pth", format="torch", part="pair")
    refused("compares position by position.*cosine", model=maps, like="boxmot")
    refused("itself; matcher is not for it", model=vectors, like="boxmot", part="matcher")
    refused("unknown part", model=vectors, part="decoder")
    refused("at least 2", model=vectors, images=PEOPLE[:1])
    refused("a model of (resnet18|vit_small).* is not written", "x.pth", model=maps, format="torch")
    refused(
        "a model of (resnet18|vit_small).* is not written", "x.pth", model=vectors, format="torch"
    )
    for card in (MODEL | parts for parts in PARTS.values()):
        with pytest.raises(ValueError, match="a model of (resnet18|vit_small).* is not written"):
            published(filled(card, np.ones), card)
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_not_written(vectors, tmp_path, monkeypatch):
    from jaxreid.export import onnx_file

    original = onnx_file.run_onnx
    monkeypatch.setattr(onnx_file, "run_onnx", lambda *a: original(*a) * 1.001)
    with pytest.raises(ValueError, match="does not compute what JAX does"):
        jaxreid.export_model(vectors, tmp_path / "x.onnx", format="onnx", images=PEOPLE[:4])
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_wrote(vectors, tmp_path, capsys):
    out = tmp_path / "x.onnx"
    assert cli.main(["export", str(vectors.path), "--format=onnx", f"--out={out}", "--json"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["bytes"] == out.stat().st_size
    assert "largest difference from JAX" in said.err
    assert cli.main(["export", str(vectors.path), "--format=onnx", "--out=x.pth"]) == 1
    assert "must end in .onnx" in capsys.readouterr().err


def test_drawn_people_are_those_asked_for():
    assert len(drawn_people(3)) == 3
