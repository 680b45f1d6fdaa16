"""Files from elsewhere import no module that nobody has allowed."""

import json
import sys

import numpy as np
import pytest
import safetensors.numpy

from jaxreid import configs
from jaxreid.data.sets import check_trusted_sets
from jaxreid.names import check_trusted
from jaxreid.weights.cards import model_of
from jaxreid.weights.checkpoint import Checkpoints, read_run
from jaxreid.weights.file import read_card
from jaxreid.weights.loading import load_weights

CARD = {
    "backbone": {"name": "resnet18", "cut": "layer1", "width": 1},
    "neck": {"name": "map", "channels": 2},
    "matcher": {"name": "qaconv"},
    "height": 8,
    "width": 4,
}
HARMFUL = """
import pathlib
from jaxreid.models.matchers.qaconv import QAConv

pathlib.Path(__file__).with_name("harm").touch()


class Thing(QAConv):
    pass
"""


@pytest.fixture
def harmful(tmp_path, monkeypatch):
    """A folder with a module that leaves a mark where it is imported."""
    (tmp_path / "harmful_matcher.py").write_text(HARMFUL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("JAXREID_ALLOW", raising=False)
    yield tmp_path
    sys.modules.pop("harmful_matcher", None)


def card_with(part):
    return CARD | {part: {"name": "harmful_matcher:Thing"}}


def write_weights(folder, card):
    metadata = {"format": "jaxreid 1", "model": json.dumps(card)}
    (folder / "w.safetensors").write_bytes(safetensors.numpy.save({"a": np.ones(1)}, metadata))
    return folder / "w.safetensors"


def write_run(folder, card):
    with Checkpoints(folder / "run", {"model": card}, every_steps=1) as checkpoints:
        checkpoints.save({"variables": {"a": np.ones(1, np.float32)}}, 1)
        checkpoints.check_saved()
    return folder / "run"


def write_record(folder, config):
    (folder / "config.json").write_text(json.dumps({"config": config}))
    return str(folder)


READERS = {
    "card": lambda folder, part: read_card(write_weights(folder, card_with(part))),
    "start": lambda folder, part: load_weights(write_weights(folder, card_with(part)), CARD),
    "run": lambda folder, part: read_run(write_run(folder, card_with(part))),
    "record": lambda folder, part: configs.get(write_record(folder, {"model": card_with(part)})),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("part", ["backbone", "neck", "matcher"])
def test_no_module_that_a_file_names_is_imported(harmful, reader, part):
    message = (
        rf"names the {part} 'harmful_matcher:Thing'.* set the environment variable "
        "JAXREID_ALLOW=harmful_matcher, or import harmful_matcher first"
    )
    with pytest.raises(ValueError, match=message):
        READERS[reader](harmful, part)
    assert not (harmful / "harm").exists()


@pytest.mark.parametrize(
    "config",
    [
        {"objective": {"name": "harmful_matcher:Thing"}},
        {"data": {"train": "harmful_matcher:thing"}},
        {"data": {"test": ["market1501:/data", "harmful_matcher:thing/night?seed=3"]}},
    ],
)
def test_no_module_that_a_run_was_trained_with_is_imported(harmful, config):
    with pytest.raises(ValueError, match=r"config.json names the .*harmful_matcher"):
        configs.get(write_record(harmful, config))
    assert not (harmful / "harm").exists()


def test_a_module_that_is_allowed_or_imported_is_used(harmful, monkeypatch):
    monkeypatch.setenv("JAXREID_ALLOW", "another, harmful_matcher")
    model = model_of(card_with("matcher"), "w.safetensors")
    assert type(model.matcher).__name__ == "Thing"
    assert (harmful / "harm").exists()
    monkeypatch.delenv("JAXREID_ALLOW")
    assert "harmful_matcher" in sys.modules
    assert model_of(card_with("matcher"), "w.safetensors") == model


def test_what_is_imported_but_not_a_part_of_a_model_is_refused():
    for part in ("backbone", "neck", "matcher"):
        with pytest.raises(ValueError, match="w has an invalid description of its model"):
            model_of(CARD | {part: {"name": "os:system"}}, "w")


def test_names_without_a_module_and_places_of_data_sets_are_trusted():
    check_trusted("mine", "matcher", "w")
    check_trusted(None, "matcher", "w")
    check_trusted_sets(["market1501:here", "viper?split=0..9", 3], "config.json")
