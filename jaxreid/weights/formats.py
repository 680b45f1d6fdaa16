"""File type of weights by the first bytes instead of the suffix."""

import pathlib
import zipfile

from jaxreid.contents import HEAD, content_of

SAFETENSORS = "a safetensors file"
TORCH = "a PyTorch checkpoint"
TORCH_LEGACY = "a PyTorch checkpoint in the format before 1.6"
TORCH_FORMATS = (TORCH, TORCH_LEGACY)
ONNX = "an ONNX file"
PICKLE = "a Python pickle, which could run code when loaded"
UNKNOWN = "in no known format, or damaged"

# Number that torch.save wrote at the start of a pickle before version 1.6.
_LEGACY = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
# A tensor takes at least an eighth of a byte per element; a file that claims more is hostile.
MOST_PER_BYTE = 8


def format_of(path: pathlib.Path) -> str:
    """Name the format of a file, as the end of the sentence "FILE is ...".

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
        if head.startswith(b"PK"):
            return _zip(path)
        file.seek(0, 2)
        return _of(head, file.tell())


def _of(head: bytes, size: int) -> str:
    # A safetensors file begins with the length of its JSON header, at most 100 MB.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000:
        return SAFETENSORS
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return TORCH_LEGACY if _LEGACY in head[:32] else PICKLE
    # ModelProto: the version of the format, then the producer or its version.
    if head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x3a", b"\x42"):
        return ONNX
    return content_of(head, size) or UNKNOWN


def _zip(path: pathlib.Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    # A damaged directory of the archive can raise anything.
    except Exception:
        return "an incomplete ZIP archive, perhaps a PyTorch checkpoint; copy or download it again"
    if any(name.endswith("/constants.pkl") for name in names):
        return (
            "a TorchScript archive; save the weights alone, with "
            "torch.save(torch.jit.load(FILE).state_dict(), ...)"
        )
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return TORCH
    if any(name.endswith(".npy") for name in names):
        return "a NumPy archive (.npz)"
    inside = f", with {names[0]}" if names else ""
    return f"a ZIP archive{inside}; unpack it first"


def check_claim(path: pathlib.Path, elements: int) -> None:
    """Check before memory is taken that a file is large enough for the elements it claims.

    Raises:
        ValueError: more elements than any format stores in a file of this size.
    """
    size = path.stat().st_size
    if elements > MOST_PER_BYTE * size:
        raise ValueError(
            f"{path} has {size:,} bytes and claims {elements:,} numbers; expected at most "
            f"{MOST_PER_BYTE} per byte. The file is refused; download it again from a source that "
            "you trust."
        )
