"""Images of a data set are checked before a run, all broken ones listed together."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxreid.data.sets.checks import ImageCheck
from jaxreid.data.sets.source import Record
from jaxreid.data.split import Split


def encoded(mode="RGB", kind="PNG", size=(16, 20), **options):
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


WHOLE = encoded()


def records(images):
    return [Record(image=x, name=f"{i:02d}.jpg", pid=1, camid=0) for i, x in enumerate(images)]


def test_all_broken_images_are_listed_at_once(tmp_path):
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(encoded(kind="JPEG")[:-60])
    images = [WHOLE, cut, tmp_path / "gone.jpg", *[b"x"] * 11]
    check = ImageCheck("mine")
    kept = list(check.read(records(images)))
    assert [(record.name, data) for record, data in kept] == [("00.jpg", WHOLE)]
    with pytest.raises(ValueError, match="mine: broken images: 13 of 14:\n") as error:
        check.finish()
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == 12
    assert lines[11].startswith("To leave broken images out: --config.data.skip_broken=True")
    assert lines[0].startswith(f"  {cut}: broken image (")
    assert lines[1] == f"  {tmp_path / 'gone.jpg'}: cannot be read (No such file or directory)"
    assert lines[2].startswith("  03.jpg: broken image (not an image")
    assert lines[10] == "  and 3 more"


def test_tiny_images_are_named(caplog):
    check = ImageCheck("mine")
    images = [WHOLE, encoded(size=(1, 1)), encoded(size=(15, 64))]
    assert len(list(check.read(records(images)))) == 3
    check.finish()
    (record,) = caplog.records
    assert "fewer than 16 pixels wide or high: 2 of 3 images (01.jpg, 02.jpg)" in (
        record.getMessage()
    )


def test_images_that_are_not_plain_are_counted_and_named(caplog):
    turned = Image.Exif()
    turned[0x0112] = 6
    images = [WHOLE, *[encoded("I;16")] * 4, encoded(kind="JPEG", exif=turned), encoded(kind="BMP")]
    check = ImageCheck("mine")
    assert len(list(check.read(records(images)))) == 7
    check.finish()
    kinds = [
        "4 of 7 images: 16-bit image, reduced to 8 bits (01.jpg, 02.jpg, 03.jpg, ...)",
        "1 of 7 images: image turned by its EXIF orientation (05.jpg)",
        "1 of 7 images: BMP image (06.jpg)",
    ]
    assert [record.getMessage() for record in caplog.records] == [
        f"mine: {kind}; they are read, but decoded more slowly" for kind in kinds
    ]


def test_splits_in_memory_and_disagreeing_decoders_are_checked():
    zeros = np.zeros(2, np.int32)
    split = Split([WHOLE, b"x"], ["a.png", "b.png"], zeros, zeros, np.zeros(2))
    check = ImageCheck("mine")
    check.look(split)
    with pytest.raises(ValueError, match=r"mine: b.png: broken image \(not an image.*Unpack"):
        check.finish()
    check = ImageCheck("mine", agrees=lambda data, pixels: False)
    assert list(check.read(records([WHOLE]))) == []
    with pytest.raises(ValueError, match=r"mine: 00.jpg: broken image \(damaged, so that decoders"):
        check.finish()
