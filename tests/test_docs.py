"""README.md and docs/: what is generated is fresh; links, commands, settings and names exist."""

import ast
import importlib
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys

import pytest
from absl.testing import flagsaver
from golden import REPOSITORY

from jaxreid import configs, main
from jaxreid.cli.arguments import make_parser
from jaxreid.runs.settings import OPTIONS, RULES, leaves

DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAM = ["-m", "jaxreid.main"]
each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
# All but the page of mistakes.
each_page_of_advice = pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if path.stem != "messages"], ids=lambda path: path.name
)


def fenced(path, language):
    return [code for kind, code in FENCE.findall(path.read_text()) if kind == language]


def inline(path):
    """Code within sentences, each on one line."""
    text = FENCE.sub("", path.read_text())
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def split(line):
    """The commands of a line of shell, as lists of words; those for another shell as well."""
    lexer = shlex.shlex(re.sub(r"\$\w+", "0", line), posix=True, punctuation_chars="&;|")
    lexer.whitespace_split = True
    found = [[]]
    for word in lexer:
        if word[0] in "&;|":
            found.append([])
        elif "&&" in word:
            found += split(word)
        else:
            found[-1].append(word)
    return found


def commands(path):
    """The commands of this package in a document, but for questions for help."""
    lines = "\n".join(fenced(path, "bash")).replace("\\\n", " ").splitlines()
    lines += [code for code in inline(path) if re.match(r"jaxreid \w+ \S|python -m jaxreid", code)]
    for words in (words for line in lines for words in split(line)):
        # Variables may stand before Python.
        start = words.index("-m") - 1 if "-m" in words else 0
        ours = words[:1] == ["jaxreid"] or words[start + 1 : start + 3] == PROGRAM
        if ours and "--help" not in words:
            yield words[start:]


COMMANDS = {f"{path.name}: {shlex.join(one)}": one for path in DOCUMENTS for one in commands(path)}


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    return importlib.import_module("make_docs")


@each_document
def test_generated_text_is_what_the_tool_writes(path, tool):
    text = path.read_text()
    assert tool.generate(text) == text, f"run: python tools/make_docs.py {path.stem}"
    generated = "settings", "speed", "distributed", "drawn", "results", "testing"
    assert bool(tool.BLOCK.search(text)) == (path.stem in generated)


def anchors(path):
    """Of the headings, as code hosts and the site derive them."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@each_document
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text())):
        if not re.match(r"https?://", link):
            file, _, anchor = link.partition("#")
            target = path.parent / file if file else path
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@each_document
def test_files_of_the_repository_that_are_named_exist(path):
    for code in inline(path):
        if re.fullmatch(r"(jaxreid|configs|docs|tests|tools|benchmarks)/[\w./]*", code):
            assert (REPOSITORY / code).exists(), code


def test_the_site_has_every_document():
    site = (REPOSITORY / "mkdocs.yml").read_text()
    pages = {path.name for path in DOCUMENTS} - {"README.md"} | {"index.md"}
    assert {name for name in pages if f" {name}\n" not in site} == set()


def test_the_site_builds(tmp_path):
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(words, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    start = (tmp_path / "index.html").read_text()
    assert "Finds the same person across cameras" in start
    assert (tmp_path / "drawn" / "index.html").exists()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the recipes, and the result of a search."""
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    found = {"format": "jaxreid architecture 1", "stem": "instance", "blocks": ["none"] * 6}
    (tmp_path / "runs" / "search").mkdir(parents=True)
    (tmp_path / "runs" / "search" / "architecture.json").write_text(json.dumps(found))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_commands_are_understood(command, folder, monkeypatch):
    if command[0] == "jaxreid":
        args, rest = make_parser().parse_known_args(command[1:])
        if not hasattr(args, "recipe"):
            assert not rest
            return
        rest.append(f"--config={args.recipe.replace('NAME', 'qaconv')}")
    else:
        rest = command[3:]
    monkeypatch.setattr(sys, "argv", ["jaxreid.main", *rest])
    with flagsaver.flagsaver():
        main.configuration(main.parse_flags(sys.argv))


@pytest.fixture(scope="module")
def known():
    """All settings of all recipes, and their sections."""
    paths = {*RULES, *OPTIONS}
    for recipe in configs.recipes():
        for argument in ("synthetic", "market1501"):
            paths |= {path for path, _ in leaves(configs.get(f"{recipe}:{argument}"))}
    return paths | {path.rpartition(".")[0] for path in paths}


@each_page_of_advice
def test_settings_that_are_named_exist(path, known):
    named = re.findall(r"--config\.([a-z][\w.]*)", path.read_text())
    sections = "|".join({setting.partition(".")[0] for setting in RULES})
    named += [code for code in inline(path) if re.fullmatch(rf"({sections})\.[a-z_.]+\w", code)]
    assert {name.rstrip(".") for name in named} - known - {"checkpoint.pth.tar"} == set()


@each_page_of_advice
def test_recipes_that_are_named_exist(path):
    for name, argument in re.findall(r"configs/(\w+)\.py(?::([\w.,=]+))?", " ".join(inline(path))):
        if name not in configs.SHARED and "..." not in argument:
            configs.get(f"{name}:{argument}")


@each_document
def test_python_compiles_and_uses_names_that_exist(path):
    for code in fenced(path, "python"):
        names = re.findall(r"\bjaxreid(?:\.\w+)+", code)
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("jaxreid"):
                names += [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            pkgutil.resolve_name(name)


def test_the_tests_named_as_guarantees_exist():
    text = (REPOSITORY / "docs" / "testing.md").read_text()
    named, file = [], None
    for path, name in re.findall(r"`([\w/]*(?:\.py)?)::(test_\w+)`", text):
        file = path or file
        named.append((file, name))
    assert len(named) > 100
    defined = {
        (str(path.relative_to(REPOSITORY / "tests")), name)
        for path in REPOSITORY.glob("tests/**/test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert not set(named) - defined
    assert not defined - set(named), "tests that docs/testing.md does not list"
