"""QAConv against its definition in plain loops, its properties, and the original's numbers."""

import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from golden import nchw, nhwc, qaconv_variables, seed_of
from jax.sharding import PartitionSpec as P
from matching import assert_close, in_training
from selection import deep

from jaxreid.mesh import AXIS, make_mesh
from jaxreid.models.matchers import make_matcher
from jaxreid.ops.patch_matching import patches
from jaxreid.training.memory import ClassMemory
from jaxreid.training.objectives import Batch, make_objective

HEADS = {"v2.1": "HEAD", "v1": "v1.2"}  # our name: the golden set's


def unit_maps(count, seed, h=3, w=2, d=5):
    x = np.random.default_rng(seed).standard_normal((count, h, w, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_loops(variables, query, gallery, head):
    """Scores in evaluation mode, position by position."""
    params, stats = variables["params"], variables["batch_stats"]

    def norm(x, name):
        p, s = params[name], stats[name]
        return p["scale"] * (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) + p["bias"]

    weight = params["weight"].reshape(len(params["weight"]), -1)
    scores = np.zeros((len(query), len(gallery)))
    for i, q in enumerate(query.reshape(len(query), -1, query.shape[-1])):
        for j, g in enumerate(gallery.reshape(len(gallery), -1, gallery.shape[-1])):
            total = 0.0
            for s in range(len(g)):
                total += weight[0, s] * norm(
                    max(float(q[r] @ g[s]) for r in range(len(q))), "norm_in"
                )
            for r in range(len(q)):
                total += weight[-1, r] * norm(
                    max(float(q[r] @ g[s]) for s in range(len(g))), "norm_in"
                )
            total += params["bias"] * (2 if head == "v2.1" else 1)
            scores[i, j] = norm(total, "norm_out")
    return scores


@pytest.mark.parametrize("head", HEADS)
def test_scores_equal_plain_loops(head):
    query, gallery = unit_maps(3, 0), unit_maps(4, 1)
    variables = qaconv_variables(1, head, 3, 2, np.float32)
    scores = make_matcher("qaconv", head=head).apply(variables, query, gallery)
    np.testing.assert_allclose(scores, by_loops(variables, query, gallery, head), atol=1e-5)


def test_shared_head_is_symmetric_and_the_other_is_not():
    query, gallery = unit_maps(3, 0), unit_maps(4, 1)
    for head, symmetric in (("v2.1", True), ("v1", False)):
        matcher = make_matcher("qaconv", head=head)
        variables = qaconv_variables(1, head, 3, 2, np.float32)
        there, back = (
            matcher.apply(variables, query, gallery),
            matcher.apply(variables, gallery, query),
        )
        assert np.allclose(there, back.T, atol=1e-5) == symmetric


def test_initial_score_ranks_by_mean_best_match():
    query, gallery = unit_maps(2, 0), unit_maps(6, 1)
    matcher = make_matcher("qaconv")
    variables = matcher.init(jax.random.key(0), query, gallery)
    scores = np.asarray(matcher.apply(variables, query, gallery))
    correlation = np.einsum("qrd,gsd->qgrs", query.reshape(2, 6, 5), gallery.reshape(6, 6, 5))
    mean = correlation.max(2).mean(-1) + correlation.max(3).mean(-1)
    np.testing.assert_array_equal(scores.argsort(1), mean.argsort(1))


@pytest.mark.parametrize("head", HEADS)
def test_padding_changes_nothing(head):
    query, gallery = unit_maps(3, 0), unit_maps(4, 1)
    matcher = make_matcher("qaconv", head=head)
    variables = qaconv_variables(1, head, 3, 2, np.float32)
    expected, stats = matcher.apply(variables, query, gallery, train=True, mutable=["batch_stats"])
    padded = np.concatenate([gallery, np.zeros_like(gallery)])
    mask = np.arange(8) < 4
    got, padded_stats = matcher.apply(
        variables, query, padded, train=True, mask=mask, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(got[:, :4], expected, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), stats, padded_stats)


def test_maps_of_another_size_are_refused():
    matcher = make_matcher("qaconv")
    variables = qaconv_variables(1, "v2.1", 3, 2, np.float32)
    with pytest.raises(ValueError, match="3x2 maps.*4x2"):
        matcher.apply(variables, unit_maps(2, 0, h=4), unit_maps(2, 1, h=4))
    with pytest.raises(ValueError, match="one size"):
        matcher.apply(variables, unit_maps(2, 0), unit_maps(2, 1, h=4))


def test_unknown_head_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"'v2'; valid: v2\.1, v1"):
        make_matcher("qaconv", head="v2")


@pytest.mark.parametrize(
    ("head", "chunk"),
    deep(*itertools.product(HEADS, (3, 4, 20)), but=[("v1", 4), ("v2.1", 3)]),
)
def test_chunks_equal_calls_one_after_the_other(head, chunk):
    query, gallery = unit_maps(3, 0), unit_maps(10, 1)
    variables = start = qaconv_variables(1, head, 3, 2, np.float32)
    whole, parts = make_matcher("qaconv", head=head), []
    for first in range(0, 10, chunk):
        part = gallery[first : first + chunk]
        scores, stats = in_training(whole, variables, query, part)
        variables = variables | {"batch_stats": stats}
        parts.append(scores)
    chunked = make_matcher("qaconv", head=head, statistics_chunk=chunk)
    scores, stats = in_training(chunked, start, query, gallery)
    np.testing.assert_allclose(scores, np.concatenate(parts, axis=1), atol=2e-5)
    assert_close(stats, variables["batch_stats"], rtol=1e-5)
    in_evaluation = [matcher.apply(start, query, gallery) for matcher in (whole, chunked)]
    np.testing.assert_array_equal(*in_evaluation)


def test_padding_counts_in_no_chunk():
    query, gallery = unit_maps(3, 0), unit_maps(6, 1)
    matcher = make_matcher("qaconv", statistics_chunk=4)
    variables = qaconv_variables(1, "v2.1", 3, 2, np.float32)
    expected, stats = in_training(matcher, variables, query, gallery)
    padded = np.concatenate([gallery, np.zeros((10, *gallery.shape[1:]), np.float32)])

    def total(padded):
        got = in_training(matcher, variables, query, padded, mask=np.arange(16) < 6)
        return got[0][:, :6].sum(), got

    gradient, (got, padded_stats) = jax.jit(jax.grad(total, has_aux=True))(padded)
    np.testing.assert_allclose(got[:, :6], expected, atol=2e-5)
    assert_close(padded_stats, stats, rtol=1e-5)
    assert np.isfinite(got).all()
    assert np.isfinite(gradient).all()


def train_over(devices, chunk, classes, rows):
    """Loss, gradients and statistics of two steps, the gallery spread over devices."""
    query, gallery = unit_maps(3, 0), unit_maps(rows, 1)
    variables = qaconv_variables(1, "v1", 3, 2, np.float32)
    matcher = make_matcher("qaconv", head="v1", statistics_chunk=chunk, axis_name=AXIS)
    weight = np.random.default_rng(2).standard_normal((3, rows)).astype(np.float32)

    def loss_fn(params, query, gallery, weight, stats):
        mask = jax.lax.axis_index(AXIS) * len(gallery) + np.arange(len(gallery)) < classes
        held = {"params": params, "batch_stats": stats}
        scores, stats = in_training(matcher, held, query, gallery, mask=mask)
        return jax.lax.psum((weight * scores * mask).sum(), AXIS), stats

    def steps(params, query, gallery, weight, stats):
        history = []
        for _ in range(2):
            step = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
            (loss, stats), grads = step(params, query, gallery, weight, stats)
            history.append((loss, grads, stats))
        return history

    sharded = jax.shard_map(  # the output is checked to be the same on every device
        steps,
        mesh=make_mesh(jax.devices()[:devices]),
        in_specs=(P(), P(), P(AXIS), P(None, AXIS), P()),
        out_specs=P(),
    )
    return jax.jit(sharded)(variables["params"], query, gallery, weight, variables["batch_stats"])


@pytest.mark.parametrize("classes", deep(16, 11, 5, but=[11]))
def test_chunks_are_the_same_on_any_number_of_devices(classes):
    expected = train_over(1, 4, classes, rows=16)
    # Sums in another order; parameters before a normalisation have gradients of rounding.
    assert_close(train_over(4, 4, classes, rows=16), expected, rtol=1e-4, atol=1e-4)
    unmasked = train_over(1, 4, classes, rows=classes)  # ends with a smaller chunk
    assert_close(unmasked[-1][-1], expected[-1][-1], rtol=1e-5)


def test_chunks_that_would_lie_on_two_devices_are_refused():
    with pytest.raises(ValueError, match=r"chunks of 3 rows.*2 devices holds 8.*divides 8, or 0"):
        train_over(2, 3, 16, rows=16)


@pytest.mark.parametrize("head", HEADS)
def test_an_explanation_adds_up_to_the_score(head):
    query, gallery = unit_maps(3, 0), unit_maps(4, 1)
    variables = qaconv_variables(1, head, 3, 2, np.float32)
    matcher = make_matcher("qaconv", head=head)
    explained = matcher.apply(variables, query, gallery, method="explain")
    score = matcher.apply(variables, query, gallery)  # sums in another order
    np.testing.assert_allclose(explained.logit, score, atol=1e-6)
    parts = explained.from_gallery.sum((2, 3)) + explained.from_query.sum((2, 3))
    np.testing.assert_allclose(
        explained.gain * parts + explained.offset, explained.logit, atol=1e-5
    )
    correlation = np.einsum("qrd,gsd->qgrs", query.reshape(3, 6, 5), gallery.reshape(4, 6, 5))
    np.testing.assert_array_equal(explained.match_in_query.reshape(3, 4, 6), correlation.argmax(2))
    np.testing.assert_array_equal(
        explained.match_in_gallery.reshape(3, 4, 6), correlation.argmax(3)
    )


@pytest.mark.golden
@pytest.mark.parametrize(("layer", "head"), [("v1", "v1"), ("head_as_2hw", "v2.1")])
def test_explanations_equal_the_originals_matching_tool(golden_dir, layer, head):
    golden = np.load(golden_dir / "match.npz")
    with jax.enable_x64(True):
        for case in sorted({key.split("/")[0] for key in golden.files}):
            probe, gallery = (
                nhwc(golden[f"{case}/{name}"]).astype(np.float64) for name in ("prob", "gal")
            )
            probe, gallery = (
                x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (probe, gallery)
            )
            variables = qaconv_variables(seed_of(golden_dir), head, *probe.shape[1:3], np.float64)
            # Its kernels come from the gallery: the roles are exchanged.
            explained = make_matcher("qaconv", head=head).apply(
                variables, gallery, probe, method="explain"
            )
            for got, name in (
                (explained.from_gallery, "prob_score"),
                (explained.match_in_query, "index_in_gal"),
                (explained.from_query, "gal_score"),
                (explained.match_in_gallery, "index_in_prob"),
                (1 / (1 + np.exp(-explained.logit / 10)), "score"),
            ):
                expected = golden[f"{case}/{layer}/{name}"]
                np.testing.assert_allclose(got.swapaxes(0, 1), expected, rtol=0, atol=1e-9)


@pytest.mark.golden
@pytest.mark.parametrize("size", deep("small", "real", but=["small"]))
@pytest.mark.parametrize("head", HEADS)
def test_scores_statistics_and_gradients_equal_the_original(golden_dir, head, size):
    golden, version = np.load(golden_dir / f"matcher_{size}.npz"), HEADS[head]
    with jax.enable_x64(True):
        query, gallery = (nhwc(golden[k]).astype(np.float64) for k in ("prob", "gal"))
        matcher = make_matcher("qaconv", head=head)
        variables = qaconv_variables(seed_of(golden_dir), head, *query.shape[1:3], np.float64)

        np.testing.assert_allclose(
            matcher.apply(variables, query, gallery), golden[f"{version}/eval/score"], atol=1e-8
        )

        def total(variables, query, gallery):
            score, updates = matcher.apply(
                variables, query, gallery, train=True, mutable=["batch_stats"]
            )
            return (score * golden["R"]).sum(), (score, updates["batch_stats"])

        grads, (score, stats) = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(
            variables, query, gallery
        )
        np.testing.assert_allclose(score, golden[f"{version}/train/score"], atol=1e-8)
        for ours, theirs in (("norm_in", "bn"), ("norm_out", "logit_bn")):
            for leaf in ("mean", "var"):
                after = golden[f"{version}/train/{theirs}.running_{leaf}_after"]
                np.testing.assert_allclose(stats[ours][leaf], after[0], rtol=1e-8)
        expected = golden[f"{version}/train/grad_param/fc.weight"]
        np.testing.assert_allclose(
            grads[0]["params"]["weight"].reshape(1, -1),
            expected,
            atol=1e-8 * np.abs(expected).max(),
        )
        if size == "small":
            for got, name in zip(grads[1:], ("grad_prob", "grad_gal"), strict=True):
                expected = golden[f"{version}/train/{name}"]
                scale = np.abs(expected).max()
                np.testing.assert_allclose(nchw(got), expected, atol=1e-6 * scale)


@pytest.mark.golden
@pytest.mark.parametrize("head", HEADS)
def test_five_steps_of_chunks_equal_the_original(golden_dir, head):
    golden, case = np.load(golden_dir / "loss_class_memory.npz"), f"classmem/{HEADS[head]}/mem"
    chunk = min({int(k.removeprefix(case).split("/")[0]) for k in golden.files if case in k})
    targets, features = golden["targets"], nhwc(golden["features"]).astype(np.float64)
    classes, shape = golden[f"{case}{chunk}/step0/valid_class"].size, features.shape[2:]
    matcher = make_matcher("qaconv", head=head, statistics_chunk=chunk)
    objective = make_objective("class_memory", num_classes=classes)
    with jax.enable_x64(True):
        variables = qaconv_variables(seed_of(golden_dir), head, *shape[:2], np.float64)
        memory = ClassMemory.create(classes, shape)
        memory = memory.replace(feature=memory.feature.astype(np.float64))

        @jax.jit
        def step(feature, label, memory, stats):
            def loss_fn(feature, params):
                found = {}

                def match(query, gallery, train, mask):
                    assert train
                    held = {"params": params, "batch_stats": stats}
                    scores, found["stats"] = in_training(matcher, held, query, gallery, mask=mask)
                    return scores

                loss, _ = objective(
                    SimpleNamespace(match=match), Batch(feature, feature, label, memory)
                )
                return loss, found["stats"]

            step = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
            (loss, stats), grads = step(feature, variables["params"])
            return loss, grads, memory.write(feature, label), stats

        stats = variables["batch_stats"]
        for s in range(len(targets)):
            loss, grads, memory, stats = step(features[s], targets[s], memory, stats)
            at = f"{case}{chunk}/step{s}/"
            np.testing.assert_allclose(loss, golden[at + "loss"].mean(), rtol=1e-8, atol=1e-12)
            for got, name in (
                (nchw(grads[0]), "grad_feature"),
                (grads[1]["weight"].reshape(1, -1), "grad_param/fc.weight"),
            ):
                expected = golden[at + name]
                atol = 1e-6 * max(np.abs(expected).max(), 1e-6)
                np.testing.assert_allclose(got, expected, atol=atol)
            for ours, theirs in (("norm_in", "bn"), ("norm_out", "logit_bn")):
                for leaf in ("mean", "var"):
                    after = golden[f"{at}after/{theirs}.running_{leaf}"][0]
                    np.testing.assert_allclose(stats[ours][leaf], after, rtol=1e-8)


@pytest.mark.parametrize("head", HEADS)
def test_patches_are_scored_and_explained_as_maps_of_patches(head):
    query, gallery = unit_maps(3, 0), unit_maps(4, 1)
    variables = qaconv_variables(1, head, 3, 2, np.float32)
    matcher, plain = make_matcher("qaconv", head=head, patch=3), make_matcher("qaconv", head=head)
    wide = [np.asarray(patches(x, 3)).reshape(-1, 3, 2, 45) for x in (query, gallery)]
    scores = matcher.apply(variables, query, gallery)
    np.testing.assert_allclose(scores, plain.apply(variables, *wide), atol=1e-4)
    assert np.abs(scores - plain.apply(variables, query, gallery)).max() > 0.1
    explained = matcher.apply(variables, query, gallery, method="explain")
    expected = plain.apply(variables, *wide, method="explain")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), explained, expected)


@pytest.mark.golden
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(("forward", "patch"), [("patch_forward", 3), ("pixel_forward", 1)])
def test_patches_score_and_learn_as_the_originals(golden_dir, forward, patch, mode):
    golden = np.load(golden_dir / "mqaconv.npz")
    at, case = "patch_qaconv/", f"patch_qaconv/{forward}/{mode}/"
    with jax.enable_x64(True):
        query, gallery = (nhwc(golden[at + k]).astype(np.float64) for k in ("prob", "gal"))
        matcher = make_matcher("qaconv", patch=patch)
        variables = qaconv_variables(seed_of(golden_dir), "v2.1", *query.shape[1:3], np.float64)

        def total(params, query, gallery):
            held = variables | {"params": params}
            options = {"train": mode == "train", "mutable": ["batch_stats"]}
            score, updates = matcher.apply(held, query, gallery, **options)
            return (score * golden[at + "R"]).sum(), (score, updates["batch_stats"])

        run = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))
        grads, (score, stats) = run(variables["params"], query, gallery)
    np.testing.assert_allclose(score, golden[case + "score"], rtol=1e-8, atol=1e-8)
    weight = grads[0]["weight"].reshape(1, -1)
    given = (weight, "grad_param/fc.weight"), (grads[1], "grad_prob"), (grads[2], "grad_gal")
    for got, name in given:
        expected = golden[case + name]
        got = nchw(got) if got.ndim == 4 else got
        np.testing.assert_allclose(got, expected, atol=1e-8 * np.abs(expected).max())
    if mode == "train":
        for ours, theirs in (("norm_in", "bn"), ("norm_out", "logit_bn")):
            for leaf in ("mean", "var"):
                after = golden[f"{case}after/{theirs}.running_{leaf}"][0]
                np.testing.assert_allclose(stats[ours][leaf], after, rtol=1e-8)
