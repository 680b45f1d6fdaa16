"""Calibrations: probabilities, rates and thresholds of scores, their errors, and their file."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from jaxreid.evaluation import calibration_file
from jaxreid.evaluation.calibration import Calibration
from jaxreid.evaluation.fitting import fit
from jaxreid.evaluation.ranking.pairs import half_of, rate_error
from jaxreid.evaluation.ranking.roc import RocAccumulator
from jaxreid.evaluation.reliability import reliabilities
from jaxreid.evaluation.results import Result
from jaxreid.evaluation.run import calibrate
from jaxreid.evaluation.variants import PLAIN


def pairs(seed=0, people=60, shots=4, shift=0.0, keep=2**19, spread=1.0):
    """Scores of images of people: normal, by 2 higher for the same person."""
    g = np.random.default_rng(seed)
    pid = np.repeat(np.arange(1, people + 1), shots)
    camid = np.tile(np.arange(shots) % 2, people)
    # A level of each person's own: pairs of one person depend on each other.
    level = g.normal(0, 0.5, people + 1)[pid]
    scores = g.normal(0, 1, (len(pid), len(pid))) + 2.0 * (pid[:, None] == pid) + level[:, None]
    scores = (scores * spread + shift).astype(np.float32)
    roc = RocAccumulator(scores.size, keep=keep)
    for i in range(0, len(pid), 50):
        part = slice(i, i + 50)
        roc.add(scores[part], pid[part], camid[part], pid, camid)
    return roc.all_pairs()


def fitted(**options):
    return fit({"set": pairs(**options)}, {"set": "0123abcd"}, model_digest="89abcdef")


@pytest.fixture(scope="module")
def one():
    return fitted()


def test_probabilities_are_monotone_and_never_certain(one):
    scores = np.linspace(-50, 50, 1001)
    p = one.probability(scores)
    assert (np.diff(p) >= 0).all()
    assert 0 < p[0] < 0.1
    assert 0.9 < p[-1] < 1
    np.testing.assert_array_equal(one.probability(np.inf), p[-1])


def test_the_prior_moves_the_odds_and_nothing_else(one):
    p, q = (one.probability(1.0, prior=prior) for prior in (0.5, 0.01))
    assert q / (1 - q) == pytest.approx(p / (1 - p) / 99)
    for wrong in (0, 1, -1, np.nan):
        with pytest.raises(ValueError, match="expected a probability between 0 and 1"):
            one.probability(0.0, prior=wrong)


def test_log_odds_are_those_of_the_distributions(one):
    # Of two normal distributions of equal variance and distance 2: linear in the score.
    scores = np.array([0.0, 1.0, 2.0])
    np.testing.assert_allclose(one.log_odds(scores), (2 * scores - 2) / 1.25, atol=0.4)


def test_rates_and_thresholds_are_those_of_the_pairs(one):
    whole = pairs()
    for threshold in one.thresholds:
        accepted = (whole.negatives >= threshold.score).mean()
        assert accepted <= threshold.rate
        assert accepted == pytest.approx(threshold.by_set[0])
        assert one.score_at_rate(threshold.rate) == threshold.score
    for score in (0.0, 1.0, 2.0):
        expected = (whole.negatives >= score).mean()
        assert one.false_match_rate(score) == pytest.approx(expected, rel=0.05)
    assert one.false_match_rate(1e9) == one.resolution == 1 / len(whole.negatives)
    with pytest.raises(ValueError, match=r"cannot be seen in the pairs of set.*more people"):
        one.score_at_rate(1e-9)


def test_a_probability_has_its_lowest_score(one):
    for prior in (0.5, 0.02):
        score = one.score_at_probability(0.6, prior=prior)
        assert one.probability(score, prior=prior) >= 0.6
        assert one.probability(score - 0.05, prior=prior) < 0.6
    with pytest.raises(ValueError, match="no score reaches a probability of 0.99999"):
        one.score_at_probability(0.99999, prior=0.01)


def test_pairs_that_are_counted_give_the_calibration_of_pairs_that_are_kept(one):
    counted = fitted(keep=700)
    scores = np.linspace(-2, 4, 50)
    np.testing.assert_allclose(counted.log_odds(scores), one.log_odds(scores), atol=0.15)
    assert [t.score for t in counted.thresholds] == [t.score for t in one.thresholds]


def test_errors_are_over_people_and_hold_over_draws():
    rates = np.array([pairs(seed).negatives for seed in range(40)])
    threshold = np.quantile(rates[0], 0.99)
    spread = (rates >= threshold).mean(1).std()
    error = pairs().errors[0.01]
    # That of independent pairs is a third of it.
    assert spread / 2 < error < spread * 2
    assert error > 1.5 * np.sqrt(0.01 / rates.shape[1])


def test_an_error_is_that_of_sums_over_people():
    from collections import Counter

    accepted = np.array([[1, 1, 1, 1], [5, 5, 5, 5]])
    images = Counter({1: 100, 2: 100}), Counter({5: 50, 6: 50, 7: 100})
    rate = 4 / 200
    queries = np.array([4, 0]) - rate * np.array([100, 100])
    gallery = np.array([4, 0, 0]) - rate * np.array([50, 50, 100])
    variance = 2 * (queries**2).sum() + 1.5 * (gallery**2).sum() - 4**2
    assert rate_error(accepted, images, 200) == pytest.approx(np.sqrt(variance) / 200)


def test_halves_hold_about_as_many_people_whatever_their_numbers():
    for step in (1, 2, 64):
        assert 0.4 < half_of(np.arange(1, 500) * step).mean() < 0.6
    # Kept pairs hold their people as floats, distractors below zero.
    people = np.arange(-500, 500)
    np.testing.assert_array_equal(half_of(people.astype(float)), half_of(people))


def test_a_shift_of_scores_shows_on_other_sets_and_not_on_other_people():
    judged = reliabilities({"near": pairs(1), "far": pairs(2, shift=3.0)})
    for ways in judged.values():
        assert ways["other people"].ece < 0.05
        assert ways["other people"].log_loss < 0.7
        assert ways["other sets"].ece > 0.2
        assert ways["other sets"].weight.sum() == pytest.approx(1)
    assert reliabilities({"few": pairs(people=2)})["few"] == {}


def test_sets_count_equally_and_their_rates_are_kept_apart():
    both = fit({"a": pairs(1), "b": pairs(2, shift=1.0)}, {"a": "1", "b": "2"}, model_digest="x")
    (first, *_) = both.thresholds
    low, high = first.by_set
    assert low < first.rate < high
    assert np.mean(first.by_set) <= first.rate * (1 + 1e-9)
    assert first.error >= (high - low) / 2 * (1 - 1e-9)


def test_a_rate_that_no_score_of_several_sets_meets_has_no_threshold():
    # The best negatives of the small set are above all else: half a set's weight on 1,100 pairs.
    sets = {"large": pairs(seed=1), "small": pairs(seed=2, people=10, shift=100.0)}
    sets["small"] = dataclasses.replace(
        sets["small"], positives=np.full_like(sets["small"].positives, -100.0)
    )
    calibration = fit(sets, dict.fromkeys(sets, "0"), model_digest="0")
    assert calibration.thresholds
    assert all(np.mean(t.by_set) <= t.rate * (1 + 1e-9) for t in calibration.thresholds)


def test_a_file_is_read_back_as_it_was_written(one, tmp_path):
    one.save(tmp_path / "calibration.json")
    again = Calibration.read(tmp_path / "calibration.json")
    assert again.as_json() == one.as_json()
    assert "60 people" in again.sentence()


HOSTILE = {
    "another format": lambda d: d.update(format="other 1"),
    "no scores": lambda d: d.pop("score"),
    "scores that descend": lambda d: d["score"].reverse(),
    "ratios that descend": lambda d: d["log_ratio"].reverse(),
    "curves of two lengths": lambda d: d["rate"].pop(),
    "a rate above 1": lambda d: d["rate"].__setitem__(0, 2.0),
    "text for a number": lambda d: d["score"].__setitem__(0, "1e9"),
    "infinity": lambda d: d["score"].__setitem__(0, float("-inf")),
    "a huge number": lambda d: d["score"].__setitem__(0, -(10**400)),
    "a list of lists": lambda d: d.update(score=[d["score"]]),
    "too many points": lambda d: d.update(score=list(range(5000))),
    "no sets": lambda d: d.update(sets=[]),
    "a set of no pairs": lambda d: d["sets"][0].update(negatives=0),
    "a name with controls": lambda d: d["sets"][0].update(name="a\x1b[31m"),
    "a long name": lambda d: d["sets"][0].update(name="a" * 10_000),
    "a word for a truth": lambda d: d.update(own="yes"),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_calibration_is_refused_in_words(one, change):
    data = json.loads(json.dumps(one.as_json()))
    change(data)
    with pytest.raises(ValueError, match=r"a file is not a calibration of this version.*jaxreid"):
        Calibration.from_json(data, "a file")


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "null", "[]", "3", '"x"', "{}"])
def test_files_that_hold_something_else_are_refused_in_words(tmp_path, content):
    path = tmp_path / "calibration.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="calibration"):
        Calibration.read(path)
    path.write_bytes(b" " * (calibration_file._LONGEST_FILE + 1))
    with pytest.raises(ValueError, match="expected a calibration of at most"):
        Calibration.read(path)


def test_an_evaluation_writes_a_calibration_and_leaves_a_users_own(tmp_path):
    result = Result(PLAIN, {}, None, None, None, None, pairs(people=20))
    row = {"set": "set", "variant": "plain", "fingerprint": "0123abcd"}

    def evaluated(digest):
        return calibrate(tmp_path, {"set": {"plain": result}}, [row], model_digest=digest)

    assert evaluated("one") == []
    assert {"calibrated_on_other_people_ece", "calibrated_on_other_people_log_loss"} <= row.keys()
    with Image.open(tmp_path / "reliability.png") as picture:
        assert picture.height > 300
    path = tmp_path / "calibration.json"
    held = Calibration.read(path)
    assert (held.model_digest, held.sets[0].fingerprint) == ("one", "0123abcd")
    dataclasses.replace(held, own=True).save(path)
    (message,) = evaluated("one")
    assert "stays: it was calibrated on your own images (set)" in message
    assert Calibration.read(path).own
    # Of other weights, it is of no use any more.
    assert evaluated("two") == []
    assert Calibration.read(path).model_digest == "two"
