"""The verb evaluate: models on test sets, and features in files."""

import argparse
import pathlib
from typing import Any

from jaxreid.cli import values, verbs
from jaxreid.cli.pieces import add_folders, add_json, add_model, add_verb


def add_evaluate(commands: Any) -> None:
    """Add the verb evaluate."""
    verb = add_verb(
        commands,
        "evaluate",
        _evaluate,
        "evaluate a model on test sets, or features or scores in a file",
        "jaxreid evaluate runs/qaconv --test synthetic_people/mall --rerank",
        "Results of a run are also written to its work directory. Features from elsewhere need a "
        "table with one row for each: person, split (query, gallery), and optionally camera, time, "
        "path: jaxreid evaluate --features=features.npy --table=images.csv --out=results.",
    )
    add_model(verb, needed=False, default=None)
    verb.add_argument("--model", dest="chosen", metavar="RUN|FILE", help="the model, as an option")
    verb.add_argument(
        "--test",
        action="extend",
        nargs="+",
        metavar="NAME",
        help=f"test sets, as {values.DATASET} (default: those of the run)",
    )
    verb.add_argument(
        "--junk",
        choices=("auto", "camera", "same-image", "none"),
        help="matches to ignore: from the query's camera, its own file, or none (default: that of "
        "the run, or auto)",
    )
    verb.add_argument("--rerank", action="store_true", help="also report k-reciprocal re-ranking")
    verb.add_argument("--tlift", action="store_true", help="also report TLift")
    verb.add_argument(
        "--expand",
        type=values.count,
        metavar="K",
        help="also search again by the mean of each query and its K best images (alpha-QE)",
    )
    verb.add_argument(
        "--multi-query",
        "--multi_query",
        choices=("mean", "max", "scores"),
        help="also search by all images of the query's person from its camera together",
    )
    verb.add_argument(
        "--flip",
        action="store_true",
        help="average the features of each image and its mirror image",
    )
    verb.add_argument(
        "--out",
        type=values.path,
        metavar="DIR",
        help="folder of the results (default: that of the run)",
    )
    verb.add_argument(
        "--pictures",
        metavar="WHICH",
        help="also draw ranked lists, of all queries, worst:N or random:N, into pages in the "
        "folder of the results",
    )
    verb.add_argument(
        "--save-features",
        "--save_features",
        type=values.path,
        metavar="FILE",
        help="also write the features of a test set (.safetensors, .npz)",
    )
    verb.add_argument(
        "--save-scores",
        "--save_scores",
        type=values.path,
        metavar="FILE",
        help="also write the scores of all its queries and gallery images (.safetensors, .npz)",
    )
    verb.add_argument(
        "--features",
        type=values.path,
        metavar="FILE",
        help="evaluate these features instead of images: a file of --save-features, or .npy with "
        "--table; with a model, its matcher compares them",
    )
    verb.add_argument(
        "--scores",
        type=values.path,
        metavar="FILE",
        help="evaluate these scores: a file of --save-scores, or .npy with --table, a row for each "
        "query and a column for each gallery image",
    )
    verb.add_argument(
        "--table",
        type=values.path,
        metavar="FILE",
        help="images of features or scores: .csv, .tsv, .parquet or .jsonl, one row for each",
    )
    verb.add_argument(
        "--metric",
        choices=("cosine", "euclidean"),
        help="compare embeddings in a file by this (default: the matcher of their model, or "
        "cosine); for --scores, the metric that computed them",
    )
    add_folders(verb)
    add_json(verb)


def _evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate a model or features; return metrics by test set."""
    args.model = args.model or args.chosen
    names = ("rerank", "tlift", "expand", "multi_query", "flip", "junk")
    options = {name: value for name in names if (value := getattr(args, name))}
    if args.pictures is not None:
        options["ranked"] = args.pictures
    if args.features is not None or args.scores is not None:
        results, workdir = _stored(args, options)
    else:
        results, workdir = _model(args, options)
    if workdir is None:
        for name, result in results.items():
            print(f"{name}: {result}")
    return {name: dict(result.metrics) for name, result in results.items()}


def _model(
    args: argparse.Namespace, options: dict[str, Any]
) -> tuple[dict[str, Any], pathlib.Path | None]:
    """Evaluate a model; return results and where they were written."""
    if args.model is None:
        raise ValueError(
            "nothing to evaluate: expected a model, as in jaxreid evaluate runs/qaconv, "
            "--features=FILE or --scores=FILE."
        )
    if misplaced := [name for name in ("table", "metric") if getattr(args, name) is not None]:
        raise ValueError(
            f"--{' and --'.join(misplaced)} belong to a file: --features=FILE or --scores=FILE."
        )
    for file in (args.save_features, args.save_scores):
        values.check_out(file, ".safetensors", ".npz")
    reid = verbs.load_model(args)
    verbs.check_sets(args, reid, args.test, "--test market1501")
    workdir = args.out or (reid.path if reid.step is not None else None)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    options |= {"dir": args.dir, "prepared_dir": args.prepared_dir}
    files = {"save_features": args.save_features, "save_scores": args.save_scores}
    options |= {name: file for name, file in files.items() if file is not None}
    return reid.evaluate(args.test, workdir=workdir, **options), workdir


def _stored(
    args: argparse.Namespace, options: dict[str, Any]
) -> tuple[dict[str, Any], pathlib.Path | None]:
    """Evaluate features or scores in a file; return results and where they were written."""
    import jaxreid

    if args.features is not None and args.scores is not None:
        raise ValueError("--features and --scores are given; expected one of them.")
    kind = "features" if args.features is not None else "scores"
    others = ("test", "dir", "prepared_dir", "save_features", "save_scores")
    if misplaced := [name.replace("_", "-") for name in others if getattr(args, name) is not None]:
        raise ValueError(
            f"--{' and --'.join(misplaced)} belong to images, and --{kind} evaluates a file: give "
            "one of the two."
        )
    if kind == "scores" and args.model is not None:
        raise ValueError(f"{args.model} is given, and scores need no model: leave it out.")
    verbs.prepare_devices()
    options |= {"table": args.table, "metric": args.metric, "workdir": args.out}
    if kind == "features":
        return jaxreid.evaluate_features(args.features, model=args.model, **options), args.out
    return jaxreid.evaluate_scores(args.scores, **options), args.out
