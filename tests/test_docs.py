"""README.md and docs/: what is generated is fresh."""

import importlib

import pytest
from golden import REPOSITORY

DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    return importlib.import_module("make_docs")


@each_document
def test_generated_text_is_what_the_tool_writes(path, tool):
    text = path.read_text()
    assert tool.generate(text) == text, f"run: python tools/make_docs.py {path.stem}"
    assert bool(tool.BLOCK.search(text)) == (path.stem in ("settings", "speed"))
