"""Protocols of papers in a recipe's argument: what is trained and tested on."""

import inspect

import pytest

from jaxreid import configs
from jaxreid.configs import protocols
from jaxreid.data.sets import SETS
from jaxreid.data.sets.naming import parse_name

SMALL = tuple(f"{name}?split=0..9" for name in ("prid2011", "grid", "viper", "ilids"))
ALL = "?combine_all=True"


@pytest.mark.parametrize(
    ("word", "train", "test"),
    [
        ("market1501", ("market1501",), ("market1501",)),
        ("msmt17", ("msmt17",), ("msmt17",)),
        ("protocol=market1501->msmt17", ("market1501",), ("msmt17",)),
        (
            "msmt17?combine_all=True->market1501+cuhk03_np",
            *(("msmt17?combine_all=True",), ("market1501", "cuhk03_np")),
        ),
        ("market1501:/a?x=1", ("market1501:/a?x=1",), ("market1501:/a?x=1",)),
        (
            " randperson:/data/rp -> folder:/mine + viper",
            ("randperson:/data/rp",),
            ("folder:/mine", "viper"),
        ),
        ("p2->msmt17:/m", ("market1501", "cuhk03_np", "cuhksysu"), ("msmt17:/m",)),
        ("randperson:/data/rp->folder:/mine", ("randperson:/data/rp",), ("folder:/mine",)),
        ("p1", (*(n + ALL for n in ("market1501", "cuhk02", "cuhk03_np")), "cuhksysu"), SMALL),
        ("p2->msmt17", ("market1501", "cuhk03_np", "cuhksysu"), ("msmt17",)),
        ("p2_duke->msmt17", ("market1501", "cuhk03_np", "dukemtmcreid"), ("msmt17",)),
        (
            "p3->cuhk03_np",
            *((*(n + ALL for n in ("market1501", "msmt17")), "cuhksysu"), ("cuhk03_np",)),
        ),
    ],
)
def test_a_word_names_training_and_test_sets(word, train, test):
    data = configs.get(f"qaconv_gs:{word},small").data
    assert (data.train, data.test) == (train, test)
    for name in () if "x=1" in word else (*train, *test):
        named = parse_name(name, SETS.names)
        options = inspect.signature(SETS.find(named.base)[0]).parameters
        assert {option for option, _ in named.options} <= set(options)


def test_duke_is_named_only_where_it_is_asked_for():
    words = ("p1", *(f"{p}->{t}" for p in ("p2", "p3") for t in protocols.LARGE))
    assert not any("duke" in str(protocols.find(word)) for word in words)
    assert "dukemtmcreid?combine_all=True" in protocols.find("p1_duke")[0]


def test_the_list_of_msmt17_is_that_of_the_published_recipe():
    assert configs.get("qaconv:msmt17").data.train == ("msmt17",)
    assert configs.get("osnet:msmt17->market1501").data.train == ("msmt17?train_split=train",)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "market1501-",
            "put quotes around the word, as in .*, and remove the file",
        ),
        ("p1->viper", "p1 has its own test sets; write 'p1'"),
        ("p2", "expected one of p2->market1501, p2->cuhk03_np, p2->msmt17"),
        ("p3->viper", "expected one of p3->market1501"),
        ("market1501->", r"expected SET\[\+SET...\]->SET"),
        ("market1502", "unknown data set 'market1502' in the recipe's argument.*valid: market1501"),
    ],
)
def test_what_is_no_protocol_is_refused(word, message):
    with pytest.raises(ValueError, match=message):
        configs.get(f"qaconv:{word}")
