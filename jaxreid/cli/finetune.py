"""The verb finetune: a model on one's own people, measured before and after."""

import argparse
from typing import Any

from jaxreid.cli import values
from jaxreid.cli.pieces import add_json, add_model, add_verb


def add_finetune(commands: Any) -> None:
    """Add the verb finetune."""
    verb = add_verb(
        commands,
        "finetune",
        run,
        "train a model further on your own people",
        "jaxreid finetune runs/qaconv --data=table:people/people.csv --workdir=runs/own",
        "Needs five people or more with two images each, best from several cameras. A part is kept "
        "back, and the model is measured on it, and on other people, before and after. The same "
        "command resumes a stopped run, which is a model as every run is.",
    )
    add_model(verb, needed=False)
    verb.add_argument(
        "--data",
        required=True,
        metavar="DATASET",
        help="own people: a folder with a sub-folder for each, a table, or a data set with its "
        "place, as in folder:DIR?pattern={pid}_c{camid}_*",
    )
    verb.add_argument("--workdir", required=True, help="work directory of the run")
    verb.add_argument(
        "--keep",
        action="extend",
        nargs="+",
        metavar="DATASET",
        help="data sets on which forgetting is measured (default: 20 drawn people)",
    )
    verb.add_argument(
        "--epochs", type=values.count, help="number of epochs (default: about 300 updates)"
    )
    verb.add_argument(
        "--rate",
        type=values.positive,
        default=1.0,
        help="factor of the learning rates (default: 1)",
    )
    verb.add_argument("--seed", type=values.at_least(0), default=0, help="run seed (default: 0)")
    add_json(verb)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune; return the results before and after."""
    from jaxreid.runs.settings import check_tensorflow

    check_tensorflow()
    from jaxreid.mesh import check_devices, remember_compiled
    from jaxreid.training.finetuning import KEPT, finetune

    if not 0 < args.rate <= 100:
        raise ValueError(f"--rate={args.rate}: expected a factor above 0, such as 0.3 or 3.")
    check_devices()
    remember_compiled()
    options = {"epochs": args.epochs, "rate": args.rate, "seed": args.seed}
    rows = finetune(args.model, args.data, args.workdir, keep=args.keep or KEPT, **options)
    if rows is None:
        # As `train`: stopped, and resumed by the same command.
        args.status = 75
        return {"workdir": args.workdir, "results": None}
    print(f"\n{'rank-1 / mAP in percent':<44} {'before':>13} {'after':>13} {'change':>13}")
    for row in rows:
        title = "own people, held out" if row["own"] else row["set"]
        cells = [(row[when]["rank1"], row[when]["mAP"]) for when in ("before", "after")]
        change = [after - before for before, after in zip(*cells, strict=True)]
        shown = [f"{100 * a:5.1f} / {100 * b:5.1f}" for a, b in cells]
        shown.append(f"{100 * change[0]:+5.1f} / {100 * change[1]:+5.1f}")
        print(f"{title[:44]:<44} " + " ".join(f"{cell:>13}" for cell in shown))
    own = [row for row in rows if row["own"]]
    if any(row["after"]["mAP"] <= row["before"]["mAP"] for row in own):
        print("It did not get better on your own people: keep the model that you started from.")
    print(f"use it: jaxreid evaluate {args.workdir}, or jaxreid.load({args.workdir!r})")
    return {"workdir": args.workdir, "results": rows}
