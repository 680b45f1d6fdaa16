"""Checkpoints of TransMatcher and QAConv-MS: features and scores equal their PyTorch."""

import sys

import jax
import numpy as np
import pytest
from golden import REPOSITORY
from selection import deep

from jaxreid.models.model import make_model
from jaxreid.weights.conversion import advice
from jaxreid.weights.pytorch import convert, published
from jaxreid.weights.state_dict import network_of, unwrapped

torch = pytest.importorskip("torch")
sys.path.insert(0, str(REPOSITORY / "tools"))

import torch_networks  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

# Channels of the parts, positions of a map, hidden units of encoder and matcher.
D, N, HIDDEN = 6, 8, 5
SIZE = 64, 32
IMAGES = torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))


class Features(nn.Module):
    """TransMatcher's features, or with `scales` those of QAConv-MS: parts along the channels."""

    def __init__(self, scales, layers):
        super().__init__()
        self.base = torch_networks.make("resnet18")
        self.neck_conv = nn.Conv2d(256, D, 3, padding=1)
        if scales is not None:
            self.scaleLayers = nn.ModuleList(nn.Conv2d(D, 4, k, padding=k // 2) for k in scales)
        options = {"dim_feedforward": HIDDEN, "dropout": 0.0, "batch_first": True}
        if layers:
            self.encoder = nn.Module()
            self.encoder.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(D, 1, **options) for _ in range(layers)
            )

    def forward(self, x):
        x = self.neck_conv(self.base.maps(x, "layer3"))
        tokens = [x.flatten(2).transpose(1, 2)]
        for layer in self.encoder.layers if hasattr(self, "encoder") else ():
            tokens.append(layer(tokens[-1]))
        if not hasattr(self, "scaleLayers"):
            return tokens
        unit = functional.normalize(x)
        of_scales = [
            functional.normalize(conv(unit).flatten(2), dim=2) for conv in self.scaleLayers
        ]
        maps = [unit.flatten(2), *of_scales]
        return [x.transpose(1, 2) for x in maps] + tokens[1:][-1:]


class Layer(nn.Module):
    """Matcher of one part; without `gated`, that of QAConv-MS, which keeps what it never uses."""

    def __init__(self, gated):
        super().__init__()
        self.score_embed = nn.Parameter(torch.ones(1, 1, N, N))
        self.fc1, self.gated = nn.Linear(D, D), gated
        if not gated:
            self.fc = nn.Linear(N, 1)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm1d(n) for n in (1, HIDDEN, 1))
        self.fc2, self.fc3 = nn.Linear(N, HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(self, query, gallery):
        if self.gated:
            query, gallery = self.fc1(query), self.fc1(gallery)
        score = torch.einsum("qtd,gsd->qgst", query, gallery)
        if self.gated:
            score = score * self.score_embed.sigmoid()
        matches = torch.stack([score.amax(2), score.amax(3)], 2)
        x = self.bn1(matches.reshape(-1, 1, N))[:, 0]
        x = self.fc3(self.bn2(self.fc2(x)).relu())
        return self.bn3(x.reshape(-1, 2).sum(1, keepdim=True)).reshape(score.shape[:2])


class Matcher(nn.Module):
    def __init__(self, parts, gated):
        super().__init__()
        self.decoder_layer = Layer(gated)
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList(Layer(gated) for _ in range(parts))
        self.decoder.norm = nn.BatchNorm1d(1)
        self.always = gated

    def forward(self, query, gallery):
        pairs = zip(self.decoder.layers, query, gallery, strict=True)
        score = sum(layer(q, g) for layer, q, g in pairs)
        if len(self.decoder.layers) == 1 and not self.always:
            return score
        return self.decoder.norm(score.reshape(-1, 1)).reshape(score.shape)


# Scales of QAConv-MS or None, encoder layers, parts of the features.
CASES = {
    "transmatcher": (None, 2, 3),
    "transmatcher of one layer": (None, 0, 1),
    "qaconv_ms": ((1, 3), 1, 4),
    "qaconv_ms of pixels": ((), 0, 1),
    "qaconv_ms with fused features": ((1,), 1, 2),
}


def generated(case):
    """Features and matcher with random weights, and their tensors as they come out of a file."""
    scales, layers, parts = CASES[case]
    nets = Features(scales, layers), Matcher(parts, scales is None)
    for seed, net in enumerate(nets):
        torch_networks.randomize(net, seed).eval()
    matcher = {f"module.matcher.{name}": x for name, x in nets[1].state_dict().items()}
    content = {"model": nets[0].state_dict(), "criterion": matcher, "epoch": 15}
    held = unwrapped(network_of(content)[0])[0]
    return *nets, {name: x.numpy() for name, x in held.items()}


@pytest.mark.parametrize(
    "case",
    deep(*(case for case in CASES if "fused" not in case), but=["transmatcher", "qaconv_ms"]),
)
def test_features_and_scores_equal_pytorchs(case):
    features, matcher, held = generated(case)
    converted = convert(held, "resnet18", input_size=SIZE)
    assert converted.report.complete, converted.report
    model = make_model(**converted.card)

    def both(variables, x):
        def run(m, x):
            feature = m.neck(m.backbone(x))
            return feature, m.match(feature[:2], feature)

        return model.apply(variables, x, method=run)

    found = jax.jit(both)(converted.variables, np.moveaxis(IMAGES.numpy(), 1, -1))
    parts = features(IMAGES)
    expected = torch.cat(parts, 2), matcher([x[:2] for x in parts], parts)
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = np.reshape(ours, theirs.shape), theirs.detach().numpy()
        # Rounding in float32; scores are normalised sums that cancel.
        assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)
    with pytest.raises(
        ValueError, match="a model of resnet18 .* is not written under official names"
    ):
        published(converted.variables, converted.card)


def test_a_part_less_than_the_encoder_would_make_is_a_fused_one():
    *_, held = generated("qaconv_ms with fused features")
    card = convert(held, "resnet18", input_size=SIZE).card
    assert card["neck"]["fusion"] == "feature"
    assert list(make_model(**card).neck.features.parts) == ["pixel", "1x1"]


def test_a_matcher_of_maps_of_another_size_asks_for_the_size_of_its_images():
    *_, held = generated("transmatcher")
    options = {"cut": None, "input_size": None}
    report = convert(held, "resnet18", **options).report
    said = advice(held, "resnet18", report, skip=(), **options)
    assert "Its matcher has 8 weights, but images of this size need 192" in said
