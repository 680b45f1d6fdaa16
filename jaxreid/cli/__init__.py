"""The command `jaxreid VERB`: each verb is a few lines on the public face of the package.

argparse, not typer: nothing more to install, an answer to --help in a tenth of a second, and every
message and exit status (0 done, 1 failed, 2 not understood) in our hands. What a verb needs is
imported when it runs, so that --help and `recipes` need neither JAX nor TensorFlow.
"""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Sequence

from jaxreid.cli.arguments import make_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: command line without the program's name; the process's own if None.

    Returns:
        Exit status: 0 done, 1 failed; of `train` 75 or 130 as well, stopped and ready to go on.
        Arguments that are not understood end the process with 2.
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
    except BrokenPipeError:  # as in: jaxreid recipes | head -1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ModuleNotFoundError, FloatingPointError) as error:
        fault = isinstance(error, ModuleNotFoundError) and "pip install" not in str(error)
        if args.traceback or fault:
            traceback.print_exc()
        else:
            print(f"error: {error}\n(--traceback shows where it arose)", file=sys.stderr)
        return 1
    return 0
