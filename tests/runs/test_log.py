"""Events, meters and tables."""

import json

import jax.numpy as jnp
import pytest

from jaxreid.runs.log import Meter, Writer, read_events, table, write_json


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path):
    writer = Writer(tmp_path, resume_at=0)
    for step in (1, 2, 3):
        writer.write("train", step, {"loss": step / 10})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # killed while writing
    writer = Writer(tmp_path, resume_at=2)
    writer.write("eval", 2, {"mAP": 0.5}, "market1501")
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(e["kind"], e["step"]) for e in events] == [("train", 1), ("train", 2), ("eval", 2)]
    assert events[-1]["set"] == "market1501"
    assert read_events(tmp_path / "metrics.jsonl") == events


def test_an_evaluation_beside_a_training_loses_nothing(tmp_path):
    training = Writer(tmp_path, resume_at=0)
    training.write("train", 10, {"loss": 1.0})
    evaluation = Writer(tmp_path, resume_at=None)
    evaluation.write("eval", 5, {"mAP": 0.5}, "market1501")
    training.write("train", 20, {"loss": 0.5})
    assert [e["step"] for e in read_events(tmp_path / "metrics.jsonl")] == [10, 5, 20]


def shown(workdir):
    """(step, tag, value) of the event files, as TensorBoard reads them."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    scalars = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            event, content = Event.FromString(content[12 : 12 + size]), content[16 + size :]
            if event.session_log.status == SessionLog.START:
                scalars = [scalar for scalar in scalars if scalar[0] < event.step]
            scalars += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    return scalars


def test_tensorboard_shows_every_step_once_after_a_kill(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = Writer(tmp_path, resume_at=0)
    for step in (1, 2, 3, 4):  # and is killed, so nothing is closed
        writer.write("train", step, {"loss": step / 2, "by": "sgd"})
    assert [step for step, *_ in shown(tmp_path)] == [1, 2, 3, 4]
    writer = Writer(tmp_path, resume_at=2)
    assert [step for step, *_ in shown(tmp_path)] == [1, 2]
    writer.write("train", 3, {"loss": 1.5})
    writer.write("eval", 3, {"mAP": 0.5, "variant": "rerank"}, "mall")
    beside = Writer(tmp_path, resume_at=None)
    beside.write("eval", 3, {"mAP": 0.25, "variant": "plain"}, "mall")
    expected = [
        (1, "train/loss", 0.5),
        (2, "train/loss", 1.0),
        (3, "train/loss", 1.5),
        (3, "eval/mall/rerank/mAP", 0.5),
        (3, "eval/mall/mAP", 0.25),
    ]
    assert sorted(shown(tmp_path)) == sorted(expected)
    Writer(tmp_path, resume_at=3)
    assert sorted(shown(tmp_path)) == sorted(expected)
    beside.write("eval", 3, {"mAP": 0.75}, "plaza")  # its file has been replaced
    assert read_events(tmp_path / "metrics.jsonl")[-1]["mAP"] == 0.75


def test_a_log_that_vanishes_ends_the_run(tmp_path):
    writer = Writer(tmp_path, resume_at=0)
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(OSError, match="cannot write .*metrics.jsonl: No such file"):
        writer.write("train", 1, {"loss": 1.0})


def test_a_line_cut_off_by_a_kill_costs_no_other(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1}\n{"kind": "tr')
    Writer(tmp_path, resume_at=None).write("eval", 1, {"mAP": 0.5}, "mall")
    assert [event["kind"] for event in read_events(path)] == ["train", "eval"]


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


def test_goodput_is_without_waiting_compiling_and_what_lies_between(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("jaxreid.runs.log.time.perf_counter", lambda: clock[0])

    def passes(seconds, value=None):
        clock[0] += seconds
        return value

    metrics = {"loss": jnp.ones(()), "rate": jnp.ones(())}
    meter = Meter(lr=1.0, every_steps=2)
    passes(10)  # start
    meter.start()
    compiling = [7.0]

    def step(batch):
        return passes(2 + (compiling.pop() if compiling else 0), metrics)

    for batch in meter.waits(passes(1, n) for n in range(2)):
        meter.add(meter.call(step, batch), 4)
    values = meter.read(2)
    assert values["images_per_second"] == 8 / 13  # 2 of waiting, 9 and 2 of steps
    assert values["input_wait"] == 2 / 13
    assert values["goodput"] == 2 / 23
    passes(5)  # evaluation
    meter.start()
    for batch in meter.waits(passes(1, n) for n in range(2)):
        meter.add(meter.call(step, batch), 4)
    values = meter.read(4)
    assert values["input_wait"] == 2 / 6
    assert values["goodput"] == (2 + 4) / (23 + 5 + 6)
    meter.add({"loss": jnp.array(jnp.nan)}, images=4)
    with pytest.raises(FloatingPointError, match="between steps 3 and 3"):
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
