"""The verb serve: an HTTP service of a model, with a page."""

import argparse
import pathlib
import time
from typing import Any

from jaxreid.cli import values
from jaxreid.cli.pieces import add_chosen_model, add_json, add_verb


def add_serve(commands: Any) -> None:
    """Add the verb."""
    verb = add_verb(
        commands,
        "serve",
        run_service,
        "serve a model over HTTP, with a page for drag and drop",
        "jaxreid serve --model=runs/qaconv --port=8080",
        "Endpoints: /embed, /compare, /search, /index, /model, /health, /metrics; / is the page, "
        "/docs describes all. Answers this machine alone unless there is a token. It needs "
        "FastAPI: pip install 'jaxreid[serve]'.",
    )
    add_chosen_model(verb)
    verb.add_argument(
        "--calibration",
        type=values.path,
        metavar="FILE.json",
        help="calibration to use (default: that of the model)",
    )
    verb.add_argument("--index", help="index to search, made with the same model")
    verb.add_argument("--writable", action="store_true", help="requests may change the index")
    verb.add_argument(
        "--host", default="127.0.0.1", help="address to bind (default: 127.0.0.1, this machine)"
    )
    verb.add_argument(
        "--port", type=values.at_least(0), default=8080, help="port; 0 for any (default: 8080)"
    )
    verb.add_argument(
        "--token-file",
        type=values.path,
        metavar="FILE",
        help="file with the token that requests must have (default: the variable JAXREID_TOKEN)",
    )
    verb.add_argument(
        "--wait-ms",
        type=values.at_least(0),
        default=5,
        metavar="MS",
        help="time for which an image waits for others to be embedded with (default: 5)",
    )
    for option, default, unit, text in (
        ("--max-mb", 32, "MB", "of a request"),
        ("--max-megapixels", 16, "N", "of an image, in millions"),
        ("--max-images", 100, "N", "images of a request"),
        ("--max-requests", 64, "N", "requests in progress"),
        ("--max-seconds", 30, "S", "time for a request"),
    ):
        verb.add_argument(
            option,
            type=values.count,
            default=default,
            metavar=unit,
            help=f"limit: {text} (default: {default})",
        )
    add_json(verb)


def run_service(args: argparse.Namespace) -> dict[str, Any]:
    """Load a model, compile it, and answer requests until the process is stopped."""
    try:
        from jaxreid.service.limits import Limits
        from jaxreid.service.server import bind, read_token, serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("jaxreid"):
            raise
        raise ModuleNotFoundError(
            f"the service needs {error.name}: pip install 'jaxreid[serve]'"
        ) from error
    from jaxreid.cli.verbs import load_model
    from jaxreid.service.engine import Engine

    if args.port > 65535:
        args.parser.error(f"--port is {args.port}; expected at most 65535")
    if args.writable and args.index is None:
        args.parser.error("--writable is of an index; give --index=INDEX")
    limits = Limits(
        body=args.max_mb * 2**20,
        pixels=args.max_megapixels * 10**6,
        images=args.max_images,
        requests=args.max_requests,
        seconds=args.max_seconds,
    )
    token = read_token(args.token_file)
    # Before the model, because that takes longer.
    address = bind(args.host, args.port, token=token)
    reid = load_model(args)
    index = None
    if args.index is not None:
        from jaxreid.index.index import Index

        index = Index.open(args.index, reid)
    engine = Engine(
        reid, index=index, writable=args.writable, limits=limits, wait=args.wait_ms / 1000
    )
    engine.compile()
    started = time.monotonic()

    def ready() -> None:
        held = f", an index of {len(index):,} images" if index is not None else ""
        worth = "" if engine.calibration is not None else "; no calibration, so no probabilities"
        asked = "with a token" if token else "without a token"
        print(f"serving {pathlib.Path(args.model).name}{held}{worth}")
        print(f"{address.url}  ({asked}; Ctrl-C stops)", flush=True)

    serve(engine, address, token=token, ready=ready)
    answered = engine.metrics.answered
    print(f"stopped; {answered:,} requests answered")
    return {
        "url": address.url,
        "requests": answered,
        "seconds": round(time.monotonic() - started, 3),
    }
