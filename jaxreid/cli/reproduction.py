"""Published tables next to the results of this library: cells, commands and runs."""

import importlib
import json
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxreid.cli.published import TABLES, WITHDRAWN, Table, Training
from jaxreid.names import check_name
from jaxreid.runs.log import table


class Cell(NamedTuple):
    """One training of a table, with the available ones of its data sets.

    Attributes:
        name: table and training, as in "qaconv_gs/M".
        training: published settings and results.
        argument: of the recipe.
        missing: sentences about missing data sets.
        tests: test sets to evaluate.
    """

    name: str
    training: Training
    recipe: str
    argument: str
    missing: tuple[str, ...]
    tests: tuple[str, ...]

    @property
    def workdir(self) -> str:
        """Name of its work directory."""
        kept = (c if c.isalnum() or c in "._" else "_" for c in self.name.replace("->", "_to_"))
        return "".join(kept)

    def command(self, out: str, data: str, weights: str, rest: Sequence[str]) -> list[str]:
        """Return the words of `jaxreid train` that run it."""
        settings = [f"--config.data.dir={data}", f"--config.init_from={weights}"]
        return [
            *("jaxreid", "train", f"{self.recipe}:{self.argument}"),
            *(f"--workdir={out}/{self.workdir}", *settings, *self.training.settings, *rest),
        ]


def cells_of(name: str, data: str | None, chosen: Sequence[str] = ()) -> list[Cell]:
    """Return the cells of a table.

    Args:
        name: of the table.
        data: folder of the data sets, in their usual folders; None: do not look for them.
        chosen: names of trainings; () for all.

    Raises:
        ValueError: an unknown table or training.
    """
    held: Table = TABLES[check_name(name, TABLES, "table")]
    for training in chosen:
        check_name(training, held.trainings, f"training of {name}")
    return [
        _cell(f"{name}/{key}", held.recipe, training, data)
        for key, training in held.trainings.items()
        if not chosen or key in chosen
    ]


def run_cells(
    cells: Sequence[Cell], out: pathlib.Path, data: str, weights: str, rest: Sequence[str]
) -> Iterator[tuple[Cell, int]]:
    """Train the cells whose data exist, one after the other; yield each with its exit status.

    A stopped run is resumed; a finished one ends at once.
    """
    for cell in cells:
        if cell.tests:
            words = cell.command(str(out), data, weights, rest)
            print(shlex.join(words), file=sys.stderr, flush=True)
            status = subprocess.run([sys.executable, "-m", *_module(words)], check=False)
            yield cell, status.returncode


def found_in(cell: Cell, out: pathlib.Path) -> Mapping[str, tuple[float, float]]:
    """Return mAP and rank-1 in percent by test set, as far as the run of a cell has them."""
    from jaxreid.evaluation.means import family

    try:
        written = json.loads((out / cell.workdir / "results.json").read_text())
        rows = [
            *(row for row in written["results"] if row["model"] == "trained"),
            *(row for row in written.get("means", []) if row["set"] and row["model"] == "trained"),
        ]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return {
        family(row["set"]): (100 * row["mAP"], 100 * row["rank1"])
        for row in rows
        if row["variant"] == "plain"
    }


def text_of(cells: Sequence[Cell], out: pathlib.Path) -> str:
    """Format published values next to one's own, as a table with mAP / rank-1 in percent."""
    from jaxreid.evaluation.means import family

    rows = []
    for cell in cells:
        found = found_in(cell, out)
        for name, (precision, rank1) in cell.training.values.items():
            set_name = name.replace("split=0..9", "").rstrip("?")
            ours = found.get(family(set_name))
            cell_text = f"{ours[0]:.1f} / {ours[1]:.1f}" if ours else ""
            rows.append((cell.name, set_name, f"{precision:.1f} / {rank1:.1f}", cell_text))
    return table(("training", "test set", "published", "found"), rows)


def as_dict(cells: Sequence[Cell], out: pathlib.Path) -> list[dict[str, Any]]:
    """Return the cells for JSON."""
    return [
        {
            "name": cell.name,
            "recipe": f"{cell.recipe}:{cell.argument}",
            "settings": list(cell.training.settings),
            "missing": list(cell.missing),
            "published": {k: list(v) for k, v in cell.training.values.items()},
            "found": {k: list(v) for k, v in found_in(cell, out).items()},
        }
        for cell in cells
    ]


def _cell(name: str, recipe: str, training: Training, data: str | None) -> Cell:
    # From the folder of recipes, which type checkers do not see.
    protocols = importlib.import_module("jaxreid.configs.protocols")
    word, options = training.word, training.options
    train, tested = protocols.find(word) if word else (training.train, tuple(training.values))
    missing = {set_name: _lack(set_name, data) for set_name in (*train, *tested)}
    there = tuple(test for test in tested if not missing[test])
    tests = () if any(missing[set_name] for set_name in train) else there
    if not (word and len(tests) == len(tested)):
        word = "+".join(train) + "->" + "+".join(tests or tested)
    argument = ",".join(filter(None, [word, options]))
    lacks = tuple(sentence for sentence in missing.values() if sentence)
    return Cell(name, training, recipe, argument, lacks, tests)


def _lack(name: str, data: str | None) -> str:
    """Return why a data set cannot be read; "" if it can, or without a folder of data sets."""
    if data is None:
        return ""
    from jaxreid.data import sets

    try:
        sets.check_there(name, dir=data)
    except (ValueError, OSError) as error:
        withdrawn = " (withdrawn by its authors)" if name in WITHDRAWN else ""
        return f"{name}{withdrawn}: {error}"
    return ""


def _module(words: Sequence[str]) -> list[str]:
    """Return the words of a command `jaxreid ...` for this interpreter."""
    return ["jaxreid", *words[1:]]
