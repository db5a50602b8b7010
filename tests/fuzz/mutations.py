"""Ways to spoil bytes, text and command lines; every choice comes from the given source of random numbers."""

from __future__ import annotations

import json
import random
from typing import Any

import torch

_NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]
_WORDS = [
    *("epochs", "lr", "eta", "seed", "data", "name", "root", "pkkd", "kd", "method", "student", "layer", "teacher"),
    *("null", "true", ".nan", ".inf", "-.inf", "1e400", "-1", "0", "9" * 19, "2020-02-31", "0x", "0o8", "1:60", "~"),
    *("''", '""', "[]", "{}", "!!python/object:os.system", "!!binary", "&a", "*a", "<<", ":", "-", "?", "|", ">"),
    *("%", "@", "`", "\t", "\0", "\x85", "\ud7ff", "\U0001f600"),
]

_OPTIONS = ["--", "--data", "--data.", "--=", "=", "--resume", "--help=1", "../..", "/dev/null"]


def binary(source: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """One to eight changes of any kind."""
    changed = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 3, 8))):
        _spoil(source, changed, others)
    return bytes(changed)


def _spoil(source: random.Random, data: bytearray, others: list[bytes]) -> None:
    kind = source.randrange(9)
    at = source.randrange(len(data) + 1)
    length = min(len(data) - at, int(2 ** source.uniform(0, 10)))
    if kind == 0 and data:  # a bit
        data[at % len(data)] ^= 1 << source.randrange(8)
    elif kind == 1 and data:  # a byte
        data[at % len(data)] = source.choice((0, 1, 0x7F, 0x80, 0xFF, source.randrange(256)))
    elif kind == 2:  # an end cut off
        del data[at:]
    elif kind == 3:  # a piece cut out
        del data[at : at + length]
    elif kind == 4:  # a piece twice
        data[at:at] = data[at : at + length]
    elif kind == 5:  # a number of note
        size = source.choice((2, 4, 8))
        value = source.choice(_NUMBERS) % 2 ** (8 * size)
        data[at : at + size] = value.to_bytes(size, source.choice(("little", "big")))
    elif kind == 6:  # noise
        data[at : at + length] = source.randbytes(length)
    elif kind == 7:  # a piece of another file
        other = source.choice(others)
        start = source.randrange(len(other) + 1)
        data[at : at + length] = other[start : start + length]
    else:  # swapped pieces
        middle = source.randrange(at, len(data) + 1)
        data[at:] = data[middle:] + data[at:middle]


def text(source: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Recipes: words that mean something to YAML or to us, moved lines, and bytes."""
    lines = data.decode().splitlines()
    for _ in range(source.choice((1, 1, 2, 4))):
        at = source.randrange(len(lines) + 1)
        word = source.choice(_WORDS)
        kind = source.randrange(6)
        line = lines[at] if at < len(lines) else ""
        key, colon, _ = line.partition(":")
        if kind == 0:
            lines[at:at] = [f"{word}: {source.choice(_WORDS)}"]
        elif kind == 1 and at < len(lines):
            lines[at] = f"{key}{colon} {word}"
        elif kind == 2 and at < len(lines):
            lines[at] = f"{word}{colon}{line[len(key) + 1 :]}"
        elif kind == 3 and at < len(lines):
            lines[at] = " " * source.randrange(5) + line
        elif kind == 4:
            lines[at:at] = [source.choice(source.choice(others).decode().splitlines() or [""])]
        else:
            lines[at:at] = [source.choice("[{&*!|>'\"-") * source.choice((1, 2, 30, 3000))]
    made = "\n".join(lines).encode()
    return binary(source, made, others) if source.random() < 0.3 else made


def command(source: random.Random, others: list[bytes]) -> bytes:
    """Words of a command line, as JSON."""
    words: list[str] = json.loads(source.choice(others))
    for _ in range(source.choice((1, 1, 2, 3))):
        at = source.randrange(1, len(words) + 1)
        word = source.choice(
            [*_WORDS, "--", "-", "--data", "--data.", "--=", "=", "--resume", "--help=1", "../..", "/dev/null"]
        )
        kind = source.randrange(5)
        if kind == 0:
            words[at:at] = [word]
        elif kind == 1 and at < len(words):
            words[at] = word
        elif kind == 2 and at < len(words):
            del words[at]
        elif kind == 3 and at < len(words):
            words[at] = binary(source, words[at].encode(errors="surrogateescape"), [b"--x"]).decode(
                errors="surrogateescape"
            )
        else:
            more: list[str] = json.loads(source.choice(others))
            words += more[source.randrange(1, len(more)) :]
    return json.dumps(words).encode()


def structure(source: random.Random, value: Any, depth: int = 0) -> Any:
    """A copy of nested containers with one thing in it replaced, left out or put in."""
    if not isinstance(value, (dict, list)) or not value or source.random() < 0.1 * depth:
        return _other(source, value)
    if isinstance(value, dict):
        key = source.choice(list(value))
        kind = source.random()
        if kind < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.2:
            return {**value, source.choice(["x", 3, None]): value[key]}
        return {**value, key: structure(source, value[key], depth + 1)}
    at = source.randrange(len(value))
    return [*value[:at], structure(source, value[at], depth + 1), *value[at + 1 :]]


def _other(source: random.Random, value: Any) -> Any:
    plain = [
        None,
        0,
        -1,
        3,
        2**70,
        0.5,
        float("nan"),
        "",
        "x",
        [],
        [1],
        {},
        {"x": 1},
        True,
        torch.zeros(2),
        torch.ones(()),
    ]
    if not isinstance(value, torch.Tensor) or source.random() < 0.3:
        return source.choice(plain)
    changes = [
        lambda t: t[:0],
        lambda t: t.flatten(),
        lambda t: t * float("nan"),
        lambda t: t.to(torch.int64),
        lambda t: t.to(torch.complex64),
        lambda t: t.to_sparse(),
        lambda t: t[None].expand(10**6, *t.shape),
        lambda t: torch.empty(t.shape, device="meta"),
        lambda t: t.double() * 1e300,
    ]
    return source.choice(changes)(value)
