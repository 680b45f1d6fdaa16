"""The verb calibrate: scores as probabilities and false-match rates, on your own cameras."""

import argparse
from collections.abc import Mapping
from typing import Any

from jaxreid.cli import values
from jaxreid.cli.pieces import add_folders, add_json, add_model, add_verb


def add_calibrate(commands: Any) -> None:
    """Add the verb."""
    verb = add_verb(
        commands,
        "calibrate",
        calibrate_model,
        "fit probabilities and thresholds on your own images",
        "jaxreid calibrate runs/qaconv --data 'folder:/data/mine?pattern={pid}_c{camid}_*'",
        "Needs people who are seen by two cameras or more: a few dozen for a threshold at 1e-2, "
        "hundreds for one at 1e-4.",
    )
    add_model(verb)
    verb.add_argument(
        "--data",
        action="extend",
        nargs="+",
        metavar="SET",
        help=f"data sets, as {values.DATASET} (default: the test sets of the run)",
    )
    verb.add_argument(
        "--out",
        type=values.path,
        metavar="FILE",
        help="calibration (.json), or weights file that carries it (.safetensors) (default: "
        "calibration.json in the run)",
    )
    add_folders(verb)
    add_json(verb)


def calibrate_model(args: argparse.Namespace) -> dict[str, Any]:
    """Fit a calibration, print how well it holds, and write it."""
    from jaxreid.cli.verbs import check_sets, load_model
    from jaxreid.evaluation.calibration_file import CALIBRATION
    from jaxreid.evaluation.reliability import RELIABILITY, write_reliability
    from jaxreid.pictures.numbers import rate_text
    from jaxreid.reid.calibrated import calibrate
    from jaxreid.runs.log import table

    if args.out is not None:
        suffix = ".json" if args.out.suffix.lower() == ".json" else ".safetensors"
        values.check_out(args.out, suffix)
    reid = load_model(args)
    if args.out is None and reid.step is None:
        raise ValueError(
            f"{args.model} is a weights file, which is not changed: name another with "
            "--out=FILE.safetensors, or --out=FILE.json for --calibration=FILE.json of the verbs."
        )
    example = "--data market1501:FOLDER or --data folder:FOLDER?pattern={pid}_c{camid}_*"
    check_sets(args, reid, args.data, example)
    tests = reid.load_tests(args.data, args.dir, args.prepared_dir)
    calibration, judged = calibrate(reid, tests)
    reid.calibration = calibration
    out = args.out or reid.path / CALIBRATION
    (reid if out.suffix == ".safetensors" else calibration).save(out)
    picture = out.with_name(RELIABILITY if out.name == CALIBRATION else f"{out.stem}_{RELIABILITY}")
    write_reliability(picture, judged)
    thresholds = [
        (rate_text(t.rate), f"{t.score:+.3f}", f"{t.rate:.4%}", f"{t.error:.4%}")
        for t in calibration.thresholds
    ]
    print(table(("false match", "threshold", "rate", "± (std. error)"), thresholds))
    print(f"\n{table(*_reliability_table(judged))}\n")
    print(f"{calibration.sentence()}\nwrote {out} and {picture}")
    return {
        "out": str(out),
        "picture": str(picture),
        "calibration": calibration.as_json(),
        "reliability": {
            name: {where: {"ece": r.ece, "log_loss": r.log_loss} for where, r in ways.items()}
            for name, ways in judged.items()
        },
    }


def _reliability_table(
    judged: Mapping[str, Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of `reliabilities`: error in percent and log loss in bits."""
    header = ["calibration error, %, log loss, bits"]
    rows = [[name] for name in judged]
    for where in ("other people", "other sets"):
        header += [where, ""]
        for row, ways in zip(rows, judged.values(), strict=True):
            held = ways.get(where)
            row += [f"{100 * held.ece:.1f}", f"{held.log_loss:.3f}"] if held else ["", ""]
    return header, rows
