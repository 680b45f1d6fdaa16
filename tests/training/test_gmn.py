"""GMN: its loss in plain loops, when its parts are on, its training step, and its evaluation."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.data.split import Split
from jaxreid.evaluation.ranking import rank_queries, summarize
from jaxreid.evaluation.ranking.k_reciprocal import rerank_matrix
from jaxreid.evaluation.retrieval import evaluate
from jaxreid.evaluation.scoring import Scorer
from jaxreid.evaluation.variants import make_variants
from jaxreid.mesh import make_mesh
from jaxreid.models.matchers import make_matcher
from jaxreid.models.model import init_variables, make_model
from jaxreid.training.objectives import Batch, make_objective
from jaxreid.training.objectives.gmn import pair_dropout, random_negatives

LABEL = np.array([0, 1, 0, 2, 1, 0])  # one image alone
BATCH, CHANNELS, CLASSES = len(LABEL), 5, 4
GMN = {
    "backbone": {"name": "resnet18", "cut": "layer1", "width": 4},
    "neck": {"name": "pooled", "pool": "gem"},
    "matcher": {"name": "metric_network", "hidden": 6},
    "height": 32,
    "width": 16,
}


def given(seed=0):
    """Logits of classes, embeddings, what precedes them, scores of pairs and of perturbed ones."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(0, 2, (2, BATCH, BATCH))
    return (
        generator.normal(0, 2, (BATCH, CLASSES)),
        generator.normal(0, 1, (BATCH, CHANNELS)),
        generator.normal(0, 1, (BATCH, CHANNELS)),
        scores + scores.swapaxes(1, 2),
    )


def given_model(logit, scores, asked):
    """A model whose answers are given; it notes what it is asked."""

    def match(query, gallery, *, train, mask):
        asked.append({"query": query, "gallery": gallery, "train": train, "mask": mask})
        return jnp.asarray(scores[0])

    def match_perturbed(query, gallery, factor, *, mask):
        asked.append({"query": query, "gallery": gallery, "factor": factor, "mask": mask})
        return tuple(map(jnp.asarray, scores))

    def classify(embedding):
        np.testing.assert_allclose(embedding, given()[1], rtol=1e-6)  # and not what precedes it
        return jnp.asarray(logit)

    return SimpleNamespace(classify=classify, match=match, match_perturbed=match_perturbed)


def classes_and_triplets(logit, before):
    cross, triplet = [], []
    for i in range(BATCH):
        log = logit[i] - np.log(np.exp(logit[i]).sum())
        target = [0.2 / CLASSES + 0.8 * (c == LABEL[i]) for c in range(CLASSES)]
        cross.append(-sum(t * l for t, l in zip(target, log, strict=True)))
        distance = [np.linalg.norm(before[i] - before[j]) for j in range(BATCH)]
        positive = max(d for d, other in zip(distance, LABEL, strict=True) if other == LABEL[i])
        negative = min(d for d, other in zip(distance, LABEL, strict=True) if other != LABEL[i])
        triplet.append(max(0, 0.3 + positive - negative))
    return np.mean(cross), np.mean(triplet)


def pairs_of(kind, among=None):
    pairs = [(p, q) for q in range(BATCH) for p in range(q)]
    pairs = [(p, q) for p, q in pairs if (LABEL[p] == LABEL[q]) == kind]
    return pairs if among is None else [pair for pair in pairs if among[pair]]


def of_pairs(score, negatives=None):
    positive = [-np.log(1 / (1 + np.exp(-score[pair]))) for pair in pairs_of(True)]
    negative = [-np.log(1 / (1 + np.exp(score[pair]))) for pair in pairs_of(False, negatives)]
    return np.mean(positive) + np.mean(negative)


def of_centres(embedding, kinds):
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    found = {}
    for p, q in [pair for kind in kinds for pair in pairs_of(kind)]:
        f = (unit[p] - unit[q]) ** 2
        found.setdefault(frozenset((LABEL[p], LABEL[q])), []).append(f / np.linalg.norm(f))
    spread = [np.square(f - np.mean(of, axis=0)).sum() for of in found.values() for f in of]
    return np.mean(spread)


def run(asked=None, *, epoch=3, key=7, **rule):
    logit, embedding, before, scores = given()
    options = {"smoothing": 0.2, "triplet": 0.7, "dropout_from": 3} | rule
    objective = make_objective("gmn", num_classes=CLASSES, **options)
    model = given_model(logit, scores, [] if asked is None else asked)
    feature = tuple(map(jnp.asarray, (embedding, before)))
    draws = {"epoch": jnp.asarray(epoch), "key": jax.random.key(key)}
    return jax.tree.map(float, objective(model, Batch(*feature, jnp.asarray(LABEL), **draws)))


def test_the_loss_is_the_sum_of_four():
    logit, embedding, before, scores = given()
    cross, triplet = classes_and_triplets(logit, before)
    gmn = (of_pairs(scores[0]) + of_pairs(scores[1])) / 2
    pic = of_centres(embedding, (True, False))
    loss, stats = run(asked := [], gmn=1.3, pic=0.4)
    assert loss == pytest.approx(cross + 0.7 * triplet + 1.3 * gmn + 0.4 * pic, rel=1e-5)
    expected = {"cross_entropy": cross, "triplet": triplet, "gmn": gmn, "pic": pic}
    expected["accuracy"] = np.mean(logit.argmax(1) == LABEL)
    right = [
        np.mean([(scores[0][p] > 0) == kind for p in pairs_of(kind)]) for kind in (True, False)
    ]
    expected["pair_accuracy"] = np.mean(right)
    assert stats == pytest.approx(expected, rel=1e-5)
    assert triplet > 0
    # Pairs are of the embeddings, and no image is one with itself.
    run(asked, dropout=0.0)
    assert len(asked) == 2
    for call in asked:
        np.testing.assert_allclose(call["query"], embedding, rtol=1e-6)
        np.testing.assert_allclose(call["gallery"], embedding, rtol=1e-6)
        np.testing.assert_array_equal(call["mask"], ~np.eye(BATCH, dtype=bool))


def test_perturbed_pairs_begin_late():
    _, _, _, scores = given()
    before, after = (run(epoch=epoch)[1]["gmn"] for epoch in (2, 3))
    assert before == pytest.approx(of_pairs(scores[0]), rel=1e-5)
    assert after == pytest.approx((of_pairs(scores[0]) + of_pairs(scores[1])) / 2, rel=1e-5)
    without = run(asked := [], dropout=0.0)[1]["gmn"]
    assert without == before
    assert asked[0]["train"]


def test_what_is_dropped_follows_from_the_key_and_the_pair():
    factors = []
    for key in (7, 7, 8):
        run(asked := [], key=key, dropout=0.3)
        factors.append(np.asarray(asked[0]["factor"]))
    np.testing.assert_array_equal(factors[0], factors[1])
    np.testing.assert_array_equal(factors[0], factors[0].swapaxes(0, 1))
    assert (factors[0] != factors[2]).any()
    drop = jax.random.split(jax.random.key(7))[1]
    expected = pair_dropout(drop, np.arange(BATCH), BATCH, CHANNELS, 0.3)
    np.testing.assert_array_equal(factors[0], expected)


def test_other_pairs_and_other_centres():
    _, embedding, _, scores = given()
    drawn = random_negatives(jax.random.split(jax.random.key(7))[0], jnp.asarray(LABEL))
    drawn = np.asarray(drawn)
    both = [of_pairs(score, drawn) for score in scores]
    assert run(pairs="random")[1]["gmn"] == pytest.approx(np.mean(both), rel=1e-5)
    worst = []
    for score in scores:
        here = []
        for kind, pick in ((True, min), (False, max)):
            of_each = [
                pick(score[p, q] for q in range(BATCH) if {p, q} in map(set, pairs_of(kind)))
                for p in range(BATCH)
                if not kind or LABEL[p] != 2
            ]
            here.append(np.mean([np.log1p(np.exp(-x if kind else x)) for x in of_each]))
        worst.append(sum(here))
    assert run(pairs="hardest")[1]["gmn"] == pytest.approx(np.mean(worst), rel=1e-5)
    stats = run(pic_pairs="positive")[1]
    assert stats["pic"] == pytest.approx(of_centres(embedding, (True,)), rel=1e-5)


def test_an_image_that_is_twice_in_a_batch_leaves_gradients_finite():
    matcher = make_matcher("metric_network", hidden=4)
    embedding = given()[1].astype(np.float32)
    embedding[2] = embedding[0]
    variables = matcher.init(jax.random.key(0), embedding, embedding)

    def match_perturbed(*features, **given):
        given |= {"method": "perturbed", "mutable": ["batch_stats"]}
        return matcher.apply(variables, *features, **given)[0]

    model = SimpleNamespace(classify=lambda x: x[:, :CLASSES], match_perturbed=match_perturbed)
    objective = make_objective("gmn", num_classes=CLASSES)

    def loss(x):
        batch = Batch(x, x, jnp.asarray(LABEL), key=jax.random.key(0))
        return objective(model, batch)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(embedding)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).min(1).max() > 0


def test_a_part_without_weight_is_left_out():
    logit, _, before, _ = given()
    loss, stats = run(asked := [], gmn=0.0, pic=0.0)
    cross, triplet = classes_and_triplets(logit, before)
    assert loss == pytest.approx(cross + 0.7 * triplet, rel=1e-5)
    assert stats.keys() == {"accuracy", "cross_entropy", "triplet"}
    assert not asked
    loss, stats = run(triplet=0.0, gmn=0.0)
    assert loss == pytest.approx(cross + 0.1 * stats["pic"], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": "all"}, "'all'; valid: balanced"),
        ({"pic_pairs": "al"}, "'al'; valid: all"),
        ({"metric": "euclidian"}, "'euclidian'; valid: euclidean"),
        ({"dropout": 1.0}, "objective.dropout is 1.0; expected a value in"),
        ({"gmn": -1}, "objective.gmn is -1; expected 0 or more"),
        ({"pic": -0.1}, "objective.pic is -0.1; expected 0 or more"),
        ({"dropout_from": -1}, "objective.dropout_from is -1; expected 0 or more"),
        ({"valid_flags": True}, "'gmn' has no option valid_flags"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_objective("gmn", num_classes=2, **options)


def test_a_matcher_without_pair_features_cannot_perturb_them():
    model = make_model(**GMN | {"matcher": {"name": "embedding"}})
    x = np.ones((2, 3), np.float32)
    perturb = functools.partial(model.apply, {}, method="match_perturbed")
    with pytest.raises(ValueError, match="Embedding has no pair features.*metric_network.*gmn=0"):
        perturb(x, x, np.ones((2, 2, 3)), mask=np.ones((2, 2), bool))


def test_embeddings_come_with_what_precedes_the_bn_neck():
    model = make_model(**GMN)
    image = np.random.default_rng(0).integers(0, 256, (6, 32, 16, 3)).astype(np.uint8)
    variables = jax.jit(model.init)(jax.random.key(0), image)
    encode = functools.partial(
        model.apply, train=True, mutable=["batch_stats"], method="encode_with_before"
    )
    (embedding, before), _ = jax.jit(encode)(variables, image)
    expected = (before - before.mean(0)) / np.sqrt(before.var(0) + 1e-5)
    np.testing.assert_allclose(embedding, expected, rtol=1e-3, atol=1e-3)
    assert np.abs(embedding - before).max() > 0.1


def test_evaluation_and_re_ranking_work_on_its_scores():
    generator = np.random.default_rng(0)

    def people(count, prefix):
        return Split(
            image=list(generator.integers(0, 256, (count, 32, 16, 3), np.uint8)),
            name=[f"{prefix}{i}.jpg" for i in range(count)],
            pid=generator.integers(0, 4, count),
            camid=generator.integers(0, 2, count),
            time=np.zeros(count),
        )

    query, gallery = people(7, "q"), people(13, "g")
    model = make_model(**GMN)
    variables = init_variables(model, 0)
    tiles = {"batch_size": 10, "query_tile": 3, "gallery_tile": 6}
    scorer = Scorer(model, make_mesh(jax.devices()[:2]), variables, **tiles)
    images = np.stack([*query.image, *gallery.image])
    options = {"k1": 4, "k2": 2, "weight": 0.3}
    variants = make_variants(rerank=True, rerank_options=options)
    features = scorer.encode(list(images), [*query.name, *gallery.name])
    results = evaluate(scorer, features, query, gallery, variants)
    feature = model.apply(variables, images, method="encode")
    scores = np.asarray(model.apply(variables, feature, feature, method="match"), np.float64)
    ids = query.pid, query.camid, gallery.pid, gallery.camid
    again = 1 - rerank_matrix(1 - 1 / (1 + np.exp(-scores / 10)), 7, **options)
    for name, matrix in {"plain": scores[:7, 7:], "rerank": again}.items():
        metrics = summarize(rank_queries(matrix, *ids))
        assert results[name].metrics["mAP"] == pytest.approx(metrics["mAP"], abs=1e-3), name
