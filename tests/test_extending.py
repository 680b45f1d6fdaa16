"""The examples of docs/extending.md, as they stand there, from a folder outside the package."""

import re
import sys

import pytest
from golden import REPOSITORY
from people import draw

import jaxreid

pytestmark = pytest.mark.usefixtures("one_device")
TEXT = (REPOSITORY / "docs" / "extending.md").read_text()
FILES = re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", TEXT, re.DOTALL)
(RUN,) = re.findall(r"<!-- run -->\n```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder with the files of the document, and one with photographs for them."""
    for name, content in FILES:
        (tmp_path / name).write_text(content)
    for pid in range(1, 11):
        folder = tmp_path / "street" / f"person_{pid:02d}"
        folder.mkdir(parents=True)
        for camid in range(2):
            for shot in range(3):
                draw(pid, camid, shot).save(folder / f"c{camid + 1}_{shot:04d}.jpg")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name, _ in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_every_kind_of_part_is_one_file_outside_the_package(outside):
    assert len(FILES) == 5
    space = {"FOLDER": str(outside / "street"), "RUN": str(outside / "run")}
    exec(compile(RUN, "extending.md", "exec"), space)
    assert space["reid"].card["matcher"]["name"] == "my_matcher:Means"
    assert 0 < space["results"]["my_street:street"].metrics["mAP"] <= 1
    page = outside / "page.png"
    images = sorted((outside / "street").glob("*/*.jpg"))
    space["reid"].rank(images[0], images, top=3).save(page)
    assert page.exists()


def test_a_value_that_a_part_refuses_is_refused_before_training(outside):
    config = jaxreid.configs.get("qaconv:market1501,debug").to_dict()
    folder = str(outside / "street")
    names = ("my_street:street",)
    config["data"] |= {"train": names, "test": names, "dir": folder}
    config["objective"] = {"name": "my_objective:Pairs", "positive_weight": -1.0}
    with pytest.raises(ValueError, match="positive_weight is -1.0; expected a number above 0"):
        jaxreid.train(config, outside / "refused")
