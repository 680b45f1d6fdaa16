"""Names of data sets, taken apart."""

import inspect
import os
import pathlib
import re

import pytest

from jaxreid.data.sets.naming import checked, parse_name, parse_options

KNOWN = ("market1501", "synthetic_people", "folder")


@pytest.mark.parametrize(
    ("name", "base", "domain", "place", "options"),
    [
        ("market1501", "market1501", None, "", {}),
        ("market1501:/data/market", "market1501", None, "/data/market", {}),
        ("market1501:here", "market1501", None, "here", {}),
        (r"market1501:C:\data", "market1501", None, r"C:\data", {}),
        ("market1501:/a?combine_all=True", "market1501", None, "/a", {"combine_all": True}),
        ("market1501:/a-b=1/c", "market1501", None, "/a-b=1/c", {}),
        ("market1501:/what?/c", "market1501", None, "/what?/c", {}),
        ("synthetic_people/plaza", "synthetic_people", "plaza", "", {}),
        (
            "synthetic_people/plaza?train_ids=10&seed=-3",
            *("synthetic_people", "plaza", "", {"train_ids": 10, "seed": -3}),
        ),
        # as in the first release, and in TFDS
        ("synthetic_people/plaza-seed=3", "synthetic_people", "plaza", "", {"seed": 3}),
        (
            "folder:/mine?pattern={pid}_c{camid}&split=camera",
            *("folder", None, "/mine", {"pattern": "{pid}_c{camid}", "split": "camera"}),
        ),
        ("package.module:found", "package.module:found", None, "", {}),
        ("module:found", "module:found", None, "", {}),
        ("module:found:/data", "module:found", None, "/data", {}),
        (
            "module:found/night:/data?year=1984",
            *("module:found", "night", "/data", {"year": 1984}),
        ),
    ],
)
def test_a_name_has_a_set_a_domain_a_place_and_options(name, base, domain, place, options):
    named = parse_name(name, KNOWN)
    assert (named.base, named.domain, named.place) == (base, domain, place)
    assert dict(named.options) == options


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder:/mine?seed=1&seed=2", "option seed of a data set is given twice"),
        ("folder:/mine?seed=3?split=none", "write & between options, and not ?"),
    ],
)
def test_options_that_are_not_pairs_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        parse_name(name, KNOWN)


@pytest.mark.parametrize(
    ("value", "annotation", "result"),
    [
        (True, bool, True),
        (3, int, 3),
        (3, float, 3.0),
        (3, str, "3"),
        (None, str | None, None),
        ("1a", int | str, "1a"),
        (pathlib.Path("a"), str | os.PathLike | None, "a"),
        ({"a"}, dict, {"a"}),  # of other types than words can have
        ("anything", inspect.Parameter.empty, "anything"),
    ],
)
def test_an_option_has_the_declared_type(value, annotation, result):
    found = checked("option", value, annotation)
    assert (found, type(found)) == (result, type(result))


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        ("no", bool, "option is 'no'; expected True or False"),
        (1, bool, "option is 1; expected True or False"),
        (True, int, "option is True; expected a whole number"),
        ("x", int, "option is 'x'; expected a whole number"),
        (0.5, int, "option is 0.5; expected a whole number"),
        ("fast", float, "option is 'fast'; expected a number"),
        ("0..4", int, "option=0..4 names several test sets, in data.test; expected one value"),
    ],
)
def test_an_option_of_another_type_is_refused(value, annotation, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        checked("option", value, annotation)


def test_a_number_of_more_digits_than_python_reads_is_a_word():
    long = "9" * 5000
    assert parse_options([f"seed={long}", f"fps={long}.5"]) == {"seed": long, "fps": f"{long}.5"}


def test_the_name_in_results_has_no_place():
    assert parse_name("market1501:/a?combine_all=True&x=b", KNOWN).key == (
        "market1501?combine_all=True&x=b"
    )
    assert parse_name("synthetic_people/plaza-seed=3", KNOWN).key == "synthetic_people/plaza?seed=3"
