"""The model: backbone, neck and matcher, and the images they expect."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.backbones import make_backbone
from jaxreid.models.backbones.backbone import Backbone
from jaxreid.models.features import Features
from jaxreid.models.layers import Classifier
from jaxreid.models.matchers import MATCHERS, make_matcher
from jaxreid.models.matchers.matcher import Matcher
from jaxreid.models.necks import NECKS, make_neck
from jaxreid.models.necks.neck import Neck
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

    backbone: Backbone
    neck: Neck
    matcher: Matcher
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    freeze_stats: bool = False
    classes: int = 0

    def setup(self) -> None:
        """Makes the classifier, if there is one."""
        if self.classes:
            self.classifier = Classifier(self.classes, initializer_of(self.backbone))

    def encode(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Features of a batch.

        Args:
            image: [B, H, W, 3] uint8, or float in the same range.
            train: use and update batch statistics, unless they are frozen.

        Returns:
            [B, h, w, d] float feature maps, or [B, d] embeddings.
        """
        train = train and not self.freeze_stats
        return self.neck(self._maps(image, train), train=train)

    def encode_with_before(
        self, image: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Features of a batch, and what precedes the BN neck (the features where there is none).

        Args:
            image: as for `encode`.
            train: as for `encode`.
        """
        train = train and not self.freeze_stats
        return self.neck.with_before(self._maps(image, train), train=train)

    def _maps(self, image: jax.Array, train: bool) -> jax.Array:
        """Feature maps of the backbone."""
        pixels = image.astype(jnp.promote_types(image.dtype, jnp.float32)) / 255
        pixels = (pixels - jnp.array(self.mean)) / jnp.array(self.std)
        return self.backbone(pixels, train=train)

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
            able = MATCHERS.names_where(lambda matcher: hasattr(matcher, "perturbed"))
            raise ValueError(
                f"the matcher {type(self.matcher).__name__} has no pair features to drop entries "
                f"of; take the matcher {_either(able)}, or leave the loss of pairs out with "
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
        """Random numbers of one training step: a collection of variables, or none.

        Args:
            epoch: [] int32.
            key: of this step, the same on all devices.
        """
        drawn = self.backbone.draw(epoch, key)
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
        function: takes the bound model; its result may depend on any of the model's methods.
        variables: {"params", "batch_stats"}, and the result of `Model.draw`.

    Returns:
        The result of `function`, and the batch statistics after its calls.
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
    net = make_backbone(**backbone, dtype=dtype, axis_name=axis_name)
    made = make_neck(**neck, dtype=dtype, axis_name=axis_name, initializer=initializer_of(net))
    features = made.features
    comparer, _ = MATCHERS.find(matcher["name"])
    if not comparer.takes(features):
        raise ValueError(
            f"matcher {matcher['name']!r} compares {comparer.TAKES}, and neck {neck['name']!r} "
            f"makes {features.words}; use neck {_necks_that(comparer.takes)}."
        )
    if classes and features.kind != "embedding":
        able = MATCHERS.names_where(lambda matcher: matcher.takes(Features("embedding")))
        raise ValueError(
            f"neck {neck['name']!r} with {classes} classes: only embeddings are classified; take "
            f"the neck {_necks_that(lambda made: made.kind == 'embedding')} and the matcher "
            f"{_either(able)}, as configs/osnet.py and configs/gmn.py do."
        )
    return Model(
        backbone=net,
        neck=made,
        matcher=make_matcher(
            **matcher, parts=features.parts, shared=features.shared, axis_name=axis_name
        ),
        height=height,
        width=width,
        mean=tuple(mean),
        std=tuple(std),
        interpolation=interpolation,
        freeze_stats=freeze_stats,
        classes=classes,
    )


def initializer_of(backbone: Backbone) -> str:
    """The initialisation of the whole network, one of `layers.INITIALIZERS`."""
    return getattr(backbone, "initializer", "he")


def _necks_that(fits: Callable[[Features], bool]) -> str:
    """Names of the necks whose features fit, as far as they can be made without options."""
    return _either(NECKS.names_where(lambda neck: fits(neck().features)))


def _either(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names)) or "of another kind"


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
