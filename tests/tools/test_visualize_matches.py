"""The tool that draws matches, on a tiny model and a tiny data set."""

import functools
import sys

import jax
import numpy as np
import pytest
from golden import REPOSITORY
from people import market_tree, save_model
from PIL import Image
from selection import deep

from jaxreid.models.model import make_model
from jaxreid.pictures.canvas import RIGHT, WRONG
from jaxreid.weights.loading import load_weights

sys.path.insert(0, str(REPOSITORY / "tools"))

import visualize_matches  # noqa: E402

MODEL = {
    "backbone": {"name": "resnet18", "cut": "layer2", "width": 8},
    "neck": {"name": "map", "channels": 8, "norm": "none"},
    "matcher": {"name": "qaconv", "head": "v1"},
    "height": 64,
    "width": 32,
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
}


SCALES = {"name": "multi_scale", "channels": 8, "scales": (3,), "hidden": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a data set, a file of weights, and one of a model without parts."""
    root = tmp_path_factory.mktemp("matches")
    market_tree(root / "market1501", train=2, test=4)
    others = {
        "qaconv": {},
        "whole": {"matcher": {"name": "embedding"}, "neck": {"name": "pooled"}},
        "scales": {"matcher": {"name": "qaconv_ms", "hidden": 8}, "neck": SCALES},
    }
    for name, parts in others.items():
        save_model(root / f"{name}.safetensors", **MODEL | parts)
    return root


@pytest.fixture
def tool(place, tmp_path, capsys):
    """Runs the tool; returns its exit status, what it said, and its picture."""

    def run(*arguments, model=("--weights", "qaconv.safetensors")):
        out = tmp_path / "matches.png"
        options = [model[0], place / model[1], "--height", 96, "--out", out]
        folders = ["--data_dir", place, "--prepared_dir", place / "prepared"]
        status = visualize_matches.main([*map(str, [*options, *folders, *arguments])])
        return status, "".join(capsys.readouterr()), out

    return run


def images_of(place, folder):
    return sorted((place / "market1501" / folder).glob("*.jpg"))


def logits(place, query, gallery):
    """The scores of a file with others, by the model itself."""
    variables, _ = load_weights(place / "qaconv.safetensors", MODEL)
    files = [query, *gallery]
    pixels = [np.asarray(Image.open(path).resize((32, 64), Image.BICUBIC)) for path in files]
    model = make_model(**MODEL)
    encode = jax.jit(functools.partial(model.apply, method="encode"))
    features = encode(variables, np.stack(pixels))
    return model.apply(variables, features[:1], features[1:], method="match")[0].tolist()


@pytest.mark.full
def test_two_files(tool, place):
    paths = images_of(place, "query")[:2]
    status, said, out = tool("--images", *paths)
    assert status == 0, said
    (expected,) = logits(place, paths[0], paths[1:])
    assert float(said.split("score ")[1].split()[0]) == pytest.approx(expected, abs=2e-3)
    with Image.open(out) as picture:
        assert picture.height > 96


@pytest.mark.parametrize("absolute", deep([], ["--absolute"], but=[[]]))
def test_a_query_and_the_best_of_the_gallery(tool, place, absolute):
    query = images_of(place, "query")[3]
    name = ("--query", query.name if absolute else query.stem)
    status, said, out = tool("--dataset", "market1501", *name, "--top", 100, *absolute)
    assert status == 0, said
    assert "market1501: query 3 and the best 16 of 18 gallery images" in said  # 2 are junk
    ranked = [line.split() for line in said.splitlines() if "  score " in line]
    assert [row[0] for row in ranked] == [f"{i}." for i in range(1, 17)]
    scores = [float(row[3]) for row in ranked]
    assert scores == sorted(scores, reverse=True)
    files = [place / "market1501" / "bounding_box_test" / row[1] for row in ranked]
    assert scores == pytest.approx(logits(place, query, files), abs=2e-3)
    for _, gallery, _, _, *words in ranked:
        same = gallery[:4] == query.name[:4]
        assert words == (["the", "same", "person"] if same else ["another", "person"])
        assert not (same and gallery[4:7] == query.name[4:7])  # seen by another camera
    with Image.open(out) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    frame = (48 + 8) * (96 + 8) - 48 * 96
    for colour, count in ((RIGHT, 2), (WRONG, 14)):
        seen = (pixels == colour).all(-1).sum()
        assert 0.7 * count * frame < seen <= count * frame  # lines cross them


@pytest.mark.full
@pytest.mark.parametrize("chosen", [["pixel", "3x3", "attention"], ["3x3"]])
def test_every_part_of_qaconv_ms_is_a_column(tool, place, chosen):
    options = ["--dataset", "market1501", "--top", "2", "--query", "1"]
    if len(chosen) == 1:
        options += ["--parts", *chosen]
    status, said, out = tool(*options, model=("--weights", "scales.safetensors"))
    assert status == 0, said
    lines = said.splitlines()
    told = [i for i, line in enumerate(lines) if "  score " in line]
    assert [lines[i].split()[0] for i in told] == ["1.", "2."]
    rests = []
    for i in told:
        parts = lines[i + 1].split()[1:]
        assert parts[::2] == [*chosen, "rest"]
        score = float(lines[i].split("  score ")[1].split()[0])
        assert score == pytest.approx(sum(map(float, parts[1::2])), abs=5e-3)
        rests.append(float(parts[-1]))
    if len(chosen) == 3:  # what is not of the parts is what every pair gets
        assert rests[0] == pytest.approx(rests[1], abs=5e-3)
    with Image.open(out) as picture:
        assert (picture.width > 3 * 400) == (len(chosen) == 3)


def test_absolute_contributions_are_another_picture(tool):
    pictures = []
    for more in ([], ["--absolute"]):
        _, _, out = tool("--dataset", "market1501", "--top", 1, *more)
        pictures.append(out.read_bytes())
    assert pictures[0] != pictures[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "a.jpg", "b.jpg", "--parts", "3x3"], "have no parts"),
        (["--images", "a.jpg", "b.jpg"], "--images: no file a.jpg"),
        (["--images", "README.md", "README.md"], "README.md"),
        (["--dataset", "market1501", "--query", "8"], "--query=8: expected an index from 0 to 7"),
        (["--dataset", "market1501", "--query", "0003_c1s1_00032.jpg"],
         "no query is named '0003_c1s1_00032.jpg'; nearest names: 0003_c1s1_000325_00.jpg, "),
        (["--dataset", "market1510"], "unknown data set 'market1510'; valid: market1501"),
        (["--images", "a.jpg", "b.jpg", "--out", "/nowhere/at/all.png"], "no folder /nowhere/at"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said(tool, arguments, message, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    status, said, _ = tool(*arguments)
    assert status == 2
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (("--weights", "nothing.safetensors"), "no model in"),
        (("--weights", "whole.safetensors"), "'embedding' compares whole images"),
        (("--workdir", "."), "holds no checkpoint"),
    ],
)
def test_models_without_parts_are_refused(tool, model, message):
    status, said, _ = tool("--images", "a.jpg", "b.jpg", model=model)
    assert status == 2
    assert message in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "names no data set"),
        (["--images", "a.jpg", "b.jpg", "--query", "3"], "omit --dataset and --query"),
        (["--dataset", "market1501", "--matches", "0"], "--matches is 0"),
        (["--dataset", "market1501", "--workdir", "run"], "not allowed with argument"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tool, capsys, arguments, message):
    with pytest.raises(SystemExit):
        tool(*arguments)
    assert message in capsys.readouterr().err
