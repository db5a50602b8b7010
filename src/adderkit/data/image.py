"""Decoding: every image of every source becomes uint8 with one channel or three.

Grey images (1, 8 or 16 bit, with or without alpha) have one channel; all others (RGB, palette, CMYK, YCbCr, with or
without alpha) become RGB. A set with both becomes RGB. 16-bit values keep their high byte, alpha is dropped, the
first frame of an animation counts, and EXIF orientation is not applied.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from adderkit.data.raw import RawSplit

_GREY_MODES = {"1", "L", "LA", "La", "I"}


def channels(image: Image.Image) -> int:
    """1 for a grey image, 3 for a colour one, from its header alone.

    Raises:
        ValueError: Floating-point pixels: their range is not defined.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels; convert the image to 8 or 16 bit")
    return 1 if image.mode in _GREY_MODES or image.mode.startswith("I;16") else 3


def decode(image: Image.Image, size: int | None = None) -> NDArray[np.uint8]:
    """Pixels of an opened image.

    Args:
        image: Any image that Pillow opens, but for floating-point ones.
        size: Length of the shorter side after a bilinear resize; the centre square is kept. None: as it is.

    Returns:
        Shape (H, W, C), uint8, C = 1 (grey) or 3 (RGB).
    """
    target = "L" if channels(image) == 1 else "RGB"
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 0xFFFF) >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about the transparency
    if image.mode != target:
        image = image.convert(target)
    if size is not None:
        image = _fit(image, size)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _fit(image: Image.Image, size: int) -> Image.Image:
    shorter = min(image.size)
    width, height = (max(size, round(side * size / shorter)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def read(raw: RawSplit, row: int, size: int | None) -> NDArray[np.uint8]:
    """Opens and decodes one image of a split; shape (H, W, C), uint8, as `decode`.

    Raises:
        ValueError: The image is broken; the message names it.
    """
    try:
        with raw.open(row) as image:
            return decode(image, size)
    except Exception as error:
        raise _broken(raw.where(row), error) from error


def header(raw: RawSplit, row: int) -> tuple[int, int, int]:
    """Width, height and channels of one image, without decoding its pixels.

    Raises:
        ValueError: The image is broken; the message names it.
    """
    try:
        with raw.open(row) as image:
            return *image.size, channels(image)
    except Exception as error:
        raise _broken(raw.where(row), error) from error


def mixed_sizes(one: str, size: tuple[int, ...], other: str, other_size: tuple[int, ...]) -> ValueError:
    """The error for two images of different sizes (width, height)."""
    sizes = ["x".join(str(side) for side in s) for s in (size, other_size)]
    return ValueError(
        f"image sizes differ: {one} is {sizes[0]}, {other} is {sizes[1]} (width x height); "
        "set `image_size` to resize and crop all images to one size"
    )


def _broken(where: str, error: Exception) -> ValueError:
    """The error for an image that does not decode.

    Pillow's plug-ins raise OSError, SyntaxError, ValueError, struct.error, zlib.error and more for broken files, so
    the callers catch them all and pass them here; the cause stays chained.
    """
    if isinstance(error, UnidentifiedImageError):
        return ValueError(f"{where}: not an image, or of a format that Pillow does not know")
    return ValueError(f"{where}: broken image ({error or type(error).__name__})")
