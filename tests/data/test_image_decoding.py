import io

import numpy as np
import pytest
from PIL import Image

from adderkit.data.image import channels, decode


def reopened(image: Image.Image, kind: str = "PNG", **options: object) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return Image.open(io.BytesIO(stream.getvalue()))


GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_grey_and_rgb_are_kept_exactly():
    assert np.array_equal(decode(reopened(Image.fromarray(GREY))), GREY[:, :, None])
    assert np.array_equal(decode(reopened(Image.fromarray(RGB))), RGB)


def test_alpha_is_dropped():
    alpha = np.full((6, 8, 1), 77, np.uint8)
    rgba = Image.fromarray(np.concatenate([RGB, alpha], axis=2))
    assert np.array_equal(decode(reopened(rgba)), RGB)
    la = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha[:, :, 0])])
    assert np.array_equal(decode(reopened(la)), GREY[:, :, None])


def test_sixteen_bits_keep_the_high_byte():
    values = (np.arange(48, dtype=np.uint16) * 1365).reshape(6, 8)
    image = reopened(Image.fromarray(values))
    assert channels(image) == 1
    assert np.array_equal(decode(image)[:, :, 0], values // 256)


def test_bilevel_becomes_0_and_255():
    bits = GREY > 100
    assert np.array_equal(decode(reopened(Image.fromarray(bits)))[:, :, 0], bits * 255)


def test_palette_becomes_its_colours():
    colours = np.array([[0, 0, 0], [250, 10, 20], [30, 240, 50]], np.uint8)
    indices = np.arange(48, dtype=np.uint8).reshape(6, 8) % 3
    image = Image.fromarray(indices)
    image.putpalette(colours.ravel().tolist())  # turns "L" into "P"
    assert np.array_equal(decode(reopened(image)), colours[indices])
    transparent = reopened(image, transparency=bytes([0, 128, 255]))  # a warning of Pillow's would fail here
    assert np.array_equal(decode(transparent), colours[indices])


def test_cmyk_becomes_rgb():
    cmyk = Image.new("CMYK", (8, 6), (0, 255, 255, 0))
    assert decode(cmyk).shape == (6, 8, 3)
    assert np.array_equal(decode(cmyk)[0, 0], [255, 0, 0])


def test_floating_point_is_refused():
    with pytest.raises(ValueError, match="floating-point pixels"):
        decode(Image.fromarray(np.ones((4, 4), np.float32)))


@pytest.mark.parametrize(("height", "width", "size"), [(6, 8, 6), (8, 6, 6), (7, 7, 7), (6, 9, 6)])
def test_centre_crop_without_a_resize_is_exact(height: int, width: int, size: int):
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    top, left = (height - size) // 2, (width - size) // 2
    assert np.array_equal(decode(Image.fromarray(pixels), size), pixels[top : top + size, left : left + size])


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (3, 5), (5, 301)])
def test_resize_keeps_the_proportions(height: int, width: int):
    # a linear ramp along the longer side stays one, whichever way pixels are weighted, but for its ends
    longer, shorter = max(height, width), min(height, width)
    ramp = np.linspace(0, 255, longer)
    pixels = np.broadcast_to(ramp if width > height else ramp[:, None], (height, width)).round().astype(np.uint8)
    fitted = decode(Image.fromarray(pixels), 10)[:, :, 0].astype(float)
    assert fitted.shape == (10, 10)
    along = fitted.mean(axis=0) if width > height else fitted.mean(axis=1)
    resized = round(longer * 10 / shorter)
    positions = ((resized - 10) // 2 + np.arange(10) + 0.5) * longer / resized - 0.5
    expected = 255 * positions / (longer - 1)
    assert np.abs(along - expected).max() < 2
