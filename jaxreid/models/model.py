"""The model: backbone, neck and matcher, and the images they expect."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.backbones import make_backbone
from jaxreid.models.layers import linear_init
from jaxreid.models.matchers import FEATURES as COMPARED
from jaxreid.models.matchers import make_matcher
from jaxreid.models.necks import FEATURES as MADE
from jaxreid.models.necks import make_neck
from jaxreid.names import check_name

INTERPOLATIONS = ("bicubic", "bilinear")


class Model(nn.Module):
    """Images to features, and features to scores.

    Attributes:
        backbone: images to feature maps.
        neck: feature maps to features.
        matcher: features of queries and gallery to scores.
        height: of the images, in pixels.
        width: of the images, in pixels.
        mean: [3], taken from pixels in [0, 1] before the backbone.
        std: [3], by which the rest is divided.
        interpolation: by which images come to this size, "bicubic" or "bilinear".
        freeze_stats: keep the running statistics of batch normalisation in backbone and neck
            fixed while training; scales and biases still learn.
        classes: training identities that embeddings are classified into; 0 for no classifier.
    """

    backbone: nn.Module
    neck: nn.Module
    matcher: nn.Module
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    freeze_stats: bool = False
    classes: int = 0

    def setup(self) -> None:
        """Makes the one part that is not given."""
        if self.classes:
            self.classifier = nn.Dense(self.classes, kernel_init=linear_init)

    def encode(
        self, image: jax.Array, *, train: bool = False, before: bool = False
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Features of a batch.

        Args:
            image: [B, H, W, 3] uint8, or float in the same range.
            train: use and update batch statistics, unless they are frozen.
            before: of embeddings, give also what precedes the BN neck, where there is one.

        Returns:
            [B, h, w, d] float feature maps, or [B, d] embeddings; with `before` a pair of
            embeddings, those after the BN neck first.
        """
        pixels = image.astype(jnp.promote_types(image.dtype, jnp.float32)) / 255
        pixels = (pixels - jnp.array(self.mean)) / jnp.array(self.std)
        train = train and not self.freeze_stats
        options = {"before": True} if before else {}
        return self.neck(self.backbone(pixels, train=train), train=train, **options)

    def match(
        self,
        query: jax.Array,
        gallery: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Scores [Q, G] of features; larger is more alike."""
        return self.matcher(query, gallery, train=train, mask=mask)

    def match_perturbed(
        self, query: jax.Array, gallery: jax.Array, factor: jax.Array, *, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Scores [Q, G] in training, and those of perturbed pairs (`MetricNetwork.perturbed`)."""
        if not hasattr(self.matcher, "perturbed"):
            raise ValueError(
                f"the matcher {type(self.matcher).__name__} has no pair features to drop entries "
                "of; take the matcher 'metric_network', or leave the loss of pairs out with "
                "objective.gmn=0 (option baseline of configs/gmn.py)."
            )
        return self.matcher.perturbed(query, gallery, factor, mask=mask)

    def classify(self, embedding: jax.Array) -> jax.Array:
        """Logits [B, classes] of embeddings [B, d]."""
        return self.classifier(embedding)

    @property
    def image_format(self) -> dict[str, Any]:
        """How files become images for this model: keywords of the pipeline."""
        names = ("height", "width", "interpolation")
        return {name: getattr(self, name) for name in names}

    @nn.nowrap
    def draw(self, epoch: jax.Array, key: jax.Array) -> dict[str, Any]:
        """What the model draws anew for every training step: a collection of variables, or none.

        Args:
            epoch: [] int32.
            key: of this step.
        """
        drawn = self.backbone.draw(epoch, key) if hasattr(self.backbone, "draw") else None
        return {"drawn": {"backbone": drawn}} if drawn else {}

    def __call__(self, image: jax.Array) -> jax.Array:
        """Scores of a batch with itself; runs every part once, to make the parameters."""
        feature = self.encode(image)
        if self.classes:
            self.classify(feature)
        return self.match(feature, feature)


def apply_training(
    model: Model, function: Callable[[Model], Any], variables: dict[str, Any]
) -> tuple[Any, Any]:
    """Calls `function` with the model bound to its variables.

    Args:
        model: the model.
        function: takes the bound model; what it returns may depend on any of its methods.
        variables: {"params", "batch_stats"}, and what `Model.draw` gives.

    Returns:
        What `function` returned, and the batch statistics that its calls have left.
    """
    result, updates = nn.apply(function, model, mutable=["batch_stats"])(variables)
    return result, updates.get("batch_stats", variables["batch_stats"])


def make_model(
    *,
    backbone: dict[str, Any],
    neck: dict[str, Any],
    matcher: dict[str, Any],
    height: int,
    width: int,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    interpolation: str = "bicubic",
    freeze_stats: bool = False,
    dtype: str = "float32",
    classes: int = 0,
    axis_name: str | None = None,
) -> Model:
    """A model from the names and options of its parts.

    Args:
        backbone: keywords of `make_backbone`.
        neck: keywords of `make_neck`.
        matcher: keywords of `make_matcher`.
        height: of the images, in pixels.
        width: of the images, in pixels.
        mean: subtracted from pixels in [0, 1]. QAConv uses none.
        std: divides them.
        interpolation: as for `Model`; QAConv resizes by "bicubic", torchreid by "bilinear".
        freeze_stats: as for `Model`.
        dtype: "float32" or "bfloat16", the type of the convolutions.
        classes: as for `Model`.
        axis_name: mesh axis over which a training batch is spread.

    Raises:
        ValueError: an unknown name, an option out of its range, parts that do not fit.
    """
    check_name(interpolation, INTERPOLATIONS, "model.interpolation")
    kind = MADE.get(neck.get("name"))
    wanted = COMPARED.get(matcher.get("name"))
    if kind and wanted and wanted != kind:
        fitting = " or ".join(repr(name) for name in MADE if MADE[name] == wanted)
        raise ValueError(
            f"matcher {matcher['name']!r} compares {wanted}s, and neck {neck['name']!r} makes "
            f"{kind}s; use neck {fitting}."
        )
    if classes and kind != "embedding":
        raise ValueError(
            f"neck {neck.get('name')!r} with {classes} classes: only embeddings are classified; "
            "take the neck 'linear' or 'pooled' and the matcher 'embedding' or 'metric_network', "
            "as configs/osnet.py and configs/gmn.py do."
        )
    made = make_neck(**neck, dtype=dtype, axis_name=axis_name)
    parts = {"parts": made.parts, "shared": made.shared} if kind == "multi-scale map" else {}
    return Model(
        backbone=make_backbone(**backbone, dtype=dtype, axis_name=axis_name),
        neck=made,
        matcher=make_matcher(**matcher, **parts, axis_name=axis_name),
        height=height,
        width=width,
        mean=tuple(mean),
        std=tuple(std),
        interpolation=interpolation,
        freeze_stats=freeze_stats,
        classes=classes,
    )


def init_variables(model: Model, seed: int) -> dict[str, Any]:
    """Parameters and statistics of an untrained model."""
    image = jnp.zeros((2, model.height, model.width, 3), jnp.uint8)
    return model.init(jax.random.key(seed), image)


def feature_shape(model: Model, variables: Any) -> tuple[int, ...]:
    """[h, w, d] or [d] of one image's features; nothing is computed.

    Args:
        model: outside a mesh.
        variables: {"params", "batch_stats"}, or their shapes.
    """
    image = jax.ShapeDtypeStruct((1, model.height, model.width, 3), jnp.uint8)
    encode = lambda variables, image: model.apply(variables, image, method="encode")  # noqa: E731
    return jax.eval_shape(encode, variables, image).shape[1:]
