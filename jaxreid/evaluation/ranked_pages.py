"""Pages of ranked lists: the best matches of all queries of a test set, or of some."""

import pathlib
import re

import numpy as np

from jaxreid.data.split import Split
from jaxreid.evaluation.results import Result, row_of
from jaxreid.pictures.canvas import save
from jaxreid.pictures.ranking import ranking_picture

# Folder of the pages beside the results.
FOLDER = "ranked"
# Queries on a page.
_PER_PAGE = 20
_PAGE = re.compile("[0-9]{4}[.]png")


def parse_choice(text: str) -> tuple[str, int]:
    """Return kind and number of a choice of queries: "all", "worst:N" or "random:N".

    Raises:
        ValueError: it is another.
    """
    kind, _, number = text.partition(":")
    if text == "all":
        return "all", 0
    if kind in ("worst", "random") and re.fullmatch("[0-9]{1,9}", number) and int(number):
        return kind, int(number)
    raise ValueError(
        f"pictures of queries are {text!r}; expected all, or worst:N or random:N with a number of "
        "queries, as in worst:40."
    )


def chosen_queries(result: Result, choice: str, *, seed: int = 0) -> np.ndarray:
    """Return the queries [n] int of a choice, among those that have a match.

    The worst come in order of their average precision, the lowest first, and others in that of the
    data set. The draw follows from the seed.
    """
    kind, count = parse_choice(choice)
    valid = np.flatnonzero(result.ranks.matches)
    if kind == "worst":
        order = np.argsort(result.ranks.average_precision[valid], kind="stable")
        return valid[order[:count]]
    if kind == "random":
        drawn = np.random.default_rng(seed).permutation(len(valid))[:count]
        return valid[np.sort(drawn)]
    return valid


def write_pages(
    folder: pathlib.Path, name: str, splits: dict[str, Split], result: Result, choice: str
) -> list[pathlib.Path]:
    """Draw the best matches of the chosen queries of a test set, as `write_ranking` does.

    Args:
        folder: folder of the results; the pages are in `ranked` there, in a folder for each set.
            Pages of an earlier call are replaced.
        name: test set.
        splits: its "query" and "gallery".
        result: its evaluation.
        choice: "all", "worst:N" or "random:N".

    Returns:
        The pages, PNG.
    """
    queries = chosen_queries(result, choice)
    place = folder / FOLDER / re.sub(r"[^\w.-]+", "_", name)
    place.mkdir(parents=True, exist_ok=True)
    for old in place.iterdir():
        if _PAGE.fullmatch(old.name):
            old.unlink()
    pages = []
    for first in range(0, len(queries), _PER_PAGE):
        rows = [row_of(q, **splits, result=result) for q in queries[first : first + _PER_PAGE]]
        last = first + len(rows)
        title = f"{name}: {choice}, queries {first + 1} to {last} of {len(queries)}"
        pages.append(place / f"{len(pages) + 1:04d}.png")
        save(ranking_picture([(title, rows)]), pages[-1])
    return pages
