"""Images that can't be, in a folder of good ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bad_case import TRAIN, Case
from bad_files import encoded, photos, picture, png_that_claims
from PIL import Image

FOLDER = [*TRAIN, "--data.name", "imagefolder", "--data.root", "photos"]


def with_image(content: bytes | Callable[[], bytes], name: str = "bad.png", *options: str) -> Callable[..., list[str]]:
    def build(root: Path) -> list[str]:
        photos(root / "photos")
        (root / "photos" / "train" / "ant" / name).write_bytes(content() if callable(content) else content)
        return [*FOLDER, *options]

    return build


def changed(change: Callable[[Path], object], *options: str) -> Callable[[Path], list[str]]:
    def build(root: Path) -> list[str]:
        change(photos(root / "photos"))
        return [*FOLDER, *options]

    return build


def flipped(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 0xFF]) + data[offset + 1 :]


def spoil_all(root: Path) -> None:
    for path in root.rglob("*.png"):
        path.write_bytes(b"")


def spoil_ants(root: Path) -> None:
    for path in root.glob("train/ant/*.png"):
        path.write_bytes(b"")


def folder_for_nobody(root: Path) -> None:
    (root / "train" / "ant").chmod(0)


def file_for_nobody(root: Path) -> None:
    (root / "train" / "ant" / "1.png").chmod(0)


def float_tiff() -> bytes:
    return encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF")


def wide_integers() -> bytes:
    return encoded(Image.fromarray(np.full((8, 8), 70_000, np.int32)), "TIFF")


def empty_train(root: Path) -> None:
    for path in sorted((root / "train").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def without(name: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        (root / name).rename(root.parent / "elsewhere")

    return change


def one_each(root: Path) -> None:
    for path in [*root.glob("*/bee/*"), *root.glob("*/ant/[12].png")]:
        path.unlink()
    for split in ("train", "test"):
        (root / split / "bee").rmdir()


SKIP = ("--data.on_bad_image", "skip")
NARROW = ("--data.image_size", "224")

CASES = [
    Case("image of zero bytes", with_image(b""), ["ant/bad.png: not an image", "on_bad_image` to skip"]),
    Case("image that is text", with_image(b"no picture"), ["ant/bad.png: not an image", "PNG"]),
    Case("truncated PNG", with_image(lambda: encoded()[:120]), ["ant/bad.png: broken image"]),
    Case("truncated JPEG", with_image(lambda: encoded(picture(32), "JPEG")[:-200], "bad.jpg"), ["bad.jpg: broken"]),
    Case("PNG with a wrong byte", with_image(lambda: flipped(encoded(), 60)), ["bad.png: broken image"]),
    Case("floating-point TIFF", with_image(float_tiff, "bad.tif"), ["bad.tif: floating-point", "8 or 16 bit"]),
    Case("32-bit integers", with_image(wide_integers, "bad.tif"), ["integers beyond 0..65535", "8 or 16 bit"]),
    Case("CIELAB image", with_image(lambda: lab(), "bad.tif"), ["mode LAB", "convert the image to RGB"]),
    Case(
        "decompression bomb",
        with_image(lambda: png_that_claims(50_000, 50_000)),
        ["bad.png: more than 89,478,485 pixels", "decompression bomb"],
    ),
    Case(
        "image of 100 million pixels",
        with_image(lambda: png_that_claims(10_000, 10_000)),
        ["bad.png: more than 89,478,485 pixels", "decompression bomb"],
    ),
    Case(
        "program (EPS) named .png",
        with_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n"),
        ["bad.png: not an image, or of another format"],
    ),
    Case(
        "image too narrow to resize",
        with_image(lambda: encoded(picture(1, width=60_000)), "bad.png", *NARROW),
        ["bad.png: too narrow", "`image_size` (=224)"],
    ),
    Case("line break in a file's name", with_image(b"", "a\nb.png"), ["a\\nb.png: not an image"]),
    Case("escape sequence in a file's name", with_image(b"", "\x1b[31m.png"), ["\\x1b[31m.png: not an image"]),
    Case(
        "class folder whose name is no UTF-8",
        changed(
            lambda root: [
                os.rename(os.fsencode(root / s / "bee"), os.fsencode(root / s) + b"/\xff") for s in ("train", "test")
            ]
        ),
        ["class name '\\udcff'", "rename"],
    ),
    Case(
        "pipe among the images",
        changed(lambda root: os.mkfifo(root / "train" / "ant" / "pipe.png")),
        ["pipe.png: no regular file"],
    ),
    Case(
        "link to nowhere among the images",
        changed(lambda root: (root / "train" / "ant" / "link.png").symlink_to("nowhere")),
        ["link.png: can't be read (No such file"],
    ),
    Case(
        "link to itself as image",
        changed(lambda root: (root / "train" / "ant" / "link.png").symlink_to("link.png")),
        ["link.png: can't be read (Too many levels"],
    ),
    Case(
        "link to itself as class",
        changed(lambda root: (root / "train" / "link").symlink_to("link")),
        ["train/link: a link that leads nowhere; remove it"],
    ),
    Case(
        "link to a folder above",
        changed(lambda root: (root / "train" / "ant" / "up").symlink_to("..")),
        ["a link to a folder above it", "remove it"],
    ),
    Case(
        "unreadable class folder",
        changed(folder_for_nobody),
        ["train/ant: the folder can't be read (Permission"],
        nobody=True,
    ),
    Case("unreadable image", changed(file_for_nobody), ["ant/1.png: can't be read (Permission denied)"], nobody=True),
    Case(
        "class folder without images",
        changed(lambda r: (r / "train" / "cat").mkdir()),
        ["train/cat: no images", "*.png"],
    ),
    Case("no class folders", changed(empty_train), ["photos/train: no class folders", "CLASS/IMAGE"]),
    Case(
        "test class that train lacks",
        changed(lambda r: (r / "test" / "cat").mkdir()),
        ["test/cat: no such class in", "ant, bee"],
    ),
    Case("no train folder", changed(without("train")), ["photos) has no folder train", "train/CLASS/IMAGE"]),
    Case("no test folder", changed(without("test")), ["photos) has no folder test or val"]),
    Case("missing data folder", lambda root: FOLDER, ["photos) has no folder train"]),
    Case(
        "data folder that is a file", lambda root: (root / "photos").write_text("x") and FOLDER, ["has no folder train"]
    ),
    Case("no data folder named", lambda root: FOLDER[:-2], ["needs `data.root`"]),
    Case(
        "images of different sizes",
        with_image(lambda: encoded(picture(9))),
        ["image sizes differ", "bad.png is 9x9", "set `data.image_size`"],
    ),
    Case(
        "test images of another size",
        lambda root: photos(root / "photos", test_side=9) and FOLDER,
        ["image sizes differ", "is 8x8", "is 9x9"],
    ),
    Case(
        "skipping leaves a class without images",
        changed(spoil_ants, *SKIP),
        ["(=skip): the class 'ant' has no train images"],
    ),
    Case("skipping leaves nothing", changed(spoil_all, *SKIP), ["(=skip): there are no train images left: 6 of 6"]),
    Case(
        "streamed images, one of text",
        with_image(b"x", "bad.png", "--data.memory_limit_mb", "0"),
        ["bad.png: not an image"],
    ),
    Case(
        "streamed images, one truncated",
        with_image(lambda: encoded()[:120], "0.png", "--data.memory_limit_mb", "0", "--data.workers", "0"),
        ["ant/0.png: broken image"],
    ),
    Case("one training image", changed(one_each), ["one training image", "at least 2"]),
]


def lab() -> bytes:
    image = Image.frombytes("LAB", (8, 8), bytes(192))
    return encoded(image, "TIFF")
