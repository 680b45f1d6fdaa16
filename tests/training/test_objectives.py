"""The class-memory loss: a plain loop, its gradient's shape of mind, and the original's numbers."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import nchw, nhwc, qaconv_variables, seed_of
from selection import deep

from jaxreid.models.matchers import make_matcher
from jaxreid.ops.metrics import distances
from jaxreid.training.losses import hardest, triplet_loss
from jaxreid.training.memory import ClassMemory
from jaxreid.training.objectives import OBJECTIVES, Batch, Objective, make_objective
from jaxreid.training.objectives.class_memory import focal_loss, nearest_class
from jaxreid.training.objectives.pairs import pairwise_loss
from jaxreid.training.objectives.softmax import smoothed_cross_entropy


def scoring(logit):
    """A model whose scores are given."""
    return SimpleNamespace(match=lambda query, gallery, train: jnp.asarray(logit))


def without_neck(feature, label, memory=None):
    """A batch whose features no BN neck has changed."""
    return Batch(feature, feature, label, memory)


def test_focal_loss_equals_plain_loops():
    generator = np.random.default_rng(0)
    logit = generator.normal(0, 3, (4, 6))
    label, valid = np.array([2, 0, 5, 2]), np.array([1, 0, 1, 1, 1, 1], bool)
    expected = []
    for b in range(4):
        total = 0.0
        for c in range(6):
            p, own = 1 / (1 + np.exp(-logit[b, c])), c == label[b]
            weight = (1 - p) ** 2 if own else p**2
            total += valid[c] * weight * -np.log(p if own else 1 - p)
        expected.append(total)
    got = focal_loss(jnp.array(logit), jnp.array(label), jnp.array(valid))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    halves = [
        focal_loss(jnp.array(logit[:, a : a + 3]), label, valid[a : a + 3], a) for a in (0, 3)
    ]
    np.testing.assert_allclose(sum(halves), expected, rtol=1e-5)


def test_focal_loss_is_finite_for_extreme_scores():
    logit = jnp.array([[200.0, -200.0, 200.0]])
    value, grad = jax.value_and_grad(
        lambda x: focal_loss(x, jnp.array([1]), jnp.ones(3, bool)).sum()
    )(logit)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_nearest_class_is_the_first_of_the_best():
    logit = jnp.array([[0.0, 2.0, 2.0], [-jnp.inf, -1.0, -3.0]])
    np.testing.assert_array_equal(nearest_class(logit), [1, 1])
    np.testing.assert_array_equal(nearest_class(logit, first_class=10), [11, 11])


def test_unknown_objective_lists_the_valid_ones():
    with pytest.raises(ValueError, match="'class_memry'; valid: class_memory"):
        make_objective("class_memry", num_classes=3)


def test_no_objective_falls_through_to_another(monkeypatch):
    monkeypatch.setattr(OBJECTIVES, "_entries", dict(OBJECTIVES._entries))
    made = {name: type(make_objective(name, num_classes=3)) for name in OBJECTIVES.names}
    assert len(set(made.values())) == len(made)
    assert all(issubclass(objective, Objective) for objective in made.values())

    @OBJECTIVES.register("mine")
    class Mine(Objective):
        pass

    assert type(make_objective("mine", num_classes=3)) is Mine
    with pytest.raises(ValueError, match="'mine' has no option margin; it has none"):
        make_objective("mine", num_classes=3, margin=1)
    with pytest.raises(ValueError, match="unknown objective 'theirs'; valid: .*mine"):
        make_objective("theirs", num_classes=3)


def test_losses_of_pairs_equal_plain_loops():
    generator = np.random.default_rng(0)
    label = np.array([0, 1, 0, 2, 1, 0])  # one image alone
    logit = generator.normal(0, 2, (6, 6)).astype(np.float32)
    cross, triplet, wins = [], [], []
    for i in range(6):
        total, positive, negative = 0.0, np.inf, -np.inf
        for j in range(6):
            p = 1 / (1 + np.exp(-logit[i, j]))
            total -= np.log(p if label[i] == label[j] else 1 - p)
            if label[i] != label[j]:
                negative = max(negative, logit[i, j])
            elif i != j:
                positive = min(positive, logit[i, j])
        cross.append(total)
        triplet.append(max(0, 1.5 - positive + negative))
        wins.append(positive >= negative)
    same, itself = label[:, None] == label, np.eye(6, dtype=bool)
    np.testing.assert_allclose(pairwise_loss(logit, same), cross, rtol=1e-5)
    positive, negative = hardest(logit, same, itself)
    np.testing.assert_allclose(triplet_loss(positive, negative, 1.5), triplet, rtol=1e-5)
    assert triplet[3] == 0  # nothing to compare with
    objective = make_objective("triplet", num_classes=3, margin=1.5)
    loss, stats = objective(scoring(logit), without_neck(jnp.zeros((6, 1, 1, 1)), label))
    assert float(loss) == pytest.approx(np.mean(triplet), rel=1e-5)
    assert float(stats["accuracy"]) == pytest.approx(np.mean(wins))


def test_rows_that_are_not_finite_are_left_out():
    logit = np.zeros((4, 4), np.float32)
    logit[2] = np.nan
    objective = make_objective("pairwise", num_classes=2)
    label = np.array([0, 0, 1, 1])
    loss, _ = objective(scoring(logit), without_neck(jnp.zeros((4, 1, 1, 1)), label))
    assert float(loss) == pytest.approx(4 * np.log(2), rel=1e-6)
    loss, _ = objective(
        scoring(np.full((4, 4), np.nan)), without_neck(jnp.zeros((4, 1, 1, 1)), label)
    )
    assert np.isnan(loss)


PAIRS = {
    "pairwise_HEAD": ("v2.1", "pairwise", {}),
    "pairwise_v2.0": ("v1", "pairwise", {}),
    "triplet_HEAD_margin16": ("v2.1", "triplet", {"margin": 16.0}),
    "triplet_HEAD_margin0.25": ("v2.1", "triplet", {"margin": 0.25}),
}


@pytest.mark.golden
@pytest.mark.parametrize("init", ["rule", "official_init"])
@pytest.mark.parametrize("case", PAIRS)
def test_losses_of_pairs_equal_the_original(golden_dir, case, init):
    golden = np.load(golden_dir / "loss_pairwise_triplet.npz")
    head, name, options = PAIRS[case]
    batches = sorted({key.split("/")[0] for key in golden.files})
    assert len(batches) > 3
    with jax.enable_x64(True):
        matcher = make_matcher("qaconv", head=head)
        objective = make_objective(name, num_classes=9, **options)

        @jax.jit
        def gradients(feature, variables, label):
            def loss_fn(feature, params):
                new = {}

                def match(query, gallery, train):
                    score, updates = matcher.apply(
                        variables | {"params": params},
                        query,
                        gallery,
                        train=train,
                        mutable=["batch_stats"],
                    )
                    new.update(updates["batch_stats"])
                    return score

                loss, stats = objective(SimpleNamespace(match=match), without_neck(feature, label))
                return loss, (stats, new)

            return jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)(
                feature, variables["params"]
            )

        for batch in batches:
            feature = nhwc(golden[f"{batch}/feature"]).astype(np.float64)
            label = golden[f"{batch}/target"]
            variables = qaconv_variables(
                seed_of(golden_dir),
                head,
                *feature.shape[1:3],
                np.float64,
                official_init=init == "official_init",
            )
            (loss, (stats, after)), grads = gradients(feature, variables, label)
            at = f"{batch}/{case}/{init}/"
            np.testing.assert_allclose(loss, golden[at + "loss"].mean(), rtol=1e-8, err_msg=at)
            np.testing.assert_allclose(stats["accuracy"], golden[at + "acc"].mean(), err_msg=at)
            for got, key in (
                (nchw(grads[0]), "grad_feature"),
                (grads[1]["weight"].reshape(1, -1), "grad_param/fc.weight"),
                (grads[1]["norm_out"]["scale"], "grad_param/logit_bn.weight"),
                (grads[1]["norm_out"]["bias"], "grad_param/logit_bn.bias"),
            ):
                expected = golden[at + key]
                scale = max(np.abs(expected).max(), 1e-6)
                np.testing.assert_allclose(got, expected, atol=1e-6 * scale, err_msg=at + key)
            for ours, theirs in (("norm_in", "bn"), ("norm_out", "logit_bn")):
                for leaf in ("mean", "var"):
                    expected = golden[f"{at}after/{theirs}.running_{leaf}"][0]
                    np.testing.assert_allclose(after[ours][leaf], expected, rtol=1e-8)


# Name in the golden set, our head, valid flags. The chunk size of the v1.2 code changes its batch
# statistics; `mem<classes or more>` is one chunk, as we compute.
CASES = [
    ("classmem/HEAD", "v2.1", True),
    ("classmem/v1.2", "v1", True),
    ("classmem_official_init/HEAD", "v2.1", True),
    ("qaconvloss/v1.0", "v1", False),
    ("qaconvloss/v1.1", "v1", True),
]


@pytest.mark.golden
@pytest.mark.parametrize(("case", "head", "valid_flags"), CASES)
def test_five_steps_equal_the_original(golden_dir, case, head, valid_flags):
    golden = np.load(golden_dir / "loss_class_memory.npz")
    targets = golden["targets"]
    if case.startswith("classmem"):
        chunks = {key.split("/")[2] for key in golden.files if key.startswith(case + "/mem")}
        case += "/" + max(chunks, key=lambda chunk: int(chunk.removeprefix("mem")))
    classes = next(len(golden[key]) for key in golden.files if key.endswith("final_memory"))
    with jax.enable_x64(True):
        features = nhwc(golden["features"]).astype(np.float64)
        shape = features.shape[2:]
        matcher = make_matcher("qaconv", head=head)
        variables = qaconv_variables(
            seed_of(golden_dir), head, *shape[:2], np.float64, official_init="official_init" in case
        )
        objective = make_objective("class_memory", num_classes=classes, valid_flags=valid_flags)
        empty = ClassMemory.create(classes, shape)
        memory = empty.replace(feature=empty.feature.astype(np.float64))
        stats = variables["batch_stats"]

        @jax.jit
        def step(feature, label, memory, stats):
            def loss_fn(feature, params):
                new, logits = {}, []

                def match(query, gallery, train, mask):
                    score, updates = matcher.apply(
                        {"params": params, "batch_stats": stats},
                        query,
                        gallery,
                        train=train,
                        mask=mask,
                        mutable=["batch_stats"],
                    )
                    new.update(updates["batch_stats"])
                    logits.append(score)
                    return score

                model = SimpleNamespace(match=match)
                loss, metrics = objective(model, without_neck(feature, label, memory))
                return loss, (metrics | {"logit": logits[0]}, new)

            (loss, (metrics, stats_after)), grads = jax.value_and_grad(
                loss_fn, argnums=(0, 1), has_aux=True
            )(feature, variables["params"])
            return loss, metrics, grads, memory.write(feature, label), stats_after

        for s in range(len(targets)):
            filled = np.asarray(memory.valid)[targets[s]]
            loss, metrics, grads, memory, stats = step(features[s], targets[s], memory, stats)
            at = f"{case}/step{s}/"
            np.testing.assert_allclose(loss, golden[at + "loss"].mean(), rtol=1e-8, atol=1e-12)
            right = np.asarray(metrics["logit"])[:, :classes].argmax(1) == targets[s]
            np.testing.assert_allclose(metrics["accuracy"], right.mean())
            # Empty classes have equal scores: which of them is the best is no one's to say.
            np.testing.assert_array_equal(right[filled], golden[at + "acc"][filled] > 0)
            expected = golden[at + "grad_feature"]
            np.testing.assert_allclose(
                nchw(grads[0]), expected, atol=1e-6 * max(np.abs(expected).max(), 1e-6)
            )
            expected = golden[at + "grad_param/fc.weight"]
            np.testing.assert_allclose(
                grads[1]["weight"].reshape(1, -1),
                expected,
                atol=1e-6 * max(np.abs(expected).max(), 1e-6),
            )
            for ours, theirs in (("norm_in", "bn"), ("norm_out", "logit_bn")):
                for leaf in ("mean", "var"):
                    after = golden[f"{at}after/{theirs}.running_{leaf}"][0]
                    np.testing.assert_allclose(stats[ours][leaf], after, rtol=1e-8)
        if f"{case}/final_memory" in golden.files:
            np.testing.assert_allclose(
                nchw(memory.feature[:classes]), golden[f"{case}/final_memory"], atol=1e-6
            )


def classifier(logit):
    """A model whose logits are given."""
    return SimpleNamespace(classify=lambda embedding: jnp.asarray(logit))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_softmax_with_triplets_equals_plain_loops(metric):
    generator = np.random.default_rng(0)
    label = np.array([0, 1, 0, 2, 1, 0])  # one image alone
    logit, embedding = generator.normal(0, 2, (6, 4)), generator.normal(0, 1, (6, 5))
    cross, triplet = [], []
    for i in range(6):
        log = logit[i] - np.log(np.exp(logit[i]).sum())
        target = [0.2 / 4 + 0.8 * (c == label[i]) for c in range(4)]
        cross.append(-sum(t * l for t, l in zip(target, log, strict=True)))
        positive, negative = 0.0, np.inf
        for j in range(6):
            a, b = embedding[i], embedding[j]
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            distance = np.linalg.norm(a - b) if metric == "euclidean" else 1 - cosine
            if label[i] == label[j]:
                positive = max(positive, distance)
            else:
                negative = min(negative, distance)
        triplet.append(max(0, 0.3 + positive - negative))
    assert 0 < np.count_nonzero(triplet) < 6
    rule = {"smoothing": 0.2, "triplet": 0.7, "margin": 0.3, "metric": metric}
    objective = make_objective("softmax", num_classes=4, **rule)
    loss, stats = objective(classifier(logit), Batch(None, embedding, label))
    assert float(loss) == pytest.approx(np.mean(cross) + 0.7 * np.mean(triplet), rel=1e-5)
    assert float(stats["cross_entropy"]) == pytest.approx(np.mean(cross), rel=1e-5)
    assert float(stats["triplet"]) == pytest.approx(np.mean(triplet), rel=1e-5)
    assert float(stats["accuracy"]) == np.mean(logit.argmax(1) == label)


def test_wrong_settings_of_objectives_are_refused():
    with pytest.raises(ValueError, match="'euclidian'; valid: euclidean"):
        make_objective("softmax", num_classes=2, metric="euclidian")
    for option in ("triplet", "margin"):
        with pytest.raises(ValueError, match=f"objective.{option} is -1; expected 0 or more"):
            make_objective("softmax", num_classes=2, **{option: -1})
    with pytest.raises(ValueError, match="objective.margin is -1; expected 0 or more"):
        make_objective("triplet", num_classes=2, margin=-1)
    with pytest.raises(ValueError, match="smoothing is 1.0; expected a value in"):
        make_objective("softmax", num_classes=2, smoothing=1.0)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("case", "smoothing"), [("smooth0", 0.0), ("smooth1", 0.1), ("eps0.3", 0.3)]
)
def test_cross_entropy_equals_torchreids(golden_dir, case, smoothing):
    golden = np.load(golden_dir / "loss_torchreid.npz")
    with jax.enable_x64(True):
        mean = lambda logit: smoothed_cross_entropy(logit, golden["ce/targets"], smoothing).mean()  # noqa: E731
        loss, grad = jax.value_and_grad(mean)(golden["ce/logits"].astype(np.float64))
        np.testing.assert_allclose(loss, golden[f"ce/{case}/loss"], rtol=1e-8)
        np.testing.assert_allclose(grad, golden[f"ce/{case}/grad"], rtol=1e-6, atol=1e-12)


@pytest.mark.golden
@pytest.mark.parametrize("batch", deep("pk", "single", "tie", but=["tie"]))
def test_triplets_of_distances_equal_torchreids(golden_dir, batch):
    golden = np.load(golden_dir / "loss_torchreid.npz")
    label = golden[f"triplet/{batch}/targets"]
    margins = {key.split("/")[2] for key in golden.files if f"triplet/{batch}/margin" in key}
    assert len(margins) > 1
    with jax.enable_x64(True):

        def mean(embedding, margin):
            same = label[:, None] == label
            alike = -distances(embedding, embedding, "euclidean")
            return triplet_loss(*hardest(alike, same, np.zeros_like(same)), margin).mean()

        inputs = golden[f"triplet/{batch}/inputs"].astype(np.float64)
        for margin in margins:
            value = float(margin.removeprefix("margin"))
            loss, grad = jax.value_and_grad(mean)(inputs, value)
            at = f"triplet/{batch}/{margin}/"
            np.testing.assert_allclose(loss, golden[at + "loss"], rtol=1e-8, err_msg=at)
            # Where two rows are equal, which of them is the hardest is a matter of taste.
            if batch != "tie":
                np.testing.assert_allclose(grad, golden[at + "grad"], rtol=1e-6, atol=1e-9)
