"""Implementation of the verbs; each returns its result for --json."""

import argparse
import ast
import io
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from jaxreid.cli.values import check_out
from jaxreid.places import place


def train(args: argparse.Namespace) -> None:
    """Train, as `python -m jaxreid.main` does."""
    from absl import app

    from jaxreid import main as program

    workdir = [f"--workdir={args.workdir}"] if args.workdir else []
    sys.argv = ["jaxreid train", f"--config={args.recipe}", *workdir, *args.rest]
    if args.traceback:
        sys.argv.append("--traceback")
    # Ends the process with the exit status.
    app.run(program.main, flags_parser=program.parse_flags)


def plan(args: argparse.Namespace) -> dict[str, Any]:
    """Compile a recipe for devices that you do not have, and print what it costs on them."""
    from jaxreid import main as program
    from jaxreid.planning.chips import parse_topologies, prepare

    topologies = parse_topologies(args.topology, args.chips)
    sys.argv = ["jaxreid plan", f"--config={args.recipe}", *args.rest]
    config = program.configuration(program.parse_flags(sys.argv))
    prepare(topologies)
    # They import JAX.
    from jaxreid.planning.compilation import plan_recipe
    from jaxreid.planning.report import plan_text

    names = ("identities", "images", "batch_per_chip", "effort", "programs")
    sizes = {name: getattr(args, name) for name in names}
    plans = []
    for topology in topologies:
        print(f"compiling for {topology} ...", file=sys.stderr, flush=True)
        plans.append(plan_recipe(config, topology, **sizes))
    print(plan_text(args.recipe, plans))
    return {"recipe": args.recipe, "settings": args.rest, "plans": plans}


def check_sets(args: argparse.Namespace, reid: Any, names: Any, example: str) -> None:
    """Raise ValueError if neither the command nor a run names test sets."""
    if not names and reid.step is None:
        raise ValueError(
            f"{args.model} is not a run and names no test sets: give one, as in {example}."
        )


def embed(args: argparse.Namespace) -> dict[str, Any]:
    """Compute the features of images and save them if --out is given."""
    import numpy as np

    from jaxreid.runs.files import replace_file

    check_out(args.out, ".npz")
    paths = list_images(args.images)
    features = load_model(args).embed(paths)
    names = [str(path) for path in paths]
    if args.out:
        np.savez(file := io.BytesIO(), features=features, names=np.array(names))
        replace_file(args.out, file.getvalue())
    saved = f", written to {args.out}" if args.out else " (save them with --out=FILE.npz)"
    print(f"{len(paths)} images: features {list(features.shape)} float32{saved}")
    return {"images": names, "shape": list(features.shape), "out": args.out and str(args.out)}


def rank(args: argparse.Namespace) -> dict[str, Any]:
    """Print the best matches of a query in a gallery."""
    check_out(args.out, ".png")
    (query,), gallery = list_images([args.query]), list_images(args.gallery)
    hits = load_model(args).rank(query, gallery, top=args.top)
    for position, hit in enumerate(hits, 1):
        print(f"{position:3}. {hit.score:+8.3f}  {hit.image}")
    if args.out:
        hits.save(args.out)
        print(f"wrote {args.out}")
    listed = [{"image": str(hit.image), "score": float(hit.score)} for hit in hits]
    return {"query": str(query), "hits": listed}


def explain(args: argparse.Namespace) -> dict[str, Any]:
    """Draw the matches of a pair of images, or where their features come from."""
    check_out(args.out, ".png")
    reid, images = load_model(args), list_images([args.a, args.b])
    if args.activations or not reid.explains:
        reid.activations(images).save(args.out)
    else:
        reid.explain(*images).save(args.out)
    print(f"wrote {args.out}")
    return {"a": str(args.a), "b": str(args.b), "out": str(args.out)}


def weights(args: argparse.Namespace) -> dict[str, Any]:
    """Export a model to a weights file."""
    out = place(args.out)
    check_out(out, ".safetensors")
    reid = load_model(args)
    reid.save(out)
    print(f"wrote {out}\nstart from it with --config.init_from={out}")
    return {"model": str(args.model), "step": reid.step, "out": str(out)}


def convert(args: argparse.Namespace) -> dict[str, Any]:
    """Convert a PyTorch checkpoint."""
    from jaxreid.weights.conversion import Misfit, convert_file, report_lines

    names = ("input_size", "normalisation", "cut", "skip", "memory", "source")
    options = {name: getattr(args, name) for name in names}
    try:
        conversion = convert_file(args.checkpoint, args.out, args.arch, **options)
    except Misfit as error:
        print("\n".join(report_lines(error.report, every_name=args.verbose)))
        raise
    print("\n".join(report_lines(conversion.report, every_name=args.verbose)))
    for message in conversion.messages:
        print(f"{conversion.path}: {message}")
    card = conversion.card
    print(
        f"{conversion.path}: {card['backbone']['name']}, neck {card['neck']['name']}, matcher "
        f"{card['matcher']['name']}, {card['height']}x{card['width']}, mean {card['mean']}"
    )
    print(f"start from it with --config.init_from={conversion.path}")
    return {"out": str(conversion.path), "model": card, "loaded": len(conversion.report.loaded)}


def reproduce(args: argparse.Namespace) -> dict[str, Any]:
    """List published results with their commands, and run those whose data sets are available."""
    from jaxreid.cli import reproduction
    from jaxreid.cli.published import TABLES

    if args.table is None:
        for name, held in TABLES.items():
            print(f"{name:<14}{len(held.trainings):>2} trainings   {held.source}")
        print("\njaxreid reproduce TABLE lists them; with --data=DIR, also the missing data sets.")
        return {name: held.source for name, held in TABLES.items()}
    if args.run_them and not (args.data and args.weights):
        raise ValueError(
            "--run needs --data=DIR, the folder of the data sets, and --weights=FILE, ImageNet "
            "weights of the backbone (jaxreid convert)."
        )
    if wrong := [word for word in args.rest if not word.startswith("--config.")]:
        raise ValueError(
            f"unknown arguments: {' '.join(wrong)}; expected --data, --weights, --out, --run, and "
            "settings to pass on (--config.SETTING=VALUE)."
        )
    cells = reproduction.cells_of(args.table, args.data, args.cells)
    data, weights = args.data or "DATA", args.weights or "WEIGHTS.safetensors"
    failed = 0
    if args.run_them:
        for cell, status in reproduction.run_cells(cells, args.out, data, weights, args.rest):
            failed += status != 0
            print(f"{cell.name}: {'done' if status == 0 else f'ended with status {status}'}")
    print(f"{TABLES[args.table].source}\n\n{reproduction.text_of(cells, args.out)}\n")
    for sentence in dict.fromkeys(sentence for cell in cells for sentence in cell.missing):
        print(f"missing: {sentence}")
    for cell in cells:
        if not args.run_them and (cell.tests or not args.data):
            print(shlex.join(cell.command(str(args.out), data, weights, args.rest)))
    args.status = int(failed > 0)
    return {"table": args.table, "cells": reproduction.as_dict(cells, args.out)}


def recipes(args: argparse.Namespace) -> dict[str, Any]:
    """List the recipes, or explain one."""
    from jaxreid import configs
    from jaxreid.names import check_name

    def docstring(name: str) -> str:
        return ast.get_docstring(ast.parse((configs.FOLDER / f"{name}.py").read_text())) or ""

    if args.name is None:
        lines = {name: docstring(name).partition("\n")[0] for name in configs.recipes()}
        print("\n".join(f"{name:<14}{line}" for name, line in lines.items()))
        print(
            "\njaxreid recipes NAME explains one; jaxreid train NAME --print_config lists its "
            "settings."
        )
        return lines
    text = docstring(check_name(args.name, configs.recipes(), "recipe"))
    print(text)
    return {args.name: text}


def version(args: argparse.Namespace) -> dict[str, Any]:
    """Print the version; without --version, report the missing verb."""
    import jaxreid

    if not args.version:
        args.parser.error("expected a verb; --help lists them")
    print(f"jaxreid {jaxreid.__version__}")
    return {}


def load_model(args: argparse.Namespace) -> Any:
    """Load the model with the calibration to use, after checking that JAX finds a device."""
    import jaxreid

    prepare_devices()
    reid = jaxreid.load(args.model)
    if getattr(args, "calibration", None) is not None:
        from jaxreid.reid.calibrated import read_for

        reid.calibration = read_for(args.calibration, reid)
    return reid


def prepare_devices() -> None:
    """Check that JAX finds a device, and let it keep what it compiles."""
    from jaxreid.mesh import check_devices, remember_compiled

    check_devices()
    remember_compiled()


def list_images(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """List image files; a folder stands for its images, sorted by name."""
    from jaxreid.data.sets.files import list_images as images_in

    images = []
    for path in paths:
        if path.is_dir():
            inside, left_out = images_in(path)
            if not inside:
                raise ValueError(
                    f"{path} contains no images (.jpg, .png, ...); expected image files. {left_out}"
                )
            if left_out:
                print(f"warning: {left_out}", file=sys.stderr)
            images += [path / entry.name for entry in inside]
        elif path.is_file():
            images.append(path)
        else:
            raise FileNotFoundError(f"no file {path}; expected an image or a folder of images.")
    return images
