"""Features and scores in files: the numbers of the model's own evaluation, also from elsewhere."""

import csv
import io
import json
import zipfile

import numpy as np
import pytest
from people import market_tree, save_model

import jaxreid
from jaxreid import cli
from jaxreid.evaluation.array_file import read_arrays
from jaxreid.evaluation.feature_file import StoredFeatures, read_stored

pytestmark = pytest.mark.usefixtures("one_device")
EMBEDDING = {"neck": {"name": "pooled"}, "matcher": {"name": "embedding"}}
# Not of the results.
TIMES = ("seconds", "peak_memory_gb")


@pytest.fixture(scope="module")
def place(tmp_path_factory, one_device):
    root = tmp_path_factory.mktemp("features")
    market_tree(root / "market1501", train=2, test=6)
    return root


@pytest.fixture(scope="module")
def models(place):
    parts = {"maps": {}, "embeddings": EMBEDDING}
    return {name: save_model(place / f"{name}.safetensors", **p) for name, p in parts.items()}


def rows_of(folder):
    rows = json.loads((folder / "results.json").read_text())["results"]
    return [{key: row[key] for key in row if key not in TIMES} for row in rows]


def own_results(place, model, workdir, file, kind="features", **settings):
    workdir.mkdir()
    settings[f"save_{kind}"] = file
    return jaxreid.load(model).evaluate(
        ["market1501"], dir=place, identities=0, workdir=workdir, **settings
    )


@pytest.mark.parametrize(
    ("kind", "suffix", "settings"),
    [
        ("maps", "npz", {"rerank": True, "shortlist": 5, "shortlist_window": (2, 2)}),
        ("maps", "safetensors", {"dtype": "bfloat16", "flip": True}),
        ("embeddings", "safetensors", {"rerank": True, "tlift": True}),
    ],
)
def test_features_of_a_file_give_the_numbers_of_their_model(
    place, models, tmp_path, kind, suffix, settings
):
    file, own, again = tmp_path / f"features.{suffix}", tmp_path / "own", tmp_path / "again"
    results = own_results(place, models[kind], own, file, **settings)
    steps = {key: settings[key] for key in settings if key not in ("dtype", "flip")}
    model = models[kind] if kind == "maps" else None
    found = jaxreid.evaluate_features(file, model=model, workdir=again, **steps)
    assert list(found) == list(results)
    for name, result in found.items():
        seconds = ("scoring_seconds", "exact_seconds")
        for key in result.metrics.keys() - set(seconds):
            assert result.metrics[key] == results[name].metrics[key], (name, key)
    expected, rows = rows_of(own), rows_of(again)
    for row in (*expected, *rows):
        row.pop("scoring_seconds", None), row.pop("exact_seconds", None)
    assert rows == expected
    for name in ("queries.jsonl", "ranking.png"):
        assert (again / name).read_bytes() == (own / name).read_bytes()


def test_features_from_elsewhere_give_the_numbers_of_a_run(place, models, tmp_path, capsys):
    """An array of NumPy and a table, in any order, with rows that are not of the test."""
    file = tmp_path / "features.npz"
    results = own_results(place, models["embeddings"], tmp_path / "own", file, rerank=True)
    with np.load(file) as arrays:
        held = dict(arrays)
    about = json.loads(str(held["about"]))
    count, queries = len(held["features"]), about["queries"]
    rows = [
        {
            "PID": f"{held['pid'][i]:04d}",
            "camid": held["camid"][i],
            "split": "query" if i < queries else "gallery",
            "path": path,
        }
        for i, path in enumerate(about["paths"])
    ]
    rows += [
        rows[0] | {"PID": -1, "split": "gallery", "path": "junk.jpg"},
        rows[1] | {"split": "train", "path": "train.jpg"},
    ]
    order = np.random.default_rng(0).permutation(count + 2)
    features = np.concatenate([held["features"], np.ones((2, held["features"].shape[1]))])
    np.save(tmp_path / "mine.npy", features[order].astype(np.float64))
    with (tmp_path / "mine.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, rows[0])
        writer.writeheader()
        writer.writerows(rows[i] for i in order)
    elsewhere = {"table": tmp_path / "mine.csv", "rerank": True}
    found = jaxreid.evaluate_features(
        tmp_path / "mine.npy",
        workdir=tmp_path / "out",
        metric="cosine",
        ranked="worst:3",
        **elsewhere,
    )
    assert list(found) == ["mine", "mine rerank"]
    for ours, theirs in zip(found.values(), results.values(), strict=True):
        assert ours.metrics == pytest.approx(theirs.metrics, abs=1e-6)
    assert (tmp_path / "out" / "ranking.png").exists()
    pages = tmp_path / "out" / "ranked" / "mine"
    assert [page.name for page in pages.iterdir()] == ["0001.png"]
    arguments = [
        f"--{key}={tmp_path / value}"
        for key, value in (("features", "mine.npy"), ("table", "mine.csv"), ("out", "given"))
    ]
    assert cli.main(["evaluate", *arguments, "--rerank"]) == 0
    said = capsys.readouterr()
    assert "mine rerank" in said.out
    assert "metrics are in" in said.out + said.err
    assert "checkpoints" not in said.out + said.err
    assert rows_of(tmp_path / "given") == rows_of(tmp_path / "out")
    by_model = jaxreid.evaluate_features(
        tmp_path / "mine.npy", model=models["embeddings"], **elsewhere
    )
    assert by_model["mine"].metrics == pytest.approx(found["mine"].metrics)
    euclidean = jaxreid.evaluate_features(tmp_path / "mine.npy", metric="euclidean", **elsewhere)
    assert euclidean["mine"].metrics["equal_error_threshold"] < 0


@pytest.mark.parametrize(
    ("kind", "suffix", "tlift"), [("maps", "npz", False), ("embeddings", "safetensors", True)]
)
def test_scores_of_a_file_give_the_numbers_of_their_model(
    place, models, tmp_path, kind, suffix, tlift
):
    file, own, again = tmp_path / f"scores.{suffix}", tmp_path / "own", tmp_path / "again"
    results = own_results(place, models[kind], own, file, "scores", tlift=tlift)
    found = jaxreid.evaluate_scores(file, workdir=again, tlift=tlift)
    assert {name: one.metrics for name, one in found.items()} == {
        name: one.metrics for name, one in results.items()
    }
    assert rows_of(again) == rows_of(own)
    for name in ("queries.jsonl", "ranking.png", "calibration.json"):
        assert (again / name).read_bytes() == (own / name).read_bytes()
    with pytest.raises(ValueError, match="it holds scores: evaluate it with --scores=FILE"):
        jaxreid.evaluate_features(file)
    with pytest.raises(ValueError, match=r"would both be written to .*expected two files"):
        own_results(place, models[kind], tmp_path / "both", file, "scores", save_features=file)


def test_scores_from_elsewhere_give_the_numbers_of_a_run(place, models, tmp_path, capsys):
    """A matrix of NumPy and a table, queries and gallery mixed, with rows that are not tested."""
    results = own_results(
        place, models["embeddings"], tmp_path / "own", tmp_path / "s.npz", "scores", tlift=True
    )
    with np.load(tmp_path / "s.npz") as arrays:
        held = dict(arrays)
    queries, gallery = held["scores"].shape
    labels = [
        [held["pid"][i], held["camid"][i], "query" if i < queries else "gallery", held["time"][i]]
        for i in range(queries + gallery)
    ]
    labels += [[-1, 0, "gallery", 0.0], [7, 0, "train", 0.0]]
    scores = np.concatenate([held["scores"], np.ones((queries, 1), np.float32)], 1)
    order = np.random.default_rng(0).permutation(len(labels))
    rows = [i for i in order if labels[i][2] == "query"]
    columns = [i - queries for i in order if labels[i][2] == "gallery"]
    np.save(tmp_path / "mine.npy", scores[rows][:, columns])
    with (tmp_path / "mine.csv").open("w", newline="") as table:
        csv.writer(table).writerows(
            [["pid", "camid", "split", "time"], *(labels[i] for i in order)]
        )
    capsys.readouterr()
    arguments = [f"--scores={tmp_path}/mine.npy", f"--table={tmp_path}/mine.csv"]
    assert cli.main(["evaluate", *arguments, "--tlift", "--metric=cosine", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["mine", "mine tlift"]
    for ours, theirs in zip(found.values(), results.values(), strict=True):
        assert ours == pytest.approx(theirs.metrics)
    cases = [
        (["--tlift"], "the metric of these scores is not known"),
        (["--rerank"], "rerank cannot be computed from scores"),
        (["--multi-query=mean", "--expand=3"], "expand and multi_query cannot be computed from"),
        (["--flip"], "flip cannot be set for scores that are computed"),
        ([str(models["maps"])], "scores need no model"),
        (["--features=a.npy"], "--features and --scores are given"),
    ]
    for more, message in cases:
        assert cli.main(["evaluate", *arguments, *more]) == 1
        assert message in capsys.readouterr().err
    for change, message in [
        (scores[rows][:, :-1], "expected .*in the order of .*mine.csv"),
        (np.full((queries, gallery + 1), np.nan), "the scores of row 0 hold NaN"),
        (np.ones((queries, gallery + 1), np.int64), "scores are int64"),
    ]:
        np.save(tmp_path / "mine.npy", change)
        with pytest.raises(ValueError, match=message):
            jaxreid.evaluate_scores(tmp_path / "mine.npy", table=tmp_path / "mine.csv")
    # One in float32, as of a sigmoid; in float64 the person goes first.
    close = np.array([[1 - 1e-9, 1.0, 0.0]])
    np.save(tmp_path / "close.npy", close)
    (tmp_path / "close.csv").write_text("pid,split\n1,query\n2,gallery\n1,gallery\n3,gallery\n")
    (result,) = jaxreid.evaluate_scores(
        tmp_path / "close.npy", table=tmp_path / "close.csv"
    ).values()
    assert result.metrics["rank1"] == 1
    with pytest.raises(ValueError, match="records the metric of its scores; expected no metric"):
        jaxreid.evaluate_scores(tmp_path / "s.npz", metric="cosine")


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def saved(place, models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    own_results(place, models["maps"], folder / "own", folder / "maps.npz")
    return folder / "maps.npz"


def test_the_origin_in_a_file_may_be_older_or_missing():
    from jaxreid.evaluation.feature_file import _origins

    (origin,) = _origins(["set", "1", "place", True])
    assert (origin.name, origin.place, origin.numbered_anew) == ("set", "place", True)
    assert not _origins(["set", "1", "place"])[0].numbered_anew
    for wrong in (None, [], ["set", "1"], ["set", 1, "place"], ["set", "1", "place", True, 5]):
        assert _origins(wrong) == ()


def test_what_a_file_of_features_lacks_is_said(place, models, saved, tmp_path):
    with np.load(saved) as arrays:
        held = dict(arrays)
    cases = [
        ({"about": np.array("{}")}, "it does not declare this format"),
        ({"features": held["features"][:-1]}, "expected one row for each"),
        ({"features": np.where(held["features"] > 0, np.nan, 1.0)}, "row 0 hold NaN"),
        ({"pid": held["pid"] + 1}, "damaged, or was changed"),
        ({"pid": held["pid"].astype(np.float32)}, "pid is not one int64 for each image"),
    ]
    for number, (change, message) in enumerate(cases):
        path = write(tmp_path / f"{number}.npz", **held | change)
        with pytest.raises(ValueError, match=f"{path} does not hold the features.*{message}"):
            read_stored(path, StoredFeatures)
    with pytest.raises(ValueError, match="it lacks 'about'.*--table=FILE.csv"):
        read_stored(write(tmp_path / "plain.npz", features=held["features"]), StoredFeatures)
    with pytest.raises(ValueError, match="the matcher 'qaconv' compares, whose weights are not"):
        jaxreid.evaluate_features(saved)
    with pytest.raises(ValueError, match="holds features .* of an image; .* compares"):
        jaxreid.evaluate_features(saved, model=models["embeddings"])
    with pytest.raises(ValueError, match="a metric compares embeddings"):
        jaxreid.evaluate_features(saved, metric="cosine")
    other = save_model(tmp_path / "other.safetensors", mean=(0.5, 0.5, 0.5))
    assert jaxreid.evaluate_features(saved, model=other)  # the same weights
    other = save_model(tmp_path / "other.safetensors", matcher={"name": "qaconv", "head": "v1"})
    with pytest.raises(ValueError, match="holds features of the weights .*RUN/checkpoints/500"):
        jaxreid.evaluate_features(saved, model=other)
    for ranked, message in (("best:3", "expected all, or worst:N"), ("all", r"--out=DIR")):
        with pytest.raises(ValueError, match=message):
            jaxreid.evaluate_features(saved, model=models["maps"], ranked=ranked)
    with pytest.raises(ValueError, match="flip cannot be set for features that are computed"):
        jaxreid.evaluate_features(saved, flip=True)
    two = {"a": None, "b": None}
    reid = jaxreid.load(models["maps"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(reid), "load_tests", lambda *_: two)
        with pytest.raises(ValueError, match=r"features of 2 test sets \(a, b\) cannot be written"):
            reid.evaluate(save_features=tmp_path / "two.npz")


def test_no_more_memory_is_taken_than_a_file_is_large(tmp_path):
    def claimed(shape, descr="<f4", **options):
        path, member = tmp_path / "claims.npz", io.BytesIO()
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        with zipfile.ZipFile(path, "w", **options) as archive:
            archive.writestr("features.npy", member.getvalue() + bytes(64))
        return path

    assert read_arrays(claimed((4, 4)))["features"].shape == (4, 4)
    for path in (
        claimed((2**40, 2**20)),
        claimed((-4, -4)),
        claimed((8,), "|O"),
    ):
        with pytest.raises(
            ValueError, match="has another size than declared, or holds Python objects"
        ):
            read_arrays(path)
    path = claimed((4, 4), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="features is compressed; expected it as numpy.savez"):
        read_arrays(path)
    path = tmp_path / "short.npy"
    np.save(path, np.ones((9, 9)))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="short.npy cannot be read as .npy"):
        read_arrays(path)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="short.npy cannot be read as .npy"):
        read_arrays(path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("pid,camid\n1,1\n", r"expected split \(subset\)"),
        (
            "pid,split\n1,query\n1,gallery\n2,gallery\n",
            "expected one row for each of the 3 images.*as .*has rows",
        ),
        ("pid,split\n1,test\n2,query\n", "neither query nor gallery: 1 "),
        ("pid,split\n1,gallery\n,query\n", "queries without a person: 1 "),
        ("pid,split\n1,gallery\n1,gallery\n", "query 0, gallery 2; expected one or more in each"),
        ("pid,split,time\n1,gallery,noon\n1,query,\n", "row 1: time is 'noon'"),
        ("pid,split\n1,query\n2,gallery\n", "none of the 1 queries has a match"),
    ],
)
def test_tables_that_do_not_fit_are_answered_in_words(tmp_path, table, message):
    np.save(tmp_path / "mine.npy", np.ones((2, 3), np.float32))
    (tmp_path / "mine.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        jaxreid.evaluate_features(tmp_path / "mine.npy", table=tmp_path / "mine.csv")
