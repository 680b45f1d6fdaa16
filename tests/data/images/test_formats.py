"""Image files of every kind: one decoding in training, evaluation and Python, or a refusal."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps, PngImagePlugin

from jaxreid.data.images import decoding, formats
from jaxreid.data.images.formats import is_plain
from jaxreid.data.images.pillow import check_file, read_image
from jaxreid.data.pipeline import ImageStore, train_batches

y, x = np.mgrid[:36, :20]
RGB = Image.fromarray(np.uint8(np.stack([7 * y, 12 * x, 3 * x + 4 * y], -1)))
GREY = RGB.convert("L")
WIDE = np.asarray(GREY).astype(np.uint16)
TURNED = Image.Exif()
TURNED[0x0112] = 6


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(*pixels, bits, colour):
    """A PNG file of a depth that Pillow does not write."""
    file = io.BytesIO()
    height, width = pixels[0].shape
    samples = np.stack(pixels, -1).astype(">u2" if bits == 16 else "u1").reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    file.write(b"\x89PNG\r\n\x1a\n")
    PngImagePlugin.putchunk(
        file, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    )
    PngImagePlugin.putchunk(file, b"IDAT", zlib.compress(rows))
    PngImagePlugin.putchunk(file, b"IEND", b"")
    return file.getvalue()


frames = {"save_all": True, "append_images": [ImageOps.invert(RGB)]}
quantized = RGB.quantize(200)
# The file, what a viewer shows, and whether TensorFlow may decode it.
FILES = {
    "jpeg": (encoded(RGB, "JPEG", quality=98), RGB, True),
    "jpeg_grey": (encoded(GREY, "JPEG", quality=98), GREY, True),
    "jpeg_cmyk": (encoded(RGB.convert("CMYK"), "JPEG", quality=98), RGB, False),
    "jpeg_turned": (
        encoded(RGB.rotate(90, expand=True), "JPEG", quality=98, exif=TURNED),
        RGB,
        False,
    ),
    "jpeg_upright": (encoded(RGB, "JPEG", quality=98, exif=Image.Exif()), RGB, True),
    "jpeg_bad_exif": (encoded(RGB, "JPEG", quality=98, exif=b"Exif\0\0rubbish"), RGB, True),
    "png_turned": (encoded(RGB.rotate(90, expand=True), exif=TURNED), RGB, False),
    "png_palette": (encoded(quantized), RGB, True),
    "png_transparent_palette": (encoded(quantized, transparency=bytes([0, 9, 255])), RGB, True),
    "png_transparent": (encoded(RGB, transparency=(0, 0, 0)), RGB, True),
    "png_alpha": (encoded(RGB.convert("RGBA")), RGB, True),
    "png_grey_alpha": (encoded(GREY.convert("LA")), GREY, True),
    "png_1_bit": (encoded(GREY.convert("1")), GREY.convert("1"), True),
    "png_16_bits": (encoded(Image.fromarray(WIDE * 257)), GREY, False),
    "png_12_of_16_bits": (encoded(Image.fromarray(WIDE * 16)), GREY, False),
    "png_8_of_16_bits": (encoded(Image.fromarray(WIDE)), GREY, False),
    "png_16_bit_colours": (
        png(*(np.asarray(RGB).astype(int) * 257).transpose(2, 0, 1), bits=16, colour=2),
        RGB,
        False,
    ),
    "png_16_bit_alpha": (png(WIDE * 257, WIDE * 0 + 65535, bits=16, colour=4), GREY, False),
    "apng": (encoded(RGB, **frames), RGB, True),
    "gif": (encoded(quantized, "GIF", save_all=True, append_images=[GREY.quantize()]), RGB, False),
    "webp": (encoded(RGB, "WEBP", lossless=True, **frames), RGB, False),
    "bmp": (encoded(RGB, "BMP"), RGB, False),
    "tiff": (encoded(RGB, "TIFF", **frames), RGB, False),
    "tiff_16_bits": (encoded(Image.fromarray(WIDE * 257), "TIFF"), GREY, False),
    "tiff_turned": (encoded(RGB.rotate(90, expand=True), "TIFF", exif=TURNED), RGB, False),
    "ppm": (encoded(RGB, "PPM"), RGB, False),
    "mpo": (encoded(RGB, "MPO", quality=98, **frames), RGB, True),
    "jpeg2000": (encoded(RGB, "JPEG2000"), RGB, False),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file_is_decoded_alike_everywhere(kind, tmp_path):
    data, shown, plain = FILES[kind]
    pixels = read_image(data)
    # 12 levels: JPEG, and palettes of 200 colours.
    assert pixels.shape == (36, 20, 3)
    assert np.abs(pixels.astype(int) - np.asarray(shown.convert("RGB"))).mean() < 12
    np.testing.assert_array_equal(read_image(Image.open(io.BytesIO(data))), pixels)
    np.testing.assert_array_equal(check_file(data)[0], pixels)
    np.testing.assert_array_equal(decoding.decode(tf.constant(data)).numpy(), pixels)
    assert is_plain(data) == plain == (not check_file(data)[1])
    if plain:
        np.testing.assert_array_equal(decoding.decode_plain(tf.constant(data)).numpy(), pixels)


def test_training_sees_other_formats_as_evaluation_does():
    files = [FILES[kind][0] for kind in ("jpeg", "jpeg_turned", "png_12_of_16_bits", "webp")]
    store, order = ImageStore(files, list("abcd")), np.arange(4, dtype=np.int32)[None]
    assert not store.plain
    assert ImageStore(files[:1], ["a"]).plain
    options = {"height": 36, "width": 20, "augment": None, "seed": 0, "epoch": 0}
    (batch,) = train_batches(store, np.zeros(4, np.int32), order, **options)
    np.testing.assert_array_equal(batch["image"], [read_image(file) for file in files])


REFUSED = {
    "bytes": (b"\x01\x02\x03", "not an image, or an unknown format"),
    "text": (b"not an image", "not an image: the file is text"),
    "nothing": (b"", "not an image: the file is empty"),
    "page": (b"<html>404</html>", "the file is a web page"),
    "PDF": (b"%PDF-1.4", "the file is a PDF document"),
    "drawing": (b"<?xml?><svg/>", "the file is an SVG drawing; convert it"),
    "photograph": (b"\0\0\0\x18ftypheic", "the file is a HEIC or AVIF photograph; convert it"),
    "film": (b"\0\0\0\x18ftypisom", "the file is a film"),
    "pointer": (b"version https://git-lfs.github.com", "a Git LFS pointer; fetch"),
    "start of a JPEG": (b"\xff\xd8\xff\xe0", "not an image, or an unknown format"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n", "the file is text"),
    "floats": (
        encoded(Image.fromarray(np.float32(WIDE)), "TIFF"),
        "floating-point numbers; expected 8 or 16 bits",
    ),
    "32 bits": (
        encoded(Image.fromarray(np.int32(WIDE) * 70000), "TIFF"),
        "grey values of 0 to .*; expected 8 or 16 bits",
    ),
    "12 of 16 bits in colour": (
        png(WIDE * 16, WIDE * 9, WIDE * 2, bits=16, colour=2),
        "nearly black; expected 8 bits",
    ),
    "cut": (FILES["webp"][0][:-9], "."),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_shown_is_refused_everywhere(kind):
    data, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        check_file(data)
    with pytest.raises(ValueError, match=f"cannot decode image a.jpg .*{message}"):
        read_image(data, "a.jpg")
    with pytest.raises(ValueError, match=message):
        decoding.decode(tf.constant(data))
    assert kind in ("floats", "32 bits", "12 of 16 bits in colour", "cut") or not is_plain(data)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(formats, "MAX_PIXELS", 36 * 20 - 1)
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(ValueError, match="20 x 36 pixels; expected at most 719"):
        check_file(FILES["jpeg"][0])
    # Pillow refuses twice as many itself.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(ValueError, match="more than 1,438 pixels; expected at most 719"):
        check_file(FILES["jpeg"][0])
