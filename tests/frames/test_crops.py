"""People cut out of frames: boxes of every format, folders and videos, and what cannot be cut."""

import csv
import json
import math
import types

import numpy as np
import pytest
from PIL import Image

import jaxreid
from jaxreid import cli
from jaxreid.data import sets
from jaxreid.frames import crops
from jaxreid.frames.crops import PATTERN, cut_boxes
from jaxreid.frames.detections import read_detections
from jaxreid.runs import files as files_of_runs

PEOPLE = [(1, (4, 6, 24, 46), 7), (1, (30, 0, 60, 50), 8), (3, (50, 10, 90, 70), 7)]


def picture(number):
    """A frame of 80 x 60 pixels, other in each number."""
    generator = np.random.default_rng(number)
    return generator.integers(0, 255, (6, 8, 3), np.uint8).repeat(10, 0).repeat(10, 1)


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "door 1"
    folder.mkdir()
    for number in (1, 2, 3):
        Image.fromarray(picture(number)).save(folder / f"img_{number:04d}.png")
    return folder


def mot(path):
    rows = [f"{f},{t},{x},{y},{r - x},{b - y},0.5,-1,-1,-1" for f, (x, y, r, b), t in PEOPLE]
    path.write_text("\n".join(rows) + "\n")
    return path


def coco(path, *, results=False):
    rows = [
        {"image_id": f, "category_id": 1, "bbox": [x, y, r - x, b - y], "track_id": t, "score": 0.5}
        for f, (x, y, r, b), t in PEOPLE
    ]
    if not results:
        rows.append({"image_id": 2, "category_id": 3, "bbox": [0, 0, 40, 40]})
    images = [{"id": f, "file_name": f"img_{f:04d}.png"} for f in (1, 2, 3)]
    kinds = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}]
    whole = {"images": images, "annotations": rows, "categories": kinds}
    path.write_text(json.dumps(rows if results else whole))
    return path


def table(path, names):
    rows = [[f, *(xyxy), t, 0.5] for f, xyxy, t in PEOPLE]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def plain(path, *, lines=False):
    rows = [{"frame": f, "xyxy": xyxy, "id": t, "confidence": 0.5} for f, xyxy, t in PEOPLE]
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    return path


SINK = ("x_min", "y_min", "x_max", "y_max", "tracker_id", "confidence")
FORMATS = {
    "mot": lambda root: mot(root / "det.txt"),
    "mot in csv": lambda root: mot(root / "det.csv"),
    "coco": lambda root: coco(root / "coco.json"),
    "coco results": lambda root: coco(root / "results.json", results=True),
    "csv": lambda root: table(
        root / "boxes.csv", ("frame", "x1", "y1", "x2", "y2", "id", "confidence")
    ),
    "supervision csv": lambda root: table(root / "sink.csv", ("frame_number", *SINK)),
    "json": lambda root: plain(root / "boxes.json"),
    "json lines": lambda root: plain(root / "boxes.jsonl", lines=True),
}


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_every_format_gives_the_same_boxes(tmp_path, make):
    read = read_detections(make(tmp_path))
    frames = [int(str(box.frame).strip("img_.pn")) for box in read.boxes]
    assert frames == [f for f, _, _ in PEOPLE]
    assert [box.xyxy for box in read.boxes] == [xyxy for _, xyxy, _ in PEOPLE]
    assert [box.track for box in read.boxes] == ["7", "8", "7"]
    assert [box.confidence for box in read.boxes] == [0.5] * 3


def test_boxes_of_other_things_are_left_out_and_counted(tmp_path):
    assert "1 of car" in read_detections(coco(tmp_path / "coco.json")).notices[0]
    assert [box.frame for box in read_detections(tmp_path / "coco.json", category="car").boxes] == [
        "img_0002.png"
    ]
    truth = tmp_path / "gt.txt"
    truth.write_text("1,1,5,5,20,40,1,1,0.9\n1,2,5,5,20,40,0,1,0.9\n2,3,5,5,20,40,1,3,1\n")
    read = read_detections(truth)
    assert [(box.frame, box.track) for box in read.boxes] == [(1, "1")]
    assert math.isnan(read.boxes[0].confidence)
    assert "1 of class 3" in read.notices[0]


def test_objects_with_xyxy_are_read_as_supervision_makes_them():
    held = types.SimpleNamespace(
        xyxy=np.array([[1, 2, 30, 40], [5, 5, 9, 9]], np.float32),
        tracker_id=np.array([4, 5]),
        confidence=np.array([0.9, 0.8], np.float32),
        class_id=np.array([0, 2]),
        data={"class_name": np.array(["person", "car"])},
    )
    boxes = read_detections([[], held]).boxes
    assert [(box.frame, box.track, box.category) for box in boxes] == [(1, "4", "person")]
    assert read_detections({3: [[1, 2, 3, 4]]}).boxes[0].frame == 3


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.json", "[]", "holds no boxes"),
        ("a.json", '[{"frame": 1}]', "entry 0: no box among frame"),
        ("a.json", '[{"xyxy": [1, 2, 3, 4]}]', "entry 0: no frame"),
        ("a.json", '[{"frame": 1, "xyxy": [1, 2, 3]}]', "a box of 3 numbers"),
        ("a.json", '{"img.png": [[1, 2, 3]]}', "frame img.png, box 0: 3 numbers"),
        ("a.json", '{"annotations": [{"image_id": 9}]}', "the image_id of one of its images"),
        ("a.csv", "frame,x1,y1,x2,y2\n1,2,x,4,5\n", "row 1: 'x' is not a number"),
        ("a.csv", "frame,x1,y1,x2,y2\n1.5,2,3,4,5\n", "expected a whole number"),
        ("a.csv", "frame,class,x,y,w,h\n1,0,2,3,4,5\n1,7,2,3,4,5\n", "choose one, as in --cat"),
        ("a.txt", "1,2,3\n", "line 1: 3 numbers; expected at least six"),
        ("a.txt", "frame,id\n", "expected numbers"),
        ("a.xml", "", "expected boxes in a file that ends in"),
    ],
)
def test_what_is_wrong_with_detections_is_explained(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        read_detections(tmp_path / name)


def test_crops_are_the_pixels_of_their_boxes_and_read_back_with_camera_and_time(frames, tmp_path):
    out = tmp_path / "crops"
    cut = jaxreid.crop(frames, mot(tmp_path / "det.txt"), out, fps=10, start=5)
    assert [path.name for path in cut.files] == [
        "door-1_t5.000_f000001_00.jpg",
        "door-1_t5.000_f000001_01.jpg",
        "door-1_t5.200_f000003_00.jpg",
    ]
    with Image.open(cut.files[0]) as crop:
        assert crop.size == (20, 40)
        assert np.abs(np.asarray(crop).astype(int) - picture(1)[6:46, 4:24]).mean() < 12
    assert (cut.clipped, cut.there, cut.left_out) == (1, 0, {})
    for name in (f"folder:{out}?pattern={PATTERN}&split=none", f"table:{out}/crops.csv?split=none"):
        gallery = sets.load(name)["gallery"]
        assert gallery.time.tolist() == [5, 5, 5.2]
        assert gallery.camid.tolist() == [0, 0, 0]
        assert gallery.pid.tolist() == [-1, -1, -1]


def test_images_from_0_are_counted_as_the_detections_count_them(frames, tmp_path):
    for number in (1, 2, 3):
        (frames / f"img_{number:04d}.png").rename(frames / f"img_{number - 1:04d}.png")
    cut = jaxreid.crop(frames, mot(tmp_path / "det.txt"), tmp_path / "out")
    assert [path.name.split("_")[2] for path in cut.files] == ["f000001", "f000001", "f000003"]
    cut = jaxreid.crop(frames, {0: [[0, 0, 20, 40]]}, tmp_path / "out", camera="b")
    assert cut.files[0].name == "b_t0.000_f000000_00.jpg"


def test_ids_that_are_people_become_their_folders(frames, tmp_path):
    out = tmp_path / "crops"
    jaxreid.crop(frames, coco(tmp_path / "coco.json"), out, camera="a", people=True)
    gallery = sets.load(f"folder:{out}?pattern={PATTERN}&split=none")["gallery"]
    assert gallery.pid.tolist() == [1, 1, 2]
    assert sets.load(f"table:{out}/crops.csv?split=none")["gallery"].pid.tolist() == [7, 7, 8]


def test_boxes_that_cannot_be_cut_are_counted_with_the_reason(frames, tmp_path):
    boxes = {
        1: [[0, 0, 20, 40], [5, 5, 5, 40], [90, 0, 120, 40], [0, 0, 8, 40], [-5, -5, 30, 50]],
        2: [[float("nan"), 0, 20, 40]],
        9: [[0, 0, 20, 40]],
    }
    cut = jaxreid.crop(frames, boxes, tmp_path / "out")
    assert len(cut.files) == 2
    assert cut.clipped == 1
    assert {reason: len(places) for reason, places in cut.left_out.items()} == {
        "empty, or outside of the frame": 3,
        "lower than 32 or narrower than 16 pixels": 1,
    }
    assert "frame 1, box 1" in cut.left_out["empty, or outside of the frame"]
    assert "missing frames that have boxes: 1 (9)" in cut.notices[-1]


def test_a_call_that_was_stopped_is_continued(frames, tmp_path, monkeypatch):
    out, detections = tmp_path / "out", mot(tmp_path / "det.txt")
    written = []

    def stops(path, content, **options):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        files_of_runs.replace_file(path, content, **options)

    with monkeypatch.context() as patched:
        patched.setattr(crops, "replace_file", stops)
        with pytest.raises(KeyboardInterrupt):
            jaxreid.crop(frames, detections, out)
    assert sorted(out.glob("*.jpg")) == sorted(written)
    again = jaxreid.crop(frames, detections, out)
    assert (len(again.files), again.there) == (3, 2)
    with pytest.raises(ValueError, match=r"other margin: was 0\.0"):
        jaxreid.crop(frames, detections, out, margin=0.1)
    # Another camera joins the table.
    jaxreid.crop(frames, detections, out, camera="b", every=2)
    with (out / "crops.csv").open() as file:
        assert [row["camera"] for row in csv.DictReader(file)] == ["b"] * 2 + ["door-1"] * 3


def test_a_video_is_cut_as_its_frames_are(tmp_path):
    import av

    path = tmp_path / "hall.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 80, 64, "yuv420p", 10**7
        for number in range(5):
            pixels = np.full((64, 80, 3), 40 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    text = "frame,x,y,w,h\n0,0,0,30,60\n3,10,0,30,60\n"
    (tmp_path / "boxes.csv").write_text(text)
    cut = jaxreid.crop(path, tmp_path / "boxes.csv", tmp_path / "out")
    assert [file.name for file in cut.files] == [
        "hall_t0.000_f000000_00.jpg",
        "hall_t0.300_f000003_00.jpg",
    ]
    with Image.open(cut.files[1]) as crop:
        assert np.asarray(crop).mean() == pytest.approx(120, abs=6)
    # Text of MOTChallenge counts from 1.
    (tmp_path / "det.txt").write_text("4,-1,10,0,30,60,1\n")
    first = jaxreid.crop(path, tmp_path / "det.txt", tmp_path / "mot")
    assert [file.name for file in first.files] == ["hall_t0.300_f000004_00.jpg"]
    path.write_bytes(b"not a video")
    with pytest.raises(ValueError, match="not a video that FFmpeg reads"):
        jaxreid.crop(path, tmp_path / "boxes.csv", tmp_path / "out")


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    import sys

    (tmp_path / "a.mp4").write_bytes(b"0")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jaxreid\[video\]'"):
        jaxreid.crop(tmp_path / "a.mp4", [[[0, 0, 9, 9]]], tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["{root}/nothing"], 1, "no frames in"),
        (["{root}/door 1", "--detections={root}/none.csv"], 1, "no file"),
        (["{root}/door 1", "--least=3"], 2, "expected HEIGHTxWIDTH in pixels"),
        (["{root}/door 1", "--start=noon"], 2, "expected seconds, or a date"),
        (["{root}/door 1", "--margin=7"], 1, "margin is 7.0; expected a share"),
        (["{root}/door 1", "--fps=0"], 2, "--fps: expected a number above 0, got 0"),
        (["{root}/door 1", "--category=dog"], 1, "holds no boxes of 'dog'"),
        (["{root}/door 1", "--first-frame=90"], 1, "no box belongs to a frame"),
        (["{root}/door 1/img_0001.png"], 1, "is an image; expected a video"),
    ],
)
def test_mistakes_in_cropping_are_explained(frames, tmp_path, capsys, arguments, status, message):
    mot(tmp_path / "det.txt")
    given = [f"--detections={tmp_path}/det.txt", f"--out={tmp_path}/out"]
    arguments = [argument.replace("{root}", str(tmp_path)) for argument in arguments]
    try:
        ended = cli.main(["crop", *given, *arguments])
    except SystemExit as end:
        ended = end.code
    assert ended == status
    assert message in capsys.readouterr().err


def test_the_verb_reports_what_it_cut_and_how_to_read_it(frames, tmp_path, capsys):
    detections, out = mot(tmp_path / "det.txt"), tmp_path / "out"
    command = ["crop", str(frames), f"--detections={detections}", f"--out={out}"]
    assert cli.main([*command, "--camera=a_b", "--start=1970-01-01T00:01:00"]) == 0
    said = capsys.readouterr().out
    assert "3 crops of 2 frames of camera a-b" in said
    assert f"'folder:{out}?pattern={PATTERN}&split=none'" in said
    assert (out / "a-b_t60.000_f000001_00.jpg").exists()
    assert cli.main([*command, "--camera=a_b", "--start=60", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["there"] == 3


def test_boxes_are_clipped_at_the_frame_and_refused_outside():
    frame = picture(1)
    cut = cut_boxes(frame, [[-5, 10, 12.4, 90], [0, 0, 80, 60]])
    assert [c.shape for c in cut] == [(50, 13, 3), (60, 80, 3)]
    with pytest.raises(ValueError, match=r"nothing inside of the frame.*box 1: \[5.0"):
        cut_boxes(frame, [[0, 0, 9, 9], [5, 5, 5, 9]])
    with pytest.raises(ValueError, match=r"boxes are \[4\]; expected \[N, 4\]"):
        cut_boxes(frame, [0, 0, 9, 9])
