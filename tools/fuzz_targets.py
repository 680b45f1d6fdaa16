"""What `fuzz.py` reads: for each parser, valid files to start from, and how it is called."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Reader = Callable[[pathlib.Path], object]

MODEL = {
    "backbone": {"name": "resnet18", "cut": "layer1", "width": 1},
    "neck": {"name": "map", "channels": 2, "norm": "none"},
    "matcher": {"name": "qaconv", "head": "v2.1"},
    "height": 8,
    "width": 4,
    "mean": (0.5, 0.5, 0.5),
    "std": (1.0, 1.0, 1.0),
}
# Images in the folder of a data set: of two people by two cameras each, as their names say.
_PHOTOS = ("0001_c1.png", "0001_c2.png", "0002_c1.png", "0002_c2.png")
_MSMT17 = tuple(f"000{p}/000{p}_000_0{c}_0303morning_0006_2.jpg" for p in (0, 1) for c in (1, 2))
_CUHK03 = tuple(f"1_00{p}_{v}_0{5 * v - 4}.png" for p in (1, 2) for v in (1, 2))


@dataclasses.dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
        seeds: returns valid files, from which mutations start.
        reader: imports the parser and returns a function that reads a file.
        file: name of the file, which may be in folders.
        around: writes what the file needs beside it, into a folder.
        named: whether an error names the file or its folder.
    """

    seeds: Callable[[], list[bytes]]
    reader: Callable[[], Reader]
    file: str = "file.bin"
    around: Callable[[pathlib.Path], None] = lambda folder: None
    named: bool = True

    @contextlib.contextmanager
    def place(self) -> Iterator[pathlib.Path]:
        """Return the path of the file in a folder that is removed in the end."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, self.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.around(pathlib.Path(folder))
            yield path


# Weights and models


def _card() -> dict[str, str]:
    return {"format": "jaxreid 1", "model": json.dumps(MODEL), "sha256": "0"}


def _weights() -> list[bytes]:
    import safetensors.numpy

    tensors = {"params/backbone/conv1/kernel": np.ones((7, 7, 3, 1), np.float32)}
    return [safetensors.numpy.save(tensors, _card()), safetensors.numpy.save(tensors)]


def _read_card() -> Reader:
    from jaxreid.weights.file import read_card

    return read_card


def _load_weights() -> Reader:
    from jaxreid.weights.loading import load_weights

    return lambda path: load_weights(path, MODEL)


def _torch() -> list[bytes]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("archive/data.pkl", pickle.dumps({"a": 1}, protocol=2))
    files = [archive.getvalue(), pickle.dumps({"a": [1.5]}, protocol=2), _weights()[1]]
    try:
        import torch
    except ModuleNotFoundError:
        return files
    for new in (True, False):
        file = io.BytesIO()
        held = {"state_dict": {"module.layer1.0.conv1.weight": torch.ones(1, 1)}, "epoch": 1}
        torch.save(held, file, _use_new_zipfile_serialization=new)
        files.insert(0, file.getvalue())
    return files


def _read_torch() -> Reader:
    from jaxreid.weights.torch_checkpoint import read_checkpoint

    return read_checkpoint


def _models() -> list[bytes]:
    return [json.dumps(MODEL).encode()]


def _make_model() -> Reader:
    from jaxreid.models.model import make_model

    def model(path: pathlib.Path) -> object:
        card = _json(path)
        if not isinstance(card, dict) or not card.keys() >= {"backbone", "neck", "matcher"}:
            raise ValueError("not a card")
        size = {"height": card.get("height", 8), "width": card.get("width", 4)}
        return make_model(**{key: card[key] for key in MODEL if key in card} | size)

    return model


def _architectures() -> list[bytes]:
    blocks = ["residual", "sum", "none", "both", "sum", "none"]
    found = {"format": "jaxreid architecture 1", "stem": "instance", "blocks": blocks}
    return [json.dumps(found).encode()]


def _make_architecture() -> Reader:
    from jaxreid import configs
    from jaxreid.models.backbones import make_backbone

    return lambda path: make_backbone(
        **configs.get(f"osnet:synthetic,architecture={path}").model.backbone
    )


# Checkpoints of a run: one of their files is another one. A seed is the number of this file among
# all, in one byte, and its content.


def _save_run(folder: pathlib.Path) -> None:
    import jax

    from jaxreid.models.model import abstract_variables, make_model
    from jaxreid.weights.checkpoint import Checkpoints

    zeros = lambda leaf: np.zeros(leaf.shape, leaf.dtype)  # noqa: E731
    variables = jax.tree.map(zeros, abstract_variables(make_model(**MODEL)))
    with Checkpoints(folder / "run", {"model": MODEL}, every_steps=1) as checkpoints:
        checkpoints.save({"variables": variables}, 1)
        checkpoints.check_saved()


def _files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in (folder / "run").rglob("*") if path.is_file())


def _checkpoints() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        _save_run(pathlib.Path(folder))
        files = _files_of(pathlib.Path(folder))
        return [bytes([number]) + file.read_bytes() for number, file in enumerate(files)]


def _read_run() -> Reader:
    from jaxreid.weights.checkpoint import read_run

    def read(path: pathlib.Path) -> object:
        content = path.read_bytes() or b"\0"
        # Outside the folder of the file: a read may leave something there.
        run = path.parent / "run"
        kept = path.parent / "kept"
        if not kept.exists():
            shutil.copytree(run, kept)
        files = _files_of(path.parent)
        try:
            files[content[0] % len(files)].write_bytes(content[1:])
            return read_run(run)
        finally:
            shutil.rmtree(run)
            shutil.copytree(kept, run)

    return read


# Features


def _stored(suffix: str, kind: str = "features") -> Callable[[], list[bytes]]:
    def written() -> list[bytes]:
        from jaxreid.evaluation.feature_file import StoredFeatures, splits_of, write_stored

        numbers = np.arange(4)
        columns = {"pid": numbers % 2, "camid": numbers // 2, "time": numbers / 2}
        columns["digest"] = numbers.astype(np.uint64)
        query, gallery = splits_of(list("abcd"), list(_PHOTOS), 2, **columns)
        around = {"name": "a set", "query": query, "gallery": gallery}
        files = []
        for card, shape in ((MODEL, (4, 2, 1, 2)), (None, (4, 2))):
            features = StoredFeatures(features=np.ones(shape, np.float32), card=card, **around)
            scores = features.with_scores(np.ones((2, 2), np.float32))
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, f"stored{suffix}")
                write_stored(path, features if kind == "features" else scores)
                files.append(path.read_bytes())
        return files

    return written


def _read_features() -> Reader:
    from jaxreid.evaluation.feature_file import StoredFeatures, read_stored

    return lambda path: read_stored(path, StoredFeatures)


def _read_scores() -> Reader:
    from jaxreid.evaluation.feature_file import StoredScores, read_stored

    return lambda path: read_stored(path, StoredScores)


def _arrays() -> list[bytes]:
    files = [io.BytesIO() for _ in range(2)]
    np.save(files[0], np.ones((4, 3), np.float32))
    np.save(files[1], np.ones((4, 1, 2, 3), np.float16))
    return [file.getvalue() for file in files]


def _read_array_and_table() -> Reader:
    from jaxreid.evaluation.feature_table import features_of_table

    return lambda path: features_of_table(path, path.parent / "table.csv")


def _write_labels(folder: pathlib.Path) -> None:
    (folder / "table.csv").write_bytes(_labels()[0])


def _labels() -> list[bytes]:
    rows = [f"{i % 2},{i // 2},{('query', 'gallery')[i // 2]},{_PHOTOS[i]}" for i in range(4)]
    return ["\n".join(["pid,camid,split,path", *rows]).encode()]


def _read_labels() -> Reader:
    from jaxreid.evaluation.feature_table import features_of_table

    return lambda path: features_of_table(path.parent / "features.npy", path)


def _write_array(folder: pathlib.Path) -> None:
    (folder / "features.npy").write_bytes(_arrays()[0])


# Runs


def _settings() -> list[bytes]:
    from jaxreid import configs

    return [json.dumps(configs.get("qaconv").to_dict()).encode()]


def _resolve() -> Reader:
    from jaxreid.runs import settings

    return lambda path: settings.resolved(_json(path))


def _records() -> list[bytes]:
    record = {"config": {"model": MODEL, "seed": 0}, "seed": 0, "runs": [{"mode": "train"}]}
    return [json.dumps(record).encode()]


def _read_record() -> Reader:
    from jaxreid.runs.record import read_record

    return read_record


def _read_recorded() -> Reader:
    from jaxreid import configs

    return configs._recorded


def _events() -> list[bytes]:
    event = {"kind": "train", "step": 1, "epoch": 0, "loss": 0.5, "time": 1.0}
    return [b"".join(json.dumps(event | {"step": s}).encode() + b"\n" for s in (1, 2, 3))]


def _read_events() -> Reader:
    from jaxreid.runs import log

    return lambda path: log.read_events(path.parent)


# Data sets


def _images() -> list[bytes]:
    from PIL import Image

    files = [io.BytesIO() for _ in range(4)]
    for file, kind in zip(files, ("PNG", "JPEG", "BMP", "WEBP"), strict=True):
        Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 4, 3)).save(file, kind)
    return [file.getvalue() for file in files]


def _read_image() -> Reader:
    from jaxreid.data.images.pillow import read_image

    return read_image


def _write_images(*names: str) -> Callable[[pathlib.Path], None]:
    """Return a function that writes images into a folder."""

    def write(folder: pathlib.Path) -> None:
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_images()[0])

    return write


def _rows() -> list[dict[str, Any]]:
    rows = [
        {"path": name, "person": f"p{name[3]}", "camera": int(name[6]), "time": "2024-01-31T09:30"}
        for name in _PHOTOS
    ]
    splits = ("train", "test", "query", "gallery")
    return [row | {"split": split} for row, split in zip(rows, splits, strict=True)]


def _csv_tables() -> list[bytes]:
    plain = "\n".join(",".join(map(str, row.values())) for row in _rows())
    quoted = "\n".join(f'"{name}";{name[3]};0,5' for name in _PHOTOS)
    return [
        f"path,person,camera,time,split\n{plain}\n".encode(),
        f"image;pid;note\n{quoted}".encode(),
    ]


def _json_tables() -> list[bytes]:
    return ["\n".join(map(json.dumps, _rows())).encode()]


def _parquet_tables() -> list[bytes]:
    import pyarrow
    from pyarrow import parquet

    columns = {
        "strings": _rows(),
        "numbers": [row | {"person": 1, "time": 0.5} for row in _rows()],
    }
    files = []
    for rows in columns.values():
        for compression in ("none", "snappy"):
            file = io.BytesIO()
            parquet.write_table(pyarrow.Table.from_pylist(rows), file, compression=compression)
            files.append(file.getvalue())
    return files


def _find_table() -> Reader:
    from jaxreid.data.sets import table

    return lambda path: table.find(path, split="people")


def _lists() -> list[bytes]:
    lines = [f"{name} {name[3]}" for name in _MSMT17]
    return ["\n".join(lines).encode(), "\r\n".join(lines).encode("utf-8-sig")]


def _around_lists(folder: pathlib.Path) -> None:
    _write_images(*(f"{part}/{name}" for part in ("train", "test") for name in _MSMT17))(folder)
    for part in ("val", "query", "gallery"):
        (folder / f"list_{part}.txt").write_bytes(b"" if part == "val" else _lists()[0])


def _find_msmt17() -> Reader:
    from jaxreid.data.sets import msmt17

    return lambda path: msmt17.find(path.parent, train_split="train")


def _splits() -> list[bytes]:
    listed = [[f"/data/{name}", 1, 0] for name in _PHOTOS]
    return [
        json.dumps([{"train": listed[:2], "query": listed[2:3], "gallery": listed[3:]}]).encode()
    ]


def _read_splits() -> Reader:
    from jaxreid.data.sets.halves import listed_split
    from jaxreid.data.sets.source import Record

    records = [Record(image=name, name=name, pid=int(name[3]), camid=0) for name in _PHOTOS]
    return lambda path: listed_split(path, 0, records)


def _saved_mat(**arrays: Any) -> bytes:
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, arrays, do_compression="kept" in arrays)
    return file.getvalue()


def _grid() -> list[bytes]:
    cells = np.empty((1, 1), object)
    cells[0, 0] = {"set": "train", "kind": "id", "people": np.array([[1, 2]])}
    return [_saved_mat(trainIdxAll=cells), _saved_mat(trainIdxAll=cells, kept=np.ones(1))]


def _find_grid() -> Reader:
    from jaxreid.data.sets import grid

    return lambda path: grid.find(path.parent)


def _protocols() -> list[bytes]:
    names = np.empty((len(_CUHK03), 1), object)
    names[:, 0] = _CUHK03
    held = {"filelist": names, "labels": [[int(name[4])] for name in _CUHK03]}
    held |= {"train_idx": [[1], [2]], "query_idx": [[3]], "gallery_idx": [[4]]}
    return [_saved_mat(**held), _saved_mat(**held, kept=np.ones(1))]


def _archives() -> list[bytes]:
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        empty = opened.create_dataset("#refs#/empty", data=np.zeros(2, np.uint64))
        pairs = opened.create_dataset("detected", (1, 1), h5py.ref_dtype)
        people = opened.create_dataset("#refs#/pair", (10, 2), h5py.ref_dtype)
        people[:] = empty.ref
        for name in _CUHK03:
            _, person, _, image = map(int, name.removesuffix(".png").split("_"))
            cell = opened.create_dataset(f"#refs#/{name}", data=np.ones((3, 4, 8), np.uint8))
            people[image - 1, person - 1] = cell.ref
        pairs[0, 0] = people.ref
        tested = opened.create_dataset("#refs#/tested", data=[[1.0], [2.0]])
        sets = opened.create_dataset("testsets", (1, 1), h5py.ref_dtype)
        sets[0, 0] = tested.ref
    return [file.getvalue()]


def _around_cuhk03(folder: pathlib.Path) -> None:
    for name, seeds in (("cuhk-03.mat", _archives), (_PROTOCOL, _protocols)):
        (folder / name).write_bytes(seeds()[0])


def _find_cuhk03_np() -> Reader:
    from jaxreid.data.sets import cuhk03_np

    def read(path: pathlib.Path) -> object:
        source = cuhk03_np.find(path.parent)
        return {split: list(records) for split, records in source.splits.items()}

    return read


def _find_cuhk03() -> Reader:
    from jaxreid.data.sets import cuhk03

    def read(path: pathlib.Path) -> object:
        source = cuhk03.find(path.parent)
        return {split: list(records) for split, records in source.splits.items()}

    return read


def _file_names() -> list[bytes]:
    parts = ("bounding_box_train", "query", "bounding_box_test")
    market = [f"{part}/000{i}_c{i}s1_000151_00.jpg" for i, part in enumerate(parts, 1)]
    others = ["p00001_n01_a01_1.jpg", "0000001_s01_c02_f001.jpg", "Img_1_2.jpg", "0001001.png"]
    own = [f"{name[:4]}/{name}" for name in _PHOTOS]
    return ["\n".join(names).encode() for names in (market, [*others, *_PHOTOS], own)]


def _inspect() -> Reader:
    """Return a reader of a folder of images with the paths in a file, by every layout."""
    from jaxreid.data.sets.inspection import inspect

    def read(path: pathlib.Path) -> object:
        with tempfile.TemporaryDirectory() as folder:
            for name in path.read_bytes().replace(b"\0", b"").split(b"\n")[:20]:
                parts = [part[:200] for part in os.fsdecode(name).split("/")[:5]]
                image = pathlib.Path(folder, *(p for p in parts if p not in ("", ".", "..")))
                # What is there already may be a file where a folder is wanted.
                with contextlib.suppress(OSError):
                    image.parent.mkdir(parents=True, exist_ok=True)
                    image.write_bytes(b"")
            return inspect(folder)

    return read


def _set_names() -> list[bytes]:
    return [
        b"msmt17:/data/msmt?combine_all=True",
        b"synthetic_people/plaza?train_ids=4&seed=3",
        b"viper?split=0..9",
        b"market1501-seed=3:/data/market",
        b"package_that_is_not_there.module:function?a=1.5&b=None",
    ]


def _parse_set_name() -> Reader:
    import typing

    from jaxreid.data.sets import SETS, market1501, synthetic_people
    from jaxreid.data.sets.naming import checked, parse_name, spread

    declared = typing.get_type_hints(market1501.find) | typing.get_type_hints(synthetic_people.find)

    def read(path: pathlib.Path) -> object:
        named = parse_name(os.fsdecode(path.read_bytes()), SETS.names)
        for key, value in named.options:
            checked(key, value, declared.get(key, str))
        return spread(named)

    return read


def _json(path: pathlib.Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


_PROTOCOL = "cuhk03_new_protocol_config_detected.mat"
_IMAGES_OF_GRID = tuple(
    f"{part}/000{pid}_{1 + i}_25_1_2_3_4.jpeg"
    for i, part in enumerate(("probe", "gallery"))
    for pid in (1, 2, 3, 4)
)
TARGETS = {
    "card": Target(_weights, _read_card, "file.safetensors"),
    "weights": Target(_weights, _load_weights, "file.safetensors"),
    "torch": Target(_torch, _read_torch, "file.pth"),
    "model": Target(_models, _make_model, named=False),
    "checkpoint": Target(_checkpoints, _read_run, around=_save_run),
    "features": Target(_stored(".safetensors"), _read_features, "features.safetensors"),
    "features_npz": Target(_stored(".npz"), _read_features, "features.npz"),
    "scores": Target(_stored(".npz", "scores"), _read_scores, "scores.npz"),
    "features_npy": Target(_arrays, _read_array_and_table, "features.npy", _write_labels),
    "features_table": Target(_labels, _read_labels, "table.csv", _write_array),
    "settings": Target(_settings, _resolve, named=False),
    "record": Target(_records, _read_record, "config.json"),
    "recorded": Target(_records, _read_recorded, "config.json"),
    "architecture": Target(_architectures, _make_architecture),
    "events": Target(_events, _read_events, "metrics.jsonl"),
    "image": Target(_images, _read_image),
    "csv": Target(_csv_tables, _find_table, "table.csv", _write_images(*_PHOTOS)),
    "json_lines": Target(_json_tables, _find_table, "table.jsonl", _write_images(*_PHOTOS)),
    "parquet": Target(_parquet_tables, _find_table, "table.parquet", _write_images(*_PHOTOS)),
    "lists": Target(_lists, _find_msmt17, "list_train.txt", _around_lists),
    "splits": Target(_splits, _read_splits, "splits.json"),
    "grid": Target(
        _grid, _find_grid, "features_and_partitions.mat", _write_images(*_IMAGES_OF_GRID)
    ),
    "protocol": Target(_protocols, _find_cuhk03_np, _PROTOCOL, _around_cuhk03),
    "archive": Target(_archives, _find_cuhk03, "cuhk-03.mat"),
    "file_names": Target(_file_names, _inspect, named=False),
    "set_name": Target(_set_names, _parse_set_name, named=False),
}
