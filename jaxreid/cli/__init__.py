"""The command line `jaxreid VERB`: each verb is a few lines on top of the public API.

Built on argparse rather than typer: no extra dependency, --help within a tenth of a second, and
full control over messages and exit statuses (0 success, 1 failure, 2 usage error). Verbs import
their dependencies when they run, so --help and `recipes` need neither JAX nor TensorFlow.
"""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Sequence

from jaxreid.cli.arguments import make_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: command line without the program name; None for `sys.argv`.

    Returns:
        Exit status: 0 success, 1 failure or problems found, 130 interrupted. `train` and usage
        errors end the process instead: `train` additionally with 75 for a stopped run that can be
        resumed, usage errors with 2.
    """
    parser = make_parser()
    args, rest = parser.parse_known_args(arguments)
    if rest and not args.passes_on:
        args.parser.error(f"unknown arguments: {' '.join(rest)}")
    args.rest = rest
    try:
        with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
            result = args.run(args)
        if args.json:
            print(json.dumps(result, indent=2, ensure_ascii=False))
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # e.g. jaxreid recipes | head -1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ModuleNotFoundError, FloatingPointError) as error:
        fault = isinstance(error, ModuleNotFoundError) and "pip install" not in str(error)
        if args.traceback or fault:
            traceback.print_exc()
        else:
            print(f"error: {error}\n(--traceback shows the stack trace)", file=sys.stderr)
        return 1
    return getattr(args, "status", 0)
