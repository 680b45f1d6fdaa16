"""Check this package on the device at hand: numbers first, then the speed of everything.

    python tools/device_check.py OUT
    JAX_PLATFORMS=cpu python tools/device_check.py OUT --small
    python tools/device_check.py OUT --parts kernel scoring

Needs JAX, Flax, Optax, Orbax, NumPy, Pillow and safetensors; no data. PyTorch makes the baselines
and TensorFlow the input pipeline, where they are installed. Every part is a process of its own with
a time limit: one that fails, hangs or kills its process is reported, and the others go on. Results
are lines of OUT/device_check.jsonl, each written as soon as it is known, and a table at the end.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
import traceback
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
for folder in (ROOT / "tests", ROOT / "tools", ROOT):
    sys.path.insert(0, str(folder))

Row = dict[str, Any]
# Parts in their order: function, and the seconds that it may take on a device with a cold cache.
PARTS = {
    "host": ("device_numbers:host", 40),
    "golden": ("device_numbers:golden", 75),
    "correctness": ("device_numbers:correctness", 40),
    "kernel": ("device_numbers:kernel", 45),
    "scoring": ("device_speed:scoring", 60),
    "torch_scoring": ("device_torch:scoring", 25),
    "training": ("device_speed:training", 120),
    "torch_training": ("device_torch:training", 60),
    "market": ("device_speed:market", 50),
    "encoding": ("device_speed:encoding", 40),
    "augmentation": ("device_speed:augmentation", 25),
    "input": ("device_speed:input_pipeline", 20),
    "trajectories": ("device_numbers:trajectories", 90),
}
# Seconds of all parts together; what is left over when they are over is not begun.
TOTAL = 470


def run_part(name: str, path: pathlib.Path, small: bool) -> bool:
    """Append the rows of a part to a file; return whether it ended without an error."""
    module, function = PARTS[name][0].split(":")
    with path.open("a") as file:

        def write(row: Row) -> None:
            print(json.dumps({"part": name} | row), file=file, flush=True)

        try:
            for row in getattr(importlib.import_module(module), function)(small):
                write(row)
        except Exception as error:
            traceback.print_exc()
            write({"what": "the part failed", "failed": f"{type(error).__name__}: {error}"[:300]})
            return False
    return True


def run_parts(names: list[str], path: pathlib.Path, *, small: bool, seconds: float) -> bool:
    """Run parts one after the other, each in a process; return whether all of them succeeded."""
    # JAX and PyTorch share the memory of the device.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if small:
        # Programs run once or twice: their compilation is the work.
        environment.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
        environment.setdefault("OMP_NUM_THREADS", "1")
    if (platforms := environment.get("JAX_PLATFORMS")) and "cpu" not in platforms.split(","):
        environment["JAX_PLATFORMS"] = f"{platforms},cpu"  # some parts compare with it
    end, success = time.monotonic() + seconds, True

    def failed(name: str, why: str) -> None:
        with path.open("a") as file:
            print(json.dumps({"part": name, "what": "the part", "failed": why}), file=file)

    for name in names:
        start = time.monotonic()
        # A small machine takes longer than a device.
        limit = min(PARTS[name][1] * (10 if small else 1), end - start)
        if end - start < 10:
            failed(name, f"not begun: the {seconds:.0f} seconds of all parts are over")
            success = False
            continue
        command = [sys.executable, __file__, str(path.parent), "--run", name]
        command += ["--small"] if small else []
        child = subprocess.Popen(command, env=environment)
        try:
            if (status := child.wait(limit)) != 0:
                success = False
            if status not in (0, 1):
                failed(name, f"its process ended with status {status}")
        except subprocess.TimeoutExpired:
            success = False
            failed(name, f"stopped after {limit:.0f} s")
        finally:
            child.kill()
            child.wait()
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return success


def table(path: pathlib.Path) -> str:
    """Format the rows of a file, one a line."""
    lines = []
    for row in map(json.loads, path.read_text().splitlines()):
        numbers = [f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float)]
        text = "  ".join([*numbers, row.get("failed", "")])
        lines.append(f"{row['part']:14} {row['what']:44} {text}".rstrip())
    return "\n".join(lines)


def environment() -> Row:
    """Describe the time and the packages."""
    versions = {}
    for package in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    versions["tensorflow"] = bool(importlib.util.find_spec("tensorflow"))
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"what": "packages", "date": date, "python": sys.version.split()[0], "is": versions}


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; return 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=pathlib.Path, help="folder of the results")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, help=f"of all parts together (default {TOTAL})")
    parser.add_argument("--run", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    path = args.out / "device_check.jsonl"
    if args.run:
        success = run_part(args.run, path, args.small)
        sys.stdout.flush()
        sys.stderr.flush()
        # Without waiting for compilations that nobody needs any more.
        os._exit(not success)
    args.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"part": "host"} | environment()) + "\n")
    seconds = args.seconds or TOTAL * (10 if args.small else 1)
    success = run_parts(args.parts, path, small=args.small, seconds=seconds)
    print(table(path))
    return int(not success)


if __name__ == "__main__":
    sys.exit(main())
