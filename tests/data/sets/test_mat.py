"""MATLAB's files: SciPy's values, and no damage that is not said."""

import io
import itertools
import zlib

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from jaxreid.data.sets import mat
from jaxreid.data.sets.mat import read_mat


def cells_of(*values):
    cells = np.empty((2, len(values) // 2), object)
    for i, value in enumerate(values):
        cells[i % 2, i // 2] = value
    return cells


VALUES = {
    "doubles": np.arange(12.0).reshape(3, 4) / 3,
    "bytes": np.array([[1, 255]], np.uint8),
    "integers": np.array([[-5], [2**40]]),
    "empty": np.zeros((0, 3)),
    "word": "1_001_1_01.png",
    "cells": cells_of("a", np.ones((2, 1)), "", np.array([[7]])),
    "structs": np.array([[{"set": "train", "people": np.array([[1, 300]])}]], object),
}


def write(path, values=VALUES, **options):
    savemat(path, values, **options)
    return path


def assert_same(ours, scipys):
    """Compare with what SciPy reads, whose words are arrays and whose structs are records."""
    if isinstance(ours, str):
        assert [ours] == scipys.tolist() or (ours, scipys.size) == ("", 0)
    elif isinstance(ours, dict):
        assert list(ours) == list(scipys.dtype.names)
        for name in ours:
            assert_same(ours[name], scipys[name])
    else:
        assert ours.shape == scipys.shape
        if ours.dtype != object:
            np.testing.assert_array_equal(ours, scipys)
        else:
            for one, other in zip(ours.ravel(), scipys.ravel(), strict=True):
                assert_same(one, other)


@pytest.mark.parametrize("compressed", [False, True])
def test_values_are_scipys(tmp_path, compressed):
    path = write(tmp_path / "a.mat", do_compression=compressed)
    ours, scipys = read_mat(path, VALUES.keys() - {"integers"}), loadmat(path)
    for name, value in ours.items():
        assert_same(value, scipys[name])
    assert read_mat(path, ["integers"])["integers"].tolist() == [[-5], [2**40]]


def test_a_file_of_the_other_byte_order_is_read(tmp_path):
    # An array of doubles, 1 x 2, with the name x.
    words = [6, 8, 6, 0, 5, 8, 1, 2, (1 << 16) | 1, ord("x") << 24, 9, 16]
    element = np.array(words, ">u4").tobytes() + np.array([1.5, -2], ">f8").tobytes()
    header = b" " * 124 + b"\1\0MI" + np.array([14, len(element)], ">u4").tobytes()
    (tmp_path / "a.mat").write_bytes(header + element)
    assert read_mat(tmp_path / "a.mat", ["x"])["x"].tolist() == [[1.5, -2]]


def test_every_file_that_is_cut_or_changed_is_answered(tmp_path):
    file = io.BytesIO()
    savemat(file, VALUES)
    content, path = file.getvalue(), tmp_path / "a.mat"
    cut = (content[:i] for i in range(0, len(content), 40))
    changed = (
        content[:i] + bytes([value]) + content[i + 1 :]
        for i in range(128, len(content), 16)
        for value in (0, 14, 255)
    )
    refused = 0
    for damaged in itertools.chain(cut, changed):
        path.write_bytes(damaged)
        try:
            read_mat(path, VALUES)
        except ValueError as error:
            refused += bool(str(error))
    assert refused > 100


def test_sizes_are_checked_before_memory_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(mat, "_LARGEST", 2**16)
    path = tmp_path / "a.mat"
    flags = np.array([6, 8, 1, 0, 5, 8, 2**31 - 1, 2**31 - 1, 1 | 1 << 16, ord("x")], "<u4")
    header = b" " * 124 + b"\0\1IM"
    path.write_bytes(header + np.array([14, flags.nbytes], "<u4").tobytes() + flags.tobytes())
    with pytest.raises(ValueError, match="cut short"):
        read_mat(path, ["x"])
    endless = zlib.compress(bytes(2**16 + 8))
    path.write_bytes(header + np.array([15, len(endless)], "<u4").tobytes() + endless)
    with pytest.raises(ValueError, match="more than 65,536 bytes"):
        read_mat(path, ["x"])


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="no variable other"):
        read_mat(write(tmp_path / "a.mat"), ["word", "other"])
    (tmp_path / "a.mat").write_bytes(b"\x89HDF")
    with pytest.raises(ValueError, match=r"not a file of MATLAB before version 7\.3"):
        read_mat(tmp_path / "a.mat", ["word"])
