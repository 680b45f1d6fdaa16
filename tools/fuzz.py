"""Feed damaged files to every reader of the project; anything but an answer or a sentence is found.

    python tools/fuzz.py --seconds=60
    python tools/fuzz.py card torch --seconds=600 --keep=findings

A reader may accept a file or raise one of the errors that the command line turns into a sentence
(ValueError, OSError). With atheris installed (`pip install atheris`; Linux, Python 3.11 to 3.13)
the readers' Python code is instrumented and mutations are guided by its coverage; otherwise, and
with --plain, they are drawn by a seed. A finding is kept as a file and its traceback is printed.
"""

import argparse
import collections
import hashlib
import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator

import numpy as np

ALLOWED = (ValueError, OSError)
MODEL = {
    "backbone": {"name": "resnet18", "cut": "layer1", "width": 1},
    "neck": {"name": "map", "channels": 2, "norm": "none"},
    "matcher": {"name": "qaconv", "head": "v2.1"},
    "height": 8,
    "width": 4,
    "mean": (0.5, 0.5, 0.5),
    "std": (1.0, 1.0, 1.0),
}
# What a parser may trip over, inserted by plain mutation.
TOKENS = (
    *(b"", b"\0", b"\xff" * 8, b"\x7f\xff\xff\xff\xff\xff\xff\xff", b"[" * 5000, b'{"a":' * 3000),
    *(b"NaN", b"-1", b"1e999", b"9" * 400, b"null", b"true", b'""', b"../", b"\\u0000", b"<html>"),
    *(
        b'"format":"jaxreid 1"',
        b'"F4"',
        b"__metadata__",
        b"PK\x03\x04",
        b"\x80\x02",
        b"cos\nsystem",
    ),
)


def seeds_of(target: str) -> list[bytes]:
    """Return valid files of a target, from which mutations start."""
    import safetensors.numpy

    card = {"format": "jaxreid 1", "model": json.dumps(MODEL), "sha256": "0"}
    tensors = {"params/backbone/conv1/kernel": np.ones((7, 7, 3, 1), np.float32)}
    record = {"config": {"model": MODEL, "seed": 0}, "seed": 0, "runs": [{"mode": "train"}]}
    if target == "model":
        return [json.dumps(MODEL).encode()]
    if target == "settings":
        from jaxreid import configs

        return [json.dumps(configs.get("qaconv").to_dict()).encode()]
    if target in ("record", "recorded"):
        return [json.dumps(record).encode()]
    if target == "events":
        event = {"kind": "train", "step": 1, "epoch": 0, "loss": 0.5, "time": 1.0}
        return [b"".join(json.dumps(event | {"step": s}).encode() + b"\n" for s in (1, 2, 3))]
    if target == "architecture":
        blocks = ["residual", "sum", "none", "both", "sum", "none"]
        found = {"format": "jaxreid architecture 1", "stem": "instance", "blocks": blocks}
        return [json.dumps(found).encode()]
    if target == "image":
        from PIL import Image

        files = [io.BytesIO() for _ in range(4)]
        for file, kind in zip(files, ("PNG", "JPEG", "BMP", "WEBP"), strict=True):
            Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 4, 3)).save(file, kind)
        return [file.getvalue() for file in files]
    weights = [safetensors.numpy.save(tensors, card), safetensors.numpy.save(tensors)]
    if target == "torch":
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("archive/data.pkl", pickle.dumps({"a": 1}, protocol=2))
        weights = [archive.getvalue(), pickle.dumps({"a": [1.5]}, protocol=2), weights[1]]
        try:
            import torch
        except ModuleNotFoundError:
            return weights
        for new in (True, False):
            file = io.BytesIO()
            held = {"state_dict": {"module.layer1.0.conv1.weight": torch.ones(1, 1)}, "epoch": 1}
            torch.save(held, file, _use_new_zipfile_serialization=new)
            weights.insert(0, file.getvalue())
    return weights


def _readers() -> dict[str, Callable[[pathlib.Path], object]]:
    """Return the readers by target; imports what they need."""
    from jaxreid import configs
    from jaxreid.data.images.pillow import read_image
    from jaxreid.models.backbones import make_backbone
    from jaxreid.models.model import make_model
    from jaxreid.runs import log, settings, workdir
    from jaxreid.weights.file import load_weights, read_card
    from jaxreid.weights.torch_checkpoint import read_checkpoint

    def model(path: pathlib.Path) -> object:
        card = _json(path)
        if not isinstance(card, dict) or not card.keys() >= {"backbone", "neck", "matcher"}:
            raise ValueError("not a card")
        return make_model(**{key: card[key] for key in MODEL if key in card} | _size(card))

    return {
        "card": read_card,
        "weights": lambda path: load_weights(path, MODEL),
        "torch": read_checkpoint,
        "model": model,
        "settings": lambda path: settings.resolved(_json(path)),
        "record": workdir._read,
        "recorded": configs._recorded,
        "architecture": lambda path: make_backbone(
            **configs.get(f"osnet:synthetic,architecture={path}").model.backbone
        ),
        "events": lambda path: log.read_events(path.parent),
        "image": read_image,
    }


def _json(path: pathlib.Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _size(card: dict) -> dict:
    return {"height": card.get("height", 8), "width": card.get("width", 4)}


NAMES = {"events": "metrics.jsonl", "record": "config.json", "recorded": "config.json"}
TARGETS = (
    *("card", "weights", "torch", "model", "settings", "record", "recorded", "architecture"),
    *("events", "image"),
)


def check(reader: Callable[[pathlib.Path], object], path: pathlib.Path, content: bytes) -> None:
    """Read a file; raise what neither accepts it nor explains it in words."""
    path.write_bytes(content)
    try:
        reader(path)
    except ALLOWED as error:
        if not str(error).strip():
            raise AssertionError("an error without words") from error
    except ModuleNotFoundError as error:
        if "pip install" not in str(error):
            raise


def mutations(seeds: list[bytes], seed: int) -> Iterator[bytes]:
    """Yield damaged copies of files without end: cut, changed, repeated, joined, with tokens."""
    generator = np.random.default_rng(seed)
    while True:
        content = bytearray(seeds[generator.integers(len(seeds))])
        for _ in range(generator.integers(1, 4)):
            at, to = sorted(generator.integers(0, len(content) + 1, 2))
            match generator.integers(6):
                case 0:
                    content = content[:at]
                case 1:
                    if at < len(content):
                        content[at] ^= 1 << generator.integers(8)
                case 2:
                    content[at:at] = content[at:to][:1000]
                case 3:
                    content[at : at + generator.integers(1, 9)] = generator.bytes(4)
                case 4:
                    content[at:to] = b""
                case 5:
                    length = generator.integers(0, 9)
                    content[at : at + length] = TOKENS[generator.integers(len(TOKENS))]
        yield bytes(content)


def fuzz(
    target: str, *, count: int | None = None, seconds: float = 0.0, seed: int = 0
) -> tuple[int, list[tuple[bytes, str]]]:
    """Read mutated files by plain mutation, `count` of them or for `seconds`.

    Returns:
        Number of files read, and the findings as (content, traceback), one for each place.
    """
    reader, seeds = _readers()[target], seeds_of(target)
    findings: dict[str, tuple[bytes, str]] = {}
    done, end = 0, time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / NAMES.get(target, f"{target}.bin")
        for content in mutations(seeds, seed):
            if done >= count if count is not None else time.monotonic() > end:
                break
            done += 1
            try:
                check(reader, path, content)
            # A finding is any other exception.
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                key = f"{type(error).__name__} {place.filename}:{place.lineno}"
                findings.setdefault(key, (content, traceback.format_exc()))
    return done, list(findings.values())


def _guided(target: str, seconds: int) -> None:
    """Fuzz with atheris, in this process, which it ends."""
    import atheris

    with atheris.instrument_imports(include=["jaxreid"]):
        reader = _readers()[target]
    folder = pathlib.Path(tempfile.mkdtemp())
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, content in enumerate(seeds_of(target)):
        (corpus / str(number)).write_bytes(content)
    path = folder / NAMES.get(target, f"{target}.bin")
    options = [f"-max_total_time={seconds}", "-max_len=8192", "-rss_limit_mb=0", "-timeout=60"]
    options += [f"-artifact_prefix={folder}/finding-", "-print_final_stats=1", str(corpus)]
    atheris.Setup([sys.argv[0], *options], lambda content: check(reader, path, content))
    atheris.Fuzz()


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; return 1 if there are findings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="time for each target")
    parser.add_argument("--seed", type=int, default=0, help="of plain mutations")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for findings")
    parser.add_argument("--plain", action="store_true", help="without atheris")
    parser.add_argument("--guided", choices=TARGETS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if args.guided:
        _guided(args.guided, args.seconds)
    for target in args.targets:
        if target not in TARGETS:
            parser.error(f"unknown target {target!r}; valid: {', '.join(TARGETS)}")
    counts: collections.Counter[str] = collections.Counter()
    for target in args.targets or TARGETS:
        done, findings = _run(target, args)
        counts[target] = len(findings)
        print(f"{target}: {done:,} files read, {len(findings)} findings", flush=True)
        for content, words in findings:
            print(words)
            if args.keep:
                args.keep.mkdir(parents=True, exist_ok=True)
                name = f"{target}-{hashlib.sha256(content).hexdigest()[:12]}"
                (args.keep / name).write_bytes(content)
                print(f"wrote {args.keep / name}")
    return int(counts.total() > 0)


def _run(target: str, args: argparse.Namespace) -> tuple[int, list[tuple[bytes, str]]]:
    """Fuzz one target, in a process of its own where atheris is used."""
    try:
        import atheris  # noqa: F401
    except ImportError:
        return fuzz(target, seconds=args.seconds, seed=args.seed)
    if args.plain:
        return fuzz(target, seconds=args.seconds, seed=args.seed)
    command = [sys.executable, __file__, f"--guided={target}", f"--seconds={args.seconds}"]
    process = subprocess.run(command, capture_output=True, text=True, errors="replace")
    said = process.stdout + process.stderr
    stats = [line for line in said.splitlines() if "number_of_executed_units" in line]
    done = int(stats[-1].split(":")[-1]) if stats else 0
    if process.returncode == 0:
        return done, []
    written = [line.split()[-1] for line in said.splitlines() if "Test unit written to" in line]
    content = pathlib.Path(written[-1]).read_bytes() if written else b""
    return done, [(content, said[-4000:])]


if __name__ == "__main__":
    sys.exit(main())
