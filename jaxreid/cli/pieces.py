"""Arguments that several verbs share."""

import argparse
from collections.abc import Callable
from typing import Any

from jaxreid.cli import values


def add_verb(
    commands: Any, name: str, run: Callable[..., Any], title: str, example: str, more: str = ""
) -> argparse.ArgumentParser:
    """Add a verb with its help, example and the option --traceback."""
    verb = commands.add_parser(
        name,
        help=title,
        description=f"{title[0].upper()}{title[1:]}. {more}",
        epilog=f"example: {example}",
        allow_abbrev=False,
    )
    verb.add_argument("--traceback", action="store_true", help="show the stack trace of an error")
    verb.set_defaults(run=run, parser=verb, json=False, passes_on=False)
    return verb


# The bundled model, which verbs use that need none of one's own.
BUNDLED = "drawn"
_MODEL = (
    "work directory of a run, one of its steps (RUN/checkpoints/500), a weights file "
    f"(.safetensors), or the bundled model {BUNDLED}"
)


def add_model(
    verb: argparse.ArgumentParser, *, needed: bool = True, default: str | None = BUNDLED
) -> None:
    """Add the model that a verb uses; if it is not `needed`, `default` stands for it."""
    if needed:
        verb.add_argument("model", help=_MODEL)
        return
    otherwise = f" (default: {default})" if default else ""
    verb.add_argument("model", nargs="?", default=default, help=f"{_MODEL}{otherwise}")


def add_chosen_model(
    verb: argparse.ArgumentParser, default: str | None = BUNDLED, *, otherwise: str = BUNDLED
) -> None:
    """Add the model that a verb uses, as an option; `otherwise` describes the default."""
    verb.add_argument(
        "--model", default=default, metavar="RUN|FILE", help=f"{_MODEL} (default: {otherwise})"
    )


def add_worth(verb: argparse.ArgumentParser) -> None:
    """Add the options that turn scores into probabilities."""
    verb.add_argument(
        "--calibration",
        type=values.path,
        metavar="FILE.json",
        help="calibration to use (default: that of the model)",
    )
    verb.add_argument(
        "--prior",
        type=values.between(0, 1),
        metavar="P",
        help="probability of the same person before looking (default: even odds in compare, one "
        "image of the gallery in search)",
    )


def add_images(verb: argparse.ArgumentParser, name: str, title: str) -> None:
    """Add image files or folders."""
    verb.add_argument(name, nargs="+", type=values.path, help=title)


def add_json(verb: argparse.ArgumentParser) -> None:
    """Add the option --json."""
    verb.add_argument("--json", action="store_true", help="print only the result, as JSON")


def add_folders(verb: argparse.ArgumentParser) -> None:
    """Add the folders of data sets and of prepared copies."""
    verb.add_argument("--dir", help="source folder of a data set that is read from files")
    verb.add_argument(
        "--prepared-dir",
        "--prepared_dir",
        help="folder of prepared copies (default: that of TFDS)",
    )


def add_data(verb: argparse.ArgumentParser) -> None:
    """Add the folder of a data set, and its options."""
    add_folders(verb)
    verb.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the data set, such as seed=3 or time_rule=corrected; repeatable",
    )
