"""Protocols: the training and test sets of a recipe's argument, as papers name them.

Trained on one data set or several, and tested on others: `market1501->msmt17`,
`market1501+cuhk03_np->viper?split=0..9`. And three protocols of domain generalisation:

    p1             all images of Market-1501, CUHK02, CUHK03 and CUHK-SYSU, tested on
                   PRID 2011, GRID, VIPeR and i-LIDS
    p2->SET        leave one out: training parts of the others of Market-1501, CUHK03, MSMT17, and
                   CUHK-SYSU
    p3->SET        all images of those

`p1_duke`, `p2_duke->SET` and `p3_duke->SET` are those of older papers, with DukeMTMC-reID, in p2
and p3 instead of CUHK-SYSU, for those who hold it: its authors withdrew it.
"""

import re

SMALL = tuple(f"{name}?split=0..9" for name in ("prid2011", "grid", "viper", "ilids"))
LARGE = ("market1501", "cuhk03_np", "msmt17")
DUKE = "dukemtmcreid"
# Sets that can be trained and tested on.
WHOLE = (*LARGE, DUKE)
NAMES = ("p1", "p1_duke", "p2->SET", "p2_duke->SET", "p3->SET", "p3_duke->SET")

Sets = tuple[tuple[str, ...], tuple[str, ...]]


def find(word: str) -> Sets | None:
    """Return training and test sets of a protocol; None if the word is not one.

    Raises:
        ValueError: a protocol that lacks its target, or has one that it cannot have.
    """
    source, arrow, target = (part.strip() for part in word.partition("->"))
    if source in ("p1", "p1_duke"):
        if arrow:
            raise ValueError(f"{word!r}: {source} has its own test sets; write {source!r}.")
        names = ("market1501", *((DUKE,) if source == "p1_duke" else ()), "cuhk02", "cuhk03_np")
        return _whole((*names, "cuhksysu")), SMALL
    if source in ("p2", "p2_duke", "p3", "p3_duke"):
        with_duke = source.endswith("_duke")
        targets = WHOLE if with_duke else LARGE
        if _base(target) not in targets:
            raise ValueError(
                f"{word!r}: expected one of {', '.join(f'{source}->{name}' for name in targets)}."
            )
        others = tuple(name for name in targets if name != _base(target))
        others += () if with_duke else ("cuhksysu",)
        return (_whole(others) if source.startswith("p3") else others), (target,)
    if not arrow:
        return ((word,), (word,)) if _base(word) in WHOLE else None
    train, test = (tuple(map(str.strip, part.split("+"))) for part in (source, target))
    if not all((*train, *test)):
        raise ValueError(f"{word!r}: expected SET[+SET...]->SET[+SET...].")
    return train, test


def _base(name: str) -> str:
    """Return the name of a data set without its place and options."""
    return re.split("[:?]", name, maxsplit=1)[0]


def _whole(names: tuple[str, ...]) -> tuple[str, ...]:
    # CUHK-SYSU has training images alone.
    return tuple(name if name == "cuhksysu" else f"{name}?combine_all=True" for name in names)
