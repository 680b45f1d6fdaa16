"""Fine-tuning on one's own people: how they are divided, what is refused, before and after."""

import json

import pytest
from people import draw, market_tree, save_model

import jaxreid
from jaxreid import cli
from jaxreid.configs import finetuning as values
from jaxreid.data import sets
from jaxreid.models.matchers import MATCHERS
from jaxreid.training import finetuning
from jaxreid.training.finetuning import make_config, own_name
from jaxreid.training.objectives import make_objective

pytestmark = pytest.mark.usefixtures("one_device")


def own_people(root, people, *, shots=2, cameras=2):
    for pid in range(people):
        for camid in range(cameras):
            folder = root / f"person {pid}" / f"cam{camid}"
            folder.mkdir(parents=True)
            for shot in range(shots):
                draw(pid, camid, shot).save(folder / f"{shot}.jpg")
    return root


def divided(root):
    splits = sets.load(f"folder:{root}?split=learn")
    return {part: set(split.pid.tolist()) for part, split in splits.items()}, splits


def test_few_people_are_tested_on_other_images_and_many_on_other_people(tmp_path, caplog):
    few, splits = divided(own_people(tmp_path / "few", 5))
    assert few == {part: {1, 2, 3, 4, 5} for part in ("train", "query", "gallery")}
    assert [len(splits[part]) for part in ("train", "query", "gallery")] == [10, 5, 5]
    assert (splits["query"].camid != splits["gallery"].camid).sum() == 5
    assert not set(splits["train"].name) & {*splits["query"].name, *splits["gallery"].name}
    assert "too few people to leave some out" in caplog.text
    many, splits = divided(own_people(tmp_path / "many", 20))
    assert len(many["query"]) == 5
    assert many["query"] == many["gallery"]
    assert len(many["train"]) == 15
    assert not many["train"] & many["query"]
    assert "5 other people are tested" in caplog.text


def test_people_of_one_camera_are_said_and_one_image_each_is_refused(tmp_path, caplog):
    root = own_people(tmp_path / "one camera", 6, shots=4, cameras=1)
    _, splits = divided(root)
    assert set(splits["query"].camid) == {-1}
    assert "cameras are ignored" in caplog.text
    caplog.clear()
    mixed = own_people(tmp_path / "mixed", 6, shots=2)
    (own_people(tmp_path / "more", 1, shots=4, cameras=1) / "person 0").rename(mixed / "alone")
    _, splits = divided(mixed)
    assert "1 of 7 people are seen by one camera" in caplog.text
    single = own_people(tmp_path / "single", 7, shots=1, cameras=1)
    with pytest.raises(ValueError, match="7 people, 7 of them on one image; expected at least 5"):
        divided(single)


def test_names_of_own_data_say_how_they_are_divided(tmp_path):
    (tmp_path / "t.csv").write_text("path,person\n")
    assert own_name(tmp_path) == f"folder:{tmp_path}?split=learn"
    assert own_name(tmp_path / "t.csv") == f"table:{tmp_path}/t.csv?split=learn"
    assert own_name("folder:x?pattern={pid}_*") == "folder:x?pattern={pid}_*&split=learn"
    assert own_name("folder:x?split=people") == "folder:x?split=people"
    assert own_name("market1501:/data") == "market1501:/data"


def test_a_batch_is_divided_among_the_devices():
    sizes = {n: values.get_settings(5, 40, n).batch_size for n in (1, 2, 3, 4, 8, 16)}
    assert sizes == {1: 20, 2: 20, 3: 12, 4: 20, 8: 16, 16: 16}
    assert [values.get_settings(100, n).epochs for n in (100, 3200, 10**6)] == [40, 4, 4]


def test_every_matcher_names_an_objective_that_fine_tunes_it():
    for name in MATCHERS.names:
        make_objective(**MATCHERS.find(name)[0].LEARNS, num_classes=5)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("finetuning")
    own_people(root / "own", 5)
    market_tree(root / "kept", train=1, test=3, world=5)
    save_model(root / "model.safetensors")
    return root


def test_a_model_is_fine_tuned_measured_before_and_after_and_resumed(place, capsys, monkeypatch):
    kept = f"market1501:{place}/kept"
    command = ["finetune", f"{place}/model.safetensors", f"--data={place}/own", "--epochs=2"]
    command += [f"--workdir={place}/run", f"--keep={kept}"]

    def stopped(config, workdir):
        return False

    with monkeypatch.context() as patched:
        patched.setattr(finetuning, "train", stopped)
        assert cli.main(command) == 75
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "own people, held out" in said
    assert "market1501 " in said
    # A finished run is not trained again.
    assert cli.main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [row["own"] for row in rows] == [True, False]
    assert {"before", "after"} <= rows[0].keys()
    config = json.loads((place / "run" / "config.json").read_text())["config"]
    assert config["objective"]["name"] == "pairwise"
    assert config["model"]["freeze_stats"]
    assert config["batch_size"] == 20
    assert jaxreid.load(place / "run").feature_shape == (8, 4, 4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{root}/nowhere", "unknown data set|no folder"),
        ("folder:{root}/own?split=none", "has no train split"),
        ("market1501:{root}/kept", "1 people to learn from, 1 of them on two images"),
    ],
)
def test_data_that_cannot_be_learned_from_are_explained(place, data, message):
    with pytest.raises((ValueError, OSError), match=message):
        make_config(place / "model.safetensors", data.format(root=place))


def test_training_without_tensorflow_is_refused_with_the_command(place, monkeypatch, capsys):
    from jaxreid.runs import settings

    monkeypatch.setattr(settings.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["finetune", "x", "--data=y", "--workdir=z"]) == 1
    assert "pip install 'jaxreid[train]'" in capsys.readouterr().err
