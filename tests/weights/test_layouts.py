"""Checkpoints of re-identification toolboxes: recognised by their names, equal to their PyTorch."""

import re
import sys
import warnings

import jax
import numpy as np
import pytest
from golden import REPOSITORY
from selection import deep

from jaxreid import cli, export_model
from jaxreid.models.model import make_model
from jaxreid.reid.loading import load
from jaxreid.weights.onnx_checkpoint import read_onnx
from jaxreid.weights.pytorch import convert, published
from jaxreid.weights.state_dict import unwrapped

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_device")
sys.path.insert(0, str(REPOSITORY / "tools"))

import torch_networks  # noqa: E402
from torch import nn  # noqa: E402

# Of fast-reid's files, which hold them for pixels from 0 to 255.
PIXELS = {"pixel_mean": (102.0, 51.0, 25.5), "pixel_std": (51.0, 51.0, 102.0)}
IMAGES = torch.randn(2, 3, 76, 44, generator=torch.Generator().manual_seed(0))


def base(name, last_stride=2):
    """A ResNet of torchvision's names."""
    net = torch_networks.make(name)
    if last_stride == 1:
        first = net.layer4[0]
        for conv in (first.conv1, first.conv2, first.downsample[0]):
            conv.stride = (1, 1)
    return net


class Torchreid(nn.Module):
    """torchreid's ResNet: `fc` channels of a linear layer, 0 for none."""

    def __init__(self, arch, fc):
        super().__init__()
        net = base(arch, 1 if fc else 2)
        inputs, net.fc = net.fc.in_features, nn.Identity()
        for name, child in net.named_children():
            setattr(self, name, child)
        self.maps = net.maps
        if fc:
            self.fc = nn.Sequential(nn.Linear(inputs, fc), nn.BatchNorm1d(fc), nn.ReLU())
        self.classifier = nn.Linear(fc or inputs, 7)

    def forward(self, x):
        return self.fc(self.maps(x).mean((2, 3)))


class StrongBaseline(nn.Module):
    """The strong baseline of Luo et al., whose stem has no ReLU."""

    def __init__(self, arch):
        super().__init__()
        self.base = base(arch, 1)
        inputs = self.base.fc.in_features
        self.base.relu = self.base.fc = nn.Identity()
        self.bottleneck = nn.BatchNorm1d(inputs)
        self.classifier = nn.Linear(inputs, 7, bias=False)

    def forward(self, x):
        return self.bottleneck(self.base.maps(x).mean((2, 3)))


class NonLocal(nn.Module):
    """Of fast-reid: one channel."""

    def __init__(self, channels):
        super().__init__()
        self.g, self.theta, self.phi = (nn.Conv2d(channels, 1, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv2d(1, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x):
        theta, phi, g = (conv(x).flatten(1) for conv in (self.theta, self.phi, self.g))
        weight = theta[:, :, None] * phi[:, None, :] / phi.shape[1]
        mean = (weight @ g[:, :, None])[..., 0]
        return x + self.W(mean.reshape(len(x), 1, *x.shape[2:]))


class GeM(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.ones(1) * 3)

    def forward(self, x):
        return (x.clamp(min=1e-6) ** self.p).mean((2, 3), keepdim=True) ** (1 / self.p)


class FastReID(nn.Module):
    """fast-reid's BoT, or SBS with GeM and non-local blocks at the end of layers 2 and 3."""

    def __init__(self, arch, sbs):
        super().__init__()
        net = self.backbone = base(arch, 1)
        inputs, net.fc = net.fc.in_features, nn.Identity()
        net.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        for layer, count in {2: 2, 3: 1}.items() if sbs else ():
            blocks = getattr(net, f"layer{layer}")[-count:]
            channels = inputs // 2 ** (4 - layer)
            setattr(net, f"NL_{layer}", nn.ModuleList(NonLocal(channels) for _ in blocks))
            for block, after in zip(blocks, getattr(net, f"NL_{layer}"), strict=True):
                block.register_forward_hook(lambda *a, after=after: after(a[-1]))
        self.heads = nn.Module()
        self.heads.pool_layer = GeM() if sbs else nn.AdaptiveAvgPool2d(1)
        self.heads.bottleneck = nn.Sequential(nn.BatchNorm2d(inputs))
        self.heads.weight = nn.Parameter(torch.ones(7, inputs))
        for name in PIXELS:
            self.register_buffer(name, torch.ones(1, 3, 1, 1))

    def forward(self, x):
        return self.heads.bottleneck(self.heads.pool_layer(self.backbone.maps(x)))[..., 0, 0]


CASES = {
    "torchreid": lambda: Torchreid("resnet18", 0),
    "torchreid fc512": lambda: Torchreid("resnet18", 512),
    "strong baseline": lambda: StrongBaseline("resnet18"),
    "fast-reid BoT": lambda: FastReID("resnet18", sbs=False),
    "fast-reid SBS": lambda: FastReID("resnet18_ibn_a", sbs=True),
    "torchreid resnet50_fc512": lambda: Torchreid("resnet50", 512),
    "fast-reid SBS(R50-ibn)": lambda: FastReID("resnet50_ibn_a", sbs=True),
}
ARCHITECTURES = {
    "fast-reid SBS": "resnet18_ibn_a",
    "torchreid resnet50_fc512": "resnet50",
    "fast-reid SBS(R50-ibn)": "resnet50_ibn_a",
}
# Parts of the card, and the options of the backbone.
CARDS = {
    "torchreid": ((256, 128), "euclidean", {"bn": False, "pool": "average"}, {}),
    "torchreid fc512": ((256, 128), "euclidean", {"channels": 512}, {"last_stride": 1}),
    "strong baseline": (
        (256, 128), "cosine", {"pool": "average"}, {"last_stride": 1, "stem": "linear"}
    ),
    "fast-reid BoT": (
        (256, 128), "cosine", {"pool": "average"}, {"last_stride": 1, "stem": "unpadded"}
    ),
    "fast-reid SBS": (
        (384, 128), "cosine", {"pool": "gem"},
        {"last_stride": 1, "stem": "unpadded", "non_local": [0, 2, 1, 0]},
    ),
}  # fmt: skip
CARDS["torchreid resnet50_fc512"] = CARDS["torchreid fc512"]
CARDS["fast-reid SBS(R50-ibn)"] = CARDS["fast-reid SBS"]


def generated(case):
    """A network with random weights, and its tensors as they come out of a file."""
    net = torch_networks.randomize(CASES[case]()).eval()
    held = net.state_dict()
    for name in held:  # never learned, and not redrawn
        if re.search(r"bottleneck\.(0\.)?bias", name):
            held[name].zero_()
    for name in PIXELS.keys() & held.keys():
        held[name].copy_(torch.tensor(PIXELS[name]).view(1, 3, 1, 1))
    return net, unwrapped({name: value.numpy() for name, value in held.items()})[0]


def features(converted, images):
    """What the converted model makes of normalised images, before the matcher."""
    model = make_model(**converted.card)

    def encode(variables, x):
        return model.apply(variables, x, method=lambda m, x: m.neck(m.backbone(x)))

    return np.asarray(jax.jit(encode)(converted.variables, np.moveaxis(images.numpy(), 1, -1)))


def assert_equal(ours, theirs):
    """Up to rounding in float32, in which the two differ by about 1e-6."""
    theirs = theirs.detach().numpy()
    assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)


@pytest.mark.parametrize(
    "case", deep(*CASES, but=["torchreid fc512", "strong baseline", "fast-reid SBS"])
)
def test_features_equal_pytorchs_and_go_back_under_the_same_names(case):
    net, held = generated(case)
    arch = ARCHITECTURES.get(case, "resnet18")
    converted = convert(held, arch)
    assert converted.report.complete, converted.report
    size, metric, neck, backbone = CARDS[case]
    card = converted.card
    assert (card["height"], card["width"]) == size
    assert card["matcher"] == {"name": "embedding", "metric": metric}
    assert neck.items() <= card["neck"].items()
    assert card["backbone"] == {"name": arch} | backbone
    assert_equal(features(converted, IMAGES), net(IMAGES))
    back = published(converted.variables, converted.card)
    assert back.keys() <= net.state_dict().keys() | {"fc.weight", "fc.bias"}
    back, _ = unwrapped(back)
    assert held.keys() - back.keys() <= set(converted.report.unused)
    for name in back.keys() & held.keys():
        assert name.endswith("num_batches_tracked") or np.array_equal(back[name], held[name]), name


def test_pixels_are_normalised_as_the_file_says():
    _, held = generated("fast-reid BoT")
    card = convert(held, "resnet18").card
    np.testing.assert_allclose(card["mean"], (0.4, 0.2, 0.1), rtol=1e-6)
    np.testing.assert_allclose(card["std"], (0.2, 0.2, 0.4), rtol=1e-6)
    assert card["interpolation"] == "bicubic"


@pytest.mark.parametrize(
    ("case", "name"),
    [("strong baseline", "bottleneck.bias"), ("fast-reid BoT", "heads.bottleneck.0.bias")],
)
def test_a_bias_of_the_bn_neck_that_is_not_0_is_unexpected(case, name):
    _, held = generated(case)
    assert name in convert(held, "resnet18").report.unused
    held[name] = held[name] + 1
    assert convert(held, "resnet18").report.unexpected == [name]


@pytest.mark.parametrize("case", deep("fast-reid BoT", "fast-reid SBS", but=["fast-reid BoT"]))
def test_a_file_makes_a_model_that_embeds_and_is_exported(case, tmp_path):
    net, _ = generated(case)
    path, out = tmp_path / "model_final.pth", tmp_path / "model.safetensors"
    torch.save({"model": net.state_dict(), "iteration": 9}, path)
    arguments = [f"--arch={ARCHITECTURES.get(case, 'resnet18')}", "--input-size=64x32"]
    assert cli.main(["convert", str(path), *arguments, f"--out={out}"]) == 0
    reid = load(out)
    image = np.random.default_rng(0).integers(0, 255, (2, 64, 32, 3), np.uint8)
    pixels = torch.from_numpy(np.moveaxis(image, -1, 1).astype(np.float32))
    assert_equal(reid.embed(list(image)), net((pixels - net.pixel_mean) / net.pixel_std))
    if case == "fast-reid SBS":
        pytest.importorskip("onnxruntime")
        # Compared with JAX as it is written.
        export_model(reid, tmp_path / "model.onnx", format="onnx", images=list(image))


class Whole(nn.Module):
    """A ResNet of ImageNet without its classifier, with `pool` and perhaps a linear layer."""

    def __init__(self, arch, pool=lambda maps: maps.mean((2, 3)), outputs=0):
        super().__init__()
        self.base = base(arch)
        inputs, self.base.fc = self.base.fc.in_features, nn.Identity()
        self.pool = pool
        self.last = nn.Linear(inputs, outputs) if outputs else nn.Identity()

    def forward(self, x):
        return self.last(self.pool(self.base.maps(x)))


ONNX_CASES = CASES | {
    "ImageNet, IBN-b": lambda: Whole("resnet18_ibn_b"),
    "a classifier": lambda: Whole("resnet18", outputs=7),
    "other epsilons": lambda: Whole("resnet18_ibn_a"),
}
ONNX_ARCHITECTURES = ARCHITECTURES | {
    "ImageNet, IBN-b": "resnet18_ibn_b",
    "other epsilons": "resnet18_ibn_a",
}


def onnx_of(net, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own way to write them is another one
        torch.onnx.export(net, IMAGES[:1, :, :64, :32], path, dynamo=False)
    return path


def drawn(case):
    """A network with random weights."""
    net = torch_networks.randomize(ONNX_CASES[case]()).eval()
    if case == "other epsilons":
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.1
    return net


@pytest.mark.parametrize(
    "case",
    deep(*ONNX_CASES, but=["torchreid fc512", "fast-reid SBS", "ImageNet, IBN-b", "a classifier"]),
)
def test_an_onnx_file_has_the_features_of_its_pytorch(case, tmp_path):
    pytest.importorskip("onnx")
    net = generated(case)[0] if case in CASES else drawn(case)
    arch = ONNX_ARCHITECTURES.get(case, "resnet18")
    tensors, messages, size = read_onnx(onnx_of(net, tmp_path / "a.onnx"), arch)
    assert "equal in inference" in messages[0]
    classifier = ["the last layer [7, 512] is taken for a classifier and left out"]
    assert messages[1:] == (classifier if case == "a classifier" else [])
    assert size == (64, 32)
    converted = convert(tensors, arch)
    assert converted.report.complete, converted.report
    if case in CASES and case != "torchreid":  # whose names are those of ImageNet's
        ours = convert(generated(case)[1], arch).card
        for part in ("backbone", "neck", "matcher"):
            assert converted.card[part] == ours[part]
    net.last = nn.Identity()
    assert_equal(features(converted, IMAGES), net(IMAGES))


def strides_elsewhere(net):
    block = net.base.layer3[0]
    block.conv1.stride, block.conv2.stride = (1, 1), (2, 2)
    return net


def largest(maps):
    return maps.amax((2, 3))


@pytest.mark.parametrize(
    ("make", "arch", "lost", "message"),
    [
        (
            lambda: generated("strong baseline")[0],
            "resnet18",
            "bottleneck.",
            "stem linear instead of padded",
        ),
        (
            lambda: generated("fast-reid SBS")[0],
            "resnet18_ibn_a",
            "p$",
            "graph has pool gem instead of average",
        ),
        (
            lambda: generated("fast-reid SBS")[0],
            "resnet18_ibn_a",
            "IN",
            "6 instance norms that are not those of",
        ),
        (
            lambda: Whole("resnet18", largest).eval(),
            "resnet18",
            "",
            "has pool largest instead of average",
        ),
        (
            lambda: strides_elsewhere(Whole("resnet18").eval()),
            "resnet18",
            "",
            "graph has stride 1 in layer3.0.conv1, stride 2 in layer3.0.conv2",
        ),
    ],
)
def test_an_onnx_file_that_does_not_say_what_it_is_is_refused(make, arch, lost, message, tmp_path):
    onnx = pytest.importorskip("onnx")
    path = onnx_of(make(), tmp_path / "a.onnx")
    model = onnx.load(path)
    new = {one.name: f"x{i}" for i, one in enumerate(model.graph.initializer) if lost}
    new = {name: x for name, x in new.items() if re.search(lost, name)}
    for one in model.graph.initializer:
        one.name = new.get(one.name, one.name)
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
    onnx.save(model, path)
    with pytest.raises(ValueError, match=message):
        read_onnx(path, arch)
