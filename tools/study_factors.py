"""Measure how a model depends on skin, body, clothes, light, camera and viewpoint, one at a time.

    python tools/study_factors.py runs/drawn --out=study
    python tools/study_factors.py drawn.safetensors --out=study --people=60 --factors skin viewpoint

Drawn people, whose parameters are known exactly, are seen by two cameras of drawn domains: one
picture each in the query and in the gallery. Each factor has a few levels; people, poses, places,
light and noise are the same at all of them, so that levels are compared in pairs. Writes

    factors.json    rank-1, mAP, false-match and miss rate of every level, with intervals
    factors.png     a plot for each factor, with one person as seen at each level
    factors.md      the same as tables

The threshold of false matches and misses is fixed on the people and cameras as drawn, where one of
1,000 pairs of strangers passes. Intervals (95 %) are percentiles of a bootstrap over people, with
the same draws at all levels; for rates of pairs, both people of a pair are drawn.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import study_report
from study_levels import FACTORS, Factor, Level, Shot, Subject, dressed_as, picture, subjects
from tqdm import tqdm

import jaxreid
from jaxreid.data.synthetic.people import Person
from jaxreid.evaluation.ranking.metrics import rank_queries
from jaxreid.evaluation.run import digest_of
from jaxreid.names import check_name
from jaxreid.pictures.canvas import save
from jaxreid.runs.files import replace_file
from jaxreid.runs.log import progress, write_json

FALSE_MATCH_RATE = 1e-3
DRAWS = 2000
PEOPLE, SEED = 150, 2
# Images embedded at once.
BATCH = 64
# The person of the plots: well lit, and not one whose clothes look-alikes wear.
SHOWN = 13


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one level gives, with a value for each query or pair of N people.

    Attributes:
        first: [N] bool, whether the own picture ranks first.
        precision: [N] average precision.
        false: [N, N] bool, whether strangers pass the threshold; the diagonal does not count.
        missed: [N] bool, whether the own picture does not pass.
        alike: [N, N] bool, strangers in the very same clothes.
    """

    first: np.ndarray
    precision: np.ndarray
    false: np.ndarray
    missed: np.ndarray
    alike: np.ndarray


class Study:
    """A model on drawn people.

    Args:
        model: the model.
        people: number of people N.
        seed: seed of people and cameras.
        bar: counts the pictures of all levels.
    """

    def __init__(self, model: jaxreid.ReID, people: int, seed: int, bar: tqdm) -> None:
        self._model, self._bar, self.seed = model, bar, seed
        self._known: dict[Shot, np.ndarray] = {}
        self.subjects = subjects(people, seed)
        scores = self._scores(self.subjects)
        strangers = np.sort(scores[~np.eye(people, dtype=bool)])[::-1]
        # Just above the first stranger who must not pass.
        allowed = int(FALSE_MATCH_RATE * len(strangers))
        self.threshold = float(np.nextafter(strangers[allowed], np.float32(np.inf)))
        self.reference = self._outcome(scores, self.subjects)

    def outcome(self, level: Level) -> Outcome:
        """Draw, embed and score the people of a level."""
        changed = level.change(self.subjects)
        return self._outcome(self._scores(changed), changed)

    def forget(self) -> None:
        """Drop the features of a factor but those of the people as drawn."""
        kept = {shot for one in self.subjects for shot in one.shots()}
        self._known = {shot: value for shot, value in self._known.items() if shot in kept}

    def _scores(self, people: Sequence[Subject]) -> np.ndarray:
        shots = [shot for one in people for shot in one.shots()]
        new = [shot for shot in dict.fromkeys(shots) if shot not in self._known]
        self._bar.update(len(shots) - len(new))
        for first in range(0, len(new), BATCH):
            part = new[first : first + BATCH]
            features = self._model.embed([picture(self.seed, shot) for shot in part])
            self._known |= dict(zip(part, features, strict=True))
            self._bar.update(len(part))
        query, gallery = (np.stack([self._known[shot] for shot in shots[k::2]]) for k in range(2))
        return self._model.score(query, gallery)

    def _outcome(self, scores: np.ndarray, people: Sequence[Subject]) -> Outcome:
        pid, camid = np.arange(len(people)), np.zeros(len(people), int)
        ranks = rank_queries(scores, pid, camid, pid, camid + 1)
        others = ~np.eye(len(people), dtype=bool)
        passed = scores >= self.threshold
        numbers: dict[Person, int] = {}
        clothes = [dressed_as(one.look, people[0].look) for one in people]
        wears = np.array([numbers.setdefault(look, len(numbers)) for look in clothes])
        return Outcome(
            ranks.first_match == 1,
            ranks.average_precision,
            passed & others,
            ~passed.diagonal(),
            (wears[:, None] == wears) & others,
        )


def rates(outcome: Outcome, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rates of a level for each of B weights of people [B, N], as [B] by name."""
    n = weights.shape[1]
    total = weights.sum(1)

    def share(values: np.ndarray) -> np.ndarray:
        return weights @ values / total

    def pairs(values: np.ndarray) -> np.ndarray:
        return np.einsum("bi,bi->b", weights @ values, weights)

    strangers = pairs(1.0 - np.eye(n))
    result = {
        "rank1": share(outcome.first),
        "mAP": share(outcome.precision),
        "false_match_rate": pairs(outcome.false) / np.maximum(strangers, 1),
        "miss_rate": share(outcome.missed),
    }
    if outcome.alike.any():
        alike = pairs(outcome.alike.astype(float))
        passed = pairs((outcome.false & outcome.alike).astype(float))
        result["false_match_rate_alike"] = passed / np.maximum(alike, 1)
    return result


def measure(outcome: Outcome, base: Outcome, weights: np.ndarray) -> dict[str, Any]:
    """Return the rates of a level and their changes from another level: [value, low, high]."""
    whole = np.ones((1, weights.shape[1]))
    once, here = rates(outcome, whole), rates(outcome, weights)
    before, there = rates(base, whole), rates(base, weights)
    result = {name: _interval(once[name][0], here[name]) for name in once}
    return result | {
        f"{name}_change": _interval(once[name][0] - before[name][0], here[name] - there[name])
        for name in once
        if name in before
    }


def _interval(value: float, draws: np.ndarray) -> list[float]:
    low, high = np.percentile(draws, (2.5, 97.5))
    return [round(float(x), 6) for x in (value, low, high)]


def study(
    model: jaxreid.ReID, chosen: Sequence[Factor], out: pathlib.Path, *, people: int, seed: int
) -> dict[str, Any]:
    """Measure all levels of the chosen factors; write the files after each of them."""
    generator = np.random.default_rng(0)
    weights = generator.multinomial(people, np.full(people, 1 / people), DRAWS).astype(float)
    levels = sum(len(factor.levels) for factor in chosen)
    with progress("factors", total=2 * people * (levels + 1)) as bar:
        held = Study(model, people, seed, bar)
        result: dict[str, Any] = {
            "model": {"name": pathlib.Path(model.path or "").name, "step": model.step,
                      "digest": digest_of(model.variables)},
            "people": people,
            "domains": len({one.domain for one in held.subjects}),
            "seed": seed,
            "draws": DRAWS,
            "threshold": round(held.threshold, 6),
            "reference": measure(held.reference, held.reference, weights),
            "factors": [],
        }  # fmt: skip
        shown: dict[str, list[np.ndarray]] = {}
        for factor in chosen:
            bar.set_description(factor.name)
            outcomes = [held.outcome(level) for level in factor.levels]
            rows = [
                {"level": level.name} | measure(outcome, outcomes[0], weights)
                for level, outcome in zip(factor.levels, outcomes, strict=True)
            ]
            result["factors"].append(
                {"name": factor.name, "title": factor.title, "where": factor.where, "levels": rows}
            )
            held.forget()
            shown[factor.name] = [_shown(held, level) for level in factor.levels]
            write_json(out / "factors.json", result)
            save(study_report.plots(result, shown), out / "factors.png", colours=256)
            replace_file(out / "factors.md", (study_report.markdown(result) + "\n").encode())
    return result


def _shown(held: Study, level: Level) -> np.ndarray:
    """Return the picture of one person at a level, in the gallery."""
    changed = level.change(held.subjects)
    return picture(held.seed, changed[min(SHOWN, len(changed) - 1)].shots()[1])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", metavar="RUN|FILE", help="work directory, weights file, or a bundled model"
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the results")
    parser.add_argument(
        "--people", type=int, default=PEOPLE, help=f"people, at least 2 (default: {PEOPLE})"
    )
    parser.add_argument(
        "--seed", type=int, default=SEED, help=f"people and cameras (default: {SEED})"
    )
    names = [factor.name for factor in FACTORS]
    parser.add_argument(
        "--factors", nargs="+", default=names, metavar="NAME", help=f"{', '.join(names)}; or all"
    )
    args = parser.parse_args(arguments)
    if args.people < 2 or args.seed < 0:
        parser.error("expected --people of at least 2 and --seed of at least 0.")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; return its exit status."""
    args = parse(arguments)
    try:
        for name in args.factors:
            check_name(name, [factor.name for factor in FACTORS], "factor")
        args.out.mkdir(parents=True, exist_ok=True)
        chosen = [factor for factor in FACTORS if factor.name in args.factors]
        model = jaxreid.load(args.model)
        result = study(model, chosen, args.out, people=args.people, seed=args.seed)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; the factors measured so far are in {args.out}", file=sys.stderr)
        return 130
    print(study_report.markdown(result))
    print(f"factors.json, factors.png and factors.md are in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
