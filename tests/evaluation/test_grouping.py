"""Average linkage with pairs that stay apart, and its agreement with known people."""

import numpy as np
import pytest
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from jaxreid.evaluation import grouping
from jaxreid.evaluation.grouping import agreement, all_scores, apart, by_size, link


def alike(count, seed=0):
    values = np.random.default_rng(seed).random((count, count)).astype(np.float32)
    return (values + values.T) / 2


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 0.8])
def test_without_pairs_to_keep_apart_groups_are_those_of_scipy(threshold):
    similarity = alike(40)
    distance = squareform(1 - similarity, checks=False)
    tree = hierarchy.linkage(distance, method="average")
    expected = hierarchy.fcluster(tree, 1 - threshold, criterion="distance")
    found = link(similarity, threshold=threshold)
    np.testing.assert_array_equal(found, by_size(expected))
    counted = hierarchy.fcluster(tree, 7, criterion="maxclust")
    np.testing.assert_array_equal(link(alike(40), count=7), by_size(counted))


def test_images_of_one_camera_at_one_moment_never_join_even_through_others():
    generator = np.random.default_rng(3)
    camera, time = generator.integers(0, 3, 60), generator.integers(0, 8, 60).astype(float)
    camera[:5], time[5:9] = -1, np.nan
    pairs = apart(camera, time)
    same = (camera[:, None] == camera) & (time[:, None] == time) & (camera >= 0)[:, None]
    assert {tuple(pair) for pair in pairs.tolist()} == {
        (a, b) for a, b in zip(*np.nonzero(np.triu(same, 1)), strict=True)
    }
    group = link(np.ones((60, 60), np.float32), apart=pairs)
    assert (group[pairs[:, 0]] != group[pairs[:, 1]]).all()
    # As few people as the fullest moment shows, were it not for the order of joins.
    assert np.unique(group).size < 20
    assert apart(np.full(3, -1), np.zeros(3)).shape == (0, 2)


def test_groups_are_numbered_by_size_and_then_by_their_first_image():
    assert by_size(np.array([9, 4, 4, 7, 7, 2])).tolist() == [2, 0, 0, 1, 1, 3]


def test_every_pair_is_scored_once_and_too_many_images_are_refused(monkeypatch):
    class Model:
        scored = 0

        def score(self, query, gallery):
            self.scored += len(query) * len(gallery)
            return -np.abs(query[:, None] - gallery[None]).sum(-1)

    features, model = np.random.default_rng(0).random((20, 3)).astype(np.float32), Model()
    scores = all_scores(model, features, rows=6)
    np.testing.assert_array_equal(scores, model.score(features, features))
    assert model.scored - 400 < 300
    monkeypatch.setattr(grouping, "LARGEST", 19)
    with pytest.raises(ValueError, match="expected at most 19 at once.*Group them in parts"):
        all_scores(model, features)


def test_agreement_is_that_of_scikit_learn():
    # adjusted_rand_score, normalized_mutual_info_score and pair_confusion_matrix of 1.9.1
    found = agreement(np.array([0, 0, 1, 1, 2, 2]), np.array([5, 5, 5, 9, 9, 9]))
    assert found["ari"] == pytest.approx(0.24242424242424243)
    assert found["nmi"] == pytest.approx(0.5158037429793889)
    assert (found["precision"], found["recall"]) == pytest.approx((2 / 3, 1 / 3))
    assert (found["people"], found["groups"]) == (2, 3)
    assert agreement(np.arange(4), np.arange(4))["ari"] == 1
    assert agreement(np.zeros(3, int), np.arange(3))["f1"] == 0
