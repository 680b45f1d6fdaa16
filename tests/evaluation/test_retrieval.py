"""Evaluation in blocks of queries: the same numbers as of the whole score matrix, and a record."""

import json
import types

import jax
import numpy as np
import pytest
from golden import nhwc
from people import MODEL

from jaxreid.data.split import Split
from jaxreid.evaluation import retrieval as evaluation
from jaxreid.evaluation.ranking import rank_queries, summarize, top_matches
from jaxreid.evaluation.ranking.k_reciprocal import rerank_matrix
from jaxreid.evaluation.ranking.temporal_lifting import tlift
from jaxreid.evaluation.results import LISTED, write_queries
from jaxreid.evaluation.run import make_evaluation
from jaxreid.evaluation.scoring import Scorer
from jaxreid.evaluation.variants import make_variants
from jaxreid.mesh import make_mesh
from jaxreid.models.matchers import make_matcher
from jaxreid.models.model import init_variables, make_model

NORMS = [
    f"{bn}.{leaf}"
    for bn in ("bn", "logit_bn")
    for leaf in ("weight", "bias", "running_mean", "running_var")
]


def people(count, seed):
    generator = np.random.default_rng(seed)
    pid, camid = generator.integers(0, 5, count), generator.integers(0, 2, count)
    pixels = list(generator.integers(0, 256, (count, 32, 16, 3), np.uint8))
    names = [f"{seed}_{i}.jpg" for i in range(count)]
    return Split(pixels, names, pid, camid, generator.uniform(0, 500, count))


def scorer_of(devices, query_tile, gallery_tile, **options):
    model, mesh = make_model(**MODEL | options), make_mesh(jax.devices()[:devices])
    variables = init_variables(model, 0)
    tiles = {"query_tile": query_tile, "gallery_tile": gallery_tile}
    return Scorer(model, mesh, variables, batch_size=8, **tiles)


@pytest.fixture(scope="module")
def scored():
    scorer = scorer_of(2, 3, 6)
    query, gallery = people(9, 1), people(17, 2)
    features = scorer.encode([*query.image, *gallery.image], [*query.name, *gallery.name])

    def run(**options):
        return evaluation.evaluate(scorer, features, query, gallery, make_variants(**options))

    return query, gallery, run, scorer.scores(features, features)


@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_blocks_give_what_the_whole_matrix_gives(scored, monkeypatch, block):
    query, gallery, run, scores = scored
    scores = scores[:9, 9:]
    monkeypatch.setattr(evaluation, "BLOCK_SIZE", block)
    result = run()["plain"]
    ids = query.pid, query.camid, gallery.pid, gallery.camid
    ranks = rank_queries(scores, *ids)
    expected = summarize(ranks)
    assert {key: result.metrics[key] for key in expected} == expected
    same = query.pid[:, None] == gallery.pid
    junk = same & (query.camid[:, None] == gallery.camid)
    positive, negative = scores[same & ~junk], scores[~same]
    accepted = 100 * (negative[:, None] >= negative).sum(0) <= negative.size  # one in a hundred
    best = max(((positive >= s).mean() for s in negative[accepted]), default=0)
    above = (positive > negative.max()).mean()
    assert result.metrics["tpr_at_fpr_0.01"] == pytest.approx(max(best, above))
    assert 0 < result.metrics["equal_error_rate"] < 1
    np.testing.assert_array_equal(result.ranks.average_precision, ranks.average_precision)
    np.testing.assert_array_equal(result.top, top_matches(scores, *ids, LISTED))
    for q, (top, kept) in enumerate(zip(result.top, result.top_scores, strict=True)):
        np.testing.assert_array_equal(kept[top >= 0], scores[q, top[top >= 0]])
        assert np.isnan(kept[top < 0]).all()


def test_every_query_has_a_line(scored, tmp_path):
    query, gallery, run, _ = scored
    result = run()["plain"]
    sets = {"tiny": {"query": query, "gallery": gallery}}
    write_queries(tmp_path / "queries.jsonl", sets, {"tiny": result})
    lines = [json.loads(line) for line in (tmp_path / "queries.jsonl").read_text().splitlines()]
    assert [line["query"] for line in lines] == query.name
    for q, line in enumerate(lines):
        assert line["set"] == "tiny"
        assert line["pid"] == query.pid[q]
        if line["matches"]:
            assert line["AP"] == result.ranks.average_precision[q]
            right = [place for place, item in enumerate(line["top"], 1) if item["right"]]
            if line["first_match"] <= len(line["top"]):
                assert right[0] == line["first_match"]
        scores = [item["score"] for item in line["top"]]
        assert scores == sorted(scores, reverse=True)
        assert all(item["name"] in gallery.name for item in line["top"])


def test_re_ranked_and_lifted_as_well(scored):
    query, gallery, run, scores = scored
    ids = query.pid, query.camid, gallery.pid, gallery.camid
    times = {
        "query_camid": query.camid,
        "query_time": query.time,
        "gallery_camid": gallery.camid,
        "gallery_time": gallery.time,
    }
    distance = 1 - 1 / (1 + np.exp(-scores.astype(np.float64) / 10))
    again = 1 - rerank_matrix(distance, 9, k1=4, k2=2, weight=0.3)
    expected = {
        "plain": scores[:9, 9:],
        "rerank": again,
        "rerank+tlift": tlift(again, **times, k=3),
    }
    options = {"rerank": True, "rerank_options": {"k1": 4, "k2": 2, "weight": 0.3}}
    lift = {"tlift": True, "tlift_options": {"k": 3}}
    results = run(**options, **lift)
    assert list(results) == list(expected)
    for name, matrix in expected.items():
        metrics = summarize(rank_queries(matrix, *ids))
        assert results[name].metrics["mAP"] == pytest.approx(metrics["mAP"], abs=1e-3), name
        best = np.sort(matrix, axis=1)[:, -1]
        junk = results[name].top[:, 0] != matrix.argmax(1)  # the best may be the own camera's
        np.testing.assert_allclose(results[name].top_scores[~junk, 0], best[~junk], atol=1e-4)
    alone = run(**lift)
    lifted = tlift(1 / (1 + np.exp(-scores[:9, 9:].astype(np.float64))), **times, k=3)
    expected = summarize(rank_queries(lifted, *ids))["mAP"]
    assert alone["tlift"].metrics["mAP"] == pytest.approx(expected, abs=1e-3)


COSINE = {"neck": {"name": "pooled"}, "matcher": {"name": "embedding"}}
EUCLIDEAN = COSINE | {"matcher": {"name": "embedding", "metric": "euclidean"}}


def direction(vector):
    return vector / np.sqrt(sum(x * x for x in vector))


def expanded_by_hand(query, gallery, score, count, alpha, metric):
    """Chum et al. and Radenovic et al., one query at a time."""
    prepared = direction if metric == "cosine" else np.array
    rows = []
    for vector in query:
        best = sorted(range(len(gallery)), key=lambda g: (-score(vector, gallery[g]), g))[:count]
        total, weights = prepared(vector), 1.0
        for g in best:
            cosine = float(direction(vector) @ direction(gallery[g]))
            weight = max(cosine, 0.0) ** alpha
            total, weights = total + weight * prepared(gallery[g]), weights + weight
        rows.append([score(total / weights, image) for image in gallery])
    return np.array(rows)


def searched_together_by_hand(query, gallery, features, score, pool, metric):
    """Zheng et al.: all images of the person from the query's camera, one query at a time."""
    prepared = direction if metric == "cosine" else np.array
    whole = [
        *zip(query.pid, query.camid, strict=True),
        *zip(gallery.pid, gallery.camid, strict=True),
    ]
    rows = []
    for q in range(len(query)):
        own = [features[i] for i, pair in enumerate(whole) if pair == whole[q]]
        images = features[len(query) :]
        if pool == "scores":
            rows.append([np.mean([score(vector, image) for vector in own]) for image in images])
            continue
        reduce = np.mean if pool == "mean" else np.max
        vector = reduce([prepared(vector) for vector in own], axis=0)
        rows.append([score(vector, image) for image in images])
    return np.array(rows)


@pytest.mark.parametrize("block", [40, 10**6])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_expansion_and_multiple_queries_are_those_of_plain_loops(monkeypatch, metric, block):
    monkeypatch.setattr(evaluation, "BLOCK_SIZE", block)
    scorer = scorer_of(2, 3, 6, **(COSINE if metric == "cosine" else EUCLIDEAN))
    query, gallery = people(9, 1), people(17, 2)
    features = np.random.default_rng(3).normal(1, 1, (26, 5)).astype(np.float32)
    sides = features[:9].astype(np.float64), features[9:].astype(np.float64)

    def score(a, b):
        if metric == "cosine":
            return float(direction(a) @ direction(b))
        return -float(((np.array(a) - b) ** 2).sum())

    for alpha in (0.0, 3.0):
        variants = make_variants(expand=4, expand_alpha=alpha)
        result = evaluation.evaluate(scorer, features, query, gallery, variants)["expand"]
        expected = expanded_by_hand(*sides, score, 4, alpha, metric)
        check_ranking(result, expected, query, gallery)
        assert result.variant.options == {"expand_options": {"count": 4, "alpha": alpha}}
    for pool in ("mean", "max", "scores"):
        variants = make_variants(multi_query=pool)
        result = evaluation.evaluate(scorer, features, query, gallery, variants)["multi_query"]
        expected = searched_together_by_hand(
            query, gallery, features.astype(np.float64), score, pool, metric
        )
        check_ranking(result, expected, query, gallery)


def check_ranking(result, scores, query, gallery):
    ids = query.pid, query.camid, gallery.pid, gallery.camid
    expected = rank_queries(scores, *ids)
    np.testing.assert_array_equal(result.ranks.first_match, expected.first_match)
    np.testing.assert_allclose(result.ranks.average_precision, expected.average_precision)
    best = np.take_along_axis(scores, np.maximum(result.top, 0), 1)
    # Scores are float32.
    np.testing.assert_allclose(
        result.top_scores, np.where(result.top < 0, np.nan, best), rtol=1e-4, atol=1e-5
    )


def test_maps_have_no_mean_and_one_camera_no_multiple_queries(scored):
    query, gallery, run, scores = scored
    mesh, maps = make_mesh(jax.devices()[:1]), make_model(**MODEL)
    for settings, advice in (
        ({"expand": 3}, "set eval.expand=0"),
        ({"multi_query": "max"}, "set eval.multi_query=scores"),
    ):
        with pytest.raises(ValueError, match=f"this model returns maps.*{advice}"):
            make_evaluation(maps, mesh, settings)
    with pytest.raises(ValueError, match=r"eval.expand_alpha is -1"):
        make_variants(expand=1, expand_alpha=-1)
    result = run(multi_query="scores")["multi_query"]
    ids = [*zip(query.pid, query.camid, strict=True), *zip(gallery.pid, gallery.camid, strict=True)]
    own = [[i for i, pair in enumerate(ids) if pair == ids[q]] for q in range(9)]
    expected = np.stack([scores[images, 9:].mean(0) for images in own])
    check_ranking(result, expected, query, gallery)
    _, tests = make_evaluation(maps, mesh, {"multi_query": "scores", "junk": "none"})
    possible, messages = tests._possible("mine", query, gallery, "none")
    assert [variant.name for variant in possible] == ["plain"]
    assert "images of one person and camera are matches" in messages[0]


V1 = {"matcher": {"name": "qaconv", "head": "v1"}}


@pytest.mark.parametrize("model", [{}, V1, COSINE, EUCLIDEAN], ids=["v2.1", "v1", "cos", "l2"])
def test_re_ranking_by_the_original_distance_alone_is_the_plain_ranking(model):
    """Of the non-symmetric head the swapped score was taken for the original distance."""
    scorer = scorer_of(1, 4, 8, **model)
    query, gallery = people(9, 1), people(17, 2)
    features = scorer.encode([*query.image, *gallery.image], [*query.name, *gallery.name])
    # As published scores: far from 0, where a sigmoid would be constant.
    if model in (COSINE, EUCLIDEAN):
        length = np.linalg.norm(features, axis=1, keepdims=True)
        features = features / length * (30 if model is EUCLIDEAN else 1)
    options = {"k1": 4, "k2": 2, "weight": 1.0}
    variants = make_variants(rerank=True, rerank_options=options, tlift=True)
    results = evaluation.evaluate(scorer, features, query, gallery, variants)
    plain, again = results["plain"], results["rerank"]
    np.testing.assert_array_equal(again.ranks.first_match, plain.ranks.first_match)
    np.testing.assert_allclose(again.metrics["mAP"], plain.metrics["mAP"], atol=1e-9)


@pytest.mark.golden
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_embeddings_are_re_ranked_by_the_distances_of_torchreid(golden_dir, metric):
    arrays = np.load(golden_dir / "rerank.npz")
    features = arrays["features"]
    matcher = make_matcher("embedding", metric=metric)
    scores = np.asarray(matcher.apply({}, features[:20], features[20:]))
    expected = arrays[f"torchreid_distance/{metric}"]
    np.testing.assert_allclose(matcher.distances(scores), expected, rtol=1e-5, atol=1e-5)
    assert matcher.rerank_options == {"squared": True}
    assert len(np.unique(matcher.similarities(scores))) > 0.99 * scores.size  # no ties for TLift


def test_shortlists_tell_what_they_kept(scored):
    query, gallery, run, _ = scored
    results = run(shortlist=17, shortlist_window=(2, 2))  # the whole gallery
    whole, plain = results["shortlist"].metrics, results["plain"].metrics
    assert whole["top10_recall"] == 1
    assert whole["mAP"] == pytest.approx(plain["mAP"])
    assert min(whole["scoring_seconds"], whole["exact_seconds"]) > 0
    few = run(shortlist=3, shortlist_window=(4, 4))["shortlist"]
    listed = (few.top_scores[:, :3] - results["plain"].top_scores[:, :1] <= 1e-5).all()
    assert listed
    assert 0 < few.metrics["top10_recall"] <= 0.3 + 0.05  # of ten at most three, some are junk


@pytest.mark.parametrize(("devices", "query_tile", "gallery_tile"), [(1, 1, 5), (4, 9, 32)])
def test_ranking_is_the_same_on_any_devices_and_tiles(scored, devices, query_tile, gallery_tile):
    query, gallery, run, _ = scored
    scorer = scorer_of(devices, query_tile, gallery_tile)
    features = scorer.encode([*query.image, *gallery.image], [*query.name, *gallery.name])
    found = evaluation.evaluate(scorer, features, query, gallery)["plain"]
    expected = run()["plain"]
    np.testing.assert_array_equal(found.top, expected.top)
    for key, value in found.metrics.items():
        # The threshold is a score, and scores are rounded otherwise in other tiles.
        close = 1e-5 if "threshold" in key else 0
        assert value == pytest.approx(expected.metrics[key], abs=close, rel=0), key


class OriginalMaps:
    """Scores given maps with a given matcher, in the place of a `Scorer`."""

    query_tile, gallery_tile = 4, 16

    def __init__(self, model, score):
        self.model, self._score = model, score

    def hold(self, gallery):
        return gallery

    def scores(self, query, gallery, bar=None):
        return np.asarray(self._score(query, gallery))


@pytest.mark.golden
def test_the_whole_chain_equals_the_originals(golden_dir):
    arrays = np.load(golden_dir / "eval_chain.npz")
    expected = json.loads((golden_dir / "eval_chain.json").read_text())["v2.1_stable_argsort"]
    query, gallery = (
        Split(
            image=[],
            name=[f"{key}{i}" for i in range(len(arrays[f"{key}_pids"]))],
            pid=arrays[f"{key}_pids"],
            camid=arrays[f"{key}_cams"],
            time=arrays[f"{key}_time"],
        )
        for key in ("q", "g")
    )
    maps = [nhwc(arrays[key]).astype(np.float32) for key in ("prob", "gal")]
    h, w = maps[0].shape[1:3]
    value = {key: arrays[f"matcher/{key}"][0] for key in ("fc.bias", *NORMS)}
    variables = {
        "params": {
            "weight": arrays["matcher/fc.weight"].reshape(1, h, w),
            "bias": value["fc.bias"],
            "norm_in": {"scale": value["bn.weight"], "bias": value["bn.bias"]},
            "norm_out": {"scale": value["logit_bn.weight"], "bias": value["logit_bn.bias"]},
        },
        "batch_stats": {
            ours: {"mean": value[f"{bn}.running_mean"], "var": value[f"{bn}.running_var"]}
            for ours, bn in (("norm_in", "bn"), ("norm_out", "logit_bn"))
        },
    }
    matcher = make_matcher("qaconv")
    model = types.SimpleNamespace(matcher=matcher)
    scorer = OriginalMaps(model, lambda q, g: matcher.apply(variables, q, g))
    variants = make_variants(rerank=True, tlift=True)
    results = evaluation.evaluate(scorer, np.concatenate(maps), query, gallery, variants)
    for ours in ("plain", "rerank", "rerank+tlift"):
        rank1, mean_ap = expected[ours.replace("+", "_")]
        assert results[ours].metrics["rank1"] == pytest.approx(rank1), ours
        # The original re-ranks in float16, which can exchange two neighbours in a list.
        close = 1e-6 if ours == "plain" else 0.01
        assert results[ours].metrics["mAP"] == pytest.approx(mean_ap, abs=close), ours
