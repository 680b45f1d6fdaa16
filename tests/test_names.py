"""Tables: names of the project, registered ones, entry points, addresses; options that fit."""

import dataclasses
import importlib.metadata
import sys
import types

import pytest

from jaxreid.names import Table


@dataclasses.dataclass
class Part:
    size: int = 1
    scale: float = 1.0
    name: str = ""
    axis: str | None = None

    def validate(self):
        if self.size < 1:
            raise ValueError(f"part.size is {self.size}; expected at least 1.")


@pytest.fixture
def table(monkeypatch):
    module = types.ModuleType("parts_of_a_test")
    module.Part = Part
    monkeypatch.setitem(sys.modules, "parts_of_a_test", module)
    return Table("part", {"own": "parts_of_a_test:Part"})


def test_a_name_an_address_and_a_registered_thing_are_found(table):
    table.register("mine")(Part)
    for name in ("own", "mine", "parts_of_a_test:Part"):
        assert table.make(name, {"size": 3}, axis="data", other=1) == Part(3, axis="data")
    table.register("mine")(Part)  # the same again, as when a module is loaded twice
    assert table.names == ("own", "mine")
    with pytest.raises(ValueError, match="part 'own' already exists: parts_of_a_test:Part"):
        table.register("own")(dict)


def test_an_installed_package_offers_parts_by_entry_points(table, monkeypatch):
    group = "jaxreid.part"
    point = importlib.metadata.EntryPoint("theirs", "parts_of_a_test:Part", group)
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda *, group: [point] * (group == "jaxreid.part")
    )
    assert table.names == ("own", "theirs")
    assert table.make("theirs", {}) == Part()


def test_a_thing_of_another_kind_or_without_a_required_option_is_refused(table):
    @dataclasses.dataclass
    class Needy(Part):
        depth: int = dataclasses.field(kw_only=True)

    table.register("needy")(Needy)
    with pytest.raises(ValueError, match="part 'needy' needs the option depth"):
        table.make("needy", {})
    assert table.make("needy", {}, depth=2).depth == 2
    strict = Table("part", {"own": "parts_of_a_test:Part"}, base="parts_of_a_test:Part")
    strict.register("other")(dict)
    assert strict.make("own", {}) == Part()
    with pytest.raises(ValueError, match="'other' is not a subclass of parts_of_a_test:Part"):
        strict.make("other", {})


def test_a_family_has_options_that_its_names_imply(table):
    table.add({"small": {"size": 2}, "large": {"size": 20}}, Part)
    assert table.make("large", {"scale": 2.0}) == Part(20, 2.0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ovn", {}, "unknown part 'ovn'; valid: own"),
        ("no_such_module:Part", {}, "cannot be imported: No module named 'no_such_module'"),
        ("parts_of_a_test:Other", {}, "cannot be imported: .*Expected package.module:Class"),
        ("own", {"sise": 1}, "part 'own' has no option sise; it has size, scale"),
        ("own", {"size": 0}, "part.size is 0; expected at least 1"),
        ("own", {"size": "3"}, "part.size is '3'; expected a whole number"),
        ("own", {"axis": "x"}, "has no option axis"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(table, name, options, message):
    with pytest.raises(ValueError, match=message):
        table.make(name, options, axis=None)
