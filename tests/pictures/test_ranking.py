"""Ranked lists as pictures."""

import numpy as np
from people import draw
from PIL import ImageDraw

from jaxreid.pictures.canvas import PLAIN, RIGHT, WRONG, text_width
from jaxreid.pictures.ranking import CELL, Row, Tile, person_picture, ranking_picture


def framed(picture, colour):
    return (np.asarray(picture) == colour).all(-1)


FRAME = (CELL[0] + 8) * (CELL[1] + 8) - CELL[0] * CELL[1]


def test_right_images_are_framed_green_and_wrong_ones_red():
    image = draw(1, 0, 0)
    tiles = [Tile(image, "", right) for right in (True, False, True)]
    picture = ranking_picture([("set", [Row("", Tile(image, "", None), tiles)] * 2)])
    for colour, count in ((RIGHT, 4), (WRONG, 2), (PLAIN, 2)):
        extra = framed(picture, colour).sum() - count * FRAME
        assert 0 <= extra < 300  # letters and images may have the colour, too
    columns = [np.nonzero(framed(picture, colour))[1].min() for colour in (PLAIN, RIGHT, WRONG)]
    assert columns == sorted(columns)


def test_captions_of_two_lines_make_room_below(tmp_path):
    image = draw(1, 0, 0)
    pictures = [
        ranking_picture([("set", [Row("", Tile(image, "query", None), [Tile(image, text, None)])])])
        for text in ("one", "one\ntwo", "one\ntwo\nthree")
    ]
    heights = [picture.height for picture in pictures]
    assert heights[1] - heights[0] == heights[2] - heights[1] > 10


def test_hits_of_images_of_any_kind_are_framed_alike(tmp_path):
    path = tmp_path / "0001_c1s1_000325_00_with_a_very_long_name.jpg"
    draw(1, 0, 0).save(path)
    images = [path, draw(2, 0, 0), np.asarray(draw(3, 0, 0))]
    hits = [(image, "a name", ["97%", "+2.50"]) for image in images]
    one = person_picture([str(path)], hits)
    two = person_picture([path, path.read_bytes()], hits)
    for picture, count in ((one, 4), (two, 5)):
        assert 0 <= framed(picture, PLAIN).sum() - count * FRAME < 300  # as above
        assert framed(picture, RIGHT).sum() == framed(picture, WRONG).sum() == 0
    assert one.width == two.width


def test_captions_and_file_names_stay_within_their_columns(tmp_path, monkeypatch):
    name = "person_17_of_the_northern_entrance_camera_4_at_noon.jpg"
    draw(1, 0, 0).save(tmp_path / name)
    written = []
    text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda *a, **k: (written.append(a[2]), text(*a, **k))[1]
    )
    path = tmp_path / name
    person_picture([path], [(path, name, ["+12.35"])])
    titles = [line for line in written if line.startswith("person")]
    assert titles[0] == name  # the query's has the width of the picture
    (caption,) = (lines for lines in written if "\n" in lines)
    place, first, second = caption.split("\n")
    assert place == "1.  +12.35"
    assert name.startswith(first + second[:-1])
    assert second.endswith("…")
    assert max(text_width(line, 11) for line in (first, second)) < CELL[0] + 14
