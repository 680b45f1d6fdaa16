"""The evaluation of a run: its files and events."""

import types

import numpy as np
import pytest

from jaxreid.evaluation import run
from jaxreid.evaluation.run import Evaluation


def test_events_are_written_after_the_files_that_they_stand_for(tmp_path, monkeypatch):
    result = types.SimpleNamespace(
        metrics={"mAP": 1.0},
        cmc=np.ones(1),
        variant=types.SimpleNamespace(options={}),
        pairs=None,
    )
    monkeypatch.setattr(Evaluation, "on", lambda *_: ({"plain": result}, {}, []))
    monkeypatch.setattr(Evaluation, "_held", lambda *_: False)
    monkeypatch.setattr(run, "digest_of", lambda _: "0")
    monkeypatch.setattr(run, "results_of", lambda events, **_: list(events))
    monkeypatch.setattr(run, "means_of", lambda _: [])
    for name in ("write_queries", "write_ranking"):
        monkeypatch.setattr(run, name, lambda *_, **__: None)
    written = []
    writer = types.SimpleNamespace(events=[], say=print, append=written.append)
    scorer = types.SimpleNamespace(variables={"params": {}})
    arguments = scorer, {"mine": {"query": None, "gallery": None}}, writer, tmp_path

    with monkeypatch.context() as patch:

        def full(*_, **__):
            raise OSError("No space left on device")

        patch.setattr(run, "write_ranking", full)
        with pytest.raises(OSError, match="No space"):
            Evaluation(()).run(*arguments, step=4)
    assert not written  # so that the next start evaluates again

    Evaluation(()).run(*arguments, step=4)
    (event,) = written
    assert (event["kind"], event["step"], event["set"]) == ("eval", 4, "mine")
    assert '"mine"' in (tmp_path / "results.json").read_text()
