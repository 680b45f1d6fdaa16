"""The converter, on files that PyTorch has written: the same network comes out."""

import os
import pickle
import sys
import zipfile

import jax
import numpy as np
import pytest
from golden import REPOSITORY

from jaxreid import cli
from jaxreid.models.model import make_model
from jaxreid.weights.file import read_card
from jaxreid.weights.loading import load_weights
from jaxreid.weights.torch_checkpoint import read_checkpoint

torch = pytest.importorskip("torch")
sys.path.insert(0, str(REPOSITORY / "tools"))

import torch_networks  # noqa: E402


def network(name, **options):
    return torch_networks.randomize(torch_networks.make(name, **options)).eval()


def tool(*arguments):
    """Exit status of the tool."""
    return cli.main(["convert", *map(str, arguments)])


def features(path, images):
    """Of a converted file, in the order of PyTorch's axes."""
    card = read_card(path)
    variables, messages = load_weights(path, card, skip=("matcher",))
    model = make_model(**card)

    def encode(variables, x):
        return model.apply(variables, x, method=lambda m, x: m.neck(m.backbone(x)))

    x = np.moveaxis(images.numpy(), 1, -1)
    return np.moveaxis(np.asarray(jax.jit(encode)(variables, x)), -1, 1)


def compare(path, expected, images):
    ours = features(path, images)
    theirs = expected.detach().numpy()
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 1e-4


IMAGES = torch.randn(2, 3, 75, 43, generator=torch.Generator().manual_seed(0))


def test_qaconv_checkpoint_of_data_parallel_training(tmp_path):
    net = network("resnet18_ibn_b", cut="layer2", neck=16)
    held = {"module." + name: value for name, value in net.state_dict().items()}
    path, out = tmp_path / "checkpoint.pth.tar", tmp_path / "qaconv.safetensors"
    torch.save({"model": held, "epoch": 7, "optim": {"state": {}, "param_groups": []}}, path)
    assert tool(path, "--arch=resnet18_ibn_b", f"--out={out}", "--skip=criterion") == 0
    compare(out, net(IMAGES), IMAGES)


@pytest.mark.full
def test_osnet_training_checkpoint_with_numpy_numbers(tmp_path):
    net = network("osnet_ain_x0_25", classes=5)
    path, out = tmp_path / "model.pth.tar-60", tmp_path / "osnet.safetensors"
    held = {"state_dict": net.state_dict(), "epoch": 60, "rank1": np.float32(0.5)}
    torch.save(held | {"optimizer": {"state": {}}}, path)
    assert tool(path, "--arch=osnet_ain_x0_25", f"--out={out}", "--source=a test") == 0
    compare(out, net(IMAGES), IMAGES)
    assert read_card(out)["classes"] == 5
    # Without its classifier it is whole for evaluation, and its neck is not QAConv's.
    assert tool(path, "--arch=osnet_ain_x0_25", f"--out={out}", "--skip=classifier") == 0
    load_weights(out, read_card(out), whole=True)
    qaconv = {"neck": {"name": "map", "channels": 8}, "matcher": {"name": "qaconv"}, "classes": 0}
    variables, messages = load_weights(out, read_card(out) | qaconv)
    assert set(variables["params"]) == {"backbone"}
    assert any(
        "neck not loaded, because it is of another kind (linear)" in line for line in messages
    )


def test_imagenet_weights_and_safetensors_without_torch(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    net = network("resnet18_ibn_a", classes=10)
    path, out = tmp_path / "resnet18_ibn_a.safetensors", tmp_path / "out.safetensors"
    save_file(net.state_dict(), path)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    assert tool(path, "--arch=resnet18_ibn_a", f"--out={out}") == 0
    pooled = net.maps(IMAGES).mean((2, 3))
    compare(out, pooled, IMAGES)


def test_pytorch_files_without_pytorch_say_what_to_install(tmp_path, monkeypatch, capsys):
    path = tmp_path / "weights.pth"
    torch.save({"x": torch.zeros(2)}, path)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert tool(path, "--arch=resnet18", f"--out={tmp_path / 'out.safetensors'}") == 1
    assert "pip install 'jaxreid[torch]'" in capsys.readouterr().err


class Code:
    """What a hostile file holds."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("kind", ["torch", "pickle2", "pickle4"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, capsys, kind):
    path, witness = tmp_path / "hostile.pth", tmp_path / "witness"
    if kind == "torch":
        torch.save({"state_dict": {"conv1.weight": Code(witness)}}, path)
    else:
        path.write_bytes(pickle.dumps(Code(witness), protocol=int(kind[-1])))
    assert tool(path, "--arch=resnet18", f"--out={tmp_path / 'out.safetensors'}") == 1
    said = capsys.readouterr().err
    assert "could run code" in said
    assert "refused" in said
    assert not witness.exists()
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("new", [True, False])
def test_damaged_files_are_refused(tmp_path, capsys, new):
    path = tmp_path / "weights.pth"
    held = {"conv1.weight": torch.zeros(64, 3, 7, 7), "bn1.weight": torch.zeros(64)}
    torch.save(held, path, _use_new_zipfile_serialization=new)
    whole = path.read_bytes()
    cuts = [0, 1, *range(10, 700, 23), len(whole) // 2, len(whole) - 1]
    for content in (b"hello", *(whole[:length] for length in cuts)):
        path.write_bytes(content)
        assert tool(path, "--arch=resnet18", f"--out={tmp_path / 'out.safetensors'}") == 1
        said = capsys.readouterr().err
        assert "incomplete" in said or "damaged" in said or "is text" in said, len(content)


def test_a_pytorch_that_is_not_safe_is_not_used(tmp_path, capsys, monkeypatch):
    path = tmp_path / "weights.pth"
    torch.save({"x": torch.zeros(2)}, path)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    assert tool(path, "--arch=resnet18", f"--out={tmp_path / 'out.safetensors'}") == 1
    assert "can make PyTorch 2.9.1+cpu run code" in capsys.readouterr().err


def test_numpy_numbers_of_an_older_numpy_are_read(tmp_path):
    path = tmp_path / "model.pth.tar"
    torch.save({"state_dict": {"x": torch.ones(2)}, "rank1": np.float32(0.5)}, path)
    older = tmp_path / "older.pth.tar"
    with zipfile.ZipFile(path) as new, zipfile.ZipFile(older, "w") as old:
        for name in new.namelist():
            data = new.read(name)
            if name.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in data
                data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            old.writestr(name, data)
    np.testing.assert_array_equal(read_checkpoint(older)[0]["x"], [1, 1])


def test_wrong_architecture_and_size_are_refused_with_advice(tmp_path, capsys):
    path, out = tmp_path / "weights.pth", tmp_path / "out.safetensors"
    net = network("resnet18", cut="layer2", neck=8)
    matcher = {
        "fc.weight": torch.ones(1, 768),
        "fc.bias": torch.ones(1),
        **{
            f"{bn}.{leaf}": torch.ones(1)
            for bn in ("bn", "logit_bn")
            for leaf in ("weight", "bias", "running_mean", "running_var")
        },
    }
    criterion = {f"matcher.{name}": value for name, value in matcher.items()}
    torch.save({"model": net.state_dict(), "criterion": criterion}, path)
    assert tool(path, "--arch=resnet34", f"--out={out}") == 1
    said = capsys.readouterr()
    assert "It fits --arch=resnet18." in said.err
    assert "missing: " in said.out
    assert tool(path, "--arch=resnet18", f"--out={out}", "--input-size=256x128") == 1
    said = capsys.readouterr()
    assert "criterion.fc.weight is (1, 768), expected (1, 512)" in said.out
    assert "It fits at 384x128." in said.err
    assert tool(path, "--arch=resnet19", f"--out={out}") == 1
    assert "valid: resnet18" in capsys.readouterr().err
    criterion["matcher.fc.weight"] = torch.ones(1, 512)
    small = tmp_path / "small.pth"
    torch.save({"model": net.state_dict(), "criterion": criterion}, small)
    assert tool(small, "--arch=resnet18", f"--out={out}") == 1
    assert (
        "Its matcher has 512 weights, but images of this size need 768" in capsys.readouterr().err
    )
    assert tool(path, "--arch=resnet18", f"--out={out}", "--cut=layer3") == 1
    assert "the neck in the file is after layer2" in capsys.readouterr().err
    assert not out.exists()
    assert tool(path, "--arch=resnet18", f"--out={out}") == 0
    assert read_card(out)["matcher"] == {"name": "qaconv", "head": "v2.1"}


def test_files_without_weights_are_refused(tmp_path, capsys):
    path, out = tmp_path / "weights.pth", tmp_path / "out.safetensors"
    for held, message in (({"epoch": 3}, "no weights, only epoch"), ([1, 2], "holds a list")):
        torch.save(held, path)
        assert tool(path, "--arch=resnet18", f"--out={out}") == 1
        assert message in capsys.readouterr().err
    assert tool(tmp_path / "nothing.pth", "--arch=resnet18", f"--out={out}") == 1
    assert "no file" in capsys.readouterr().err
    assert tool(path, "--arch=resnet18", f"--out={tmp_path / 'out.npz'}") == 1
    assert "must end in .safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (lambda net: {"state_dict": net, "epoch": 3}, ["'state_dict'"]),
        (lambda net: {"ema": {"x": net}, "model": net, "optimizer": {"state": {0: net}}},
         ["'model'", "not used: ema.x"]),
        (lambda net: {"checkpoint": {"net": {"model": net}}}, ["'checkpoint.net.model'"]),
        (lambda net: {"ema_state": net, "optimizer": {"x": {"y": torch.ones(1)}}}, ["'ema_state'"]),
        (lambda net: {"generator": {f"_orig_mod.net.{k}": x for k, x in net.items()}},
         ["'generator'", "'_orig_mod.'", "'net.'"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_sections_of_training_checkpoints_are_found_and_said(tmp_path, held, said, suffix):
    path = tmp_path / f"checkpoint.{suffix}"  # a suffix is not believed
    net = {"layer1.0.conv1.weight": torch.ones(2, 3), "fc.bias": torch.zeros(1).half()}
    torch.save(held(net), path)
    tensors, messages = read_checkpoint(path)
    assert {name: x.shape for name, x in tensors.items()} == {
        "layer1.0.conv1.weight": (2, 3),
        "fc.bias": (1,),
    }
    assert len(messages) == len(said)
    assert all(word in message for word, message in zip(said, messages, strict=True))


@pytest.mark.full
def test_parts_of_another_toolbox_are_refused_with_the_options_that_leave_them_out(
    tmp_path, capsys
):
    path, out = tmp_path / "model.pth", tmp_path / "out.safetensors"
    net = {f"backbone.{name}": x for name, x in network("resnet18").state_dict().items()}
    more = {"heads.weight": torch.zeros(5, 512), "pixel_mean": torch.zeros(1, 3, 1, 1)}
    torch.save({"model": net | more}, path)
    assert tool(path, "--arch=resnet34", f"--out={out}") == 1
    said = capsys.readouterr().err
    assert "names begin with 'backbone.'" in said
    assert "It fits --arch=resnet18 --skip=heads --skip=pixel_mean." in said
    skip = ["--skip=heads", "--skip=pixel_mean"]
    assert tool(path, "--arch=resnet18", f"--out={out}", *skip) == 0
    assert "names begin with 'backbone.'" in capsys.readouterr().out
    assert tool(out, "--arch=resnet18", f"--out={tmp_path / 'again.safetensors'}") == 1
    assert f"init_from={out}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "value",
    [
        lambda: torch.zeros(2, device="meta"),
        lambda: torch.zeros(2, dtype=torch.complex64),
    ],
)
def test_tensors_that_are_not_numbers_are_named(tmp_path, value):
    path = tmp_path / "weights.pth"
    torch.save({"x": value()}, path)
    with pytest.raises(ValueError, match="x cannot be read as float32 numbers .*--skip=x"):
        read_checkpoint(path)


def test_a_tensor_that_is_larger_than_its_file_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"x": torch.zeros(1).expand(10**6, 10**6)}, path)
    with pytest.raises(ValueError, match="claims 1,000,000,000,000 numbers"):
        read_checkpoint(path)
