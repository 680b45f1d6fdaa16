"""The verb `export`: a model in the format of another program."""

import argparse
import time
from typing import Any

from jaxreid.cli import values
from jaxreid.cli.pieces import add_json, add_model, add_verb
from jaxreid.export.formats import FORMATS, LIKE, PARTS


def add_export(commands: Any) -> None:
    """Add the verb."""
    verb = add_verb(
        commands,
        "export",
        run_export,
        "write a model in the format of another program",
        "jaxreid export runs/osnet --format=onnx --like=boxmot --out=osnet.onnx",
        "The file is run and compared with the model in the same command. onnx: needs pip install "
        "'jaxreid[onnx]'; stablehlo: run by JAX without this package; savedmodel and tflite: need "
        "TensorFlow; torch: weights under the names of the published code.",
    )
    add_model(verb, needed=False)
    verb.add_argument("--format", required=True, choices=FORMATS, help="format of the file")
    verb.add_argument(
        "--out",
        required=True,
        type=values.path,
        metavar="FILE",
        help="file to write: .onnx, .stablehlo, .tflite, .pth or .safetensors (torch); a new "
        "folder for savedmodel",
    )
    verb.add_argument(
        "--part",
        default="encoder",
        choices=PARTS,
        help="encoder: images to features; matcher: features of queries and of a gallery to "
        "scores; pair: images to scores (default: encoder)",
    )
    verb.add_argument(
        "--like",
        default="",
        choices=LIKE,
        help="onnx for a tracker: float images, channels first, to one vector each",
    )
    verb.add_argument(
        "--int8",
        action="store_true",
        help="onnx with 8 bits; --images are then those of the calibration",
    )
    verb.add_argument(
        "--images",
        nargs="+",
        default=[],
        type=values.path,
        metavar="PATH",
        help="images or folders for the check (default: drawn people)",
    )
    add_json(verb)


def run_export(args: argparse.Namespace) -> dict[str, Any]:
    """Export a model; return what was written and how it compares."""
    from jaxreid.cli.verbs import list_images, load_model
    from jaxreid.export.exporting import export_model

    images = list_images(args.images)
    reid, start = load_model(args), time.perf_counter()
    made = export_model(
        reid,
        args.out,
        format=args.format,
        part=args.part,
        like=args.like,
        int8=args.int8,
        images=images,
    )
    seconds = time.perf_counter() - start
    for name, kind in made.inputs.items():
        print(f"input {name}: {kind}")
    if made.inputs:
        print(f"largest difference from JAX: {made.error:.1e}, of results up to {made.largest:.3g}")
    if made.cosine is not None:
        print(f"int8: smallest cosine to the features of float32 {made.cosine:.4f}")
    for message in made.messages:
        print(f"note: {message}")
    print(f"wrote {made.path} ({made.bytes / 1e6:.1f} MB, {seconds:.1f} s)")
    return {
        "out": str(made.path),
        "format": made.format,
        "part": made.part,
        "inputs": made.inputs,
        "bytes": made.bytes,
        "seconds": round(seconds, 3),
        "error": made.error,
        "largest": made.largest,
        "cosine": made.cosine,
        "messages": list(made.messages),
    }
