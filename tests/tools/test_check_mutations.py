"""Mutations: their code and their tests are there, and a broken line is noticed."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")


def test_the_code_of_every_mutation_and_its_test_are_there():
    from check_mutations import MUTATIONS, mutated

    for one in MUTATIONS:
        text = (ROOT / one.file).read_text()
        assert mutated(one, text) != text
        file, _, function = one.test.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text(), one.name
    assert len({one.name for one in MUTATIONS}) == len(MUTATIONS) >= 10


def test_a_mutation_that_no_test_notices_is_an_error(tmp_path, monkeypatch, capsys):
    import check_mutations

    (tmp_path / "sum.py").write_text("def total(a, b):\n    return a + b\n")
    guarded = "from sum import total\n\n\ndef test_total():\n    assert total(2, 2) == 4\n"
    (tmp_path / "test_sum.py").write_text(guarded)
    make = check_mutations.Mutation
    right = make("minus", "", "sum.py", "a + b", "a - b", "test_sum.py::test_total")
    blind = make("times", "", "sum.py", "a + b", "a * b", "test_sum.py::test_total")
    gone = make("gone", "", "sum.py", "a % b", "a - b", "test_sum.py::test_total")
    failing = "from sum import total\n\n\ndef test_three():\n    assert total(2, 2) == 3\n"
    (tmp_path / "test_three.py").write_text(failing)
    broken = make("broken", "", "sum.py", "a + b", "a - b", "test_three.py::test_three")
    monkeypatch.setattr(check_mutations, "ROOT", tmp_path)
    monkeypatch.setattr(check_mutations, "MUTATIONS", (right, blind, gone, broken))
    assert check_mutations.main(["minus", "times"]) == 1
    printed = capsys.readouterr().out
    assert "minus: noticed" in printed
    assert "times: SURVIVED" in printed
    assert "1 of 2" in printed
    assert check_mutations.main(["gone"]) == 2
    assert "holds 'a % b' 0 times" in capsys.readouterr().err
    assert check_mutations.main(["broken"]) == 2
    assert "fails without the mutation" in capsys.readouterr().err
    assert check_mutations.main(["divided"]) == 2
    assert (tmp_path / "sum.py").read_text().endswith("a + b\n")
