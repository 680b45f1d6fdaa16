"""Who may import whom: DESIGN's rules, read off the import statements."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "jaxreid"

# Imports point to an earlier line. Names on one line do not import each other.
LAYERS = [
    {"names", "files"},
    {"mesh"},
    {"ops"},
    {"losses"},
    {"backbones", "matchers", "memory", "objectives", "ranking"},
    {"model", "optim", "schedules", "data"},
    {"state", "pretrained", "pytorch"},
    {"step", "checkpoint", "writer", "stopping", "visualize"},
    {"evaluator", "runs", "correspondence"},
    {"shortlist"},
    {"evaluate"},
    {"graph", "report", "search"},
    {"testing"},
    {"train"},
    {"main"},
]
LEVEL = {name: i for i, names in enumerate(LAYERS) for name in names}
# `objectives` reads the type of the class memory.
ALLOWED = {("objectives", "memory")}

FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(package):
    return {
        part_of(path) + "/" * (path.parent != PACKAGE)
        for path in FILES
        if any(name == package or name.startswith(package + ".") for name in imports(path))
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_to_the_left(path):
    here = part_of(path)
    if here == "__init__":
        return
    for name in imports(path):
        if not name.startswith("jaxreid."):
            continue
        there = name.split(".")[1]
        if there not in LEVEL or there == here or (here, there) in ALLOWED:
            continue
        assert LEVEL[there] < LEVEL[here], f"{here} must not import {there}"


def test_every_part_has_its_place():
    assert {part_of(path) for path in FILES} - {"__init__"} == set(LEVEL)


def test_libraries_stay_where_they_belong():
    assert importers("tensorflow") == {"data/"}
    assert importers("tensorflow_datasets") == {"data/"}
    assert importers("orbax") == {"checkpoint"}
    assert importers("optax") <= {"optim", "schedules", "losses", "state", "step"}
    assert importers("flax.linen") == {"backbones/", "matchers/", "model"}
    assert importers("ml_collections") | importers("absl") == {"main"}
    assert importers("torch") == set()
    assert importers("safetensors") == {"pretrained"}
    samplers = set(imports(PACKAGE / "data" / "samplers.py"))
    assert not any(name.startswith("tensorflow") for name in samplers)


def test_models_steps_and_evaluation_run_without_tensorflow():
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "import jaxreid.evaluate, jaxreid.report, jaxreid.checkpoint, jaxreid.step\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_small(path):
    lines = len(path.read_text().splitlines())
    assert lines <= {"step": 150, "train": 150}.get(path.stem, 330)


def test_configs_import_nothing_of_ours():
    for path in (PACKAGE.parent / "configs").glob("*.py"):
        assert not any(name.startswith("jaxreid") for name in imports(path))
