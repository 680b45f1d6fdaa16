"""Digests of files: any changed byte is seen, unchanged files are not read again."""

import os
import pathlib

import pytest

from jaxreid.data.sets import digests
from jaxreid.data.sets.digests import digests_of


@pytest.fixture
def reads(tmp_path, monkeypatch):
    """Names of the files that are read; files count as settled at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_SETTLED", -10.0)
    names, read = [], pathlib.Path.read_bytes
    monkeypatch.setattr(
        pathlib.Path, "read_bytes", lambda path: names.append(path.name) or read(path)
    )
    return names


def test_unchanged_files_are_read_once_and_any_change_is_seen(tmp_path, reads):
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for path in paths:
        path.write_bytes(path.name.encode())
    first = digests_of(paths, tmp_path)
    assert len(set(first)) == 2
    assert digests_of(paths, tmp_path) == first
    assert sorted(reads) == ["a.jpg", "b.jpg"]
    # Other bytes of the same size, with the old time stamp.
    stat = paths[0].stat()
    paths[0].write_bytes(b"c.jpg")
    os.utime(paths[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = digests_of(paths, tmp_path)
    assert changed[0] != first[0]
    assert changed[1] == first[1]
    assert reads[2:] == ["a.jpg"]


def test_a_file_that_has_just_changed_is_read_again(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(digests, "_SETTLED", 1000.0)
    path = tmp_path / "a.jpg"
    path.write_bytes(b"a")
    for _ in range(2):
        digests_of([path], tmp_path)
    assert reads == ["a.jpg"] * 2


def test_without_a_cache_files_are_read_and_vanished_ones_named(tmp_path, reads):
    (tmp_path / "cache").touch()
    path = tmp_path / "a.jpg"
    path.write_bytes(b"a")
    assert digests_of([path], tmp_path) == digests_of([path], tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="cannot read .*a.jpg: No such file.*Restore"):
        digests_of([path], tmp_path)
