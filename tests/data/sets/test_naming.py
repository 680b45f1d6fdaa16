"""Names of data sets, taken apart."""

import pytest

from jaxreid.data.sets.naming import parse_name

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


def test_the_name_in_results_has_no_place():
    assert parse_name("market1501:/a?combine_all=True&x=b", KNOWN).key == (
        "market1501?combine_all=True&x=b"
    )
    assert parse_name("synthetic_people/plaza-seed=3", KNOWN).key == "synthetic_people/plaza?seed=3"
