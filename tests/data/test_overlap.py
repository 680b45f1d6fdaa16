"""Images and people that test sets share with the training set."""

import numpy as np
import pytest

from jaxreid.data.overlap import Overlap, Trace, found_by_itself, shared_people, trace
from jaxreid.data.split import Origin, Split, join


def split(pid, letters, origin=None):
    pid = np.array(pid, np.int32)
    files = [letter.encode() for letter in letters]
    origins = (origin,) if origin else ()
    names = [f"{letter}.jpg" for letter in letters]
    return Split(files, names, pid, pid * 0, pid / 2, origins=origins)


PLAZA, OTHER, MALL = Origin("set/plaza", "1"), Origin("set/plaza", "2"), Origin("set/mall", "1")
TRAIN = join({"plaza": split([1, 2, 3], "abc", PLAZA), "mall": split([7, 8, 8], "def", MALL)})


@pytest.mark.parametrize(
    ("query", "gallery", "expected"),
    [
        (split([5], "x", PLAZA), split([5, 6, 0], "yzw", PLAZA), None),
        # An image file is recognised whatever its data set, people by it.
        (split([5], "x"), split([5, 6, 0], "ydw"), Overlap(1, 4, 1, 0, 2)),
        # Equal ids of one data set are one person, of two they are two.
        (split([2], "x", PLAZA), split([2, 6, 0], "yzw", PLAZA), Overlap(0, 4, 1, 0, 2)),
        (split([2], "x", MALL), split([2, 6, 0], "yzw", MALL), None),
        (split([8], "x", MALL), split([8, 7, 0], "yzw", MALL), Overlap(0, 4, 2, 0, 2)),
        # In another folder of the data set they may be.
        (split([2], "x", OTHER), split([2, 3, 0], "yzw", OTHER), Overlap(0, 4, 0, 2, 2)),
        (split([2], "b", OTHER), split([2, 3, 0], "yzw", OTHER), Overlap(1, 4, 1, 1, 2)),
        # A query of person 0 makes it a person, also in the gallery.
        (split([0], "a", PLAZA), split([0, 5], "bw", PLAZA), Overlap(2, 3, 1, 0, 2)),
        # Distractors are nobody in particular.
        (split([9], "x", PLAZA), split([0, -1], "ya", PLAZA), Overlap(1, 3, 0, 0, 1)),
    ],
)
def test_shared_images_and_people_are_counted(query, gallery, expected):
    found = shared_people(TRAIN, {"test": {"query": query, "gallery": gallery}})
    assert found == ({"test": expected} if expected else {})


def test_ids_that_are_numbered_anew_are_other_people_with_other_options():
    other = Origin("set/plaza", "2", numbered_anew=True)
    test = {"query": split([2], "x", other), "gallery": split([2, 3, 0], "yzw", other)}
    assert shared_people(TRAIN, {"test": test}) == {}
    # With the same options, and by the images themselves, they are still recognised.
    same = Origin("set/plaza", "1", numbered_anew=True)
    test = {"query": split([2], "x", same), "gallery": split([2, 6, 0], "yaw", same)}
    assert shared_people(TRAIN, {"test": test})["test"] == Overlap(1, 4, 2, 0, 2)


def test_a_trace_that_was_saved_finds_the_same(tmp_path):
    np.savez(tmp_path / "trace.npz", **trace(TRAIN).arrays())
    with np.load(tmp_path / "trace.npz") as arrays:
        known = Trace.from_arrays(arrays)
    assert known.origins == (PLAZA, MALL)
    tests = {"test": {"query": split([8], "a", MALL)}, "fine": {"query": split([8], "x", PLAZA)}}
    assert shared_people(known, tests) == shared_people(TRAIN, tests) != {}
    unknown = trace(split([1], "a"))
    assert Trace.from_arrays(unknown.arrays()).origins == ()


def test_the_warning_says_what_is_shared():
    text = Overlap(1, 4, 2, 3, 9).sentence("set/plaza")
    assert text.startswith("set/plaza is not a test of unseen people: 2 of its 9 people and 1 of ")
    assert "3 of its 9 people have the id of a training person in another folder" in text
    assert "trained on" not in Overlap(0, 4, 0, 3, 9).sentence("set/plaza")


def test_origins_stay_with_parts_and_joined_splits():
    assert TRAIN.origins == (PLAZA, MALL)
    assert TRAIN.select(TRAIN.pid == 8).origins == (PLAZA, MALL)
    unknown = join({"a": split([1], "a"), "b": split([1], "b", MALL)})
    assert unknown.origins == (Origin("a"), MALL)


def test_queries_that_find_themselves_are_named():
    query, gallery = split([1, 2, 3], "abc"), split([1, 2, 4], "abc")
    gallery.camid[:2] = [1, 0]  # b has the query's camera, c is of another person
    assert found_by_itself(query, gallery) == ["a.jpg"]
