"""The model: backbone, neck and matcher, with the image format it expects."""

import functools
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
from jaxreid.names import check_at_least, check_name
from jaxreid.runs.settings import check_section

INTERPOLATIONS = ("bicubic", "bilinear")


class Model(nn.Module):
    """Re-identification model: images to features, and pairs of features to scores.

    Attributes:
        backbone: images to feature maps.
        neck: feature maps to features.
        matcher: query and gallery features to scores.
        height: image height in pixels.
        width: image width in pixels.
        mean: [3], subtracted from pixels in [0, 1] before the backbone.
        std: [3], divides the centred pixels.
        interpolation: resize method, "bicubic" or "bilinear".
        freeze_stats: freeze the running batch-norm statistics of backbone and neck in training;
            scales and biases still learn.
        classes: number of training identities for the classifier; 0 for no classifier.
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
        """Create the classifier if `classes` is not 0."""
        if self.classes:
            self.classifier = Classifier(self.classes, initializer_of(self.backbone))

    def encode(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Extract the features of a batch.

        Args:
            image: [B, H, W, 3] uint8, or float in the same range.
            train: use and update batch statistics, unless they are frozen.

        Returns:
            [B, h, w, d] float feature maps, or [B, d] embeddings.
        """
        train = train and not self.freeze_stats
        return self.neck(self.maps(image, train=train), train=train)

    def encode_with_before(
        self, image: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Extract features and the features before the BN neck; see `encode`.

        Without a BN neck both are the same.
        """
        train = train and not self.freeze_stats
        return self.neck.with_before(self.maps(image, train=train), train=train)

    def maps(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Return the maps [B, h, w, c] of the backbone; see `encode`."""
        pixels = image.astype(jnp.promote_types(image.dtype, jnp.float32)) / 255
        pixels = (pixels - jnp.array(self.mean)) / jnp.array(self.std)
        maps = self.backbone(pixels, train=train)
        if 0 in maps.shape[1:]:
            raise ValueError(
                f"images of {image.shape[1]}x{image.shape[2]} pixels leave a feature map of "
                f"{'x'.join(map(str, maps.shape[1:]))}; expected at least one position. Use a "
                "larger model.height and model.width."
            )
        return maps

    def match(
        self,
        query: jax.Array,
        gallery: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Return scores [Q, G] of features; a larger score means more similar."""
        return self.matcher(query, gallery, train=train, mask=mask)

    def match_perturbed(
        self, query: jax.Array, gallery: jax.Array, factor: jax.Array, *, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return training scores [Q, G] of clean and perturbed pairs (`MetricNetwork.perturbed`).

        Raises:
            ValueError: if the matcher has no pair features.
        """
        if not hasattr(self.matcher, "perturbed"):
            supported = MATCHERS.names_where(lambda matcher: hasattr(matcher, "perturbed"))
            raise ValueError(
                f"matcher {type(self.matcher).__name__} has no pair features to apply dropout to; "
                f"use matcher {_either(supported)}, or disable the pair loss with objective.gmn=0 "
                "(option baseline of configs/gmn.py)."
            )
        return self.matcher.perturbed(query, gallery, factor, mask=mask)

    def classify(self, embedding: jax.Array, *, cosine: bool = False) -> jax.Array:
        """Return logits [B, classes] of embeddings [B, d].

        With `cosine`, they are the cosines of embeddings and weights of the classes, without bias.
        """
        return self.classifier(embedding, cosine=cosine)

    @property
    def image_format(self) -> dict[str, Any]:
        """Image size and interpolation, as keywords of the data pipeline."""
        names = ("height", "width", "interpolation")
        return {name: getattr(self, name) for name in names}

    @nn.nowrap
    def draw(self, epoch: jax.Array, key: jax.Array) -> dict[str, Any]:
        """Draw the random numbers of one training step as a variable collection, or return {}.

        Args:
            epoch: [] int32.
            key: step key, the same on all devices.
        """
        drawn = self.backbone.draw(epoch, key)
        return {"drawn": {"backbone": drawn}} if drawn else {}

    def __call__(self, image: jax.Array) -> jax.Array:
        """Score a batch against itself. Runs every part once, which initialises all parameters."""
        feature = self.encode(image)
        if self.classes:
            self.classify(feature)
        return self.match(feature, feature)


def apply_training(
    model: Model, function: Callable[[Model], Any], variables: dict[str, Any]
) -> tuple[Any, Any]:
    """Call `function` on the model bound to its variables.

    Args:
        model: the model.
        function: takes the bound model and may call any of its methods.
        variables: {"params", "batch_stats"}, merged with the result of `Model.draw`.

    Returns:
        The result of `function`, and the updated batch statistics.
    """
    result, updates = nn.apply(function, model, mutable=["batch_stats"])(variables)
    return result, updates.get("batch_stats", variables["batch_stats"])


def recomputed(model: Model, image: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
    """Extract features as `Model.encode_with_before`, with less memory for the gradient.

    Only results of convolutions and products are kept; what follows them is computed again.
    """

    def is_product(operation: Any, *_: Any, **__: Any) -> bool:
        return operation.name in ("conv_general_dilated", "dot_general")

    def encode(model: Model, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        return model.encode_with_before(image, train=train)

    return nn.remat(encode, policy=is_product)(model, image)


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
    """Build a model from the names and options of its parts.

    `backbone`, `neck` and `matcher` are the keywords of `make_backbone`, `make_neck` and
    `make_matcher`. `dtype` ("float32" or "bfloat16") is that of the convolutions, `axis_name` the
    mesh axis over which the training batch is sharded. The other arguments are those of `Model`:
    QAConv uses no `mean` and `std`, and "bicubic" interpolation; torchreid uses "bilinear".

    Raises:
        ValueError: unknown name, option out of range, or incompatible parts.
    """
    parts = {"backbone": backbone, "neck": neck, "matcher": matcher, "dtype": dtype}
    images = {"height": height, "width": width, "mean": mean, "std": std}
    check_section("model", parts | images | {"freeze_stats": freeze_stats})
    check_at_least({"classes": classes}, {"classes": 0}, "model")
    check_name(interpolation, INTERPOLATIONS, "model.interpolation")
    backbone_module = make_backbone(**backbone, dtype=dtype, axis_name=axis_name)
    if min(height, width) < (stride := backbone_module.stride):
        raise ValueError(
            f"model.height x model.width is {height}x{width}; expected at least {stride}x{stride} "
            f"pixels, the stride of backbone {backbone['name']!r}. Use larger images, as in "
            "model.height=256 model.width=128, or another backbone."
        )
    neck_module = make_neck(
        **neck, dtype=dtype, axis_name=axis_name, initializer=initializer_of(backbone_module)
    )
    features = neck_module.features
    matcher_class, _ = MATCHERS.find(matcher["name"])
    if not matcher_class.takes(features):
        raise ValueError(
            f"matcher {matcher['name']!r} compares {matcher_class.TAKES}, but neck "
            f"{neck['name']!r} makes {features.words}; use neck {_necks_that(matcher_class.takes)}."
        )
    if classes and features.kind != "embedding":
        supported = MATCHERS.names_where(lambda matcher: matcher.takes(Features("embedding")))
        raise ValueError(
            f"neck {neck['name']!r} with {classes} classes: only embeddings can be classified; use "
            f"neck {_necks_that(lambda features: features.kind == 'embedding')} and matcher "
            f"{_either(supported)}, as configs/osnet.py and configs/gmn.py do."
        )
    return Model(
        backbone=backbone_module,
        neck=neck_module,
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
    """Return the initialisation scheme of the whole network, one of `layers.INITIALIZERS`."""
    return getattr(backbone, "initializer", "he")


def _necks_that(fits: Callable[[Features], bool]) -> str:
    """List the necks whose features fit; necks that need options are skipped."""
    return _either(NECKS.names_where(lambda neck: fits(neck().features)))


def _either(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names)) or "of another kind"


def init_variables(model: Model, seed: int | jax.Array) -> dict[str, Any]:
    """Initialise the parameters and batch statistics of a model."""
    image = jnp.zeros((2, model.height, model.width, 3), jnp.uint8)
    return model.init(jax.random.key(seed), image)


def abstract_variables(model: Model) -> dict[str, Any]:
    """Return the shapes and types of the variables of `init_variables`, which nobody may change."""
    trace = _abstract_variables
    try:
        hash(model)
    except TypeError:  # a part from outside has a list among its options
        trace = trace.__wrapped__
    return trace(model, jax.config.jax_enable_x64)


@functools.lru_cache(maxsize=32)
def _abstract_variables(model: Model, x64: bool) -> dict[str, Any]:
    # Tracing a deep network takes a second or two, and readers of weights ask several times.
    return jax.eval_shape(lambda: init_variables(model, 0))


def feature_shape(model: Model, variables: Any) -> tuple[int, ...]:
    """Return the feature shape of one image, [h, w, d] or [d], by `jax.eval_shape`.

    Args:
        model: a model without a mesh axis.
        variables: {"params", "batch_stats"}, or their shapes.
    """
    image = jax.ShapeDtypeStruct((1, model.height, model.width, 3), jnp.uint8)
    encode = lambda variables, image: model.apply(variables, image, method="encode")  # noqa: E731
    return jax.eval_shape(encode, variables, image).shape[1:]
