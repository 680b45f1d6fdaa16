"""Contact sheets of data sets."""

import numpy as np
from people import draw

from jaxreid.data.split import Split
from jaxreid.pictures.canvas import DARK
from jaxreid.pictures.contact_sheet import QUERY, people_of, sheet_picture, sheet_title


def split(*rows):
    """A split of (pid, camid, seconds) whose images are drawn."""
    pid, camid, time = map(np.array, zip(*rows, strict=True))
    images = [draw(person, camera, 0) for person, camera, _ in rows]
    return Split(images, [f"{i}.jpg" for i in range(len(rows))], pid, camid, time.astype(float))


QUERIES = split((7, 1, 61.25), (3, 0, np.nan))
GALLERY = split((0, 0, 5), (7, 0, 3.5), (7, 1, 2), (3, 1, np.nan))
SPLITS = {"query": QUERIES, "gallery": GALLERY}


def test_people_are_ordered_by_id_camera_and_time_with_others_last():
    people = people_of(SPLITS, "test")
    assert [label for label, _ in people] == ["pid 3", "pid 7", "others"]
    captions = [[(caption, framed) for _, caption, framed in shots] for _, shots in people]
    assert captions[0] == [("c1", True), ("c2", False)]
    assert captions[1] == [("c1 0:03.5", False), ("c2 0:02.0", False), ("c2 1:01.2", True)]
    assert not any(framed for _, shots in people_of(SPLITS, "query") for *_, framed in shots)


def test_the_title_counts_images_people_and_cameras():
    first, second = sheet_title("market1501", SPLITS, "test").split("\n")
    assert first == "market1501, test"
    assert second == (
        "query: 2 images, 2 people, 2 cameras    "
        "gallery: 4 images (1 of others), 2 people, 2 cameras"
    )


def test_queries_are_framed_and_no_row_is_longer_than_its_columns():
    people = people_of(SPLITS, "test")
    wide, narrow = (
        sheet_picture("two\nlines", people, columns=columns, height=120) for columns in (3, 2)
    )
    pixels = np.asarray(wide)
    frame = 60 * 120 - 56 * 116
    assert (pixels == QUERY).all(-1).sum() == 2 * frame
    assert (pixels[-1] == DARK.paper).all()
    assert wide.width - narrow.width == 64
    assert wide.height == narrow.height
