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
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator

import numpy as np
from fuzz_targets import TARGETS, Reader

ALLOWED = (ValueError, OSError)
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


def check(reader: Reader, path: pathlib.Path, content: bytes, *, named: bool = False) -> None:
    """Read a file; raise what neither accepts it nor explains it in words.

    With `named`, the words must hold the folder of the file.
    """
    path.write_bytes(content)
    try:
        reader(path)
    except ALLOWED as error:
        if not str(error).strip():
            raise AssertionError("an error without words") from error
        if named and str(path.parent) not in str(error):
            raise AssertionError(f"an error that does not name the file: {error}") from error
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
    """Read mutated files by plain mutation, `count` of them or for `seconds` of CPU time.

    Returns:
        Number of files read, and the findings as (content, traceback), one for each place.
    """
    chosen = TARGETS[target]
    reader, seeds = chosen.reader(), chosen.seeds()
    findings: dict[str, tuple[bytes, str]] = {}
    done, end = 0, time.process_time() + seconds
    with chosen.place() as path:
        for content in mutations(seeds, seed):
            if done >= count if count is not None else time.process_time() > end:
                break
            done += 1
            try:
                check(reader, path, content, named=chosen.named)
            # A finding is any other exception.
            except Exception as error:
                source = error.__cause__ or error
                place = traceback.extract_tb(source.__traceback__)[-1]
                key = f"{type(source).__name__} {place.filename}:{place.lineno}"
                findings.setdefault(key, (content, traceback.format_exc()))
    return done, list(findings.values())


def _guided(target: str, seconds: int) -> None:
    """Fuzz with atheris, in this process, which it ends."""
    import atheris

    with atheris.instrument_imports(include=["jaxreid", "scipy.io"]):
        reader = TARGETS[target].reader()
    folder = pathlib.Path(tempfile.mkdtemp())
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, content in enumerate(TARGETS[target].seeds()):
        (corpus / str(number)).write_bytes(content)
    options = ["-max_len=65536", "-rss_limit_mb=6000", "-timeout=300", "-print_final_stats=1"]
    options += [f"-artifact_prefix={folder}/finding-", str(corpus)]
    end = time.process_time() + seconds
    with TARGETS[target].place() as path:

        def one(content: bytes) -> None:
            check(reader, path, content, named=TARGETS[target].named)
            if time.process_time() > end:
                # How libFuzzer is asked to end and to print its counts.
                os.kill(os.getpid(), signal.SIGUSR1)

        atheris.Setup([sys.argv[0], *options], one)
        atheris.Fuzz()


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; return 1 if there are findings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument(
        "--seconds",
        type=int,
        default=60,
        help="CPU time for each target, waiting not counted (default: 60)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of plain mutations")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for findings")
    parser.add_argument("--plain", action="store_true", help="without atheris")
    parser.add_argument("--guided", choices=TARGETS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # What readers remember of files is not to be kept.
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    if args.guided:
        _guided(args.guided, args.seconds)
    for target in args.targets:
        if target not in TARGETS:
            parser.error(f"unknown target {target!r}; valid: {', '.join(TARGETS)}")
    counts: collections.Counter[str] = collections.Counter()
    for target in args.targets or TARGETS:
        # User and system time, of this process and its children; not that of the wall.
        before = sum(os.times()[:4])
        done, findings = _run(target, args)
        spent = sum(os.times()[:4]) - before
        counts[target] = len(findings)
        print(
            f"{target}: {done:,} files read in {spent:.0f} s of CPU time, {len(findings)} findings",
            flush=True,
        )
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
