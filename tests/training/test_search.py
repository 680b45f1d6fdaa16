"""The record of an architecture search: what is kept, once for every step, and drawn."""

import json

import jax.numpy as jnp
import numpy as np

from jaxreid.models.backbones import make_backbone
from jaxreid.models.backbones.osnet import BLOCKS, PLACES
from jaxreid.models.backbones.osnet_search import shares
from jaxreid.runs.log import Writer, read_events
from jaxreid.training import search

WEIGHTS = np.array(
    [
        [1, 1, 1, 1],
        [0.5, 2, 0.5, 1],
        [-1, 0.25, 0, 0.75],
        [-1, -2, -3, -4],
        [3, 0, 0, 0],
        [1, 2, 4, 3],
    ],
    np.float32,
)
EXPECTED = np.array(
    [
        [0.25, 0.25, 0.25, 0.25],
        [0.125, 0.5, 0.125, 0.25],
        [0, 0.25, 0, 0.75],
        [0.25, 0.25, 0.25, 0.25],
        [1, 0, 0, 0],
        [0.1, 0.2, 0.4, 0.3],
    ]
)
BEST = ["none", "residual", "both", "none", "none", "sum"]


def params(weights=WEIGHTS):
    blocks = {
        block: {"weights": jnp.array(row)} for block, row in zip(BLOCKS, weights, strict=True)
    }
    return {"backbone": blocks | {"conv1": {}}, "neck": {}}


def keep(folder, *epochs, resume_at=0):
    """Records epochs of ten steps, given as (number, weights)."""
    writer = Writer(folder, resume_at=resume_at)
    for epoch, weights in epochs:
        for step in (10 * epoch, 10 * epoch + 3):  # within an epoch nothing is kept
            search.record(folder, writer, params(weights), step=step, steps_per_epoch=10)
            weights = 2 - weights


def test_probabilities_are_what_the_network_uses_without_noise():
    found = search.probabilities(params()["backbone"])
    np.testing.assert_allclose(found, EXPECTED, atol=1e-11)
    np.testing.assert_allclose(found, shares(jnp.array(WEIGHTS), 0.0, 1.0), atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)


def test_the_record_is_an_architecture_that_can_be_built(tmp_path):
    keep(tmp_path, (0, np.ones_like(WEIGHTS)), (1, WEIGHTS))
    held = json.loads((tmp_path / "architecture.json").read_text())
    assert held["format"] == "jaxreid architecture 1"
    assert held["epoch"] == 1
    assert (held["stem"], held["blocks"]) == ("instance", BEST)
    np.testing.assert_allclose(held["probabilities"], EXPECTED, atol=1e-6)
    chosen = {key: held[key] for key in ("stem", "blocks")}
    assert make_backbone("osnet_x0_25", **chosen).blocks == tuple(BEST)


def test_every_epoch_is_an_event_with_a_number_for_each_candidate(tmp_path):
    keep(tmp_path, (0, np.ones_like(WEIGHTS)), (1, WEIGHTS))
    events = read_events(tmp_path / "metrics.jsonl")
    assert [(e["kind"], e["step"], e["epoch"]) for e in events] == [
        ("search", 0, 0),
        ("search", 10, 1),
    ]
    assert events[1]["conv2_1/residual"] == 0.5
    assert events[1]["conv4_1/sum"] == 0.4
    (start, first), (end, last) = search.history_of([{"kind": "eval"}, *events])
    assert (start, end) == (0, 1)
    np.testing.assert_allclose(first, 0.25)
    np.testing.assert_allclose(last, EXPECTED, atol=1e-6)


def test_a_resumed_search_tells_nothing_twice_and_goes_on(tmp_path):
    keep(tmp_path, (0, np.ones_like(WEIGHTS)), (1, WEIGHTS), (2, WEIGHTS))
    (tmp_path / "architecture.json").unlink()  # killed before it was written
    keep(tmp_path, (1, WEIGHTS), resume_at=10)
    assert json.loads((tmp_path / "architecture.json").read_text())["epoch"] == 1
    assert [e["epoch"] for e in read_events(tmp_path / "metrics.jsonl")] == [0, 1]
    keep(tmp_path, (2, WEIGHTS[::-1]), resume_at=10)
    events = read_events(tmp_path / "metrics.jsonl")
    assert [e["epoch"] for e in events] == [0, 1, 2]
    np.testing.assert_allclose(search.history_of(events)[-1][1], EXPECTED[::-1], atol=1e-6)


def test_other_models_leave_nothing(tmp_path):
    writer = Writer(tmp_path, resume_at=0)
    plain = {"backbone": {"conv2_0": {"conv1": {}}}}
    for given in (plain, {"backbone": {"layer1_0": {"conv1": {}}}}, {"backbone": {}}):
        search.record(tmp_path, writer, given, step=1, steps_per_epoch=1)
    assert not writer.events
    assert not list(tmp_path.glob("architecture*"))


def test_the_table_marks_one_candidate_of_each_block():
    lines = search.architecture_table(EXPECTED).splitlines()
    assert lines[0].split() == ["block", *PLACES]
    assert lines[3].split() == ["conv2_1", "12.5", "*50.0", "12.5", "25.0"]
    for line, block, best in zip(lines[2:], BLOCKS, BEST, strict=True):
        name, *cells = line.split()
        assert name == block
        assert [cell.startswith("*") for cell in cells] == [place == best for place in PLACES]
