"""`adderkit predict`: decodes pictures as the training does, runs an integer network, prints. Imports no torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adderkit import runtime
from adderkit.data import image
from adderkit.data.crops import CentreCrop
from adderkit.data.raw import RawSplit
from adderkit.paths import shown

_BATCH = 64  # pictures decoded at once: 10 MB at 224x224


def run(arguments: list[str], description: str) -> int:
    """Runs `adderkit predict ...` and returns its exit code: 2 where a picture could not be used.

    Raises:
        ValueError: an argument or the network's file can't be.
    """

    def options(
        net: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="NET.adk")],
        images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE...")],
        top: int = 5,
        json: tyro.conf.FlagCreatePairsOff[bool] = False,
        threads: int = 0,
    ) -> tuple[Path, tuple[Path, ...], int, bool, int]:
        """Options of the command.

        Args:
            net: file of an integer network
            images: files of pictures; a folder's are DIR/*
            top: how many classes of each picture
            json: print JSON instead of a table
            threads: how many to use at most; 0: all cores
        """
        return net, images, top, json, threads

    path, images, top, as_json, threads = tyro.cli(
        options, args=arguments, prog="adderkit predict", description=description, use_underscores=True
    )
    if not images:
        raise ValueError("name one picture or more after the network")
    if top < 1:
        raise ValueError(f"`top` (={top}) must be 1 or more")
    net = runtime.load(path)
    size = _size(net)
    found: list[dict[str, Any]] = []
    for start in range(0, len(images), _BATCH):
        found += _predicted(net, size, images[start : start + _BATCH], top, threads)
    for item in found:
        if "error" in item:
            print(f"adderkit predict: {item['error']}", file=sys.stderr)
    if as_json:
        facts = {"net": str(path), "network": net.name, "dataset": net.dataset, "images": found}
        print(json.dumps(facts, indent=1))
    elif any("error" not in item for item in found):
        Console().print(_table(net, found))
    return 2 if any("error" in item for item in found) else 0


def _size(net: runtime.Net) -> image.Size:
    """How pictures come to the size of the network: as its test images did."""
    resize = net.header.get("resize")  # a note of `adderkit quantize`, where the data have `resize`
    if resize is None:
        return net.height, net.width
    if type(resize) is not int or net.height != net.width or not net.width <= resize <= 2**16:
        raise ValueError(
            f"`resize` (={resize!r}) in the network's header must be a whole number from {net.width}, the side of its"
            " square images, to 65536"
        )
    return CentreCrop(net.width, resize)


def _predicted(
    net: runtime.Net, size: image.Size, paths: tuple[Path, ...], top: int, threads: int
) -> list[dict[str, Any]]:
    """For each picture its best classes, or what is wrong with it."""
    items: list[dict[str, Any]] = [{"image": str(path)} for path in paths]
    pixels: list[NDArray[np.uint8]] = []
    for item, path in zip(items, paths, strict=True):
        try:
            pixels.append(_pixels(path, size, net.channels))
        except image.BadImage as error:  # its own text goes on with options of a training
            item["error"] = f"{error.where}: {error.reason}"
        except ValueError as error:
            item["error"] = str(error)
    if not pixels:
        return items
    logits = net(np.stack(pixels), threads).astype(np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    rows = zip(logits, shares, strict=True)
    for item in items:
        if "error" not in item:
            logit, share = next(rows)
            best = np.argsort(-logit, kind="stable")[:top]
            item["classes"] = [{"class": net.classes[k], "index": int(k), "probability": float(share[k])} for k in best]
    return items


def _pixels(path: Path, size: image.Size, channels: int) -> NDArray[np.uint8]:
    if path.is_dir():
        raise ValueError(f"{shown(path)}: a folder; name the pictures in it, as {shown(path)}/*")
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise ValueError(f"{shown(path)}: no regular file")
    one = RawSplit(np.zeros(1, np.int64), lambda _: image.open_image(str(path)), lambda _: shown(path))
    return image.with_channels(image.read(one, 0, size), channels)


def _table(net: runtime.Net, found: list[dict[str, Any]]) -> Table:
    table = Table(title=Text(f"{shown(net.name)}, trained on {shown(net.dataset)}"), title_justify="left")
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    for item in found:
        for place, best in enumerate(item.get("classes", [])):
            name = Text(shown(item["image"]) if place == 0 else "")
            table.add_row(name, Text(shown(best["class"])), f"{100 * best['probability']:.2f} %")
        table.add_section()
    return table
