"""Pages of search results: one HTML file with its images, style and script, and no network.

Text is escaped here and nowhere assembled by the script, whose digest is the only one that the
page's content security policy lets run: a name in a gallery cannot become code.
"""

import dataclasses
import html
import json
from collections.abc import Sequence

from jaxreid.data.images.pillow import ImageSource
from jaxreid.pictures.matches import Pair
from jaxreid.pictures.numbers import probability_text, rate_text, time_text
from jaxreid.pictures.results import FOLDER, assembled, lines_of
from jaxreid.pictures.self_contained import data_uri, escaped, whole_page

# Largest width and height in pixels of an embedded image.
LARGEST = 320, 320
# Lines between two images, at most.
LINES = 12
_UNNAMED = "image without a name"


@dataclasses.dataclass(frozen=True, eq=False)
class Card:
    """Image of a ranked list.

    Attributes:
        image: path, encoded bytes, PIL image or uint8 [h, w, 3].
        name: its name, any text.
        score: score.
        probability: of the same person; None if unknown.
        false_match_rate: share of other people that score as high; None if unknown.
        camera: name of the camera; "" if unknown.
        time: seconds; NaN if unknown.
        photo: number of the query photo that the pair is of.
        pair: matches with this photo; None for a model without local matches.
    """

    image: ImageSource
    name: str
    score: float
    probability: float | None
    false_match_rate: float | None
    camera: str
    time: float
    photo: int
    pair: Pair | None


def search_page(
    queries: Sequence[tuple[ImageSource, str]],
    cards: Sequence[Card],
    notes: Sequence[str],
    resolution: float = 0.0,
) -> str:
    """Return the page of a search.

    Args:
        queries: photos of the person, with their names.
        cards: ranked images, best first.
        notes: sentences about the search.
        resolution: smallest false-match rate that can be seen.
    """
    style, script = (assembled(FOLDER / name) for name in ("page.css", "page.js"))
    lines = any(card.pair is not None for card in cards)
    photos = "".join(
        f'<figure><img class="photo" src="{data_uri(image, LARGEST)}" alt="query photo {number}">'
        f"<figcaption>{escaped(_short(name))}</figcaption></figure>"
        for number, (image, name) in enumerate(queries, 1)
    )
    keys = "<kbd>←</kbd> <kbd>→</kbd> <kbd>↑</kbd> <kbd>↓</kbd> move, <kbd>Enter</kbd> enlarges"
    keys += ", <kbd>M</kbd> matches" * lines
    shown = "".join(_card(rank, card, resolution) for rank, card in enumerate(cards, 1))
    empty = "" if cards else '<p class="empty">No image of the gallery passes.</p>'
    items = "".join(f"<li>{escaped(note)}</li>" for note in notes)
    legend = (
        '<p class="legend"><span class="ramp"></span>Lines join cells that match; the redder, the '
        "more a match adds to the score. They show why a score is high, not that it is right.</p>"
    )
    count = f"{len(cards):,} {'image' if len(cards) == 1 else 'images'}"
    body = f"""
<aside>
<h1>{"The person" if len(queries) == 1 else f"The person, {len(queries)} photos"}</h1>
<div class="photos">{photos}</div>
{legend * lines}
</aside>
<main>
<header>
<h2>{count}, most similar first</h2>
<div class="tools"><span class="keys">{keys}</span>
<button type="button" id="theme" aria-label="light or dark">◐</button></div>
</header>
<div class="cards" id="cards">{shown}</div>{empty}
<footer><ul>{items}</ul>
<p>Scores order images for somebody who looks at them. They prove nothing about anybody.</p>
</footer>
</main>
<svg id="lines" aria-hidden="true"></svg>
<dialog id="large" aria-label="comparison">
<div class="pair">
<figure><img id="left" alt="query photo"><figcaption id="name"></figcaption></figure>
<figure><img id="right" alt="result"><figcaption id="about"></figcaption></figure>
<svg id="pairlines" aria-hidden="true"></svg></div>
<p class="keys"><kbd>←</kbd> <kbd>→</kbd> previous and next, <kbd>Esc</kbd> closes</p>
</dialog>
"""
    title = f"{_short(queries[0][1])} · search"
    return whole_page(title, body, style=style, script=script)


def _card(rank: int, card: Card, resolution: float) -> str:
    known = [part for part in (card.camera, time_text(card.time)) if part]
    where = "".join(f'<p class="where">{escaped(part)}</p>' for part in known)
    worth = ""
    if card.probability is not None:
        worth = (
            f'<div class="sure"><strong>{escaped(probability_text(card.probability))}</strong>'
            f'<meter min="0" max="1" value="{card.probability:.4f}"></meter></div>'
        )
    rate = ""
    if card.false_match_rate is not None:
        title = "share of other people who score at least as high"
        value = html.escape(rate_text(card.false_match_rate, resolution))
        rate = f'<dt title="{title}">false match</dt><dd>{value}</dd>'
    lines = [] if card.pair is None else lines_of(card.pair, LINES)
    links = html.escape(json.dumps(lines), quote=True)
    return (
        f'<article class="card" tabindex="{0 if rank == 1 else -1}" data-photo="{card.photo}" '
        f'data-links="{links}" aria-label="rank {rank}: {escaped(_short(card.name))}">'
        f'<div class="frame"><img src="{data_uri(card.image, LARGEST)}" alt="">'
        f'<span class="rank">{rank}</span></div>{worth}'
        f"<dl><dt>score</dt><dd>{card.score:+.2f}</dd>{rate}</dl>"
        f"{where}"
        f'<p class="name" title="{escaped(card.name)}">{escaped(_short(card.name))}</p></article>'
    )


def _short(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2] or name or _UNNAMED
