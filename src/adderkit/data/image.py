"""Decoding: every image of every source becomes uint8 with one channel or three.

Grey images (1, 8 or 16 bit, with or without alpha) have one channel; all others (RGB, palette, CMYK, YCbCr, with or
without alpha) become RGB. A set with both becomes RGB. 16-bit values keep their high byte, alpha is dropped (the
colours below it count), the first frame of an animation counts, and images are turned as their EXIF orientation says.
Refused, by name: other formats and modes than these, floating-point pixels, integers beyond 16 bits, images of more
than 89 million pixels. `docs/bad-input.md` lists it all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from adderkit.data.raw import RawSplit

# Pillow knows more, of which some start other programs (EPS runs Ghostscript): files may come from anywhere.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Where Pillow begins to suspect a decompression bomb: 256 MiB of RGB, a square of 9,459 pixels.
MAX_PIXELS = 89_478_485
_GREY_MODES = {"1", "L", "LA", "I"}
_COLOUR_MODES = {"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}
Size = int | tuple[int, int] | Callable[[Image.Image], Image.Image] | None
"""What is done to a decoded image: (height, width) that a bilinear resize just covers, of which the centre is kept; a
number is that of a square, so the length of the shorter side. Or any other way (`adderkit.data.crops`). None: nothing.
"""
_REMEDY = "mend or remove it, or set `data.on_bad_image` to skip (a run under way needs it mended)"


class BadImage(ValueError):
    """An image that can't be used, however often it is read.

    Attributes:
        where: Its file, or file and row.
        reason: What is wrong with it.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}; {_REMEDY}")
        self.where, self.reason = where, reason


class Unsupported(ValueError):
    """A whole image of a kind that is not read; the text says which, and what to do."""


def open_image(file: str | BinaryIO) -> Image.Image:
    """Opens an image of one of `FORMATS`; pixels are decoded later."""
    return Image.open(file, formats=FORMATS)


def channels(image: Image.Image) -> int:
    """1 for a grey image, 3 for a colour one, from its header alone.

    Raises:
        Unsupported: Floating-point pixels, whose range is not defined, or a mode that is not supported.
    """
    if image.mode in _GREY_MODES or image.mode.startswith("I;16"):
        return 1
    if image.mode in _COLOUR_MODES:
        return 3
    if image.mode == "F":
        raise Unsupported("floating-point pixels; convert the image to 8 or 16 bit")
    raise Unsupported(f"pixels of the mode {image.mode}; convert the image to RGB or grey")


def decode(image: Image.Image, size: Size = None) -> NDArray[np.uint8]:
    """Pixels of an opened image.

    Args:
        image: As `open_image` gives it.
        size: What is done to it.

    Returns:
        Shape (H, W, C), uint8, C = 1 (grey) or 3 (RGB).

    Raises:
        Unsupported: A kind that is not read, or an image too narrow for `size`.
        Exception: Whatever Pillow raises for a broken image; `read` names it.
    """
    target = "L" if channels(image) == 1 else "RGB"
    _check_pixels(image.size)
    turn = _turn(image)
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about the transparency
    if image.mode != target:
        image = image.convert(target)
    if turn is not None:
        image = image.transpose(turn)
    if callable(size):
        image = size(image)
    elif size is not None:
        image = fit(image, size)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _check_pixels(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{size[0]}x{size[1]} pixels")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What puts the image upright. Pillow turns TIFF files by itself."""
    if image.format == "TIFF" or "exif" not in image.info:
        return None
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises anything for damaged EXIF, and the pixels may be whole
        return None


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min(initial=0) < 0 or values.max(initial=0) > 0xFFFF:
        raise Unsupported("integers beyond 0..65535; convert the image to 8 or 16 bit")
    return Image.fromarray((values >> 8).astype(np.uint8))


def fit(image: Image.Image, size: int | tuple[int, int], option: str = "image_size") -> Image.Image:
    """Resizes until `size` is just covered, and keeps the centre; `option` names `size` in messages."""
    height, width = (size, size) if isinstance(size, int) else size
    if image.width * height < image.height * width:
        covering = width, max(height, round(image.height * width / image.width))
    else:
        covering = max(width, round(image.width * height / image.height)), height
    if covering != image.size:
        if covering[0] * covering[1] > MAX_PIXELS:
            raise Unsupported(
                f"too narrow: its {image.width}x{image.height} pixels are {covering[0]}x{covering[1]} at `{option}`"
                f" (={size})"
            )
        image = image.resize(covering, Image.Resampling.BILINEAR)
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def with_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Decoded pixels (H, W, C) with one channel, by Pillow's weights for grey, or with three."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]


def read(raw: RawSplit, row: int, size: Size) -> NDArray[np.uint8]:
    """Opens and decodes one image of a split; shape (H, W, C), uint8, as `decode`.

    Raises:
        BadImage: The image is broken or of a kind that is not supported; the message names it.
        ValueError: It could not be read at all, or memory did not suffice.
    """
    try:
        with raw.open(row) as image:
            return decode(image, size)
    except Exception as error:
        raise _named(raw.where(row), error) from error


def header(raw: RawSplit, row: int) -> tuple[int, int, int]:
    """Width, height and channels of one image, without decoding its pixels.

    Raises:
        BadImage, ValueError: As `read`.
    """
    try:
        with raw.open(row) as image:
            colours = channels(image)
            _check_pixels(image.size)
            width, height = image.size
            return (height, width, colours) if _turn(image) in _SIDEWAYS else (width, height, colours)
    except Exception as error:
        raise _named(raw.where(row), error) from error


def mixed_sizes(one: str, size: tuple[int, ...], other: str, other_size: tuple[int, ...]) -> ValueError:
    """The error for two images of different sizes (width, height)."""
    sizes = ["x".join(str(side) for side in s) for s in (size, other_size)]
    return ValueError(
        f"image sizes differ: {one} is {sizes[0]}, {other} is {sizes[1]} (width x height); "
        "set `data.image_size` to resize and crop all images to one size"
    )


def _named(where: str, error: Exception) -> ValueError:
    """The error for an image that does not decode, with its name.

    Pillow's plug-ins raise OSError, SyntaxError, ValueError, struct.error, zlib.error and more for broken files, so
    the callers catch them all and pass them here; the cause stays chained. An OSError of the system itself (no
    permission, a disk that fails) has a number, and says nothing about the image.
    """
    if isinstance(error, MemoryError):
        return ValueError(f"{where}: not enough memory to decode it")
    if isinstance(error, OSError) and error.errno is not None:
        return ValueError(f"{where}: can't be read ({error.strerror}); check the file and its permissions")
    if isinstance(error, Unsupported):
        return BadImage(where, str(error))
    if isinstance(error, UnidentifiedImageError):
        return BadImage(where, f"not an image, or of another format than {', '.join(FORMATS)}")
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return BadImage(where, f"more than {MAX_PIXELS:,} pixels, which could be a decompression bomb ({error})")
    return BadImage(where, f"broken image ({error or type(error).__name__})")
