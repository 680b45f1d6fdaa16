"""Files are named as what they are, whatever their suffix."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from jaxreid.weights import formats
from jaxreid.weights.file import read_card
from jaxreid.weights.torch_checkpoint import read_checkpoint


def archive(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name in names:
            opened.writestr(name, b"x")
    return file.getvalue()


TAR = b"name".ljust(257, b"\0") + b"ustar\x0000" + bytes(200)
LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (safetensors.numpy.save({"x": np.zeros(2)}), "a safetensors file"),
        (archive("archive/data.pkl", "archive/data/0"), "a PyTorch checkpoint"),
        (LEGACY, "a PyTorch checkpoint in the format before 1.6"),
        (archive("net/data.pkl", "net/constants.pkl"), "a TorchScript archive"),
        (archive("x.npy"), "a NumPy archive"),
        (archive("weights.bin"), "a ZIP archive, with weights.bin"),
        (archive("archive/data.pkl")[:40], "an incomplete ZIP archive"),
        (pickle.dumps({"a": 1}, protocol=4), "a Python pickle, which could run code"),
        (b"", "empty"),
        (bytes(5000), "full of zeros"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x08\x07\x12\x07pytorch", "an ONNX file"),
        (b'{"error": "not found"}', "JSON text"),
        (b"Access denied", "text ('Access denied')"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (TAR, "a tar archive"),
        (b"\x01\x02\x03", "in no known format"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_is_named_as_what_it_is(tmp_path, content, words, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert formats.format_of(path).startswith(words)
    # What cannot be read is named so by both readers, with what to have instead.
    if words not in ("a safetensors file", *formats.TORCH_FORMATS):
        for read in (read_card, read_checkpoint):
            with pytest.raises(ValueError, match="expected|If you trust its origin") as error:
                read(path)
            assert words in str(error.value)


def test_a_file_that_claims_more_than_it_holds_is_refused_unread(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("archive/data.pkl", b"x")
        opened.writestr("archive/data/0", bytes(10**6))
    with pytest.raises(ValueError, match=r"claims 1,000,001 numbers; expected at most 8 per byte"):
        read_checkpoint(path)
