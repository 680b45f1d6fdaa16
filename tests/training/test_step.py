"""The sharded training step: the same on any number of devices, compiled once."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_layer import ONE_LAYER
from selection import deep

from jaxreid.evaluation.compiled import make_encode, make_score
from jaxreid.mesh import AXIS, make_mesh, to_devices, to_host
from jaxreid.models.backbones.backbone import Backbone
from jaxreid.models.matchers import make_matcher
from jaxreid.models.model import Model, make_model
from jaxreid.models.necks import make_neck
from jaxreid.training.objectives import Objective, make_objective
from jaxreid.training.optim import make_optimizer
from jaxreid.training.schedules import make_schedule
from jaxreid.training.state import create_state
from jaxreid.training.step import make_train_step

CLASSES = 21  # neither a multiple of the devices nor of the memory's padding
BATCH = 8
STEPS = 3


def tiny_model(axis_name=None, head="v2.1", **options):
    return make_model(
        backbone=ONE_LAYER,
        neck={"name": "map", "channels": 8},
        matcher={"name": "qaconv", "head": head},
        height=32,
        width=16,
        axis_name=axis_name,
        **options,
    )


def multi_scale_model(axis_name=None, **options):
    return make_model(
        backbone=ONE_LAYER,
        neck={
            "name": "multi_scale",
            "channels": 8,
            "scales": (3,),
            "attention_layers": 1,
            "hidden": 8,
        },
        matcher={"name": "qaconv_ms", "hidden": 16},
        height=32,
        width=16,
        axis_name=axis_name,
        **options,
    )


def classifying_model(axis_name=None, **options):
    return make_model(
        backbone=ONE_LAYER,
        neck={"name": "linear", "channels": 8},
        matcher={"name": "embedding"},
        height=32,
        width=16,
        classes=CLASSES,
        axis_name=axis_name,
        **options,
    )


def metric_model(axis_name=None, **options):
    return make_model(
        backbone=ONE_LAYER,
        neck={"name": "pooled", "pool": "gem"},
        matcher={"name": "metric_network", "hidden": 6},
        height=32,
        width=16,
        classes=CLASSES,
        axis_name=axis_name,
        **options,
    )


def initial(model):
    """Variables of the model as `train` starts from them."""
    image = jnp.zeros((2, 32, 16, 3), jnp.uint8)
    return jax.jit(model.init)(jax.random.key(1), image)


def batches():
    generator = np.random.default_rng(0)
    looks = generator.integers(0, 256, (CLASSES, 32, 16, 3))
    for step in range(STEPS):
        label = generator.integers(0, CLASSES, BATCH).astype(np.int32)
        label[-1] = label[step]  # a class twice in the batch
        noise = generator.integers(-40, 40, (BATCH, 32, 16, 3))
        yield {"image": np.clip(looks[label] + noise, 0, 255).astype(np.uint8), "label": label}


def train(
    devices,
    objective="class_memory",
    make=tiny_model,
    frozen=False,
    rule=(),
    seed=0,
    remat=False,
    **options,
):
    mesh = make_mesh(jax.devices()[:devices])
    tx = make_optimizer(lr=0.05, backbone_lr=0.02, freeze_steps=STEPS if frozen else 0)
    goal = make_objective(objective, num_classes=CLASSES, axis_name=AXIS, **dict(rule))
    held = CLASSES if goal.uses_memory else None
    state = create_state(make(**options), tx, num_classes=held, seed=1, mesh=mesh, epochs=STEPS)
    step = make_train_step(
        mesh,
        state,
        model=make(AXIS, **options),
        objective=goal,
        frozen=frozen,
        remat=remat,
        tx=tx,
        schedule=make_schedule("step", epochs=STEPS, steps_per_epoch=1, step_epochs=2),
    )
    history = []
    for batch in batches():
        state, metrics = step(state, to_devices(mesh, batch), seed)
        history.append(to_host(metrics))
    assert step._cache_size() == 1, "the step was compiled more than once"
    return to_host(state), history


@pytest.fixture(scope="module")
def on_one_device():
    return train(1)


def assert_same(expected, trained, *, rtol, atol, loss):
    """Two results of `train`, every variable and the metrics of every step, within tolerances."""
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(expected[0]), jax.tree.leaves(trained[0]), strict=True
    ):
        np.testing.assert_allclose(b, a, rtol=rtol, atol=atol, err_msg=str(path))
    for a, b in zip(expected[1], trained[1], strict=True):
        np.testing.assert_allclose(b["loss"], a["loss"], rtol=loss)
        assert b["accuracy"] == a["accuracy"]


@pytest.mark.parametrize("devices", deep(2, 8, but=[8]))
def test_state_is_equal_on_any_number_of_devices(on_one_device, devices):
    # Sums are taken in another order: float32 rounding, amplified by batch normalisation.
    assert_same(on_one_device, train(devices), rtol=2e-4, atol=2e-5, loss=1e-4)


@pytest.mark.full
def test_the_head_of_two_directions_is_equal_too():
    (one, _), (four, _) = train(1, head="v1"), train(4, head="v1")
    assert one.params["matcher"]["weight"].shape[0] == 2
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-4, atol=2e-5)


# With QAConv, ten-step trainings of the original are: tests/test_trajectory.py.
@pytest.mark.parametrize("make", deep(tiny_model, multi_scale_model, but=[tiny_model]))
def test_the_loss_on_the_scores_of_the_batch_is_equal_too(make):
    with jax.enable_x64(True):  # the hardest pair must not be another one for rounding
        (one, expected), (four, history) = (
            train(devices, "pairwise", make, dtype="float64") for devices in (1, 4)
        )
    assert one.memory is None
    # Of float32, whatever the products are: 1e-8 is the rounding of sums of 0.1 that cancel.
    assert_same((one, expected), (four, history), rtol=1e-6, atol=1e-8, loss=1e-9)


@pytest.mark.parametrize("metric", deep("euclidean", "cosine", but=["euclidean"]))
def test_classification_with_triplets_is_equal_too(metric):
    rule = {"triplet": 1.0, "metric": metric}
    with jax.enable_x64(True):  # the hardest pair must not be another one for rounding
        (one, expected), (four, history) = (
            train(devices, "softmax", classifying_model, rule=rule, dtype="float64")
            for devices in (1, 4)
        )
    assert_same((one, expected), (four, history), rtol=1e-6, atol=1e-8, loss=1e-9)
    for b in history:
        np.testing.assert_allclose(b["loss"], b["cross_entropy"] + b["triplet"], rtol=1e-6)


@pytest.mark.parametrize("objective", deep("arcface", "centre", but=["centre"]))
def test_embedding_losses_are_equal_on_two_devices(objective):
    with jax.enable_x64(True):  # the hardest pair must not be another one for rounding
        (one, expected), (two, history) = (
            train(devices, objective, classifying_model, dtype="float64") for devices in (1, 2)
        )
    assert_same((one, expected), (two, history), rtol=1e-6, atol=1e-8, loss=1e-9)
    if objective == "centre":
        seen = np.unique(np.concatenate([batch["label"] for batch in batches()]))
        np.testing.assert_array_equal(np.flatnonzero(one.memory.valid), seen)
        assert history[0]["centre"] == 0
        assert history[-1]["centre"] > 0


def test_the_loss_of_pairs_is_equal_too():
    # The first step is without perturbed pairs.
    rule = {"pairs": "random", "dropout_from": 1, "pic": 0.5}
    with jax.enable_x64(True):  # the hardest pair must not be another one for rounding
        (one, expected), (four, history) = (
            train(devices, "gmn", metric_model, rule=rule, dtype="float64") for devices in (1, 4)
        )
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(four), strict=True
    ):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-8, err_msg=str(path))
    for a, b in zip(expected, history, strict=True):
        assert b.keys() == a.keys()
        for name in a:
            np.testing.assert_allclose(b[name], a[name], rtol=1e-9, err_msg=name)
        total = b["cross_entropy"] + b["triplet"] + b["gmn"] + 0.5 * b["pic"]
        np.testing.assert_allclose(b["loss"], total, rtol=1e-9)
    begun = initial(metric_model())["params"]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), begun["matcher"], four.params["matcher"])
    assert moved["norm_in"].pop("bias") < 1e-9  # the normalisation of the hidden units undoes it
    assert min(jax.tree.leaves(moved)) > 1e-6


def test_an_objective_that_draws_gets_the_epoch_and_a_key_of_its_own_for_every_step():
    class Drawing(Objective):
        def __call__(self, model, batch):
            stats = {"epoch": batch.epoch, "draw": jax.random.uniform(batch.key)}
            loss = jax.lax.pmean(jnp.square(batch.feature).mean(), AXIS)
            return loss, stats | {"accuracy": jnp.zeros(())}

    def told(seed):
        mesh, tx = make_mesh(jax.devices()[:1]), make_optimizer(lr=0.05, backbone_lr=0.02)
        state = create_state(metric_model(), tx, num_classes=None, seed=1, mesh=mesh, epochs=2)
        parts = {"model": metric_model(AXIS), "objective": Drawing(), "tx": tx}
        plan = make_schedule("step", epochs=2, steps_per_epoch=2)
        step, found = make_train_step(mesh, state, schedule=plan, **parts), []
        for batch in batches():
            state, metrics = step(state, to_devices(mesh, batch), seed)
            found.append(to_host(metrics))
        return [m["epoch"] for m in found], [float(m["draw"]) for m in found]

    (epochs, first), (_, other) = told(0), told(1)
    assert epochs == [0, 0, 1]
    assert len({*first, *other}) == 2 * STEPS


def test_in_the_first_phase_only_the_classifier_learns():
    mesh = make_mesh(jax.devices()[:1])
    tx = make_optimizer(lr=0.05, backbone_lr=0.02, freeze_steps=STEPS)
    begun = create_state(classifying_model(), tx, num_classes=None, seed=1, mesh=mesh, epochs=STEPS)
    begun = to_host(begun)
    state, history = train(2, "softmax", classifying_model, frozen=True)
    same = {
        part: all(jax.tree.leaves(jax.tree.map(np.array_equal, tree, begun.params[part])))
        for part, tree in state.params.items()
    }
    assert same == {"backbone": True, "neck": True, "classifier": False}
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, begun.batch_stats)
    # As of a classifier alone, on features as in evaluation.
    kernel, bias = (begun.params["classifier"][name] for name in ("kernel", "bias"))
    encode = make_encode(classifying_model(), mesh)
    batch = next(batches())
    variables = {"params": begun.params, "batch_stats": begun.batch_stats}
    feature = np.asarray(encode(variables, batch["image"]), np.float64)
    logit = feature @ kernel + bias
    log = logit - np.log(np.exp(logit).sum(1, keepdims=True))
    share = np.full(logit.shape, 0.1 / CLASSES)
    share[np.arange(BATCH), batch["label"]] += 0.9
    np.testing.assert_allclose(history[0]["loss"], -(share * log).sum() / BATCH, rtol=1e-5)
    slope = feature.T @ (np.exp(log) - share) / BATCH
    norm = np.hypot(np.linalg.norm(slope), np.linalg.norm((np.exp(log) - share).sum(0) / BATCH))
    np.testing.assert_allclose(history[0]["grad_norm"], norm, rtol=1e-4)


class Noisy(Backbone):
    """A backbone that draws something for every step."""

    def draw(self, epoch, key):
        return {"noise": jax.random.normal(key, (2,)), "epoch": epoch}

    @nn.compact
    def __call__(self, x, *, train=False):
        scale = self.param("scale", nn.initializers.ones, (2,))
        if self.has_variable("drawn", "noise"):
            scale = scale * (
                self.get_variable("drawn", "noise") + self.get_variable("drawn", "epoch")
            )
        return x[..., :2] * scale


def noisy_model(axis_name=None):
    neck = make_neck("linear", channels=4, axis_name=axis_name)
    sizes = {"height": 32, "width": 16, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    return Model(
        backbone=Noisy(), neck=neck, matcher=make_matcher("embedding"), classes=CLASSES, **sizes
    )


def test_what_a_step_draws_follows_from_seed_and_step_on_every_device():
    with jax.enable_x64(True):
        (one, expected), (four, history) = (
            train(devices, "softmax", noisy_model) for devices in (1, 4)
        )
        (_, other) = train(1, "softmax", noisy_model, seed=2)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)
    for a, b, c in zip(expected, history, other, strict=True):
        np.testing.assert_allclose(b["loss"], a["loss"], rtol=1e-5)
        assert abs(c["grad_norm"] / a["grad_norm"] - 1) > 1e-3
    model = noisy_model()
    drawn = [
        model.draw(epoch, jax.random.fold_in(jax.random.key(0), epoch))["drawn"]["backbone"]
        for epoch in range(STEPS)
    ]
    assert [d["epoch"] for d in drawn] == list(range(STEPS))
    assert len({float(d["noise"][0]) for d in drawn}) == STEPS
    assert classifying_model().draw(0, jax.random.key(0)) == {}


def test_bfloat16_stays_near_float32(on_one_device):
    (_, expected), (state, history) = on_one_device, train(1, dtype="bfloat16")
    assert all(leaf.dtype != jnp.bfloat16 for leaf in jax.tree.leaves(state))
    for a, b in zip(expected, history, strict=True):
        np.testing.assert_allclose(b["loss"], a["loss"], rtol=0.05)


def test_parts_of_the_network_that_are_computed_again_change_nothing(on_one_device):
    (expected, before), (state, history) = on_one_device, train(1, remat=True)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
    losses = [[float(step["loss"]) for step in steps] for steps in (before, history)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_history_and_rate_follow_the_steps(on_one_device):
    state, history = on_one_device
    np.testing.assert_allclose(state.history.loss, [metrics["loss"] for metrics in history])
    means = [metrics["accuracy"] for metrics in history]
    np.testing.assert_allclose(state.history.accuracy, means)
    np.testing.assert_allclose([metrics["rate"] for metrics in history], [1, 1, 0.1])


def test_training_changes_what_it_should(on_one_device):
    state, history = on_one_device
    assert int(state.step) == STEPS
    seen = np.unique(np.concatenate([batch["label"] for batch in batches()]))
    np.testing.assert_array_equal(np.flatnonzero(state.memory.valid), seen)
    norms = np.linalg.norm(state.memory.feature[seen], axis=-1)
    np.testing.assert_allclose(norms, 1, rtol=1e-5)
    assert not state.memory.feature[CLASSES:].any()
    assert history[0]["loss"] == 0  # nothing has been seen yet, so nothing is valid
    assert history[1]["loss"] > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_frozen_statistics_stay_while_the_rest_learns(on_one_device):
    trained, _ = on_one_device
    frozen, _ = train(1, freeze_stats=True)
    begun = jax.tree.map(np.asarray, initial(tiny_model()))
    for a, b in zip(
        jax.tree.leaves(begun["batch_stats"]["backbone"]),
        jax.tree.leaves(frozen.batch_stats["backbone"]),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    scale = lambda params: params["backbone"]["BatchNorm_0"]["scale"]  # noqa: E731
    assert np.abs(scale(frozen.params) - scale(begun["params"])).max() > 0
    assert np.abs(frozen.batch_stats["matcher"]["norm_in"]["mean"]) > 0
    assert not np.array_equal(
        trained.batch_stats["backbone"]["BatchNorm_0"]["mean"],
        begun["batch_stats"]["backbone"]["BatchNorm_0"]["mean"],
    )


@pytest.mark.parametrize("make", [tiny_model, multi_scale_model])
def test_flipped_features_do_not_know_left_from_right(make):
    model, mesh = make(), make_mesh(jax.devices()[:2])
    variables = initial(model)
    encode = make_encode(model, mesh, flip=True)
    image = next(batches())["image"]
    feature, mirrored = (
        np.asarray(encode(variables, to_devices(mesh, x)))
        for x in (image, np.ascontiguousarray(image[:, :, ::-1]))
    )
    np.testing.assert_allclose(mirrored[:, :, ::-1], feature, atol=1e-6)
    pixels = feature[..., :8]  # all of them, or the first of several parts
    np.testing.assert_allclose(np.linalg.norm(pixels, axis=-1), 1, rtol=1e-5)
    plain = make_encode(model, mesh)(variables, to_devices(mesh, image))
    assert np.abs(np.asarray(plain) - feature).max() > 1e-3


def test_encode_and_score_are_equal_on_any_number_of_devices():
    model = tiny_model()
    batch, variables = next(batches()), initial(model)
    results = []
    for devices in (1, 8):
        mesh = make_mesh(jax.devices()[:devices])
        feature = make_encode(model, mesh)(variables, to_devices(mesh, batch["image"]))
        score = make_score(model, mesh)(variables, np.asarray(feature)[:3], feature)
        assert score.shape == (3, BATCH)
        results.append((to_host(feature), to_host(score)))
    np.testing.assert_allclose(results[1][0], results[0][0], atol=1e-5)
    np.testing.assert_allclose(results[1][1], results[0][1], atol=1e-5)
