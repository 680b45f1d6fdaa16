"""The model that comes with the package."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

import jaxreid
from jaxreid import cli
from jaxreid.data import synthetic
from jaxreid.weights.bundled import FOLDER, NAMES, located
from jaxreid.weights.file import read_card
from jaxreid.weights.loading import load_weights

pytestmark = pytest.mark.usefixtures("one_device")


def test_bundled_models_are_small_and_whole():
    assert [path.name for path in FOLDER.iterdir()] == [f"{name}.safetensors" for name in NAMES]
    for name in NAMES:
        assert located(name).stat().st_size < 10e6
        # One fitted on drawn people promises 20 to 70 times too few false matches on photographs.
        assert jaxreid.load(name).calibration is None
        variables, _ = load_weights(name, read_card(name), whole=True)  # as init_from does
        assert variables["params"]


def test_the_bundled_model_finds_people_of_a_domain_that_it_has_not_seen():
    splits = synthetic.plan("station", train_ids=1, test_ids=8, images_per_id=4, distractors=0)
    images = {
        split: list(synthetic.draw_all(splits[split], workers=1)) for split in ("query", "gallery")
    }
    reid = jaxreid.load("drawn")
    query, gallery = (
        reid.embed([Image.open(io.BytesIO(s.image)) for s in chosen]) for chosen in images.values()
    )
    scores = reid.score(query, gallery)
    right = [
        [q.pid == g.pid and q.camid != g.camid for g in images["gallery"]] for q in images["query"]
    ]
    others = [[q.pid != g.pid for g in images["gallery"]] for q in images["query"]]
    best = np.where(right, scores, -np.inf).max(1)
    assert (best > np.where(others, scores, -np.inf).max(1)).mean() >= 0.8


def test_a_file_or_folder_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located("drawn") == FOLDER / "drawn.safetensors"
    shutil.copy(FOLDER / "drawn.safetensors", "drawn")
    assert str(located("drawn")) == "drawn"
    with pytest.raises(FileNotFoundError, match="or the name of a bundled model .drawn"):
        jaxreid.load("drwan")


def test_a_model_without_a_run_needs_sets_to_be_calibrated_on(tmp_path, capsys):
    assert cli.main(["calibrate", "drawn", f"--out={tmp_path / 'c.json'}"]) == 1
    assert "drawn is not a run and names no test sets: give one, as in --data" in (
        capsys.readouterr().err
    )
