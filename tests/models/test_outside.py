"""One file makes a part: a backbone, neck, matcher and objective from outside the package."""

import sys

import jax
import numpy as np
import pytest

import jaxreid.register
from jaxreid.mesh import AXIS, make_mesh, to_devices, to_host
from jaxreid.models.backbones import BACKBONES
from jaxreid.models.matchers import MATCHERS
from jaxreid.models.model import abstract_variables, make_model
from jaxreid.models.necks import NECKS
from jaxreid.training.objectives import OBJECTIVES, make_objective
from jaxreid.training.optim import make_optimizer
from jaxreid.training.schedules import make_schedule
from jaxreid.training.state import create_state
from jaxreid.training.step import make_train_step
from jaxreid.weights.file import read_card, save_weights
from jaxreid.weights.loading import load_weights

FILES = {
    "backbones": '''
import flax.linen as nn
from jaxreid.models.backbones.backbone import Backbone
from jaxreid.models.layers import Conv
from jaxreid.names import check_at_least

class Patches(Backbone):
    """One convolution with a stride of 8 pixels."""
    channels: int = 4
    order: str = "rgb"
    IDENTITY = ("order",)

    def validate(self):
        check_at_least({"channels": self.channels}, {"channels": 1}, "backbone")

    @nn.compact
    def __call__(self, x, *, train=False):
        x = x if self.order == "rgb" else x[..., ::-1]
        return nn.relu(Conv(self.channels, 9, stride=8, name="conv")(x))
''',
    "necks": '''
import jax.numpy as jnp
from jaxreid.models.features import Features
from jaxreid.models.necks.neck import Neck
from jaxreid.ops.normalize import l2_normalize

class Halves(Neck):
    """Upper and lower half of the channels, in parts."""
    channels: int = 4

    @property
    def features(self):
        half = self.channels // 2
        return Features("map", {"first": half, "second": self.channels - half})

    def __call__(self, x, *, train=False):
        return l2_normalize(x)
''',
    "matchers": '''
from collections.abc import Mapping
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxreid.models.matchers.matcher import Matcher

class Means(Matcher):
    """Weighted sum over parts of the products of mean features."""
    TAKES = "maps in parts"
    parts: Mapping[str, int]
    scale: float = 1.0

    @nn.compact
    def __call__(self, query, gallery, *, train=False, mask=None):
        ends = np.cumsum(list(self.parts.values()))[:-1]
        split = lambda maps: jnp.split(maps.mean((1, 2)), ends, axis=-1)
        weight = self.param("weight", nn.initializers.ones, (len(self.parts),))
        pairs = zip(weight, split(query), split(gallery), strict=True)
        return self.scale * sum(w * (q @ g.T) for w, q, g in pairs)
''',
    "objectives": '''
import dataclasses
import jax
from jaxreid.training.losses import my_share, total
from jaxreid.training.objectives import Objective

@dataclasses.dataclass(frozen=True)
class Apart(Objective):
    """All images should score low with each other."""
    weight: float = 1.0
    axis_name: str | None = None

    def __call__(self, model, batch):
        logit = model.match(my_share(batch.feature, self.axis_name), batch.feature, train=True)
        loss = self.weight * total(jax.nn.softplus(logit), self.axis_name) / len(batch.label)
        return loss, {"accuracy": 0 * loss, "kept": loss}
''',
}
CLASSES = {
    "backbone": "backbones:Patches",
    "neck": "necks:Halves",
    "matcher": "matchers:Means",
    "objective": "objectives:Apart",
}
TABLES = {"backbone": BACKBONES, "neck": NECKS, "matcher": MATCHERS, "objective": OBJECTIVES}


@pytest.fixture(params=["address", "registered"])
def names(request, tmp_path, monkeypatch):
    """The name of each part: where it can be imported from, or one that was registered."""
    (tmp_path / "elsewhere").mkdir()
    for name, content in FILES.items():
        (tmp_path / "elsewhere" / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    addresses = {kind: f"elsewhere.{where}" for kind, where in CLASSES.items()}
    if request.param == "registered":
        for kind, table in TABLES.items():
            monkeypatch.setattr(table, "_entries", dict(table._entries))
            getattr(jaxreid.register, kind)("mine")(table.find(addresses[kind])[0])
        addresses = dict.fromkeys(CLASSES, "mine")
    yield addresses
    for module in [name for name in sys.modules if name.split(".")[0] == "elsewhere"]:
        del sys.modules[module]


def card(names, **options):
    parts = {kind: {"name": names[kind]} for kind in ("backbone", "neck", "matcher")}
    return {**parts, "height": 32, "width": 16, "mean": (0.0,) * 3, "std": (1.0,) * 3} | options


def test_parts_from_outside_train_and_are_kept_in_a_file(names, tmp_path):
    model = card(names)
    mesh, tx = make_mesh(jax.devices()[:2]), make_optimizer(lr=0.5, backbone_lr=0.5)
    objective = make_objective(names["objective"], num_classes=3, axis_name=AXIS, weight=2.0)
    assert not objective.uses_memory
    state = create_state(make_model(**model), tx, num_classes=None, seed=0, mesh=mesh)
    before = to_host(state.params)
    step = make_train_step(
        mesh, state, model=make_model(**model, axis_name=AXIS), objective=objective, tx=tx,
        schedule=make_schedule(epochs=1, steps_per_epoch=3),
    )  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 16, 3), np.uint8)
    batch = to_devices(mesh, {"image": images, "label": np.arange(4, dtype=np.int32) % 3})
    losses = []
    for _ in range(3):
        state, metrics = step(state, batch, 0)
        losses.append(float(metrics["loss"]))
        assert metrics["kept"] == metrics["loss"]
    assert losses[2] < losses[1] < losses[0]
    assert state.params["matcher"]["weight"].shape == (2,)
    assert (before["matcher"]["weight"] != to_host(state.params)["matcher"]["weight"]).all()
    path = tmp_path / "mine.safetensors"
    variables = {"params": to_host(state.params), "batch_stats": {}}
    save_weights(path, variables, model, source="a test")
    assert read_card(path)["backbone"] == model["backbone"]
    loaded, _ = load_weights(path, model, whole=True)
    jax.tree.map(np.testing.assert_array_equal, loaded["params"], variables["params"])
    other = card(names, backbone={"name": names["backbone"], "order": "bgr"})
    with pytest.raises(ValueError, match="has order rgb, expected bgr"):
        load_weights(path, other)


def test_what_does_not_fit_is_refused_in_the_same_words(names):
    with pytest.raises(ValueError, match="has no option chanels; it has channels, order"):
        make_model(**card(names, backbone={"name": names["backbone"], "chanels": 4}))
    with pytest.raises(ValueError, match="backbone.channels is 0; expected a whole number"):
        make_model(**card(names, backbone={"name": names["backbone"], "channels": 0}))
    with pytest.raises(ValueError, match=r"makes maps in parts; use neck 'map'"):
        make_model(**card(names, matcher={"name": "qaconv"}))
    with pytest.raises(ValueError, match=r"compares maps in parts.*makes maps; use neck .*'multi"):
        make_model(**card(names, neck={"name": "map"}))
    with pytest.raises(ValueError, match="only embeddings can be classified; use neck 'pooled'"):
        make_model(**card(names, classes=3))


def test_its_parts_can_be_mixed_with_the_projects(names):
    model = make_model(**card(names, matcher={"name": "qaconv_ms", "hidden": 3}))
    assert dict(model.matcher.parts) == {"first": 2, "second": 2}
    params = abstract_variables(model)["params"]
    assert params["matcher"].keys() == {"heads_first", "heads_second", "norm"}


def test_a_part_that_cannot_be_imported_is_an_error_in_words():
    for kind, table in TABLES.items():
        with pytest.raises(ValueError, match=f"{kind} 'nowhere:Part' cannot be imported"):
            table.make("nowhere:Part", {})
