"""Checkpoints of re-identification toolboxes: recognised by their names, equal to their PyTorch."""

import sys

import jax
import numpy as np
import pytest
from golden import REPOSITORY
from selection import deep

from jaxreid.models.model import make_model
from jaxreid.weights.pytorch import convert, published

torch = pytest.importorskip("torch")
sys.path.insert(0, str(REPOSITORY / "tools"))

import torch_networks  # noqa: E402
from torch import nn  # noqa: E402

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


CASES = {
    "torchreid": lambda: Torchreid("resnet18", 0),
    "torchreid fc512": lambda: Torchreid("resnet18", 512),
    "torchreid resnet50_fc512": lambda: Torchreid("resnet50", 512),
}
ARCHITECTURES = {"torchreid resnet50_fc512": "resnet50"}
# Parts of the card, and the options of the backbone.
CARDS = {
    "torchreid": ((256, 128), "euclidean", {"bn": False, "pool": "average"}, {}),
    "torchreid fc512": ((256, 128), "euclidean", {"channels": 512}, {"last_stride": 1}),
}


def tensors_of(net):
    return {name: value.numpy() for name, value in net.state_dict().items()}


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


@pytest.mark.parametrize("case", deep(*CASES, but=["torchreid fc512"]))
def test_features_equal_pytorchs_and_go_back_under_the_same_names(case):
    net = torch_networks.randomize(CASES[case]()).eval()
    held, arch = tensors_of(net), ARCHITECTURES.get(case, "resnet18")
    converted = convert(held, arch)
    assert converted.report.complete, converted.report
    size, metric, neck, backbone = CARDS.get(case, CARDS["torchreid fc512"])
    card = converted.card
    assert (card["height"], card["width"]) == size
    assert card["matcher"] == {"name": "embedding", "metric": metric}
    assert neck.items() <= card["neck"].items()
    assert card["backbone"] == {"name": arch} | backbone
    assert_equal(features(converted, IMAGES), net(IMAGES))
    back = published(converted.variables, converted.card)
    left = [name for name in held if name not in back]
    assert set(left) <= set(converted.report.unused)
    for name in back.keys() & held.keys():
        assert name.endswith("num_batches_tracked") or np.array_equal(back[name], held[name]), name
