"""The class-memory loss: a plain loop, its gradient's shape of mind, and the original's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import nchw, nhwc, qaconv_variables, seed_of

from jaxreid.matchers import make_matcher
from jaxreid.memory import ClassMemory
from jaxreid.objectives import focal_loss, make_objective, nearest_class


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
                new = {}

                def match(query, gallery, mask=None):
                    score, updates = matcher.apply(
                        {"params": params, "batch_stats": stats},
                        query,
                        gallery,
                        train=True,
                        mask=mask,
                        mutable=["batch_stats"],
                    )
                    new.update(updates["batch_stats"])
                    return score

                loss, metrics = objective(match, feature, label, memory)
                return loss, (metrics, new)

            (loss, (metrics, stats_after)), grads = jax.value_and_grad(
                loss_fn, argnums=(0, 1), has_aux=True
            )(feature, variables["params"])
            return loss, metrics, grads, memory.write(feature, label), stats_after

        for s in range(len(targets)):
            loss, metrics, grads, memory, stats = step(features[s], targets[s], memory, stats)
            at = f"{case}/step{s}/"
            np.testing.assert_allclose(loss, golden[at + "loss"].mean(), rtol=1e-8, atol=1e-12)
            if s:  # in the first step all scores of a row are equal
                np.testing.assert_allclose(metrics["accuracy"], golden[at + "acc"].mean())
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
