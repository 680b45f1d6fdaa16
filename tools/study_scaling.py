"""Measure what training on drawn people gains from more people, domains, images, channels, cells.

    python tools/study_scaling.py --out=runs/scaling
    python tools/study_scaling.py --out=runs/scaling --axes width method --test market1501:/data

A small form of the recipe `drawn` (1,000 people of 40 domains, 32,000 images, a network of width
16) is trained once for each level of each axis, with one thing changed, and with two more seeds,
whose spread is that of chance alone. The test sets are people of drawn domains that training has
not seen, two of the named domains, and the data sets of --test. Every training is a work directory
in --out: the same command resumes, and skips those that are finished. Once the small form is
trained, another process can train axes that share no level with these in the same folder; `--axes
none` trains nothing and collects what is there. Writes

    scaling.json    rank-1 and mAP of every level and test set, parameters, images, CPU minutes
    scaling.png     mAP by level, a plot for each axis
    scaling.md      the same as a table
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxreid.configs import drawn
from jaxreid.data.sets.naming import parse_name
from jaxreid.evaluation.comparison import is_run, read_run
from jaxreid.names import check_name
from jaxreid.pictures import tables
from jaxreid.pictures.canvas import LIGHT, Canvas, Place, grid, save
from jaxreid.runs.files import replace_file
from jaxreid.runs.log import write_json

NAMED = ("synthetic_people/plaza", "synthetic_people/campus")
TESTS = {drawn.TEST: "drawn domains", NAMED[0]: "plaza", NAMED[1]: "campus"}


def _domains(count: int, people: int = 1000) -> tuple[str]:
    options = f"train_ids={people}&test_ids=1&distractors=0&domains={count}"
    return (f"synthetic_people/random?{options}",)


# Settings of the small form, by path; levels change some of them. The number of identities, of a
# larger set that the level of 4,000 shares, leaves distractors out of the test sets: at all levels.
BASE = {
    "eval.untrained": False,
    "epochs": 1,
    "data.train": _domains(160, 4000),
    "data.identities": 1000,
    "model.backbone.name": "resnet18_ibn_b",
    "model.backbone.width": 16,
}
# Images and matching of all methods: those of `drawn`. Networks and rates are the recipes' own.
ALIKE = {
    "augment.rotation": 0.0,
    "augment.hue": (0.0, 0.0),
    "augment.brightness": (1.0, 1.0),
    "augment.contrast": (1.0, 1.0),
    "augment.saturation": (1.0, 1.0),
}
COLUMNS, PANEL = 3, (330, 270)
COLOURS = ((30, 90, 170), (150, 175, 215), (120, 190, 190), (200, 80, 30), (60, 140, 50))


@dataclasses.dataclass(frozen=True)
class Level:
    """One training of an axis.

    Attributes:
        label: what is written at the axis.
        changes: settings that differ from `BASE`, by path; none is the small form itself.
        recipe: its recipe.
    """

    label: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    recipe: str = "drawn"

    @property
    def place(self) -> str:
        """Name of its work directory; levels of one training share it."""
        changes = {path.rpartition(".")[2]: value for path, value in self.changes.items()}
        changes = {name: value for name, value in changes.items() if f"augment.{name}" not in ALIKE}
        if "train" in changes:
            options = dict(parse_name(changes["train"][0], ()).options)
            changes["train"] = f"{options['train_ids']}in{options['domains']}"
        named = [self.recipe] if self.recipe != "drawn" else []
        named += [f"{name}={value}" for name, value in changes.items() if value is not None]
        return ",".join(named) or "base"


@dataclasses.dataclass(frozen=True)
class Axis:
    """Levels that differ in one thing."""

    name: str
    title: str
    levels: tuple[Level, ...]


def _method(label: str, recipe: str, epochs: int, **changes: Any) -> Level:
    free = {"model.backbone.name": None, "model.backbone.width": None}
    return Level(label, {"epochs": epochs, **ALIKE, **free, **changes}, recipe)


AXES = (
    Axis(
        "seed",
        "the same, other seeds",
        (Level("0"), *(Level(f"{seed}", {"seed": seed}) for seed in (1, 2))),
    ),
    Axis(
        "people",
        "people, 32,000 images",
        (
            *(
                Level(f"{n}", {"data.train": _domains(n // 25, n), "epochs": 1000 // n})
                for n in (100, 250)
            ),
            Level("1,000"),
        ),
    ),
    Axis(
        "domains",
        "domains of 1,000 people",
        (
            Level("4", {"data.train": _domains(4)}),
            Level("40"),
            Level("160", {"data.train": _domains(160)}),
        ),
    ),
    Axis(
        "images",
        "images, of 1,000 people",
        (
            Level("32,000"),
            Level("64,000", {"epochs": 2}),
            Level("128,000", {"epochs": 4}),
        ),
    ),
    Axis(
        "more",
        "people, 128,000 images",
        (
            Level("1,000", {"epochs": 4}),
            Level("4,000", {"data.identities": 4000}),
        ),
    ),
    Axis(
        "width",
        "channels of the first layer",
        (
            Level("8", {"model.backbone.width": 8}),
            Level("16"),
            Level("32", {"model.backbone.width": 32}),
        ),
    ),
    Axis(
        "network",
        "blocks and normalisation",
        (
            Level("18", {"model.backbone.name": "resnet18"}),
            Level("18 IBN-a", {"model.backbone.name": "resnet18_ibn_a"}),
            Level("18 IBN-b"),
            Level("34 IBN-b", {"model.backbone.name": "resnet34_ibn_b"}),
        ),
    ),
    Axis(
        "size",
        "rows and columns of the input",
        (
            Level("96x48", {"model.height": 96, "model.width": 48}),
            Level("128x64"),
            Level("160x80", {"model.height": 160, "model.width": 80}),
            Level("192x96", {"model.height": 192, "model.width": 96}),
        ),
    ),
    Axis(
        "cells",
        "cells of the maps",
        (Level("8x4", {"model.backbone.cut": "layer3"}), Level("16x8")),
    ),
    Axis(
        "channels",
        "channels of the maps",
        (
            Level("32", {"model.neck.channels": 32}),
            Level("64"),
            Level("128", {"model.neck.channels": 128}),
        ),
    ),
    Axis(
        "method",
        "method, about as many images",
        (
            _method("OSNet", "osnet", 3),
            _method("GMN", "gmn", 3, **{"sampler.quota": ()}),
            _method("QAConv", "qaconv", 3),
            _method("-GS triplet", "qaconv_gs", 1, **{"objective.name": "triplet"}),
            Level("-GS"),
            _method("-MS", "qaconv_ms", 1),
        ),
    ),
)


def command(level: Level, workdir: pathlib.Path, tests: Sequence[str]) -> list[str]:
    """Return the command that trains a level."""
    settings = BASE | {"data.test": (*TESTS, *tests)} | dict(level.changes)
    words = [sys.executable, "-m", "jaxreid.main", f"--config={level.recipe}"]
    words += [f"--config.{path}={value}" for path, value in settings.items() if value is not None]
    return [*words, f"--workdir={workdir}"]


def collect(out: pathlib.Path) -> dict[str, Any]:
    """Read the levels whose training has ended; levels of one training share its numbers."""
    axes = []
    for axis in AXES:
        levels = []
        for level in axis.levels:
            if is_run(out / level.place) and (found := _read(out / level.place)):
                levels.append({"label": level.label, "base": not level.changes} | found)
        if len(levels) > 1:
            axes.append({"name": axis.name, "title": axis.title, "levels": levels})
    result = {"base": _read(out / "base"), "axes": axes}
    for level in (level for axis in axes for level in axis["levels"]):
        if result["base"] and set(level["tests"]) != set(result["base"]["tests"]):
            raise ValueError(
                f"{level['label']} was tested on {', '.join(level['tests'])}, the small form on "
                f"{', '.join(result['base']['tests'])}; expected the same: jaxreid evaluate RUN "
                "--test SET adds a test."
            )
    return result


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """Return the numbers of a work directory; None if its training is not finished."""
    try:
        run = read_run(path)
    except FileNotFoundError:
        return None
    if not run.finished:
        return None
    # Of all evaluations, as `jaxreid evaluate` adds to them.
    rows = json.loads((path / "results.json").read_text())["results"]
    return {
        "parameters": run.parameters,
        "images": run.images,
        "cpu_seconds": run.cpu_seconds,
        "tests": {
            TESTS.get(row["set"], row["set"].partition("?")[0]): {
                name: round(row[name], 5) for name in ("rank1", "mAP")
            }
            for row in rows
            if (row["variant"], row["model"]) == ("plain", "trained")
        },
    }


def plots(result: Mapping[str, Any]) -> Any:
    """Draw a panel for each axis: mAP by level, a line for each test set."""
    axes = [axis for axis in result["axes"] if axis["name"] != "seed"]
    (seeds,) = [a["levels"] for a in result["axes"] if a["name"] == "seed"] or [[]]
    names = list(result["base"]["tests"])
    rows = -(-len(axes) // COLUMNS)
    canvas = Canvas((COLUMNS * PANEL[0] + 20, 40 + rows * PANEL[1]), fineness=2)
    for k, name in enumerate(names):
        canvas.text((16 + 150 * k, 10), name, 15, colour=COLOURS[k])
    x = 16 + 150 * len(names)
    canvas.text((x, 12), "mAP; small dots: other seeds", 13, colour=LIGHT.faint)
    for axis, corner in zip(axes, grid(len(axes), COLUMNS, PANEL, (0, 40)), strict=True):
        _panel(canvas, corner, axis, names, seeds)
    return canvas.picture()


def _panel(
    canvas: Canvas,
    corner: tuple[int, int],
    axis: Mapping[str, Any],
    names: Sequence[str],
    seeds: Sequence[Mapping[str, Any]],
) -> None:
    levels = axis["levels"]
    left, right = corner[0] + 48, corner[0] + PANEL[0] - 6
    top, bottom = corner[1] + 34, corner[1] + PANEL[1] - 40
    step = (right - left) / len(levels)

    def at(place: int, value: float) -> Place:
        return left + (place + 0.5) * step, bottom - value * (bottom - top)

    canvas.text((corner[0] + 16, corner[1] + 8), axis["title"], 14)
    for tenth in range(0, 11, 2):
        y = at(0, tenth / 10)[1]
        canvas.line([(left, y), (right, y)], (228, 228, 228), 1)
        canvas.text((left - 6, y), f"{10 * tenth}", 11, anchor="rm", colour=LIGHT.faint)
    for place, level in enumerate(levels):
        canvas.text((at(place, 0)[0], bottom + 14), level["label"], 12, anchor="mm")
    for colour, name in zip(COLOURS, names, strict=False):
        points = [at(k, level["tests"][name]["mAP"]) for k, level in enumerate(levels)]
        if axis["name"] not in ("method", "network"):  # which have no order
            canvas.line(points, colour, 2)
        for k, (point, level) in enumerate(zip(points, levels, strict=True)):
            canvas.dot(point, 4, colour)
            for other in seeds if level["base"] else ():  # its own dot among them
                canvas.dot(at(k, other["tests"][name]["mAP"]), 1.8, colour)


def markdown(result: Mapping[str, Any]) -> str:
    """Return the table of all levels."""
    names = list(result["base"]["tests"])
    header = ["", "level", *names, "images", "parameters", "CPU minutes"]
    rows = [_row("small form", "", result["base"], names)]
    for axis in result["axes"]:
        rows += [_row(axis["title"], x["label"], x, names) for x in axis["levels"] if not x["base"]]
    return tables.markdown(header, rows).rstrip()


def _row(title: str, label: str, level: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    tests = [level["tests"][name] for name in names]
    cells = [f"{100 * test['rank1']:.1f} / {100 * test['mAP']:.1f}" for test in tests]
    minutes = "" if level["cpu_seconds"] is None else f"{level['cpu_seconds'] / 60:.1f}"
    return [title, label, *cells, f"{level['images']:,}", f"{level['parameters']:,}", minutes]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the results")
    names = [axis.name for axis in AXES]
    parser.add_argument(
        "--axes", nargs="+", default=names, metavar="AXIS", help=f"{', '.join(names)}; or none"
    )
    parser.add_argument(
        "--test", nargs="+", default=[], metavar="SET", help="further data sets to test on"
    )
    args = parser.parse_args(arguments)
    if len(TESTS) + len(args.test) > len(COLOURS):
        parser.error(
            f"--test has {len(args.test)} sets; expected at most {len(COLOURS) - len(TESTS)}."
        )
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; return its exit status."""
    args = parse(arguments)
    try:
        for name in args.axes:
            check_name(name, ["none", *(axis.name for axis in AXES)], "axis")
        chosen = [axis for axis in AXES if axis.name in args.axes]
        runs = {level.place: level for axis in chosen for level in (Level(""), *axis.levels)}
        for number, (name, level) in enumerate(runs.items(), 1):
            workdir = args.out / name
            if is_run(workdir) and _read(workdir):
                continue
            print(f"{number} of {len(runs)}: {name}", flush=True)
            ended = subprocess.run(command(level, workdir, args.test))
            if ended.returncode:
                return ended.returncode
        result = collect(args.out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if result["base"] is None:
        print(f"error: {args.out / 'base'} is not finished yet.", file=sys.stderr)
        return 2
    write_json(args.out / "scaling.json", result)
    save(plots(result), args.out / "scaling.png", colours=256)
    replace_file(args.out / "scaling.md", (markdown(result) + "\n").encode())
    print(markdown(result))
    print(f"scaling.json, scaling.png and scaling.md are in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
