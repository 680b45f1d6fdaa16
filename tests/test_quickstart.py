"""First steps, in README.md and in the notebook: run on a tiny model and a few drawn people."""

import ast
import json
import re

import numpy as np
import pytest
from golden import REPOSITORY
from people import draw, save_model
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_device")
NOTEBOOK = REPOSITORY / "docs" / "quickstart.ipynb"
TEST = "synthetic_people/mall?train_ids=1&test_ids=4&images_per_id=4&distractors=2"


@pytest.fixture
def notebook():
    return json.loads(NOTEBOOK.read_text())


def code_of(notebook):
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_of_format_4_5_and_holds_no_outputs(notebook):
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["language"] == "python"
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            keys |= {"outputs", "execution_count"}
        assert cell.keys() == keys


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained model in a file."""
    return save_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def run(code, names):
    """Runs a cell; returns the value of its last line, which a notebook would show."""
    *lines, last = ast.parse(code).body
    if not isinstance(last, ast.Expr):
        exec(code, names)
        return None
    exec(compile(ast.Module(lines, []), str(NOTEBOOK), "exec"), names)
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


def test_every_cell_of_the_notebook_runs(notebook, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    monkeypatch.chdir(tmp_path)
    settings, *cells = code_of(notebook)
    names = {}
    run(settings, names)
    assert names.keys() >= {"RUN", "TEST"}
    names |= {"RUN": str(weights), "TEST": TEST}
    model, scores, ranking, why, metrics = [run(code, names) for code in cells]
    assert "qaconv" in repr(model)
    assert scores.shape == (2, 4)
    assert len(names["hits"]) == 8
    for picture, file in ((ranking, "ranking.png"), (why, "why.png")):
        with Image.open(tmp_path / file) as written:
            assert picture.size == written.size
        picture.close()
    assert all(0 <= value <= 1 for value in metrics.values())
    assert metrics.keys() == {"rank1", "rank5", "mAP", "mINP"}


def test_the_python_lines_of_the_readme_run(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    monkeypatch.chdir(tmp_path)
    images = [draw(pid, 0, 0) for pid in range(3)]
    for image, name in zip(images, ("a.jpg", "b.jpg", "query.jpg"), strict=True):
        image.save(name)
    text = (REPOSITORY / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = code.replace("runs/qaconv", str(weights)).replace("synthetic_people/mall", TEST)
    names = {"pil_image": images[0], "uint8_array": np.asarray(images[1])}
    exec(code, names | {"gallery_paths": ["a.jpg", "b.jpg"]})
    assert (tmp_path / "why.png").exists()
