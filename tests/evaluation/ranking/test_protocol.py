"""Junk rules, against plain loops."""

import numpy as np
import pytest

from jaxreid.evaluation.ranking import choose_rule, count_matches, junk_groups, rank_queries
from jaxreid.evaluation.ranking.protocol import RULES


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    pid, camid = generator.integers(0, 6, 40), generator.integers(0, 3, 40)
    names = np.array([f"{i}.jpg" for i in range(40)])
    # Queries 0 to 9 are in the gallery too.
    return (pid[:15], camid[:15], names[:15]), (
        np.append(pid[:10], pid[15:]),
        np.append(camid[:10], camid[15:]),
        np.append(names[:10], names[15:]),
    )


def is_junk(rule, query, gallery, q, g):
    if query[0][q] != gallery[0][g]:
        return False
    return {
        "camera": query[1][q] == gallery[1][g],
        "same-image": query[2][q] == gallery[2][g],
        "none": False,
    }[rule]


@pytest.mark.parametrize("rule", RULES)
def test_rules_say_what_is_junk(data, rule):
    query, gallery = data
    groups = junk_groups(rule, query[1], gallery[1], query[2], gallery[2])
    matches, junk = count_matches(query[0], groups[0], gallery[0], groups[1])
    scores = np.random.default_rng(1).standard_normal((15, 35))
    ranks = rank_queries(scores, query[0], groups[0], gallery[0], groups[1])
    np.testing.assert_array_equal(ranks.matches, matches)
    for q in range(15):
        same = [g for g in range(35) if query[0][q] == gallery[0][g]]
        left_out = [g for g in same if is_junk(rule, query, gallery, q, g)]
        assert (matches[q], junk[q]) == (len(same) - len(left_out), len(left_out))
        kept = [g for g in range(35) if g not in left_out]
        right = [g for g in same if g in kept]
        if right:
            best = max(scores[q, g] for g in right)
            first = 1 + sum(scores[q, g] > best for g in kept)
            assert ranks.first_match[q] == first


def test_the_rule_follows_the_data(data):
    query, gallery = data
    assert choose_rule(query[1], gallery[1], query[2], gallery[2]) == ("camera", "")
    rule, why = choose_rule(query[1], np.full(35, -1), query[2], gallery[2])
    assert rule == "same-image"
    assert "no camera is known for 35 of 50 images" in why
    rule, why = choose_rule(query[1], np.full(35, -1), query[2], np.arange(35).astype(str))
    assert rule == "none"
    # A camera that is known is a camera, even alone: the error says what to set.
    one = np.full(15, 3), np.full(35, 3)
    assert choose_rule(*one, query[2], gallery[2]) == ("camera", "")


def test_unknown_rules_list_the_valid_ones(data):
    query, gallery = data
    with pytest.raises(ValueError, match="unknown junk rule 'cam'; valid: camera"):
        junk_groups("cam", query[1], gallery[1], query[2], gallery[2])
