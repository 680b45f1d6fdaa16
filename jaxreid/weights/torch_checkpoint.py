"""Reading and writing of PyTorch checkpoints.

This is the only module of the package that imports PyTorch, and only while it reads or writes a
file of `torch.save`. A .safetensors file needs no PyTorch.
"""

import io
import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from jaxreid.weights.formats import (
    PICKLE,
    SAFETENSORS,
    TORCH,
    TORCH_FORMATS,
    check_claim,
    format_of,
)
from jaxreid.weights.state_dict import network_of, unwrapped

# Before this version, weights_only could be bypassed: CVE-2025-32434, CVE-2026-24747.
SAFE = (2, 10)
RESAVE = (
    "If you trust its origin, save only its state_dict with torch.save, and convert that: "
    "torch.save(model.state_dict(), FILE)."
)


def read_checkpoint(
    path: pathlib.Path, *, skip: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read the tensors of a network by official name, in float32, without running the file's code.

    Args:
        path: file written by `torch.save` or safetensors, whatever its suffix. The weights may be
            in a section of a training checkpoint ("state_dict", "model", "ema"), also of a section
            of it; QAConv has its matcher under "criterion" beside it.
        skip: prefixes of names to leave out, which decides between several networks.

    Returns:
        Arrays by name, without prefixes of wrappers (`state_dict.unwrapped`); names of the section
        "criterion" get the prefix "criterion.". Messages on sections and prefixes.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has another format, is damaged, claims more numbers than it has bytes
            for, holds more than tensors and plain values, or no weights.
        ModuleNotFoundError: the file needs PyTorch, which is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}.")
    content = _read(path)
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__}; expected a dictionary of weights "
            "(torch.save(model.state_dict(), ...))."
        )
    chosen, messages = network_of(content)
    if not chosen:
        raise ValueError(
            f"{path} holds no weights, only {', '.join(map(str, list(content)[:8])) or 'nothing'}; "
            "expected a dictionary of weights (torch.save(model.state_dict(), ...))."
        )
    check_claim(path, sum(int(np.prod(value.shape, dtype=object)) for value in chosen.values()))
    try:
        tensors, prefixes = unwrapped(chosen, skip)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    return {name: _array(value, name, path) for name, value in tensors.items()}, messages + prefixes


def _array(value: Any, name: str, path: pathlib.Path) -> np.ndarray:
    try:
        if not isinstance(value, np.ndarray):
            value = value.detach().cpu()
            value = value.dequantize() if value.is_quantized else value.to_dense()
            if value.is_complex():
                raise ValueError("the numbers are complex")
            value = value.float().numpy()
        return np.asarray(value, np.float32)
    # PyTorch's tensors without data or of exotic types can raise anything.
    except Exception as error:
        raise ValueError(
            f"{path}: {name} cannot be read as float32 numbers ({error}); leave it out with "
            f"--skip={name}, or save the checkpoint again as float32."
        ) from error


def _read(path: pathlib.Path) -> Any:
    kind = format_of(path)
    if kind == SAFETENSORS:
        return _read_safetensors(path)
    if kind == TORCH:
        with zipfile.ZipFile(path) as archive:
            check_claim(path, sum(entry.file_size for entry in archive.infolist()))
    if kind in TORCH_FORMATS:
        return _read_torch(path)
    if kind == PICKLE:
        raise ValueError(
            f"{path} is {kind}, or a damaged checkpoint. The file is refused. {RESAVE}"
        )
    raise ValueError(
        f"{path} is {kind}; expected a PyTorch checkpoint (torch.save) or a safetensors file."
    )


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            ours = str((file.metadata() or {}).get("format", "")).startswith("jaxreid")
        tensors = {} if ours else safetensors.numpy.load_file(path)
    # Types that NumPy lacks raise other errors than a damaged header.
    except Exception as error:
        raise ValueError(
            f"{path} is not a safetensors file, or is incomplete: {error}. Copy or download it "
            "again."
        ) from error
    if ours:
        raise ValueError(
            f"{path} is a weights file of jaxreid already; start from it with "
            f"--config.init_from={path}."
        )
    return tensors


def _read_torch(path: pathlib.Path) -> Any:
    torch = _torch(
        f"{path.name} is a PyTorch file and PyTorch is not installed: "
        "pip install 'jaxreid[torch]', or use a .safetensors file."
    )
    if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < SAFE:
        raise ValueError(
            f"a malicious file can make PyTorch {torch.__version__} run code; reading one requires "
            f"{SAFE[0]}.{SAFE[1]} or newer: pip install -U torch, or use a .safetensors file."
        )
    # Training checkpoints of torchreid hold NumPy scalars (rank-1 so far), which can only construct
    # numbers. NumPy 1 stored their constructor under another name.
    scalar = np._core.multiarray.scalar
    numbers = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype]
    numbers += map(type, map(np.dtype, ("f4", "f8", "i8")))
    problem: Exception
    try:
        with torch.serialization.safe_globals(numbers), warnings.catch_warnings():
            # Warnings about old file formats.
            warnings.simplefilter("ignore")
            # The encoding is for files written by Python 2.
            # Through an open file, because the suffix would choose the format.
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True, encoding="latin1")
    except pickle.UnpicklingError as error:
        if forbidden := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} is damaged, or holds more than tensors and plain values: it requests "
                f"{forbidden[1]}, and loading that could run code. The file is refused. {RESAVE}"
            ) from error
        if "Weights only load failed" in str(error):
            raise ValueError(
                f"{path} is not in the format of torch.save: a damaged file, or a pickle, which "
                f"could run code when loaded. The file is refused. {RESAVE}"
            ) from error
        problem = error
    except Exception as error:
        # A damaged file can raise anything.
        problem = error
    raise ValueError(
        f"{path} ({path.stat().st_size:,} bytes) is not a PyTorch checkpoint, or is incomplete; "
        "download it again."
    ) from problem


def checkpoint_bytes(
    tensors: Mapping[str, np.ndarray], *, pickled: bool, held_as: str = ""
) -> bytes:
    """Return tensors by official name (`pytorch.published`) as a file for the original code.

    Args:
        tensors: arrays by name.
        pickled: as `torch.save` writes a state dict; those of QAConv in sections "model" and
            "criterion", as its code does. Else a safetensors file with all names in one.
        held_as: prefix of the matcher's names in the section "criterion": "matcher." for QAConv 2,
            whose loss holds its matcher; "" for version 1, whose loss is the matcher.

    Raises:
        ModuleNotFoundError: PyTorch is needed and not installed.
    """
    if not pickled:
        return safetensors.numpy.save(dict(tensors), {"format": "pt"})
    torch = _torch(
        "PyTorch, which writes .pth files, is not installed: pip install 'jaxreid[torch]', or "
        "write a .safetensors file with the same names."
    )
    # Copies: PyTorch would share the memory of arrays, and warns of those that are read-only.
    content: dict[str, Any] = {n: torch.from_numpy(np.array(x)) for n, x in tensors.items()}
    criterion = [name for name in content if name.startswith("criterion.")]
    if criterion:
        names = {name: held_as + name.removeprefix("criterion.") for name in criterion}
        matcher = {new: content.pop(name) for name, new in names.items()}
        content = {"model": content, "criterion": matcher}
    torch.save(content, file := io.BytesIO())
    return file.getvalue()


def _torch(otherwise: str) -> Any:
    """Import PyTorch; without it, raise ModuleNotFoundError with a message."""
    try:
        import torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError(otherwise) from None
    return torch
