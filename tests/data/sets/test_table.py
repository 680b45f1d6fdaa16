"""A user's images in a table; the same data as in folders and in Market-1501's layout."""

import csv
import datetime
import inspect
import json
import math
import pathlib
import sys

import pytest

from jaxreid.data.sets import parquet_rows
from jaxreid.data.sets.folder import find as find_folder
from jaxreid.data.sets.market1501 import find as find_market
from jaxreid.data.sets.source import split_of
from jaxreid.data.sets.table import find


def touch(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write_csv(path, rows, **options):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path, rows):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


FORMATS = {"csv": write_csv, "jsonl": write_json_lines, "parquet": write_parquet}
every_format = pytest.mark.parametrize("form", FORMATS)
PATHS = ["a/1.jpg", "a/2.jpg", "b/3.jpg"]


def make_table(root, form, columns):
    """Write a table of the images `PATHS`, which exist."""
    touch(root, PATHS)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return FORMATS[form](root / f"t.{form}", rows)


def fields(records):
    return [(r.name, r.pid, r.camid, r.time) for r in records]


@every_format
def test_words_are_numbered_and_empty_cells_are_unknown(tmp_path, form):
    columns = {
        "Path": PATHS,
        "identity": ["zoe", "Ünal, Ö.", None],
        "camera_id": ["cam10", None, "cam2"],
        "timestamp": [0.5, None, 2.0],
        "subset": ["train", "train", "test"],
    }
    source = find(make_table(tmp_path, form, columns | {"subset": ["train", "query", "test"]}))
    assert fields(source.splits["train"]) == [("a/1.jpg", 1, 1, 0.5)]
    (name, pid, camid, time) = fields(source.splits["query"])[0]
    assert (name, pid, camid, math.isnan(time)) == ("a/2.jpg", 2, -1, True)
    assert fields(source.splits["gallery"]) == [("b/3.jpg", -1, 0, 2.0)]


@every_format
def test_integers_are_kept_even_where_empty_cells_made_them_decimal(tmp_path, form):
    columns = {"file": PATHS, "pid": [7.0, None, 0.0], "camid": [-1, 3, 0]}
    source = find(make_table(tmp_path, form, columns), split="none")
    assert [(pid, camid) for _, pid, camid, _ in fields(source.splits["gallery"])] == [
        *((7, -1), (-1, 3), (0, 0))
    ]


def test_a_number_is_the_same_person_however_it_is_written(tmp_path):
    people = [f"{p:0{width}}" for p in range(1, 7) for width in (1, 4)]
    cameras = ["1", "02"] * 6
    names = [f"{i}.jpg" for i in range(12)]
    for name in names:
        (tmp_path / name).touch()
    rows = [",".join(row) for row in zip(names, people, cameras, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["path,person,camera", *rows]))
    source = find(tmp_path / "t.csv")
    of = {split: {r.pid for r in records} for split, records in source.splits.items()}
    assert not of["train"] & (of["query"] | of["gallery"])
    assert {r.camid for records in source.splits.values() for r in records} == {1, 2}


def test_minus_one_is_no_camera_among_words_either(tmp_path):
    table = make_table(tmp_path, "csv", {"path": PATHS, "camera": ["door", "-1", "hall"]})
    assert [r.camid for r in find(table, split="none").splits["gallery"]] == [0, -1, 1]


def test_dates_are_seconds(tmp_path):
    day = datetime.datetime(2024, 1, 31, 9, 30, tzinfo=datetime.UTC)
    dates = ["2024-01-31T09:30:00", "2024-01-31 10:30:00.5+01:00", "2024-01-31T09:31"]
    table = make_table(tmp_path, "csv", {"path": PATHS, "time": dates})
    times = [
        time - day.timestamp() for *_, time in fields(find(table, split="none").splits["gallery"])
    ]
    assert times == [0, 0.5, 60]
    table = make_table(tmp_path, "parquet", {"path": PATHS, "time": [day] * 3})
    assert find(table, split="none").splits["gallery"][0].time == day.timestamp()


def test_marks_blank_lines_and_semicolons_of_spreadsheets_do_not_matter(tmp_path):
    touch(tmp_path, PATHS)
    (tmp_path / "t.csv").write_bytes(
        b"\xef\xbb\xbfpath;person\r\na/1.jpg;a,b\r\n\r\n./a/2.jpg;c\r\n"
    )
    (tmp_path / "t.tsv").write_text('path\tperson\n"a/1.jpg"\ta,b\na/2.jpg\tc')
    for table in ("t.csv", "t.tsv"):
        source = find(tmp_path / table, split="none")
        assert [r.name for r in source.splits["gallery"]] == ["a/1.jpg", "a/2.jpg"]
        assert [r.pid for r in source.splits["gallery"]] == [1, 2]


def test_images_may_be_anywhere(tmp_path):
    touch(tmp_path, ["x/a/1.jpg", "y/2.jpg"])
    rows = [{"path": tmp_path / "x/a/1.jpg"}, {"path": "../y/2.jpg"}]
    (tmp_path / "tables").mkdir()
    table = write_csv(tmp_path / "tables" / "t.csv", rows)
    source = find(table, split="none")
    assert [r.name for r in source.splits["gallery"]] == ["x/a/1.jpg", "y/2.jpg"]


def test_a_name_may_begin_with_a_tilde_and_an_unknown_home_names_the_table(tmp_path):
    touch(tmp_path, ["~1.png", "2.png"])
    table = write_csv(tmp_path / "t.csv", [{"path": "~1.png"}, {"path": "2.png"}])
    assert [r.name for r in find(table, split="none").splits["gallery"]] == ["~1.png", "2.png"]
    table = write_csv(tmp_path / "t.csv", [{"path": "2.png"}, {"path": "~unheardof/1.png"}])
    with pytest.raises(ValueError, match=r"t.csv, row 2: ~unheardof/1.png: ~unheardof has no home"):
        find(table, split="none")


def test_columns_that_are_not_read_are_named(tmp_path):
    table = make_table(tmp_path, "csv", {"path": PATHS, "camrea": "123", "width": "123"})
    notices = find(table, split="none").notices
    assert any("columns that are not read: camrea, width" in notice for notice in notices)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": PATHS}, r"has the columns path; expected person \(pid, person_id, identity\)"),
        ({"pid": [1, 2, 3]}, r"expected path \(file, image\)"),
        ({"path": PATHS, "pid": "123", "person": "123"}, "two columns for the person: pid, person"),
        ({"path": PATHS, "pid": "111", "time": ["1", "noon", ""]}, "row 2: time is 'noon'"),
        (
            {"path": PATHS, "pid": "111", "split": ["train", "val", ""]},
            "row 2: unknown split 'val'",
        ),
        ({"path": PATHS, "pid": "111", "split": ["train", "", ""]}, "without a split: 2 .a/2.jpg"),
        ({"path": ["a/1.jpg", "", "b/3.jpg"], "pid": "111"}, "row 2: no path"),
        (
            {"path": ["a/1.jpg"] * 2 + ["b/3.jpg"], "pid": "112", "split": ["train"] * 3},
            "in train: 1",
        ),
        ({"path": PATHS, "pid": ["", "1", ""], "split": ["train"] * 3}, "without a person: 2 .a/1"),
        ({"path": PATHS, "pid": [1, 2, -7], "split": ["gallery"] * 3}, "b/3.jpg: pid is -7"),
    ],
)
def test_what_is_wrong_with_a_table_is_explained(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        find(make_table(tmp_path, "csv", columns))


def test_missing_images_are_counted(tmp_path):
    touch(tmp_path, PATHS[:1])
    rows = [{"path": name, "pid": 1} for name in [*PATHS, "4.jpg", "5.jpg"]]
    with pytest.raises(
        FileNotFoundError, match=r"missing images: 4 of 5 \(a/2.jpg, b/3.jpg, 4.jpg, ...\)"
    ):
        find(write_csv(tmp_path / "t.csv", rows))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "has no rows"),
        ("t.csv", b"path,person\n", "has no rows"),
        ("t.csv", b"path,person\na,b,c\n", "row 1: more cells than columns .path,person"),
        ("t.csv", b"path\n\xff", "is not UTF-8"),
        ("t.jsonl", b'{"path": 1}\n\nx', "line 3: not JSON"),
        ("t.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("t.jsonl", b"[1]", "line 1: expected an object"),
        ("t.parquet", b"no", "cannot be read as Parquet"),
        ("t.xlsx", b"", r"is not a table; expected a file .csv, .tsv, .parquet"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        find(tmp_path / name)


def test_a_damaged_parquet_names_the_table(tmp_path):
    path = tmp_path / "t.parquet"
    write_parquet(path, [{"path": PATHS[0]}])
    content = path.read_bytes()
    # Within a word: no longer UTF-8, which pyarrow finds as it makes words of it.
    path.write_bytes(content.replace(PATHS[0].encode(), b"\xff" * len(PATHS[0])))
    with pytest.raises(ValueError, match=r"t.parquet cannot be read as Parquet: .*utf-8"):
        find(path)
    write_parquet(path, [{"path": None}] * 100_000)
    assert path.stat().st_size < 10_000
    with pytest.raises(
        ValueError, match=r"cannot be read as Parquet: 100,000 rows in [0-9,]+ bytes"
    ):
        find(path)


def test_parquet_is_read_within_a_limit_of_memory(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    path = tmp_path / "t.parquet"
    write_parquet(path, [{"path": PATHS[0]}])
    # Too little for Arrow itself.
    monkeypatch.setattr(parquet_rows, "__file__", str(tmp_path / "rows.py"))
    source = inspect.getsource(parquet_rows).replace("_MEMORY = 8 * 2**30", "_MEMORY = 2**26")
    (tmp_path / "rows.py").write_text(source)
    with pytest.raises(ValueError, match=r"t.parquet cannot be read as Parquet: ."):
        find(path)
    # The process that reads alone is limited.
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_missing_table_and_a_missing_pyarrow_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no file .*t.csv.* expected a table"):
        find(tmp_path / "t.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").touch()
    with pytest.raises(ValueError, match="pip install pyarrow"):
        find(tmp_path / "t.parquet")


def test_the_fingerprint_follows_the_cells(tmp_path):
    prints = set()
    for person in ("aab", "abb"):
        table = make_table(tmp_path, "csv", {"path": PATHS, "person": person})
        prints.add(find(table, split="none").fingerprint)
    assert len(prints) == 2


MARKET = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0007_c3s2_000100_02.jpg"],
    "query": ["0001_c1s1_001051_00.jpg", "0003_c2s1_000100_00.jpg"],
    "bounding_box_test": [
        *("-1_c1s1_009999_00.jpg", "0000_c3s1_000010_01.jpg", "0001_c1s2_000100_01.jpg"),
        *("0001_c2s1_000200_01.jpg", "0003_c1s1_000300_01.jpg"),
    ],
}


def market_tree(root, place="{part}/{name}"):
    """Write a small Market-1501, with other bytes in each file, to paths made of its names."""
    rows = []
    for part, names in MARKET.items():
        for name in names:
            pid, camera = name.split("_c")[0], name.split("_c")[1][0]
            path = place.format(part=part, name=name, pid=pid, camera=camera)
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(name.encode())
            rows.append({"path": path, "pid": int(pid), "camid": int(camera) - 1, "split": part})
    return root, rows


def evaluated(source):
    """What training and evaluation see of a data set, with people by their order."""
    splits = {
        s: split_of((r, pathlib.Path(r.image).read_bytes()) for r in rs)
        for s, rs in source.splits.items()
    }
    order = sorted({pid for split in splits.values() for pid in split.pid.tolist()})
    return {
        name: (
            split.image,
            [order.index(pid) for pid in split.pid],
            split.labels.tolist(),
            split.camid.tolist(),
        )
        for name, split in splits.items()
    }


@pytest.fixture
def market(tmp_path):
    return find_market(market_tree(tmp_path / "market")[0])


@pytest.mark.parametrize(
    ("place", "options"),
    [
        ("{part}/{pid}/{camera}/{name}", {}),
        ("{part}/{pid}/{name}", {"pattern": "*_c{camid}s*"}),
        ("{part}/{name}", {"pattern": "{pid}_c{camid}s*"}),
        ("{part}/{pid}/{camera}/{name}", {"pattern": "{pid}/{camid}/*"}),
    ],
)
def test_market_in_folders_of_people_is_the_same_data(tmp_path, market, place, options):
    own = find_folder(market_tree(tmp_path / "own", place)[0], **options)
    assert evaluated(own) == evaluated(market)
    assert "junk (person -1) is left out: 1 images" in own.notices[0]


@every_format
def test_market_in_a_table_is_the_same_data(tmp_path, market, form):
    root, rows = market_tree(tmp_path / "own", "images/{name}")
    own = find(FORMATS[form](root / f"t.{form}", rows[::-1]))
    assert evaluated(own) == evaluated(market)
    assert [r.pid for r in own.splits["query"]] == [3, 1]


def test_a_table_of_folders_is_drawn_as_the_folders_are(tmp_path):
    names = [f"p{p}/c{c}/{i}.jpg" for p in range(9) for c in (1, 2) for i in range(3)]
    touch(tmp_path / "x", names)
    rows = [dict(zip(("person", "camera"), n.split("/"), strict=False), path=n) for n in names]
    table = find(write_csv(tmp_path / "x" / "t.csv", rows), seed=5)
    folder = find_folder(tmp_path / "x", seed=5)
    assert {s: sorted(map(str, r)) for s, r in table.splits.items()} == {
        s: sorted(map(str, r)) for s, r in folder.splits.items()
    }
