"""No reader of files ends in anything but an answer or a sentence, whatever the bytes."""

import sys

import pytest
from golden import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tools"))

import fuzz  # noqa: E402

# Of those that take long to read.
FEW = {"checkpoint": 3, "file_names": 6, "parquet": 3, "torch": 12}


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_damaged_files_are_answered_in_words(target):
    count = FEW.get(target, 25)
    done, findings = fuzz.fuzz(target, count=count)
    assert done == count
    assert not findings, findings[0][1]


def test_a_traceback_and_an_error_without_words_are_found(tmp_path):
    def reader(path):
        raise {b"a": KeyError("a"), b"b": ValueError(), b"c": ValueError("c")}[path.read_bytes()]

    for content, error in ((b"a", KeyError), (b"b", AssertionError)):
        with pytest.raises(error):
            fuzz.check(reader, tmp_path / "file", content)
    fuzz.check(reader, tmp_path / "file", b"c")
