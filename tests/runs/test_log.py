"""Events, meters and tables."""

import json

import jax.numpy as jnp
import pytest

from jaxreid.runs.log import Meter, Writer, read_events, table, write_json


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path):
    with Writer(tmp_path, resume_at=0) as writer:
        for step in (1, 2, 3):
            writer.write("train", step, {"loss": step / 10})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # killed while writing
    with Writer(tmp_path, resume_at=2) as writer:
        writer.write("eval", 2, {"mAP": 0.5}, "market1501")
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(e["kind"], e["step"]) for e in events] == [("train", 1), ("train", 2), ("eval", 2)]
    assert events[-1]["set"] == "market1501"
    assert read_events(tmp_path / "metrics.jsonl") == events


def test_an_evaluation_beside_a_training_loses_nothing(tmp_path):
    with Writer(tmp_path, resume_at=0) as training:
        training.write("train", 10, {"loss": 1.0})
        with Writer(tmp_path, resume_at=None) as evaluation:
            evaluation.write("eval", 5, {"mAP": 0.5}, "market1501")
        training.write("train", 20, {"loss": 0.5})
    assert [e["step"] for e in read_events(tmp_path / "metrics.jsonl")] == [10, 5, 20]


def test_meter_gives_means_and_stops_at_nonsense():
    meter = Meter(lr=0.1, every_steps=5)
    for loss in (1.0, 3.0):
        meter.add({"loss": jnp.array(loss), "rate": jnp.array(0.5)}, images=4)
    values = meter.read(2)
    assert values["loss"] == 2.0
    assert values["lr"] == 0.05
    assert "rate" not in values
    assert meter.due(10)
    assert not meter.due(11)
    assert values["images_per_second"] > 0
    meter.add({"loss": jnp.array(jnp.nan)}, images=4)
    with pytest.raises(
        FloatingPointError, match="between steps 3 and 3.*checkpoint is from before"
    ):
        meter.read(3)


def test_json_is_never_half_written(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"mAP": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"mAP": float("nan")})
    assert json.loads(path.read_text()) == {"mAP": 0.5}


def test_table_aligns_its_columns():
    text = table(("set", "mAP"), [("a", "1.0"), ("longer", "10.0")])
    assert text.splitlines() == ["set      mAP", "------  ----", "a        1.0", "longer  10.0"]
