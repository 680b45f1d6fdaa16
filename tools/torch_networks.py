"""Backbones in plain PyTorch: the benchmark's baseline and a source of test checkpoints.

Module names, and thus weight names, are those of the published checkpoints: torchvision (ResNet),
IBN-Net, QAConv (`ResMap`) and torchreid (OSNet). Written from the papers and these names. The
package itself never imports this file.

Images are [B, 3, H, W] float, maps [B, c, h, w].
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from jaxreid.names import check_name

DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
IBN_DEPTHS = (18, 34, 50, 101)
CUTS = ("layer2", "layer3", "layer4")
WIDTHS = {"x1_0": 1.0, "x0_75": 0.75, "x0_5": 0.5, "x0_25": 0.25}
NAMES = (
    *(f"resnet{depth}" for depth in DEPTHS),
    *(f"resnet{depth}_ibn_{ibn}" for depth in IBN_DEPTHS for ibn in "ab"),
    *(f"osnet_{width}" for width in WIDTHS),
    "osnet_ibn_x1_0",
    *(f"osnet_ain_{width}" for width in WIDTHS),
)


def make(
    name: str,
    *,
    classes: int = 1000,
    cut: str | None = None,
    neck: int = 128,
    neck_norm: str = "none",
    width: int = 64,
) -> nn.Module:
    """Make a network with PyTorch's random initial weights.

    Args:
        name: one of `NAMES`.
        classes: outputs of the classifier that every published checkpoint contains.
        cut: ResNet only: one of `CUTS` for QAConv's feature maps; None for the full classifier.
        neck: channels of the convolution after the cut; 0 omits it.
        neck_norm: "none" (with bias: QAConv 2.1) or "batch" (QAConv 1.0 to 2.0).
        width: ResNet only: channels of the first layer.

    Returns:
        A `ResNet` (images to logits), a `ResMap` (to maps) or an `OSNet` (to embeddings).

    Raises:
        ValueError: a name is unknown, or `cut` is given for an OSNet.
    """
    check_name(name, NAMES, "network")
    kind, _, variant = name.partition("_")
    if kind == "osnet":
        if cut is not None:
            raise ValueError(f"{name} with cut={cut!r}: only a ResNet can be cut; omit cut.")
        kind, _, factor = variant.rpartition("x")
        return OSNet(kind.rstrip("_"), WIDTHS["x" + factor], classes)
    depth, ibn = int(kind.removeprefix("resnet")), variant.removeprefix("ibn_")
    base = ResNet(depth, ibn, classes, width)
    return base if cut is None else ResMap(base, cut, neck, neck_norm)


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Redraw all weights and running statistics, so that each of them affects the output.

    Activations then stay moderate in evaluation mode; with initial statistics they would not.
    Modifies and returns the model.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        leaf = name.rpartition(".")[2]
        if value.ndim > 1:
            value.normal_(0, math.sqrt(2 / value[0].numel()), generator=generator)
        elif leaf == "weight":
            value.uniform_(0.4, 1.1, generator=generator)
        elif leaf == "running_var":
            value.uniform_(0.5, 1.5, generator=generator)
        elif leaf in ("bias", "running_mean"):
            value.normal_(0, 0.1, generator=generator)
    return model


class ResNet(nn.Module):
    """ResNet (He et al., CVPR 2016), IBN-Net-a and -b (Pan et al., ECCV 2018).

    Args:
        depth: 18, 34, 50, 101 or 152.
        ibn: "", "a" (in every block of layers 1 to 3) or "b" (in the stem, and at the end of
            layers 1 and 2).
        classes: outputs of the classifier.
        width: channels of the first layer.
    """

    def __init__(self, depth: int, ibn: str, classes: int, width: int = 64):
        super().__init__()
        self.conv1 = _conv(3, width, 7, 2)
        self.bn1 = _instance_norm(width) if ibn == "b" else nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inputs, expansion = width, 1 if depth < 50 else 4
        for layer, count in enumerate(DEPTHS[depth], start=1):
            blocks, channels = [], width * 2 ** (layer - 1)
            for i in range(count):
                normed = (ibn == "a" and layer < 4) or (ibn == "b" and layer < 3 and i == count - 1)
                stride = 2 if layer > 1 and i == 0 else 1
                blocks.append(_Block(inputs, channels, expansion, stride, ibn if normed else ""))
                inputs = channels * expansion
            setattr(self, f"layer{layer}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def maps(self, x: Tensor, cut: str = "layer4") -> Tensor:
        """Compute the feature map after a layer."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for layer in range(1, int(cut[-1]) + 1):
            x = getattr(self, f"layer{layer}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits [B, classes]."""
        return self.fc(self.maps(x).mean((2, 3)))


class ResMap(nn.Module):
    """QAConv's model (Liao and Shao, ECCV 2020): a ResNet up to a cut, a neck, L2 normalisation.

    Args:
        base: full ResNet; layers after the cut keep their weights, as in the published checkpoints,
            but are unused.
        cut: one of `CUTS`.
        neck: channels of a 3x3 convolution; 0 omits it.
        neck_norm: "none" (convolution with bias) or "batch" (no bias, batch norm).

    Raises:
        ValueError: `cut` or `neck_norm` is unknown.
    """

    def __init__(self, base: ResNet, cut: str, neck: int, neck_norm: str):
        super().__init__()
        self.base, self.cut = base, check_name(cut, CUTS, "cut")
        batch = check_name(neck_norm, ("none", "batch"), "neck_norm") == "batch"
        channels = base.fc.in_features // 2 ** (4 - int(cut[-1]))
        self.neck_conv = _conv(channels, neck, 3, bias=not batch) if neck else nn.Identity()
        self.neck_bn = nn.BatchNorm2d(neck) if neck and batch else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Compute maps of unit length along the channels."""
        return functional.normalize(self.neck_bn(self.neck_conv(self.base.maps(x, self.cut))))


class OSNet(nn.Module):
    """OSNet (Zhou et al., ICCV 2019), OSNet-IBN and OSNet-AIN (TPAMI 2021).

    Args:
        kind: "", "ibn" or "ain".
        width: factor on the channels.
        classes: outputs of the classifier.
    """

    def __init__(self, kind: str, width: float, classes: int):
        super().__init__()
        stem, *stages = (int(width * channels) for channels in (64, 256, 384, 512))
        # Position of the instance norm in each of the six blocks.
        places = {
            "": ("none",) * 6,
            "ibn": ("sum", "sum", "none", "none", "none", "none"),
            "ain": ("residual", "residual", "none", "residual", "residual", "none"),
        }[kind]
        self.conv1 = _conv_norm(3, stem, 7, 2, _instance_norm if kind else nn.BatchNorm2d)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inputs = stem
        for i, c in enumerate(stages):
            pair = zip((inputs, c), places[2 * i : 2 * i + 2], strict=True)
            blocks = [_OSBlock(start, c, place, kind == "ain") for start, place in pair]
            shrink = [nn.Sequential(_conv_norm(c, c), nn.AvgPool2d(2))] if i < 2 else []
            if kind == "ain":
                setattr(self, f"conv{i + 2}", nn.Sequential(*blocks))
                setattr(self, f"pool{i + 2}", nn.Sequential(*shrink[0]) if shrink else None)
            else:
                setattr(self, f"conv{i + 2}", nn.Sequential(*blocks, *shrink))
                setattr(self, f"pool{i + 2}", None)
            inputs = c
        self.conv5 = _conv_norm(inputs, inputs)
        self.fc = nn.Sequential(nn.Linear(inputs, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(512, classes)

    def maps(self, x: Tensor) -> Tensor:
        """Compute the feature map before pooling."""
        x = self.maxpool(self.conv1(x))
        for stage in (self.conv2, self.pool2, self.conv3, self.pool3, self.conv4, self.conv5):
            x = x if stage is None else stage(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Compute embeddings [B, 512]; `classifier` maps them to logits."""
        return self.fc(self.maps(x).mean((2, 3)))


class _Block(nn.Module):
    """Residual block: two 3x3 convolutions, or 1x1, 3x3 and 1x1."""

    def __init__(self, inputs: int, channels: int, expansion: int, stride: int, ibn: str):
        super().__init__()
        outputs, self.deep = channels * expansion, expansion > 1
        self.conv1 = _conv(inputs, channels, 1 if self.deep else 3, 1 if self.deep else stride)
        self.bn1 = _IBN(channels) if ibn == "a" else nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3, stride if self.deep else 1)
        self.bn2 = nn.BatchNorm2d(channels)
        if self.deep:
            self.conv3 = _conv(channels, outputs, 1)
            self.bn3 = nn.BatchNorm2d(outputs)
        self.IN = _instance_norm(outputs) if ibn == "b" else nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Identity()
        if stride > 1 or inputs != outputs:
            norm = nn.BatchNorm2d(outputs)
            self.downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.deep:
            y = self.bn3(self.conv3(self.relu(y)))
        y += self.downsample(x)
        return self.relu(self.IN(y))


class _IBN(nn.Module):
    """IBN-a normalisation: instance norm on half of the channels, batch norm on the rest."""

    def __init__(self, channels: int):
        super().__init__()
        self.half = channels // 2
        self.IN = _instance_norm(self.half)
        self.BN = nn.BatchNorm2d(channels - self.half)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.IN(x[:, : self.half]), self.BN(x[:, self.half :])], 1)


class _OSBlock(nn.Module):
    """Residual block with four streams of one to four lite convolutions, gated and summed."""

    def __init__(self, inputs: int, outputs: int, place: str, ain: bool):
        super().__init__()
        middle, self.place, self.ain = outputs // 4, place, ain
        self.conv1 = _conv_norm(inputs, middle)
        streams = [nn.Sequential(*(_lite(middle) for _ in range(t))) for t in range(1, 5)]
        if ain:
            self.conv2 = nn.ModuleList(nn.Sequential(OrderedDict(layers=s)) for s in streams)
        else:
            self.conv2a, self.conv2b, self.conv2c, self.conv2d = streams[0][0], *streams[1:]
        self.gate = _Gate(middle)
        norm = None if place == "residual" else nn.BatchNorm2d
        self.conv3 = _conv_norm(middle, outputs, norm=norm, relu=False)
        same = inputs == outputs
        self.downsample = nn.Identity() if same else _conv_norm(inputs, outputs, relu=False)
        self.IN = nn.Identity() if place == "none" else _instance_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        streams = self.conv2 if self.ain else (self.conv2a, self.conv2b, self.conv2c, self.conv2d)
        start = self.conv1(x)
        a, b, c, d = (self.gate(stream(start)) for stream in streams)
        y = self.conv3(a + b + c + d)
        x = self.downsample(x)
        y = self.IN(y) + x if self.place == "residual" else self.IN(y + x)
        return functional.relu(y)


class _Gate(nn.Module):
    """Channel gate computed from the average-pooled map."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = _conv(channels, channels // 16, 1, bias=True)
        self.fc2 = _conv(channels // 16, channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.fc1(x.mean((2, 3), keepdim=True)))
        return x * self.fc2(hidden).sigmoid()


def _lite(channels: int) -> nn.Sequential:
    """Make a lite 3x3 convolution: pointwise 1x1, then depthwise 3x3."""
    depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    norm, relu = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    parts = OrderedDict(conv1=_conv(channels, channels, 1), conv2=depthwise, bn=norm, relu=relu)
    return nn.Sequential(parts)


def _conv_norm(inputs, outputs, kernel=1, stride=1, norm=nn.BatchNorm2d, relu=True):
    parts = OrderedDict(conv=_conv(inputs, outputs, kernel, stride))
    if norm is not None:
        parts["bn"] = norm(outputs)
    if relu:
        parts["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(parts)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)


def _instance_norm(channels: int) -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(channels, affine=True)
