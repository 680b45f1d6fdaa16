"""OSNet from ONNX files: folded weights come back equal in inference; hostile files are refused."""

import numpy as np
import pytest
from people import save_model
from variables import filled

from jaxreid import cli
from jaxreid.export.programs import make_program
from jaxreid.reid.loaded import ReID
from jaxreid.reid.loading import load
from jaxreid.weights.conversion import convert_file
from jaxreid.weights.layouts.layout import IMAGENET
from jaxreid.weights.layouts.osnet import OSNET
from jaxreid.weights.onnx_checkpoint import read_onnx
from jaxreid.weights.onnx_osnet import places_of
from jaxreid.weights.pytorch import published, published_network

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.usefixtures("one_device")
CARD = {
    "backbone": {"name": "osnet_x0_25"},
    "neck": {"name": "linear"},
    "matcher": {"name": "embedding", "metric": "euclidean"},
    "height": 64,
    "width": 32,
    **IMAGENET,
}


@pytest.mark.full
@pytest.mark.parametrize("arch", ["osnet_x0_25", "osnet_ain_x0_25"])
def test_folded_weights_are_equal_in_inference(arch, tmp_path):
    from jaxreid.export.onnx_file import write_onnx

    card = CARD | {"backbone": {"name": arch}}
    generator = np.random.default_rng(0)
    held = filled(card, lambda shape: generator.uniform(0.2, 1, shape))
    path = tmp_path / "osnet.onnx"
    path.write_bytes(write_onnx(make_program(ReID(card, held), like="boxmot"), {}))
    original = published(held, card)
    found, (message,), size = read_onnx(path, arch)
    assert "equal in inference" in message
    assert size == (64, 32)
    assert not {n for n in original if "num_batches" not in n} - set(found)

    def affine(tensors, norm):
        gain = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + 1e-5)
        return gain, tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * gain

    for name in original:
        if not name.endswith("weight") or original[name].ndim < 2:
            continue
        layer = name.removesuffix(".weight")
        norm = layer.replace("fc.0", "fc.1").replace("conv2.conv2", "conv2.bn")
        norm = norm[: norm.rindex(".conv")] + ".bn" if ".conv" in norm else norm
        # The pointwise half of a lite convolution has no norm.
        normed = f"{norm}.running_var" in original and not layer.endswith("conv1")
        weights = []
        for tensors in (original, found):
            gain = affine(tensors, norm)[0] if normed else np.ones(1)
            weight = tensors[name]
            weights.append(weight * gain.reshape(-1, *[1] * (weight.ndim - 1)))
        np.testing.assert_allclose(weights[1], weights[0], rtol=1e-5, err_msg=name)
    # The file is a model.
    out = convert_file(path, tmp_path / "osnet.safetensors", arch).path
    assert load(out).model.height == 64


def test_layers_are_known_by_their_order_whether_or_not_a_gate_follows_every_stream(tmp_path):
    shapes = OSNET.shapes(published_network("osnet_x0_25"), "osnet_x0_25")
    generator = np.random.default_rng(0)
    for gates_last in (False, True):
        nodes, tensors = [], {}
        for i, place in enumerate(places_of("osnet_x0_25", gates_last)):
            shape = shapes[f"{place.name}.weight"]
            # A block's gate is used four times.
            weight = "w " + place.name
            tensors.setdefault(weight, generator.normal(size=shape).astype(np.float32))
            inputs = [f"x{i}", weight]
            if place.norm or f"{place.name}.bias" in shapes:
                bias = "b " + place.name
                tensors.setdefault(bias, generator.normal(size=shape[:1]).astype(np.float32))
                inputs.append(bias)
            kind = {4: {}, 2: {"transB": 1}}[len(shape)]
            name = "Gemm" if kind else "Conv"
            nodes.append(onnx.helper.make_node(name, inputs, [f"x{i + 1}"], **kind))
        path = tmp_path / "osnet.onnx"
        small(path, *nodes, **tensors)
        found, _, size = read_onnx(path, "osnet_x0_25")
        assert found.keys() == shapes.keys()
        assert size == (64, 32)
        for name, weight in tensors.items():
            if name.startswith("w "):
                np.testing.assert_array_equal(found[f"{name[2:]}.weight"], weight)
        bias, variance = found["conv2.1.conv3.bn.bias"], found["conv5.bn.running_var"]
        np.testing.assert_array_equal(bias, tensors["b conv2.1.conv3.conv"])
        assert np.all(np.sqrt(variance + np.float32(1e-5)) == 1)


def small(path, *nodes, **tensors):
    """Writes a graph of some nodes."""
    held = [onnx.numpy_helper.from_array(x, name) for name, x in tensors.items()]
    image = onnx.helper.make_tensor_value_info("x", 1, [1, 3, 64, 32])
    graph = onnx.helper.make_graph(list(nodes), "g", [image], [], held)
    model = onnx.helper.make_model(graph, producer_name="a test")
    path.write_bytes(model.SerializeToString())
    return model


def test_files_that_are_hostile_damaged_or_another_network_are_refused(tmp_path, capsys):
    path, out = tmp_path / "x.onnx", tmp_path / "x.safetensors"

    def refused(match, arch="osnet_x0_25"):
        assert cli.main(["convert", str(path), f"--arch={arch}", f"--out={out}"]) == 1
        assert match in capsys.readouterr().err
        assert not out.exists()

    weight = np.ones((4, 3, 1, 1), np.float32)
    conv = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    model = small(path, conv, w=weight)
    refused("has 1 layers and 0 instance norms that are not those of osnet_x0_25")
    refused("has 1 layers and 0 instance norms that are not those of resnet18", arch="resnet18")
    refused("only OSNet and ResNets are read; vit_small_patch16 is not", arch="vit_small_patch16")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    path.write_bytes(model.SerializeToString())
    refused("keeps w in another file ('../../etc/passwd'), which is not followed")
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.DEFAULT
    tensor.dims[:] = [2**40, 2**20]
    path.write_bytes(model.SerializeToString())
    refused("numbers; expected at most 8 per byte")
    tensor.dims[:] = [4, 3]
    path.write_bytes(model.SerializeToString())
    refused("damaged tensor")
    small(path, onnx.helper.make_node("QuantizeLinear", ["w", "w"], ["q"]), w=weight)
    refused("weights of 8 bits")
    path.write_bytes(path.read_bytes()[:-7])
    refused("damaged or incomplete ONNX file")


def test_a_file_of_this_package_is_not_an_onnx_file(tmp_path):
    path = save_model(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="is a weights file of jaxreid already"):
        convert_file(path, tmp_path / "b.safetensors", "osnet_x0_25")
