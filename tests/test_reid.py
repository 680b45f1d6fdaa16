"""The public face: load, embed, score, rank, explain, evaluate, train; also without TensorFlow."""

import json
import os
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
from golden import REPOSITORY
from people import MODEL, draw, market_tree, save_model
from PIL import Image

import jaxreid
from jaxreid import cli, configs
from jaxreid.data.images.pillow import image_batches
from jaxreid.runs.log import read_events

pytestmark = pytest.mark.usefixtures("one_device")
EMBEDDING = {"neck": {"name": "pooled"}, "matcher": {"name": "embedding"}}


@pytest.fixture(scope="module")
def place(tmp_path_factory, one_device):
    root = tmp_path_factory.mktemp("reid")
    market_tree(root / "market1501")
    return root


@pytest.fixture(scope="module")
def images(place):
    return sorted((place / "market1501" / "bounding_box_test").glob("*.jpg"))


@pytest.fixture(scope="module")
def reid(place):
    return jaxreid.load(save_model(place / "qaconv.safetensors"))


def settings(place):
    config = configs.get("qaconv:market1501,v1.1,debug").to_dict()
    config["model"] |= MODEL
    config["data"] |= {"dir": str(place), "prepared_dir": str(place / "prepared")}
    config["eval"] |= {"batch_size": 16, "gallery_tile": 32, "pictures": 1}
    return config | {"epochs": 1}


@pytest.fixture(scope="module")
def run(place):
    workdir = place / "run"
    assert jaxreid.train(settings(place), workdir)
    return workdir


def test_importing_the_package_is_instant():
    code = (
        "import sys, jaxreid; heavy = {'jax', 'flax', 'tensorflow', 'numpy', 'PIL'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert {'load', 'train', 'evaluate', 'datasets', 'register', 'ReID'} <= set(dir(jaxreid))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_an_image_may_be_a_path_bytes_a_picture_or_an_array(reid, images):
    path = images[0]
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
        given = [path, str(path), path.read_bytes(), picture.copy(), pixels]
    features = reid.embed(given)
    assert features.shape == (5, 8, 4, 4)
    for feature in features[1:]:
        np.testing.assert_array_equal(feature, features[0])
    np.testing.assert_allclose(reid.embed(path), features[:1], atol=1e-6)


def test_a_frame_is_embedded_by_its_boxes(reid):
    frame = np.zeros((80, 120, 3), np.uint8)
    for place, pid in enumerate((3, 5)):
        frame[8:72, 10 + 40 * place : 42 + 40 * place] = np.asarray(draw(pid, 0, 0))
    boxes = [[10, 8, 42, 72], [50, 8, 82, 72]]
    features = reid.embed(frame, xyxy=boxes)
    np.testing.assert_array_equal(features, reid.embed([draw(3, 0, 0), draw(5, 0, 0)]))
    tracked = types.SimpleNamespace(xyxy=np.array(boxes, np.float32))
    np.testing.assert_array_equal(reid.embed([Image.fromarray(frame)], xyxy=tracked), features)
    assert reid.embed(frame, xyxy=np.zeros((0, 4))).shape == (0, *reid.feature_shape)
    with pytest.raises(ValueError, match="box 0: .*expected left < right"):
        reid.embed(frame, xyxy=[[200, 0, 300, 50]])
    with pytest.raises(ValueError, match="boxes and 2 images; expected the frame"):
        reid.embed([frame, frame], xyxy=boxes)


def test_whole_frames_in_place_of_crops_are_noticed_once_a_call(reid, images, tmp_path, caplog):
    paths = [tmp_path / f"frame_{i}.png" for i in range(4)]
    for path in paths:
        Image.new("RGB", (40, 30)).save(path)
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # shown higher than wide
    Image.new("RGB", (40, 30)).save(turned, exif=exif)
    reid.embed([*paths, turned, *images[:3]])
    (record,) = caplog.records
    assert "4 of 8 images" in record.getMessage()
    assert record.getMessage().count("frame_") == 3
    caplog.clear()
    reid.embed(images[:2])
    reid.embed(np.zeros((30, 40, 3), np.uint8), xyxy=[[0, 0, 40, 20]])
    assert not caplog.records


def test_features_are_those_of_the_training_pipeline(reid, images):
    from jaxreid.data.images import decoding

    file = images[3].read_bytes()
    pixels = decoding.resize(decoding.decode_plain(file), MODEL["height"], MODEL["width"]).numpy()
    expected = reid.model.apply(reid.variables, pixels[None], method="encode")
    np.testing.assert_allclose(reid.embed(images[3]), expected, atol=1e-5)


def test_any_number_of_images_gives_the_same_features(reid, images):
    one_by_one = np.concatenate([reid.embed(path) for path in images[:9]])
    np.testing.assert_allclose(reid.embed(images[:9]), one_by_one, atol=1e-5)


def test_scores_and_ranks_agree_and_can_be_seen(reid, images, tmp_path):
    features = reid.embed(images)
    scores = reid.score(features[:2], features)
    assert scores.shape == (2, len(images))
    expected = reid.model.apply(reid.variables, features[:2], features, method="match")
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    hits = reid.rank(images[0], images, top=3)
    assert [hit.image for hit in hits] == [images[g] for g in np.argsort(-scores[0])[:3]]
    assert hits[0].score == pytest.approx(scores[0].max(), abs=1e-5)
    assert images[0].name in repr(hits)
    hits.save(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.height > 128
    again = reid.rank(images[0], images, top=3, features=features)
    assert [hit.index for hit in again] == [hit.index for hit in hits]


def test_a_score_can_be_explained(reid, images, tmp_path):
    explanation = reid.explain(images[0], images[1])
    features = reid.embed(images[:2])
    (pair,) = explanation.pairs
    assert pair.score == pytest.approx(
        float(reid.score(features[:1], features[1:])[0, 0]), abs=1e-4
    )
    explanation.save(tmp_path / "why.png", height=96)
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.height > 96


def test_a_matcher_without_local_matches_says_which_have_them(place, images, tmp_path):
    reid = jaxreid.load(save_model(place / "embedding.safetensors", **EMBEDDING))
    assert reid.embed(images[:3]).ndim == 2
    assert reid.rank(images[0], images, top=2)[0].image == images[0]
    with pytest.raises(
        ValueError, match="'embedding' compares whole images.*with local matches: qaconv"
    ):
        reid.explain(images[0], images[1])
    shown = reid.activations(images[:3])
    assert shown.maps.shape == (3, 8, 4)
    shown.save(tmp_path / "where.png", height=96)
    with Image.open(tmp_path / "where.png") as picture:
        assert picture.height > 96
    arguments = [str(place / "embedding.safetensors"), *map(str, images[:2])]
    assert cli.main(["explain", *arguments, f"--out={tmp_path / 'why.png'}"]) == 0
    assert (tmp_path / "why.png").exists()


def test_activations_are_the_sums_of_squares_of_the_backbones_maps(reid, images):
    found = reid.activations(images[:2]).maps
    pixels = np.concatenate([*image_batches(images[:2], height=32, width=16, batch_size=2)])
    maps = np.asarray(reid.model.apply(reid.variables, pixels, method="maps"), np.float64)
    for shown, features in zip(found, maps, strict=True):
        h, w, _ = features.shape
        energy = [[sum(x * x for x in features[i, j]) for j in range(w)] for i in range(h)]
        np.testing.assert_allclose(shown, np.array(energy) / np.max(energy), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda reid, images: reid.embed([]), "no images"),
        (lambda reid, images: reid.embed(["nowhere.jpg"]), "nowhere.jpg"),
        (lambda reid, images: reid.embed(np.zeros((4, 4), np.float32)), "expected uint8"),
        (
            lambda reid, images: reid.score(np.zeros((2, 5)), np.zeros((2, 5))),
            r"expected \[N, 8, 4",
        ),
        (lambda reid, images: reid.rank(images[0], images, top=0), "top is 0"),
        (lambda reid, images: reid.explain(images[0]), "nothing to compare"),
        (lambda reid, images: reid.explain(*images[:2], parts=["3x3"]), "have no parts"),
        (lambda reid, images: reid.evaluate(), "no test set"),
        (lambda reid, images: reid.evaluate(["market"]), "unknown data set"),
        (lambda reid, images: jaxreid.load("/nowhere/at/all"), "no model in /nowhere"),
        (lambda reid, images: jaxreid.load(images[0].parent), "holds no checkpoint"),
        (lambda reid, images: jaxreid.load(images[0]), "is a JPEG image; expected a weights file"),
        (lambda reid, images: jaxreid.load(reid.path, step=3), "has no steps"),
        (lambda reid, images: jaxreid.train({}, "x"), "the configuration has no"),
    ],
)
def test_natural_mistakes_are_answered_in_words(reid, images, call, message):
    with pytest.raises((ValueError, OSError), match=message):
        call(reid, images)


def test_a_run_is_trained_loaded_and_evaluated(place, run, tmp_path):
    rows = json.loads((run / "results.json").read_text())["results"]
    row = rows[-1]
    assert row["model"] == "trained"
    assert {"rank20", "seconds", "parameters", "cmc", "threshold_at_fpr_0.01"} <= row.keys()
    assert len(row["cmc"]) == 50
    assert row["cmc"][0] == pytest.approx(row["rank1"])
    reid = jaxreid.load(run)
    assert reid.step == row["step"]
    assert reid.calibration.model_digest == row["model_digest"]
    assert [held.name for held in reid.calibration.sets] == ["market1501"]
    results = jaxreid.evaluate(run, test=["market1501"])
    assert results["market1501"].metrics["mAP"] == pytest.approx(row["mAP"], abs=1e-6)
    step = jaxreid.load(run / "checkpoints" / str(row["step"]))
    assert step.path == run
    with pytest.raises(
        FileNotFoundError, match=f"no checkpoint of step 3.*available steps: .*{reid.step}"
    ):
        jaxreid.load(run, step=3)
    more = reid.evaluate(["market1501"], rerank=True, rerank_options={"k1": 5})
    assert list(more) == ["market1501", "market1501 rerank"]


@pytest.mark.full
def test_a_run_with_a_classifier_loads_by_its_own_card(place, tmp_path):
    config = configs.get("osnet:market1501,debug").to_dict()
    config["model"] |= MODEL | EMBEDDING
    config |= {"epochs": 1, "freeze_epochs": 0}
    config["data"] |= {"dir": str(place), "prepared_dir": str(place / "prepared")}
    config["eval"] |= {"untrained": False, "pictures": 1}
    assert jaxreid.train(config, tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert [row["model"] for row in rows] == ["trained"]  # the untrained one was turned off
    reid = jaxreid.load(tmp_path / "run")
    assert reid.model.classes == 12
    assert reid.embed(np.zeros((40, 20, 3), np.uint8)).shape == (1, 4)


def test_another_folder_is_another_row_and_leaks_are_said(place, run, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    other = tmp_path / "other"
    market_tree(other / "market1501", train=2, test=4, shots=2)
    stolen = next((place / "market1501" / "bounding_box_train").glob("*.jpg"))
    shutil.copy(stolen, other / "market1501" / "bounding_box_test" / stolen.name)
    reid = jaxreid.load(workdir)
    where = {"dir": other, "prepared_dir": tmp_path / "prepared", "workdir": workdir}
    where["identities"] = 0
    results = reid.evaluate(["market1501"], **where)
    said = capsys.readouterr().out
    assert "17 of its 19 images were trained on" in said  # drawn alike, but for two people
    rows = json.loads((workdir / "results.json").read_text())["results"]
    trained = [row for row in rows if row["model"] == "trained"]
    assert len(trained) == 2
    assert len({row["fingerprint"] for row in trained}) == 2
    assert trained[-1]["mAP"] == results["market1501"].metrics["mAP"]
    before = [e for e in read_events(run / "metrics.jsonl") if e["kind"] == "eval"][-1]
    assert trained[0]["mAP"] == before["mAP"]
    assert f"market1501 [{other}]" in said


WITHOUT = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "tensorboardX", "torch"):
    sys.modules[name] = None
import jaxreid
run, folder, out = sys.argv[1:]
reid = jaxreid.load(run)
paths = sorted(__import__("pathlib").Path(folder, "market1501", "bounding_box_test").glob("*.jpg"))
f = reid.embed(paths[:4])
assert reid.score(f[:1], f).shape == (1, 4)
reid.rank(paths[0], paths[:6], top=3).save(out + "/page.png")
reid.explain(paths[0], paths[1]).save(out + "/why.png")
results = jaxreid.evaluate(run, test=["market1501"], dir=folder)
print(results["market1501"].metrics["mAP"])
few = {"train_ids": 4, "test_ids": 4, "images_per_id": 4, "distractors": 2}
assert len(jaxreid.datasets.load("synthetic_people/plaza", **few)["train"]) >= 12
try:
    jaxreid.train(jaxreid.configs.get("qaconv:synthetic,debug"), out + "/x")
except Exception as error:
    assert "jaxreid[train]" in str(error), error
else:
    raise AssertionError("trained without TensorFlow")
"""


def test_everything_but_training_works_without_tensorflow(place, run, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(run), str(place), str(tmp_path)],
        cwd=REPOSITORY,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "TFDS_DATA_DIR": str(tmp_path / "prepared")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    row = json.loads((run / "results.json").read_text())["results"][-1]
    assert float(result.stdout.split()[-1]) == pytest.approx(row["mAP"], abs=0.02)
    assert (tmp_path / "page.png").exists()
    assert (tmp_path / "why.png").exists()


def test_a_run_becomes_a_file_of_weights_and_starts_another(place, run, tmp_path):
    reid = jaxreid.load(run)
    reid.save(tmp_path / "out.safetensors")
    again = jaxreid.load(tmp_path / "out.safetensors")
    image = np.asarray(draw(3, 0, 0))
    np.testing.assert_array_equal(again.embed(image), reid.embed(image))
    config = settings(place) | {"init_from": str(run)}
    assert jaxreid.train(config, tmp_path / "next")
    rows = json.loads((tmp_path / "next" / "results.json").read_text())["results"]
    assert rows[0]["model"] == "loaded"
    old = json.loads((run / "results.json").read_text())["results"][-1]
    assert rows[0]["mAP"] == pytest.approx(old["mAP"], abs=1e-6)
