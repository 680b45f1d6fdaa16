"""The verb index: an index of images on disk, made, filled, searched and described."""

import argparse
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from jaxreid.cli import values
from jaxreid.cli.pieces import add_chosen_model, add_images, add_json, add_verb
from jaxreid.cli.verbs import list_images, load_model


def add_index(commands: Any) -> None:
    """Add the verb index with its actions."""
    verb = commands.add_parser(
        "index", help="index of images on disk: create, add, query, remove, info, optimize"
    )
    verb.set_defaults(
        run=lambda args: args.parser.error("expected create, add, query, remove, info or optimize"),
        parser=verb,
    )
    actions = verb.add_subparsers(metavar="ACTION")
    action = add_verb(
        actions,
        "create",
        create,
        "create an empty index for a model",
        "jaxreid index create people.index --model=runs/qaconv",
        "An index belongs to one model. It needs LanceDB: pip install 'jaxreid[index]'.",
    )
    _add_place(action)
    add_chosen_model(action)
    action.add_argument(
        "--dtype",
        choices=("int8", "float16"),
        help="dtype of feature maps on disk (default: int8; embeddings are float16)",
    )
    add_json(action)
    action = add_verb(
        actions,
        "add",
        add,
        "add images; those that are in the index already are left out",
        "jaxreid index add people.index photographs/ --camera=door",
        "After an interruption, the same command adds the others. A table (.csv, .parquet, "
        ".jsonl) has the columns path, camera, time and person; only path is needed.",
    )
    _add_place(action)
    add_images(action, "images", "image files, folders of images, or tables")
    add_chosen_model(action, None, otherwise="the one that it was made with")
    action.add_argument("--camera", help="camera of all images")
    action.add_argument(
        "--time", type=moment, help="time of all images: seconds, or a date in ISO 8601"
    )
    action.add_argument("--person", help="person on all images")
    add_json(action)
    action = add_verb(
        actions,
        "query",
        query,
        "find the images most similar to a person",
        "jaxreid index query people.index query.jpg --camera=door --after=2026-11-27T08:00",
        "Several query images of one person count together.",
    )
    _add_place(action)
    add_images(action, "queries", "images of one person")
    add_chosen_model(action, None, otherwise="the one that it was made with")
    _add_filters(action)
    action.add_argument(
        "--top", type=values.count, default=10, help="length of the list (default: 10)"
    )
    action.add_argument(
        "--shortlist",
        type=values.at_least(0),
        metavar="N",
        help="images scored exactly (default: as many as were measured to suffice; 0: all)",
    )
    action.add_argument("--out", type=values.path, metavar="FILE.png", help="picture to write")
    add_json(action)
    action = add_verb(
        actions,
        "remove",
        remove,
        "remove images",
        "jaxreid index remove people.index --camera=door --before=2026-11-01 --erase",
        "Images that match all options are removed.",
    )
    _add_place(action)
    action.add_argument("--id", action="append", help="an id; repeatable")
    action.add_argument(
        "--path", action="append", metavar="PATH", help="an image file or a folder; repeatable"
    )
    _add_filters(action)
    action.add_argument(
        "--erase",
        action="store_true",
        help="also write the index anew, so that no file holds their features any more",
    )
    add_json(action)
    action = add_verb(
        actions,
        "info",
        info,
        "describe an index: images, bytes, model, recall, parts",
        "jaxreid index info people.index",
    )
    _add_place(action)
    add_json(action)
    action = add_verb(
        actions,
        "optimize",
        optimize,
        "merge small parts and measure the recall again; add does so where it is due",
        "jaxreid index optimize people.index",
    )
    _add_place(action)
    add_chosen_model(action, None, otherwise="the one that it was made with")
    add_json(action)


def create(args: argparse.Namespace) -> dict[str, Any]:
    """Create an index."""
    from jaxreid.index.index import Index

    index = Index.create(args.index, load_model(args), dtype=args.dtype)
    print(f"created {args.index} for {index.about.model}; fill it with jaxreid index add")
    return index.info()


def add(args: argparse.Namespace) -> dict[str, Any]:
    """Add images and tables of images."""
    index = _open(args)
    rows = _rows(args.images)
    for column in ("camera", "time", "person"):
        if (value := getattr(args, column)) is not None:
            rows[column] = [value] * len(rows["path"])
    new = index.add(rows["path"], {key: cells for key, cells in rows.items() if key != "path"})
    held, there = index.info(), len(rows["path"]) - new
    print(f"{new} images added, {there} were in the index; {held['images']:,} in all")
    if index.about.recall:
        print(_recall_of(held))
    return {"added": new, "there": there, **held}


def query(args: argparse.Namespace) -> dict[str, Any]:
    """Print the best matches of a person."""
    values.check_out(args.out, ".png")
    images = list_images(args.queries)
    index = _open(args)
    hits = index.search(images, top=args.top, shortlist=args.shortlist, **_filters(args))
    for position, hit in enumerate(hits, 1):
        time = "" if math.isnan(hit.time) else f"{hit.time:g} s"
        seen = ", ".join(filter(None, [hit.camera, time]))
        print(f"{position:3}. {hit.score:+8.3f}  {hit.image}{f'  ({seen})' if seen else ''}")
    if args.out:
        hits.save(args.out)
        print(f"wrote {args.out}")
    names = ("score", "id", "path", "camera", "time", "person")
    results = [{name: getattr(hit, name) for name in names} for hit in hits]
    for cells in results:
        cells["time"] = None if math.isnan(cells["time"]) else cells["time"]
    return {"query": [str(image) for image in images], "hits": results}


def remove(args: argparse.Namespace) -> dict[str, Any]:
    """Remove images."""
    from jaxreid.index.index import Index

    index = Index.open(args.index)
    paths = args.path and [str(pathlib.Path(path).absolute()) for path in args.path]
    count = index.remove(id=args.id, path=paths, erase=args.erase, **_filters(args))
    print(f"{count} images removed; {len(index):,} left")
    if count and not args.erase:
        print("their features stay on disk until the index is written anew: --erase does so")
    return {"removed": count, "images": len(index)}


def info(args: argparse.Namespace) -> dict[str, Any]:
    """Describe an index."""
    from jaxreid.index.index import Index

    return _described(Index.open(args.index))


def optimize(args: argparse.Namespace) -> dict[str, Any]:
    """Merge small parts and measure the recall again."""
    index = _open(args)
    before = index.about
    index.optimize()
    if index.about is before:  # else it has just been measured
        index.measure()
    return _described(index)


def _described(index: Any) -> dict[str, Any]:
    """Print the description of an index, and return it."""
    held = index.info()
    shape = "x".join(map(str, held["features"]))
    each = f", {held['bytes_per_image']:,.0f} bytes each" if held["bytes_per_image"] else ""
    print(
        f"{held['place']}: {held['images']:,} images{each}, in {held['parts']} parts, "
        f"{held['in_cells']:,} of them in cells\n"
        f"features {shape} {held['dtype']} of {held['model']} ({held['digest']})\n"
        f"{_recall_of(held)}"
    )
    return held


def moment(text: str) -> float:
    """Parse seconds or a date."""
    from jaxreid.index.conditions import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _recall_of(held: dict[str, Any]) -> str:
    """Return a sentence about the recall of an index."""
    if held["recall"] is None:
        return f"shortlist {held['shortlist']}, recall not measured yet"
    measured = held["measured"]
    return (
        f"shortlist {held['shortlist']}: recall@10 {held['recall']:.3f} of the exact ranking "
        f"({measured['queries']} images as queries, with {measured['compared']:,} of "
        f"{measured['images']:,})"
    )


def _add_place(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "index", help="folder of the index, or URI of an object store (s3://bucket/people)"
    )


def _add_filters(action: argparse.ArgumentParser) -> None:
    action.add_argument("--camera", action="append", help="only this camera; repeatable")
    action.add_argument("--person", action="append", help="only this person; repeatable")
    for name, word in (("after", "later"), ("before", "earlier")):
        action.add_argument(
            f"--{name}",
            type=moment,
            metavar="TIME",
            help=f"seen at this time or {word}: seconds, or a date in ISO 8601",
        )


def _filters(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("camera", "person", "after", "before")}


def _open(args: argparse.Namespace) -> Any:
    """Open an index with its model."""
    from jaxreid.index.index import Index

    # Before the model, because that takes longer.
    index = Index.open(args.index)
    args.model = args.model or index.about.model
    index.attach(load_model(args))
    return index


def _rows(paths: Sequence[pathlib.Path]) -> dict[str, list]:
    """Return the paths of images with their metadata from tables."""
    from jaxreid.data.sets import table
    from jaxreid.data.sets.photos import photos_at

    rows: dict[str, list] = {name: [] for name in ("path", "camera", "time", "person")}
    for path in paths:
        if path.suffix.lower() in table.SUFFIXES:
            photos, notices = photos_at(path)
            for notice in notices:
                print(f"warning: {notice}", file=sys.stderr)
            for photo in photos:
                cells = (photo.image, photo.camera, photo.time, photo.person)
                for column, cell in zip(rows.values(), cells, strict=True):
                    column.append(cell)
        else:
            images = list_images([path])
            rows["path"] += images
            for name in ("camera", "time", "person"):
                rows[name] += [None] * len(images)
    return rows
