"""Files of integer networks, and pictures for them, that can't be; tests/runtime has every sentence of the reader."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from bad_case import Case
from bad_files import encoded, picture

sys.path.append(str(Path(__file__).parents[1] / "runtime"))

from network_file import drawn, encode, repaired

_NETWORK, _ARRAYS = drawn(0)
_GOOD = encode(_NETWORK, _ARRAYS)


def predict(content: bytes | None = _GOOD, *words: str) -> Callable[[Path], list[str]]:
    """A network of this content and a good picture; the command line that joins them."""

    def build(root: Path) -> list[str]:
        if content is not None:
            (root / "net.adk").write_bytes(content)
        (root / "cat.png").write_bytes(encoded(picture(8), "PNG"))
        return ["predict", "net.adk", *(words or ("cat.png",))]

    return build


def pictures(name: str, make: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """A good picture, then one that `make` makes."""

    def build(root: Path) -> list[str]:
        make(root / name)
        return [*predict()(root), name]

    return build


def flipped(at: int) -> bytes:
    return _GOOD[:at] + bytes([_GOOD[at] ^ 1]) + _GOOD[at + 1 :]


def unreadable(root: Path) -> list[str]:
    arguments = predict()(root)
    (root / "net.adk").chmod(0)
    return arguments


CASES = [
    Case("missing network", predict(None), ["`net.adk` can't be read: No such file or directory"]),
    Case("unreadable network", unreadable, ["`net.adk` can't be read: Permission denied"], nobody=True),
    Case(
        "folder as network",
        lambda root: ["predict", ".", *predict()(root)[2:]],
        ["`.` can't be read: it is a folder"],
    ),
    Case("network of zero bytes", predict(b""), ["`net.adk` is no integer network of adderkit: it has 0 bytes"]),
    Case("picture as network", predict(encoded(picture(8), "PNG")), ["`net.adk` is no integer network of adderkit"]),
    Case("weights as network", predict(encode(_NETWORK, _ARRAYS, format="pt")), ["`format` (=pt) must be"]),
    Case("network of a newer version", predict(encode(_NETWORK, _ARRAYS, version="2")), ["`version` 2", "version 1"]),
    Case("network cut short", predict(_GOOD[:-9]), ["`net.adk` is damaged: it is cut short"]),
    Case("network with a wrong byte", predict(flipped(len(_GOOD) - 40)), ["`net.adk` is damaged or was altered"]),
    Case("network with a byte too many", predict(_GOOD + b"\n"), ["`net.adk` is damaged or was altered"]),
    Case(
        "altered network with a right checksum",
        predict(repaired(_GOOD.replace(b'\\"shift\\": 1', b'\\"shift\\": 7', 1))),
        ["`net.adk`: `layers[0].shift`"],
    ),
    Case(
        "network with a layer from the future",
        predict(encode(_NETWORK | {"layers": [*_NETWORK["layers"][:-1], {"op": "attention", "name": ""}]}, _ARRAYS)),
        ["`net.adk`: `layers[7].op` (=attention) must be one of adder, convolution, max_pool"],
    ),
    Case("network without pictures", lambda root: predict()(root)[:2], ["name one picture or more"]),
    Case("no classes wanted", predict(_GOOD, "cat.png", "--top", "0"), ["`top` (=0) must be 1 or more"]),
    Case("prediction on many threads", predict(_GOOD, "cat.png", "--threads", "5000"), ["`threads` (=5000)", "4096"]),
    Case("missing picture", predict(_GOOD, "cat.png", "dog.png"), ["dog.png: can't be read (No such file"]),
    Case(
        "text as picture",
        pictures("dog.png", lambda path: path.write_text("a dog")),
        ["dog.png: not an image, or of another format than BMP"],
    ),
    Case("folder as picture", pictures("dogs", Path.mkdir), ["dogs: a folder; name the pictures in it, as dogs/*"]),
    Case("pipe as picture", pictures("pipe", os.mkfifo), ["pipe: no regular file"]),
]
