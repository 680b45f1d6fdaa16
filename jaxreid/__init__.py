"""Generalizable person re-identification in JAX: the same person, across unseen cameras.

    reid = jaxreid.load("runs/qaconv")
    hits = reid.rank("query.jpg", gallery_paths, top=10)

Importing the package is cheap: public names are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxreid import configs, register
    from jaxreid.data import sets as datasets
    from jaxreid.export.exporting import export_model
    from jaxreid.frames.crops import crop
    from jaxreid.index.index import Index
    from jaxreid.reid.loaded import ReID
    from jaxreid.reid.loading import evaluate, load
    from jaxreid.reid.stored import evaluate_features, evaluate_scores
    from jaxreid.training.finetuning import finetune
    from jaxreid.training.loop import train

_OFFERED = {
    "Index": "jaxreid.index.index:Index",
    "ReID": "jaxreid.reid.loaded:ReID",
    "configs": "jaxreid.configs",
    "crop": "jaxreid.frames.crops:crop",
    "datasets": "jaxreid.data.sets",
    "evaluate": "jaxreid.reid.loading:evaluate",
    "evaluate_features": "jaxreid.reid.stored:evaluate_features",
    "evaluate_scores": "jaxreid.reid.stored:evaluate_scores",
    "finetune": "jaxreid.training.finetuning:finetune",
    "export_model": "jaxreid.export.exporting:export_model",
    "load": "jaxreid.reid.loading:load",
    "register": "jaxreid.register",
    "train": "jaxreid.training.loop:train",
}
__all__ = [
    "Index",
    "ReID",
    "configs",
    "crop",
    "datasets",
    "evaluate",
    "evaluate_features",
    "evaluate_scores",
    "export_model",
    "finetune",
    "load",
    "register",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _OFFERED:
        raise AttributeError(f"module 'jaxreid' has no attribute {name!r}; it has {__all__}")
    module, _, attribute = _OFFERED[name].partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
