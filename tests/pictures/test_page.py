"""The page of a search: escaped, whole without a network, and used by keyboard in a browser."""

import math
import re

import numpy as np
import pytest
from people import draw

from jaxreid.pictures import page
from jaxreid.pictures.matches import Pair
from jaxreid.pictures.numbers import prior_text, probability_text, rate_text, time_text
from jaxreid.pictures.page import Card, search_page
from jaxreid.pictures.results import assembled
from jaxreid.pictures.self_contained import csp_digest

pytest_plugins = ["browsers"]

HOSTILE = [
    "<script>document.title='owned'</script>.png",
    '"><img src=x onerror="document.title=\'owned\'">.png',
    "'; document.title='owned'; //.png",
    "</style></script><svg onload=document.title='owned'>.png",
    "bad\ud800surrogate\x00\u202e.png",
    "a" * 500,
]


def card(number, name="photo.png"):
    image = draw(1 + number % 3, number % 2, number)
    cells = np.arange(8).reshape(4, 2)
    pair = Pair(image, image, ("", ""), None, cells + 1.0, cells + 1.0, cells, cells, 0.0)
    probability = 1 / (number + 1.001)
    return Card(image, name, 3.0 - number, probability, 1e-4, "door", 60.0 * number, 0, pair)


def written(path, cards, queries=1):
    images = [(draw(1, 0, shot), f"query {shot}.png") for shot in range(queries)]
    path.write_text(search_page(images, cards, ["12 images searched."]))
    return path


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_are_escaped(name):
    text = search_page([(draw(1, 0, 0), name)], [card(0, name)], [name])
    assert not re.search(r"<img src=x|<svg onload|<script>document", text)
    assert text.count("<script>") == text.count("</script>") == 1
    text.encode()


def test_a_page_is_whole_without_a_network():
    text = search_page([(draw(1, 0, 0), "query.png")], [card(i) for i in range(3)], [])
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert "url(" not in text
    assert "default-src 'none'" in text
    for file in ("page.css", "page.js"):
        assert csp_digest(assembled(page.FOLDER / file)) in text


def test_a_page_without_results_says_so():
    assert "No image of the gallery passes." in search_page([(draw(1, 0, 0), "a")], [], [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (probability_text(0.97), "97%"),
        (probability_text(0.0042), "0.4%"),
        (probability_text(0.99999), "> 99.9%"),
        (probability_text(1e-6), "< 0.1%"),
        (rate_text(1 / 2437), "1 in 2,400"),
        (rate_text(1.0), "1 in 1"),
        (rate_text(1e-3, 1e-3), "< 1 in 1,000"),
        (prior_text(0.5), "50%"),
        (prior_text(1 / 120), "1 in 120"),
        (time_text(math.nan), ""),
        (time_text(75.5), "0:01:15.5"),
        (time_text(1795773600.0), "2026-11-27 10:00:00"),
        (time_text(1e300), "1e+300 s"),
    ],
)
def test_numbers_are_written_for_people(text, expected):
    assert text == expected


def test_a_page_is_used_by_keyboard_in_a_browser(browser, tmp_path):
    cards = [card(number, HOSTILE[number % len(HOSTILE)]) for number in range(12)]
    view = browser.new_page(viewport={"width": 1200, "height": 800})
    problems, requests = [], []
    view.on("console", lambda message: problems.append(message.text))
    view.on("pageerror", lambda error: problems.append(str(error)))
    view.on("request", lambda request: requests.append(request.url))
    path = written(tmp_path / "page.html", cards)
    view.goto(path.as_uri())
    rank = "document.activeElement.querySelector('.rank').textContent"
    lines = "document.querySelectorAll('#lines line').length"
    view.hover(".card >> nth=1")
    assert view.evaluate(lines) > 0
    view.keyboard.press("ArrowRight")
    view.keyboard.press("ArrowRight")
    assert view.evaluate(rank) == "2"
    view.keyboard.press("ArrowDown")
    assert int(view.evaluate(rank)) > 3
    view.keyboard.press("Home")
    view.keyboard.press("Enter")
    view.wait_for_selector("#pairlines line", state="attached")
    view.keyboard.press("ArrowRight")
    assert "rank 2" in view.inner_text("#about")
    view.keyboard.press("m")
    assert view.evaluate("document.querySelectorAll('#pairlines line').length") == 0
    view.keyboard.press("Escape")
    assert not view.evaluate("document.getElementById('large').open")
    # A browser says that a dialog was closed in a task of its own, after the key.
    view.wait_for_selector(".card:focus .rank:text-is('2')")
    dark = "getComputedStyle(document.body).backgroundColor"
    before = view.evaluate(dark)
    view.click("#theme")
    assert view.evaluate(dark) != before
    assert "owned" not in view.title()
    assert problems == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    view.close()


def test_lines_join_the_cells_that_match(browser, tmp_path):
    view = browser.new_page(viewport={"width": 1200, "height": 800})
    view.goto(written(tmp_path / "page.html", [card(0)]).as_uri())
    view.hover(".card")
    box = view.locator(".photo").bounding_box()
    x, y = view.evaluate(
        "(() => { const line = [...document.querySelectorAll('#lines line')].at(-1);"
        " return [line.x1.baseVal.value, line.y1.baseVal.value]; })()"
    )
    # The strongest match is that of the last of 4 x 2 cells, drawn on top.
    assert x == pytest.approx(box["x"] + 0.75 * box["width"], abs=1)
    assert y == pytest.approx(box["y"] + 0.875 * box["height"], abs=1)
    view.close()
