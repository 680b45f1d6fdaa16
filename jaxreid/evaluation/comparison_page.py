"""Page of a comparison of runs: means, differences, and the better run for each query."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxreid.data.split import Split
from jaxreid.evaluation.comparison import Difference, Group
from jaxreid.pictures.plots import Line, plot
from jaxreid.pictures.report import document, plots, wide
from jaxreid.pictures.self_contained import data_uri, escaped
from jaxreid.pictures.tables import html_table

# Queries shown of each difference, and gallery images of each of its groups.
SHOWN, BEST = 8, 6
# Largest width and height in pixels of an image.
LARGEST = 120, 150


def page_of(
    groups: Sequence[Group],
    table: str,
    note: str,
    differences: Sequence[Difference],
    images: Mapping[str, Mapping[str, Split]],
    *,
    missing: str = "",
) -> str:
    """Return the page (HTML).

    Args:
        groups: groups of runs.
        table: means over seeds (HTML).
        note: explanation of the table.
        differences: `differences_of` the groups.
        images: splits "query" and "gallery" by test set, where they can be had.
        missing: why images are missing.
    """
    by_name = {group.name: group for group in groups}
    means = wide(table) + f'<p class="note">{escaped(note)}</p>'
    sections = [("Means and standard deviations over seeds, %", means)]
    for difference in differences:
        a, b = (by_name[name] for name in difference.names)
        shown = images.get(difference.test)
        parts = [
            f'<p class="say">{escaped(difference.sentence())}</p>',
            plots([_gains(difference)]),
        ]
        if rows := _queries(difference):
            parts.append("<h3>queries that differ most, average precision in %</h3>" + wide(rows))
        parts += [_images(difference, q, (a, b), shown) for q in difference.most(SHOWN) if shown]
        sections.append((f"{a.name} and {b.name} on {difference.test}", "".join(parts)))
    left = f'<p class="note">Images are not shown: {escaped(missing)}</p>' if missing else ""
    runs = sum(len(group.runs) for group in groups)
    return document(
        "Comparison of runs", f"{len(groups)} settings, {runs} runs", [*sections, ("", left)]
    )


def _gains(difference: Difference) -> str:
    """Draw the difference of every query, in order."""
    gain = np.sort(difference.precisions[0] - difference.precisions[1])[::-1]
    share = (np.arange(len(gain)) + 0.5) / len(gain)
    lines = [
        Line(f"{difference.names[0]} better", share, np.maximum(gain, 0)),
        Line(f"{difference.names[1]} better", share, np.minimum(gain, 0)),
    ]
    title = "difference of average precision, query by query"
    return plot(title, lines, x_label="share of queries", percent=True, filled=True)


def _queries(difference: Difference) -> str:
    rows = [
        (difference.queries[q], *(f"{100 * p:.1f}" for p in difference.precisions[:, q]))
        for q in difference.most(SHOWN)
    ]
    return html_table(("query", *difference.names), rows) if rows else ""


def _images(
    difference: Difference, q: int, groups: tuple[Group, Group], splits: Mapping[str, Split]
) -> str:
    """Show a query, and the best of the gallery by the first run of both groups."""
    name = difference.queries[q]
    query, gallery = splits["query"], splits["gallery"]
    place = {image: i for i, image in enumerate(gallery.name)}
    photo = data_uri(query.image[query.name.index(name)], LARGEST)
    parts = [f"<h3>{escaped(name)}</h3>"]
    for group, precision in zip(groups, difference.precisions[:, q], strict=True):
        first = group.runs[0]
        top = first.tests[difference.test].queries[name]["top"][:BEST]
        tiles = [
            f'<img class="{"right" if one["right"] else "wrong"}" alt="{escaped(one["name"])}" '
            f'src="{data_uri(gallery.image[place[one["name"]]], LARGEST)}">'
            for one in top
        ]
        parts.append(
            f'<p class="note">{escaped(group.name)}: {100 * precision:.1f}%; the list is of seed '
            f'{first.seed}</p><div class="shown">'
            f'<img src="{photo}" alt="query">{"".join(tiles)}</div>'
        )
    return f'<div class="query">{"".join(parts)}</div>'
