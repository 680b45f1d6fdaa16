"""Writes that fail: nothing half, and a sentence with the path."""

import errno
import os

import pytest

from jaxreid.places import expanded
from jaxreid.runs import files
from jaxreid.runs.files import append, replace_file


@pytest.fixture(params=[errno.ENOSPC, errno.EIO])
def failing(request, monkeypatch):
    """A file system that takes half of what it gets, and fails."""

    def put(file, content):
        file.write(content[: len(content) // 2])
        file.flush()
        raise OSError(request.param, os.strerror(request.param))

    with monkeypatch.context() as patch:
        patch.setattr(files, "put", put)
        yield os.strerror(request.param)


@pytest.mark.parametrize("write", [replace_file, append])
def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, failing, write):
    path = tmp_path / "file"
    path.write_bytes(b"before\n")
    with pytest.raises(OSError, match=f"cannot write {path}: {failing}.*repeat the command"):
        write(path, b"much more than before\n")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"before\n")]


def test_a_nearly_full_disk_takes_parts(tmp_path):
    class Slow:
        content = b""

        def write(self, rest):
            self.content += bytes(rest[:3])
            return len(rest[:3])

        def flush(self):
            pass

    files.put(file := Slow(), b"all of the content")
    assert file.content == b"all of the content"


def test_a_folder_that_vanished_is_named(tmp_path):
    for write in (replace_file, append):
        with pytest.raises(OSError, match=f"cannot write {tmp_path}/gone/file: No such file"):
            write(tmp_path / "gone" / "file", b"")


def test_a_file_system_without_sync_will_do(tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    replace_file(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_home_that_is_not_there_is_said():
    with pytest.raises(ValueError, match="~nobody-of-this-name has no home directory here.*HOME"):
        expanded("~nobody-of-this-name/runs")
