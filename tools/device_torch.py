"""Parts of `device_check.py` in PyTorch: the original formulations, as baselines."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
from device_common import Row, maps, reason, seconds


def missing() -> Iterator[Row]:
    """Say that there is no PyTorch, if so."""
    if not importlib.util.find_spec("torch"):
        yield {"what": "PyTorch", "failed": "not measured: PyTorch is not installed"}


def scoring(small: bool) -> Iterator[Row]:
    """Measure the original formulation of scoring, 64 queries by 128 images at a time."""
    if rows := list(missing()):
        yield from rows
        return
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    q, g, n, d = (4, 16, 192, 128) if small else (128, 4096, 192, 128)
    query, gallery = maps(q, n, d, 0), maps(g, n, d, 1)
    for name in ("bfloat16", "float16", "float32"):
        dtype = getattr(torch, name)
        a, b = (torch.from_numpy(x).to(device, dtype) for x in (query, gallery))
        weight = torch.full((n,), 1 / n, device=device, dtype=dtype)

        @torch.no_grad()
        def run(a: Any = a, b: Any = b, weight: Any = weight) -> None:
            for block in a.split(64):
                for other in b.split(128):
                    correlation = torch.einsum("ird,jsd->ijrs", block, other)
                    _ = correlation.amax(3) @ weight + correlation.amax(2) @ weight
            if device == "cuda":
                torch.cuda.synchronize()

        try:
            rate = q * g / seconds(run)
            tflops = rate * 2 * n * n * d / 1e12
            row = {"pairs_per_second": rate, "tflops": tflops}
        except Exception as error:
            row = {"failed": reason(error)}
        yield {"what": f"original formulation, {name}"} | row


def training(small: bool) -> Iterator[Row]:
    """Measure the recipes' networks and losses: AMP in bfloat16, channels last, eager, compiled.

    QAConv-MS is left out: its matcher's many heads would be another program.
    """
    if rows := list(missing()):
        yield from rows
        return
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Compilation takes longest and comes last.
    names = ("qaconv_gs", "qaconv", "gmn", "osnet")
    for how in ("eager", "compiled"):
        for name in names[:1] if small and how == "compiled" else names:
            row: Row = {"what": f"{name}, bfloat16, {how}"}
            try:
                count, run = torch_step(name, device, how == "compiled", small)
                took = seconds(run)
                row |= {"images_per_second": count / took, "milliseconds": 1e3 * took}
                if device == "cuda":
                    row["gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
                    torch.cuda.reset_peak_memory_stats()
            except Exception as error:
                row["failed"] = reason(error)
            yield row


def torch_step(name: str, device: str, compiled: bool, small: bool) -> tuple[int, Any]:
    """Return the images of a step of a recipe, and a function that takes one."""
    import torch
    import torch_networks
    from torch.nn import functional

    count = 4 if small else {"qaconv": 32}.get(name, 64)
    height, width = (96, 32) if small else (256, 128) if name in ("osnet", "gmn") else (384, 128)
    classes = 12 if small else 751
    label = torch.arange(count, device=device) // 4
    same = label[:, None] == label
    depth = "resnet18" if small else "resnet50"
    arch = {
        "qaconv": (depth, {"cut": "layer3", "neck": 128}),
        "qaconv_gs": (f"{depth}_ibn_b", {"cut": "layer3", "neck": 128}),
        "osnet": ("osnet_x1_0", {"classes": classes}),
        "gmn": (depth, {"cut": "layer4", "neck": 0}),
    }[name]
    network = torch_networks.make(arch[0], **arch[1]).to(device).eval()
    with torch.no_grad():
        shape = network(torch.zeros((1, 3, height, width), device=device)).shape[1:]
    matcher = make_matcher(name, shape, classes).to(device)
    memory = torch.zeros((classes, *shape), device=device)

    def loss_fn(image: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            feature = network(image)
            logit = matcher(feature, memory if name == "qaconv" else feature).float()
        if name in ("qaconv", "osnet"):
            one_hot = functional.one_hot(label, logit.shape[1]).float()
            if name == "osnet":
                return functional.cross_entropy(logit, label, label_smoothing=0.1)
            cross = functional.binary_cross_entropy_with_logits(logit, one_hot, reduction="none")
            return ((1 - torch.exp(-cross)) ** 2 * cross).sum(1).mean()
        if name == "gmn":
            return functional.binary_cross_entropy_with_logits(logit, same.float())
        hardest_positive = torch.where(same, logit, torch.inf).amin(1)
        hardest_negative = torch.where(same, -torch.inf, logit).amax(1)
        return functional.relu(hardest_negative - hardest_positive + 16.0).mean()

    network = network.to(memory_format=torch.channels_last).train()
    image = torch.rand((count, 3, height, width), device=device)
    image = image.to(memory_format=torch.channels_last)
    parameters = [*network.parameters(), *matcher.parameters()]
    optimizer = torch.optim.SGD(parameters, 1e-3, momentum=0.9, nesterov=True)
    forward = torch.compile(loss_fn) if compiled else loss_fn

    def run() -> None:
        optimizer.zero_grad()
        forward(image).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return count, run


def make_matcher(name: str, shape: tuple[int, ...], classes: int) -> Any:
    """Make what turns features into logits: QAConv, a classifier, or GMN's network of pairs."""
    import torch
    from torch import nn

    if name == "osnet":
        linear = nn.Linear(shape[0], classes)

        class Classifier(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = linear

            def forward(self, embedding: Any, _: Any) -> Any:
                return self.linear(embedding)

        return Classifier()

    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            hidden = nn.Sequential(nn.Linear(shape[0], 512), nn.BatchNorm1d(512), nn.ReLU())
            self.layers = nn.Sequential(hidden, nn.Linear(512, 1))

        def forward(self, maps: Any, other: Any) -> Any:
            a, b = (x.mean((2, 3)) for x in (maps, other))
            pairs = (a[:, None] - b[None]).square().flatten(0, 1)
            return self.layers(pairs).view(len(a), len(b))

    class QAConv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_in, self.norm_out = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
            self.linear = nn.Linear(int(np.prod(shape[1:])), 1)

        def forward(self, maps: Any, other: Any) -> Any:
            correlation = torch.einsum("idr,jds->ijrs", maps.flatten(2), other.flatten(2))
            both = torch.stack((correlation.amax(2), correlation.amax(3)), 2)
            response = self.norm_in(both.reshape(-1, 1)).view(both.shape)
            score = self.linear(response).sum((2, 3))
            return self.norm_out(score.view(-1, 1)).view(score.shape)

    return Pairs() if name == "gmn" else QAConv()
