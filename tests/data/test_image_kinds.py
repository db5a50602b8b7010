"""Which kinds of images are converted, and into what; the refused ones are in tests/bad_input."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from adderkit.data.image import FORMATS, channels, decode, header, open_image
from adderkit.data.raw import RawSplit

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
ORIENTATION = 0x112


def reopened(image: Image.Image, kind: str = "PNG", **options: object) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return open_image(io.BytesIO(stream.getvalue()))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("BMP", {}), ("PNG", {}), ("PPM", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}),
     ("WEBP", {"lossless": True})],
)  # fmt: skip
def test_lossless_formats_are_kept_exactly(kind, options):
    assert kind in FORMATS
    assert np.array_equal(decode(reopened(Image.fromarray(RGB), kind, **options)), RGB)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_is_close(mode):
    flat = Image.new("RGB", (16, 16), (200, 40, 90)).convert(mode)
    decoded = decode(reopened(flat, "JPEG", quality=95)).astype(int)
    assert decoded.shape[2] == (1 if mode == "L" else 3)
    assert abs(decoded - np.asarray(flat.convert("L" if mode == "L" else "RGB")).reshape(decoded.shape)).max() <= 4


def test_pair_of_a_stereo_camera_is_its_first_picture():
    """MPO: what many cameras and phones write under the name .jpg."""
    first = Image.new("RGB", (16, 16), (200, 40, 90))
    image = reopened(first, "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))], quality=95)
    assert image.format == "MPO"
    assert abs(decode(image).astype(int) - np.asarray(first)).max() <= 4


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation_counts(kind):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    options = {"lossless": True} if kind == "WEBP" else {}
    image = reopened(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert getattr(image, "n_frames", 1) == 2
    assert np.array_equal(decode(image), np.asarray(frames[0]))


# What a camera stores of the upright picture, by orientation (EXIF 2.32, tag 0x112).
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_images_are_turned_upright(orientation, kind):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](RGB)))
    stream = io.BytesIO()
    stored.save(stream, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    raw = RawSplit(np.zeros(1, np.int64), lambda row: open_image(io.BytesIO(stream.getvalue())), str)
    with raw.open(0) as image:
        assert np.array_equal(decode(image), RGB)
    assert header(raw, 0) == (8, 6, 3)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\xff", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01"])
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_damaged_exif_leaves_the_pixels_as_they_are(exif):
    assert np.array_equal(decode(reopened(Image.fromarray(RGB), exif=exif)), RGB)


def test_cmyk_of_a_printer_is_not_inverted():
    """Adobe's JPEGs store CMYK inverted, which Pillow undoes: paper is white."""
    paper = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    assert decode(reopened(paper, "JPEG", quality=95)).min() > 250


def test_sixteen_bit_colour_keeps_the_high_byte():
    values = np.arange(6 * 8 * 3, dtype=np.uint16).reshape(6, 8, 3) * 400
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 8, 6, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    image = open_image(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts)))
    assert channels(image) == 3
    assert np.array_equal(decode(image), values // 256)


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "ICO", "JPEG2000"])
def test_formats_beyond_the_list_are_not_opened(kind):
    stream = io.BytesIO()
    Image.fromarray(RGB).save(stream, kind)
    assert Image.open(io.BytesIO(stream.getvalue())).format == kind  # Pillow itself would
    with pytest.raises(Exception, match="cannot identify image file"):
        open_image(io.BytesIO(stream.getvalue()))
