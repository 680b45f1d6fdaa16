"""The canvas that all pictures are painted on."""

import numpy as np
import pytest
from PIL import Image

from jaxreid.pictures.canvas import (
    DARK,
    FRAME,
    LIGHT,
    RIGHT,
    Canvas,
    fitted,
    grid,
    image_name,
    save,
    text_width,
    wrapped,
)

RED = (200, 30, 40)


def pixels(canvas):
    return np.asarray(canvas.picture()).astype(int)


def test_a_name_is_that_of_the_file(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 3), RED).save(path)
    assert image_name(path) == image_name(str(path)) == "a.png"
    with Image.open(path) as opened:
        assert image_name(opened) == "a.png"
        assert image_name(np.asarray(opened)) == image_name(opened.convert("RGB")) == ""


def test_a_cell_is_an_image_within_its_frame():
    canvas = Canvas((40, 60))
    image = np.full((3, 2, 3), RED, np.uint8)
    assert canvas.cell((5, 7), image, (10, 20), frame=RIGHT) == (5, 7 + 20 + 2 * FRAME)
    drawn = pixels(canvas)
    assert (drawn[7 + FRAME : 7 + FRAME + 20, 5 + FRAME : 5 + FRAME + 10] == RED).all()
    assert (drawn == RIGHT).all(-1).sum() == (10 + 2 * FRAME) * (20 + 2 * FRAME) - 10 * 20
    assert (drawn == LIGHT.paper).all(-1).sum() == 40 * 60 - (10 + 2 * FRAME) * (20 + 2 * FRAME)


def test_an_image_without_a_frame_starts_at_its_corner():
    canvas = Canvas((20, 20), DARK)
    assert canvas.cell((3, 4), np.full((2, 2, 3), RED, np.uint8), (5, 6)) == (3, 10)
    drawn = (pixels(canvas) == RED).all(-1)
    assert drawn.sum() == 30
    assert drawn[4:10, 3:8].all()


def test_text_that_is_too_wide_is_cut_where_it_fits():
    text = "0003_c1s1_000325_00.jpg"
    assert fitted(text, 500, 11) == text
    for width in (20, 60, 100):
        cut = fitted(text, width, 11)
        assert cut.endswith("…")
        assert text.startswith(cut[:-1])
        assert text_width(cut, 11) <= width < text_width(text[: len(cut)] + "…", 11)


def test_a_file_name_is_wrapped_and_its_end_cut():
    name = "0003_c1s1_000325_00.jpg"
    assert wrapped(name, 500, 11, 2) == name
    assert wrapped(name, 80, 11, 2).replace("\n", "") == name
    lines = wrapped(name, 30, 11, 3).split("\n")
    assert name.startswith("".join(lines).removesuffix("…"))
    assert all(text_width(line, 11) <= 30 for line in lines)
    assert len(lines) == 3
    assert len(wrapped(name, 1, 11, 4).split("\n")) == 4  # narrower than any letter


def test_every_line_of_a_text_is_cut_for_itself():
    canvas = Canvas((200, 60))
    canvas.text((10, 10), "short\n" + "long " * 50, 11, width=70)
    columns = np.nonzero((pixels(canvas) != LIGHT.paper).any((0, 2)))[0]
    assert columns.min() >= 10
    assert 60 < columns.max() <= 80


@pytest.mark.parametrize("transparent", [False, True])
def test_fine_lines_are_smooth_and_in_place(transparent):
    canvas = Canvas((30, 30), fineness=3, transparent=transparent)
    canvas.line([(2, 3), (27, 22)], (0, 0, 0), 2)
    assert canvas.picture().size == (30, 30)
    if transparent:
        paper = Canvas((30, 30))
        paper.paste(canvas)
        canvas = paper
    grey = pixels(canvas)[..., 0]
    assert len(np.unique(grey)) > 5  # shades, where Pillow alone draws black and white
    assert grey[12, 14] < 40  # the middle of the line
    assert (grey[:2] > 250).all()


def test_a_rectangle_ends_before_its_right_and_lower_edges():
    for fineness in (1, 3):
        canvas = Canvas((12, 12), fineness=fineness)
        canvas.rectangle((2, 3, 7, 9), fill=RED)
        drawn = (np.abs(pixels(canvas) - RED) < 40).all(-1)
        assert drawn[3:9, 2:7].all()
        assert drawn.sum() == 5 * 6


def test_a_grid_goes_row_by_row():
    assert grid(5, 3, (10, 20), (1, 2)) == [(1, 2), (11, 2), (21, 2), (1, 22), (11, 22)]


def test_a_picture_is_saved_as_a_whole_file(tmp_path):
    picture = Image.new("RGB", (4, 3), RED)
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        save(picture, path)
        with Image.open(path) as saved:
            assert saved.getpixel((0, 0)) == RED
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
