"""QAConv-MS against its definition in plain loops, its properties, and the original's numbers."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import param, qaconv_variables, seed_of
from jax.sharding import PartitionSpec as P
from matching import assert_close, in_training, over_devices, scored
from selection import deep

from jaxreid.mesh import AXIS, make_mesh
from jaxreid.models.matchers import make_matcher, qaconv_ms
from jaxreid.models.matchers.qaconv_ms import HEADS
from jaxreid.weights.layouts.qaconv import QACONV_MS

PARTS, CHANNELS, HIDDEN = (4, 3, 2), 9, 7


def maps(count, seed, h=3, w=2, d=CHANNELS, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((count, h, w, d)).astype(dtype)


def named(parts):
    """Channels of parts that are called 0, 1 and so on, as the original's layers are."""
    return {str(i): width for i, width in enumerate(parts)}


def rule_variables(seed, parts, hidden, h, w, dtype, head="perceptron"):
    """Variables by the rule, under the names of the original's decoder."""

    def value(name, shape=(1,)):
        return param(seed, f"decoder.{name}", shape).astype(dtype)

    def norm_of(name, shape=()):
        given = {"scale": "weight", "bias": "bias"}, {"mean": "running_mean", "var": "running_var"}
        return [
            {k: value(f"{name}.{leaf}", shape or (1,)).reshape(shape) for k, leaf in kind.items()}
            for kind in given
        ]

    def perceptron(at):
        norms = {"norm_in": norm_of(at + "bn1"), "norm_hidden": norm_of(at + "bn2", (hidden,))}
        norms["norm_out"] = norm_of(at + "bn3")
        weights = {
            "kernel": value(at + "fc2.weight", (hidden, h * w)).T.reshape(h, w, hidden),
            "bias": value(at + "fc2.bias", (hidden,)),
            "out_kernel": value(at + "fc3.weight", (1, hidden)).T,
            "out_bias": value(at + "fc3.bias")[0],
        }
        params = weights | {k: v[0] for k, v in norms.items()}
        return {"params": params, "batch_stats": {k: v[1] for k, v in norms.items()}}

    def linear(i):
        return qaconv_variables(seed + i, "v2.1", h, w, dtype)

    heads = [linear(i) if head == "linear" else perceptron(f"layers.{i}.") for i in range(parts)]
    last = norm_of("norm") if parts > 1 else None
    return {
        kind: {f"heads_{i}": v[kind] for i, v in enumerate(heads)}
        | ({"norm": last[kind == "batch_stats"]} if last else {})
        for kind in ("params", "batch_stats")
    }


def tiny(head, parts=PARTS, shared=0):
    matcher = make_matcher("qaconv_ms", parts=named(parts), shared=shared, head=head, hidden=HIDDEN)
    return matcher, rule_variables(1, len(parts), HIDDEN, 3, 2, np.float32, head)


def norm(x, params, stats):
    return params["scale"] * (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) + params["bias"]


def head_logit(matches, params, stats, head):
    """Of one pair, from the best matches of both directions, unit by unit."""
    total = 0.0
    for best in matches:
        best = [norm(x, params["norm_in"], stats["norm_in"]) for x in best]
        if head == "linear":
            total += sum(w * x for w, x in zip(params["weight"].ravel(), best, strict=True))
            total += params["bias"]
            continue
        kernel = params["kernel"].reshape(len(best), HIDDEN)
        units = [sum(kernel[r, k] * x for r, x in enumerate(best)) for k in range(HIDDEN)]
        units = np.array(units) + params["bias"]
        units = norm(units, params["norm_hidden"], stats["norm_hidden"])
        total += sum(params["out_kernel"][k, 0] * max(units[k], 0) for k in range(HIDDEN))
        total += params["out_bias"]
    return norm(total, params["norm_out"], stats["norm_out"])


def matches_by_loops(query, gallery):
    q, g = query.reshape(-1, query.shape[-1]), gallery.reshape(-1, gallery.shape[-1])
    return [max(x @ y for y in g) for x in q], [max(x @ y for x in q) for y in g]


def by_loops(variables, query, gallery, parts, head):
    """Scores in evaluation mode."""
    params, stats = variables["params"], variables["batch_stats"]
    scores = np.zeros((len(query), len(gallery)))
    for i, j in np.ndindex(scores.shape):
        first = 0
        for part, width in enumerate(parts):
            here = np.s_[..., first : first + width]
            first += width
            name = f"heads_{part}"
            matches = matches_by_loops(query[i][here], gallery[j][here])
            scores[i, j] += head_logit(matches, params[name], stats[name], head)
        if len(parts) > 1:
            scores[i, j] = norm(scores[i, j], params["norm"], stats["norm"])
    return scores


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("parts", [PARTS, (9,)])
def test_scores_equal_plain_loops(head, parts):
    query, gallery = maps(2, 0), maps(3, 1)
    matcher, variables = tiny(head, parts)
    expected = by_loops(variables, query, gallery, parts, head)
    scores = scored(matcher, variables, query, gallery)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_shared_channels_are_compared_along_with_every_part():
    query, gallery = maps(2, 0, d=11), maps(3, 1, d=11)
    matcher, variables = tiny("perceptron", PARTS, shared=2)
    ends = [(0, 4), (4, 7), (7, 9)]
    spread = [
        np.concatenate([np.concatenate([x[..., a:b], x[..., 9:]], -1) for a, b in ends], -1)
        for x in (query, gallery)
    ]
    wide, _ = tiny("perceptron", tuple(width + 2 for width in PARTS))
    np.testing.assert_allclose(
        scored(matcher, variables, query, gallery), scored(wide, variables, *spread), atol=1e-6
    )


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("train", [False, True])
def test_scores_do_not_depend_on_which_side_or_place_an_image_is_on(head, train):
    query, gallery = maps(3, 0), maps(4, 1)
    matcher, variables = tiny(head)
    order = [2, 0, 3, 1]
    there, back = (
        in_training(matcher, variables, *pair)[0] if train else scored(matcher, variables, *pair)
        for pair in ((query, gallery), (gallery[order], query))
    )
    np.testing.assert_allclose(back.T, there[:, order], atol=1e-4)
    assert np.ptp(there) > 0.1


@pytest.mark.parametrize("head", HEADS)
def test_padding_changes_nothing(head):
    query, gallery = maps(3, 0), maps(4, 1)
    matcher, variables = tiny(head)
    expected, stats = in_training(matcher, variables, query, gallery)
    padded = np.concatenate([gallery, 9 * np.ones_like(gallery)])
    got, padded_stats = in_training(matcher, variables, query, padded, mask=np.arange(8) < 4)
    np.testing.assert_allclose(got[:, :4], expected, atol=1e-5)
    assert_close(padded_stats, stats, rtol=1e-5, atol=1e-6)


def batch_statistics(variables, query, gallery, parts):
    """Mean, biased variance and count of what each normalisation of perceptrons is given."""
    params, found, logits, first = variables["params"], {}, 0.0, 0

    def of(x, axes):
        return {"mean": x.mean(axes), "var": x.var(axes)}, x.size // np.prod(x.mean(axes).shape)

    for i, width in enumerate(parts):
        here, p = np.s_[..., first : first + width], params[f"heads_{i}"]
        first += width
        pairs = [[matches_by_loops(q[here], g[here]) for g in gallery] for q in query]
        x = np.array(pairs, np.float64)  # [Q, G, 2, n]
        stats = {"norm_in": of(x, (0, 1, 2, 3))}
        x = norm(x, p["norm_in"], stats["norm_in"][0])
        x = x @ p["kernel"].reshape(-1, HIDDEN) + p["bias"]
        stats["norm_hidden"] = of(x, (0, 1, 2))
        x = np.maximum(norm(x, p["norm_hidden"], stats["norm_hidden"][0]), 0)
        x = (x @ p["out_kernel"][:, 0] + p["out_bias"]).sum(2)
        stats["norm_out"] = of(x, (0, 1))
        logits = logits + norm(x, p["norm_out"], stats["norm_out"][0])
        found[f"heads_{i}"] = stats
    return found | {"norm": of(logits, (0, 1))}


def test_training_normalises_by_all_pairs_and_both_directions():
    query, gallery = maps(3, 0), maps(4, 1)
    matcher, variables = tiny("perceptron")
    batch = batch_statistics(variables, query, gallery, PARTS)
    is_one = lambda x: isinstance(x, tuple)  # noqa: E731
    of_batch = jax.tree.map(lambda one: one[0], batch, is_leaf=is_one)
    scores, stats = in_training(matcher, variables, query, gallery)
    expected = by_loops(variables | {"batch_stats": of_batch}, query, gallery, PARTS, "perceptron")
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)

    def after(one, old):  # PyTorch keeps the unbiased variance
        new, count = one
        new = new | {"var": new["var"] * count / (count - 1)}
        return {k: 0.9 * old[k] + 0.1 * new[k] for k in ("mean", "var")}

    expected = jax.tree.map(after, batch, variables["batch_stats"], is_leaf=is_one)
    assert_close(stats, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 5 * HIDDEN, 1000 * HIDDEN])
def test_hidden_units_are_made_piece_by_piece(monkeypatch, size):
    query, gallery = maps(3, 0), maps(4, 1)
    matcher, variables = tiny("perceptron")
    expected = scored(matcher, variables, query, gallery)
    monkeypatch.setattr(qaconv_ms, "HIDDEN_SIZE", size)
    np.testing.assert_allclose(scored(matcher, variables, query, gallery), expected, atol=1e-5)


def test_scoring_needs_little_memory():
    count, hidden = 256, 2048
    matcher = make_matcher("qaconv_ms", parts=named((8,)), hidden=hidden)
    shape = jax.ShapeDtypeStruct((count, 3, 2, 8), jnp.float32)
    variables = jax.eval_shape(matcher.init, jax.random.key(0), shape, shape)
    compiled = jax.jit(matcher.apply).lower(variables, shape, shape).compile()
    whole = 2 * count**2 * hidden * 4
    assert compiled.memory_analysis().temp_size_in_bytes < whole / 2


@pytest.mark.parametrize("head", deep(*HEADS, but=["perceptron"]))
def test_training_is_the_same_on_any_number_of_devices(head):
    parts = (5, 4)
    matcher = make_matcher(
        "qaconv_ms", parts=named(parts), head=head, hidden=HIDDEN, axis_name=AXIS
    )
    given = matcher, tiny(head, parts)[1], maps(8, 0), maps(6, 1)
    # Sums in another order; parameters before a normalisation have gradients of rounding.
    assert_close(over_devices(4, *given), over_devices(1, *given), rtol=1e-3, atol=2e-4)


def test_scoring_works_on_a_mesh():
    query, gallery = maps(3, 0), maps(8, 1)
    matcher, variables = tiny("perceptron")
    sharded = jax.shard_map(
        matcher.apply,
        mesh=make_mesh(jax.devices()[:4]),
        in_specs=(P(), P(), P(AXIS)),
        out_specs=P(None, AXIS),
    )
    expected = scored(matcher, variables, query, gallery)
    np.testing.assert_allclose(jax.jit(sharded)(variables, query, gallery), expected, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("parts", [PARTS, (9,)])
def test_an_explanation_adds_up_to_the_score(head, parts):
    query, gallery = maps(2, 0), maps(3, 1)
    matcher, variables = tiny(head, parts)
    explained = jax.jit(functools.partial(matcher.apply, method="explain"))(
        variables, query, gallery
    )
    np.testing.assert_allclose(
        explained.logit, scored(matcher, variables, query, gallery), atol=1e-5
    )
    total = sum(part.logit for part in explained.parts.values()) + explained.offset
    np.testing.assert_allclose(total, explained.logit, atol=1e-5)
    first = 0
    for part, width in zip(explained.parts.values(), parts, strict=True):
        cells = part.from_gallery.sum((2, 3)) + part.from_query.sum((2, 3))
        np.testing.assert_allclose(part.gain * cells + part.offset, part.logit, atol=1e-5)
        q, g = (x[..., first : first + width].reshape(-1, 6, width) for x in (query, gallery))
        first += width
        correlation = np.einsum("qrd,gsd->qgrs", q, g)
        np.testing.assert_array_equal(part.match_in_query.reshape(2, 3, 6), correlation.argmax(2))
        np.testing.assert_array_equal(part.match_in_gallery.reshape(2, 3, 6), correlation.argmax(3))


def test_a_perceptrons_contribution_is_match_times_slope():
    query, gallery = maps(1, 0, dtype=np.float64), maps(1, 1, dtype=np.float64)
    variables = rule_variables(1, 1, HIDDEN, 3, 2, np.float64)
    params, stats = (variables[kind]["heads_0"] for kind in ("params", "batch_stats"))
    matches = np.array(matches_by_loops(query[0], gallery[0]))
    logit, slopes = head_logit(matches, params, stats, "perceptron"), np.zeros((2, 6))
    for i, j in np.ndindex(2, 6):
        moved = matches.copy()
        moved[i, j] += 1e-6
        slopes[i, j] = (head_logit(moved, params, stats, "perceptron") - logit) / 1e-6
    with jax.enable_x64(True):
        matcher = make_matcher("qaconv_ms", parts=named((CHANNELS,)), hidden=HIDDEN)
        parts, *_ = matcher.apply(variables, query, gallery, method="explain")
    (explained,) = parts.values()
    of_query, of_gallery = (x.ravel() for x in (explained.from_query, explained.from_gallery))
    np.testing.assert_allclose([of_query, of_gallery], matches * slopes, rtol=1e-5, atol=1e-8)
    assert np.abs(slopes).min() > 1e-3  # every position counts


@pytest.mark.parametrize("head", HEADS)
def test_what_does_not_fit_is_refused(head):
    matcher, variables = tiny(head)
    with pytest.raises(ValueError, match=r"10 channels.*\(4, 3, 2\) with 0 shared"):
        matcher.apply(variables, maps(2, 0, d=10), maps(2, 1, d=10))
    with pytest.raises(ValueError, match="one size"):
        matcher.apply(variables, maps(2, 0), maps(2, 1, h=4))
    with pytest.raises(ValueError, match="3x2 maps.*4x2"):
        matcher.apply(variables, maps(2, 0, h=4), maps(2, 1, h=4))
    with pytest.raises(ValueError, match=r"'mlp'; valid: "):
        make_matcher("qaconv_ms", parts=named(PARTS), head="mlp")


@pytest.mark.parametrize("head", HEADS)
def test_before_training_the_mean_score_is_the_one_asked_for(head):
    query, gallery = maps(4, 0), maps(5, 1)
    for parts in (PARTS, (9,)):
        matcher = make_matcher(
            "qaconv_ms", parts=named(parts), head=head, hidden=HIDDEN, initial_logit=-3.0
        )
        variables = jax.jit(matcher.init)(jax.random.key(0), query, gallery)
        scores, _ = in_training(matcher, variables, query, gallery)
        assert float(scores.mean()) == pytest.approx(-3, abs=1e-4)
        heads = [v for k, v in variables["params"].items() if k != "norm"]
        assert sum(head["norm_out"]["bias"] for head in heads) == (0 if len(heads) > 1 else -3)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("case", "mode"),
    deep(
        *itertools.product(
            ["single", "multi_scale_135", "multi_scale_1357", "multi_scale_13_transformer"],
            ["eval", "train"],
        ),
        but=[
            ("single", "eval"),
            ("multi_scale_135", "train"),
            ("multi_scale_13_transformer", "train"),
        ],
    ),
)
def test_scores_gradients_and_statistics_equal_the_original(golden_dir, case, mode):
    meta = json.loads((golden_dir / "mqaconv.json").read_text())
    at, seed = f"transmatcher/{case}", seed_of(golden_dir)
    if at not in meta and case.startswith("multi_scale_135"):
        pytest.skip(f"{golden_dir.folder} has been cut")
    golden, train = np.load(golden_dir / "mqaconv.npz"), mode == "train"
    parts, hidden = tuple(meta[at]["split_layer"]), meta[at]["dim_feedforward"]
    with jax.enable_x64(True):
        query, gallery = (golden[f"{at}/{k}"].astype(np.float64) for k in ("prob", "gal"))
        variables = rule_variables(seed, len(parts), hidden, *query.shape[1:3], np.float64)
        matcher = make_matcher("qaconv_ms", parts=named(parts), hidden=hidden)

        def total(params, query, gallery):
            held = variables | {"params": params}
            score, updates = matcher.apply(
                held, query, gallery, train=train, mutable=["batch_stats"]
            )
            return (score * golden[f"{at}/R"]).sum(), (score, updates["batch_stats"])

        run = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))
        grads, (score, stats) = run(variables["params"], query, gallery)
        np.testing.assert_allclose(score, golden[f"{at}/{mode}/score"], rtol=1e-8, atol=1e-8)
        for got, name in zip(grads[1:], ("grad_prob", "grad_gal"), strict=True):
            expected = golden[f"{at}/{mode}/{name}"]
            np.testing.assert_allclose(got, expected, atol=1e-6 * np.abs(expected).max())
        check_parameters(grads[0], dict(meta[f"{at}/{mode}/param_grad_l2"]))
        if train:
            check_statistics(stats, golden, f"{at}/{mode}/after/decoder.")


def official(path):
    """The original's name of one of our variables."""
    path = ("matcher", *(key.key for key in path))
    return QACONV_MS.name(path, "resnet18", "01234").removeprefix("criterion.decoder.")


def check_parameters(grads, theirs):
    """Norms of the gradients; those of what a normalisation takes out again are rounding."""
    found = jax.tree_util.tree_leaves_with_path(grads)
    assert len(found) == len(theirs)
    largest = max(theirs.values())
    for path, leaf in found:
        expected = theirs[f"decoder.{official(path)}"]
        assert np.linalg.norm(leaf) == pytest.approx(expected, rel=1e-8, abs=1e-12 * largest)


def check_statistics(stats, golden, at):
    found = jax.tree_util.tree_leaves_with_path(stats)
    names = {name.removeprefix(at) for name in golden.files if name.startswith(at)}
    unused = {} if "norm" in stats else {"norm.running_mean", "norm.running_var"}
    assert names.difference(unused) == {official(path) for path, _ in found}
    for path, leaf in found:
        after = golden[at + official(path)]
        np.testing.assert_allclose(np.ravel(leaf), after, rtol=1e-8, atol=1e-12)
