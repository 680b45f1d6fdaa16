"""The verb search: one person in a gallery, as lines, a page, a picture or JSON."""

import argparse
import math
import sys
from typing import Any

from jaxreid.cli import values
from jaxreid.cli.pieces import BUNDLED, add_chosen_model, add_json, add_verb, add_worth

OUTPUTS = ("html", "jsonl", "out")


def add_search(commands: Any) -> None:
    """Add the verb."""
    verb = add_verb(
        commands,
        "search",
        search_gallery,
        "find a person in a gallery of images",
        "jaxreid search query.jpg photographs/ --model=runs/qaconv --html=page.html",
        "Several query photos of one person count together. The gallery is a folder of images, a "
        "table, or a data set with its place: table:people.csv and "
        "folder:DIR?pattern={pid}_c{camid}_{time} also know cameras and times, as does an index "
        "(jaxreid index), which is searched with its own model.",
    )
    verb.add_argument(
        "places",
        nargs="+",
        metavar="QUERY... GALLERY",
        help="image files of one person, then the gallery",
    )
    add_chosen_model(verb, None, otherwise=f"{BUNDLED}, or that of an index")
    verb.add_argument("--top", type=values.count, default=50, help="longest list (default: 50)")
    verb.add_argument(
        "--threshold",
        metavar="KIND:X",
        help="lowest score: score:X, prob:0.9 (probability) or fmr:1e-3 (rate of false matches)",
    )
    verb.add_argument("--camera", action="append", default=[], help="search it alone; repeatable")
    verb.add_argument("--after", metavar="TIME", help="seconds, or a date: 2026-01-31T09:30")
    verb.add_argument("--before", metavar="TIME", help="seconds, or a date")
    verb.add_argument("--recursive", action="store_true", help="also look into subfolders")
    verb.add_argument(
        "--fusion",
        choices=("mean", "max"),
        default="mean",
        help="of the scores of several query photos (default: mean)",
    )
    add_worth(verb)
    verb.add_argument("--html", type=values.path, metavar="FILE.html", help="page to write")
    verb.add_argument("--out", type=values.path, metavar="FILE.png", help="picture to write")
    verb.add_argument("--jsonl", type=values.path, metavar="FILE.jsonl", help="lines of JSON")
    add_json(verb)


def search_gallery(args: argparse.Namespace) -> dict[str, Any]:
    """Print the best matches of a person in a gallery."""
    from jaxreid.cli.verbs import list_images, load_model
    from jaxreid.pictures.numbers import probability_text, rate_text, time_text
    from jaxreid.reid.gallery import Filter

    if len(args.places) < 2:
        args.parser.error("expected query photos and a gallery: jaxreid search QUERY... GALLERY")
    outputs = [(args.html, ".html"), (args.out, ".png"), (args.jsonl, ".jsonl")]
    for path, suffix in outputs:
        values.check_out(path, suffix)
    *queries, place = args.places
    photos = list_images([values.path(text) for text in queries])
    where = Filter(
        cameras=tuple(args.camera),
        after=_time(args.after, "--after", -math.inf),
        before=_time(args.before, "--before", math.inf),
    )
    gallery = _gallery(place, args)
    hits = load_model(args).search(
        photos,
        gallery,
        top=args.top,
        threshold=args.threshold,
        prior=args.prior,
        fusion=args.fusion,
        where=where,
    )
    for rank, hit in enumerate(hits, 1):
        worth = ""
        if hit.probability is not None:
            rate = rate_text(hit.false_match_rate, hits.resolution)
            worth = f"{probability_text(hit.probability):>8}  {rate:>14}  "
        about = "  ".join(part for part in (hit.camera, time_text(hit.time)) if part)
        print(f"{rank:3}. {hit.score:+9.3f}  {worth}{hit.name}  {about}".rstrip())
    for note in hits.notes:
        print(note)
    for path, _ in outputs:
        if path is not None:
            hits.save(path)
            print(f"wrote {path}")
    listed = [hit.as_json() for hit in hits]
    return {"query": [str(photo) for photo in photos], "hits": listed, "notes": list(hits.notes)}


def _gallery(place: str, args: argparse.Namespace) -> Any:
    """Open an index, a folder, a table or a data set."""
    from jaxreid.reid.gallery import open_gallery

    if "://" in place or (values.path(place) / "about.lance").is_dir():
        from jaxreid.index.index import Index

        index = Index.open(place)
        args.model = args.model or index.about.model
        return index
    args.model = args.model or BUNDLED
    gallery = open_gallery(place, recursive=args.recursive)
    for notice in gallery.notices:
        print(f"warning: {notice}", file=sys.stderr)
    return gallery


def _time(text: str | None, option: str, default: float) -> float:
    from jaxreid.data.sets.table import seconds_of

    if text is None:
        return default
    try:
        return seconds_of(text)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error
