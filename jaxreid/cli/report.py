"""The verb report: the page of a run."""

import argparse
from typing import Any

from jaxreid.cli import values
from jaxreid.cli.pieces import add_json, add_verb


def add_report(commands: Any) -> None:
    """Add the verb."""
    verb = add_verb(
        commands,
        "report",
        write_report,
        "draw a run as a page: training, ranks, pairs, worst queries",
        "jaxreid report runs/qaconv --html=page.html",
        "The page is one file that needs no network; a run that still trains has one, too.",
    )
    verb.add_argument("run_dir", type=values.path, metavar="RUN", help="work directory of a run")
    verb.add_argument(
        "--html", type=values.path, required=True, metavar="FILE.html", help="page to write"
    )
    add_json(verb)


def write_report(args: argparse.Namespace) -> dict[str, Any]:
    """Write the page of a run."""
    from jaxreid.evaluation.run_page import page_of
    from jaxreid.runs.files import replace_file

    values.check_out(args.html, ".html")
    replace_file(args.html, page_of(args.run_dir).encode())
    print(f"wrote {args.html}")
    return {"run": str(args.run_dir), "html": str(args.html)}
