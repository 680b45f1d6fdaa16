"""Who may import whom, read off the import statements."""

import ast
import pathlib
import subprocess
import sys

import pytest

import jaxreid

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "jaxreid"

# A room imports itself and what is left of an arrow; between two arrows nobody knows the other.
ORDER = (
    "contents, huge_pages, names, places <- locks, mesh, processes, programs <- ops, runs, data"
    " <- configs, frames, models <- weights, pictures <- evaluation <- reid"
    " <- export, index, training <- planning, main, register, service <- cli <- __main__"
)
LEVEL = {name: i for i, rooms in enumerate(ORDER.split(" <- ")) for name in rooms.split(", ")}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path):
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
    """Rooms, or modules of a room, that import a library."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in FILES
        if any(name == package or name.startswith(package + ".") for name in imports(path))
    }


def rooms_importing(package):
    return {name.split(".")[0] for name in importers(package)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_order(path):
    here = room_of(path)
    for name in imports(path):
        there = name.split(".")[1] if name.startswith("jaxreid.") else here
        if here != "__init__" and there != here and there != "__version__":
            assert LEVEL[there] < LEVEL[here], f"{here} must not import {there}"


def test_every_room_has_its_place():
    assert {room_of(path) for path in FILES} - {"__init__"} == set(LEVEL)


def test_libraries_stay_where_they_belong():
    assert importers("tensorflow") - {"export.tensorflow_file"} == {
        name for name in importers("tensorflow") if name.startswith("data.")
    }
    assert rooms_importing("tensorflow_datasets") == {"data"}
    assert importers("orbax") == {"weights.checkpoint"}
    assert rooms_importing("optax") == {"training"}
    assert rooms_importing("flax.linen") == {"models"}
    assert rooms_importing("ml_collections") == {"configs", "main"}
    assert rooms_importing("absl") == {"main", "cli"}
    # Imported while a file of the format is read or written; nothing else does.
    assert importers("onnx") == {
        "export.onnx_file",
        "export.onnx_graph",
        "weights.onnx_layers",
    }
    assert importers("onnxruntime") == {"export.onnx_file"}
    assert importers("torch") == {"weights.torch_checkpoint"}
    assert importers("safetensors") == {
        "evaluation.array_file",
        "weights.file",
        "weights.torch_checkpoint",
    }
    assert importers("lancedb") == {"index.store"}
    assert rooms_importing("fastapi") == rooms_importing("uvicorn") == {"service"}
    assert not [name for name in importers("tensorflow") if name.startswith("data.sampling")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_of_unix_are_imported_only_where_their_absence_is_caught(path):
    unix = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
    tree = ast.parse(path.read_text())
    guarded = {
        statement
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        and {"ImportError", "ModuleNotFoundError"}
        & {ast.unparse(h.type) for h in node.handlers if h.type}
        for statement in node.body
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and node not in guarded:
            names = (
                [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
            assert not unix & set(names), f"{path}:{node.lineno}"


def test_models_steps_and_evaluation_run_without_tensorflow():
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['fcntl'] = None\n"
        "import jaxreid.evaluation.run, jaxreid.evaluation.results\n"
        "import jaxreid.weights.checkpoint, jaxreid.training.step\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_recipes_import_each_other_and_nothing_of_the_system():
    for path in (PACKAGE.parent / "configs").glob("*.py"):
        ours = {name for name in imports(path) if name.startswith("jaxreid")}
        assert all(n.startswith(("jaxreid.configs", "jaxreid.names")) for n in ours), path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_function_has_the_name_of_a_module(path):
    # Of its own, or of one beside it that a package offers: importing the module would hide it.
    tree = ast.parse(path.read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    modules = {path.stem}
    if path.stem == "__init__":
        here = ".".join(("jaxreid", *path.parent.relative_to(PACKAGE).parts))
        imported = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        names |= {a.name for node in imported if node.module != here for a in node.names}
        modules = {other.stem for other in path.parent.iterdir()} - {"__init__"}
    assert not names & modules - {"main"}


def test_what_the_package_offers_is_not_hidden_by_a_module():
    functions = {name for name, where in jaxreid._OFFERED.items() if ":" in where}
    assert not functions & {path.stem for path in PACKAGE.iterdir()}
