"""OSNet as torchreid names it."""

from collections.abc import Sequence
from typing import Any

from jaxreid.models.backbones import osnet
from jaxreid.weights.layouts.layout import IMAGENET, Layout, Rules, Tensors, classes_of


def _rules(arch: str, parts: Sequence[str]) -> Rules:
    if "_ain_" in arch:
        streams = [
            (rf"\.stream{n}_(\d)\.", rf".conv2.{n - 1}.layers.\1.")
            for n in range(1, osnet.STREAMS + 1)
        ]
        pool = (r"^backbone\.(pool[23])\.", r"\1.0.")
    else:
        streams = [
            (rf"\.stream{n}_(\d)\.", rf".conv2{'abcd'[n - 1]}." + (r"\1." if n > 1 else ""))
            for n in range(1, osnet.STREAMS + 1)
        ]
        pool = (r"^backbone\.pool([23])\.", r"conv\1.2.0.")
    stage = (r"^backbone\.(conv[234])_(\d)\.", r"\1.\2.")
    return stage, pool, *streams, (r"^backbone\.", ""), *LINEAR_NECK


# Linear layer, BN and ReLU of torchreid.
LINEAR_NECK = ((r"^neck\.fc\.", "fc.0."), (r"^neck\.bn\.", "fc.1."))


def _card(
    tensors: Tensors,
    arch: str,
    *,
    cut: str | None = None,
    input_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    height, width = input_size or (256, 128)
    return {
        "backbone": {"name": arch},
        "neck": {"name": "linear"},
        # As for the published results: cosine distance for OSNet-AIN, otherwise Euclidean.
        "matcher": {"name": "embedding", "metric": "cosine" if "_ain_" in arch else "euclidean"},
        "classes": classes_of(tensors),
        "height": height,
        "width": width,
        "interpolation": "bilinear",
        **IMAGENET,
    }


OSNET = Layout("OSNet with its own neck", tuple(osnet.FAMILY), _card, _rules, rest=lambda *_: {})
