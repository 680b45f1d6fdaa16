"""The verb compare: the score of two images, or the differences between runs."""

import argparse
from typing import Any

from jaxreid.cli import values
from jaxreid.cli.compare_runs import FORMATS, compare_groups, holds_runs
from jaxreid.cli.pieces import add_chosen_model, add_json, add_verb, add_worth


def add_compare(commands: Any) -> None:
    """Add the verb."""
    verb = add_verb(
        commands,
        "compare",
        run,
        "score a pair of images, or compare runs",
        "jaxreid compare a.jpg b.jpg --model=runs/qaconv --out=why.png",
        "Of two images: the score, its probability and rate of false matches; jaxreid compare "
        "MODEL A B is the same. Of runs, or folders of runs (jaxreid compare runs/s "
        "--out=table.tex): means over the seeds of each setting, and whether their differences "
        "from the first are more than chance, by a bootstrap over people and seeds.",
    )
    verb.add_argument("images", nargs="+", metavar="IMAGE|RUN", help="two image files, or runs")
    add_chosen_model(verb)
    add_worth(verb)
    verb.add_argument(
        "--out",
        type=values.path,
        metavar="FILE",
        help=f"picture of the matches (.png); of runs, their table ({', '.join(FORMATS)})",
    )
    add_json(verb)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Compare runs if runs are given, else two images."""
    paths = [values.path(text) for text in args.images]
    runs = [holds_runs(path) for path in paths]
    if all(runs):
        return compare_groups(args, paths)
    if any(runs[1:]) or (runs[0] and len(runs) != 3):
        raise ValueError(
            f"{paths[runs.index(False)]} is not a run, and {paths[runs.index(True)]} is one; "
            "expected two images, a model and two images, or runs alone."
        )
    return compare_images(args)


def compare_images(args: argparse.Namespace) -> dict[str, Any]:
    """Print the score of a pair of images, with its probability and false-match rate."""
    from jaxreid.cli.verbs import list_images, load_model
    from jaxreid.pictures.numbers import prior_text, probability_text, rate_text
    from jaxreid.reid.calibrated import find_calibration

    if not 2 <= len(args.images) <= 3:
        args.parser.error(f"expected two images, got {len(args.images)}: jaxreid compare A B")
    if len(args.images) == 3:
        args.model = args.images.pop(0)
    a, b = (values.path(text) for text in args.images)
    values.check_out(args.out, ".png")
    paths = list_images([a, b])
    if len(paths) != 2:
        raise ValueError(f"expected two images, got {len(paths)}; folders are for jaxreid search.")
    reid = load_model(args)
    if args.out:
        reid.check_explains()
    features = reid.embed(paths)
    score = float(reid.score(features[:1], features[1:])[0, 0])
    print(f"score        {score:+.3f}   (of this model; larger means more similar)")
    result = {"a": str(a), "b": str(b), "score": score}
    if (calibration := reid.calibration) is None:
        print(find_calibration(reid.path, reid.variables)[1])
    else:
        prior = 0.5 if args.prior is None else args.prior
        probability = float(calibration.probability(score, prior=prior))
        rate = float(calibration.false_match_rate(score))
        print(
            f"probability  {probability_text(probability)}   that it is the same person, given "
            f"{prior_text(prior)} before looking\n"
            f"false match  {rate_text(rate, calibration.resolution)}   pairs of two people score "
            f"as high\n{calibration.sentence()}"
        )
        result |= {"probability": probability, "prior": prior, "false_match_rate": rate}
        result["calibrated_on"] = [
            {"set": held.name, "fingerprint": held.fingerprint} for held in calibration.sets
        ]
    if args.out:
        reid.explain(*paths).save(args.out)
        print(f"wrote {args.out}")
        result["out"] = str(args.out)
    return result
