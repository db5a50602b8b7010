"""Parquet files that can't be."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bad_case import TRAIN, Case
from bad_files import encoded, parquets, picture, table


def with_train(made: Callable[[], pa.Table | bytes], *options: str) -> Callable[[Path], list[str]]:
    return lambda root: [*TRAIN, *parquets(root, train=made()), *options]


def with_test(made: Callable[[], pa.Table | bytes]) -> Callable[[Path], list[str]]:
    return lambda root: [*TRAIN, *parquets(root, test=made())]


def stored(content: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(content, stream)
    return stream.getvalue()


def unnamed(*labels: Any) -> Callable[[Path], list[str]]:
    """Both files without class names, the training images with these labels."""
    return lambda root: [*TRAIN, *parquets(root, labelled(*labels, names=None)(), table(names=None))]


def labelled(*labels: Any, kind: Any = None, **options: Any) -> Callable[[], pa.Table]:
    return lambda: table(labels=pa.array(labels, kind or pa.int64()), **options)


def twice() -> pa.Table:
    made = table()
    return made.append_column("label", made["label"])


def path_only() -> pa.Table:
    return table([{"bytes": None, "path": "../../../etc/passwd"}, *[encoded(picture(seed=i)) for i in range(5)]])


def empty_folder(root: Path) -> list[str]:
    (root / "shards").mkdir()
    return [*TRAIN, "--data.name", "parquet", "--data.train", "shards", "--data.test", "shards"]


def pipe_as_shard(root: Path) -> list[str]:
    """Opening it waits for ever, in a place that no signal interrupts."""
    words = parquets(root)
    (root / "shards").mkdir()
    os.mkfifo(root / "shards" / "train-1.parquet")
    (root / FILE).rename(root / "shards" / "train-0.parquet")
    return [*TRAIN, *(word.replace(FILE, "shards") for word in words)]


def pipe_as_file(root: Path) -> list[str]:
    words = parquets(root)
    (root / FILE).unlink()
    os.mkfifo(root / FILE)
    return [*TRAIN, *words]


def both(root: Path) -> list[str]:
    return [*TRAIN, *parquets(root), "--data.root", "."]


def two_sets(root: Path) -> list[str]:
    for name in ("a-train", "b-train", "a-test"):
        pq.write_table(table(), root / f"{name}.parquet")
    return [*TRAIN, "--data.name", "parquet", "--data.root", "."]


FILE = "train.parquet"

CASES = [
    Case(
        "pipe among parquet files", pipe_as_shard, ["train-1.parquet: not a readable parquet file", "no regular file"]
    ),
    Case("pipe as parquet file", pipe_as_file, ["train.parquet) is no regular file"]),
    Case(
        "parquet without images", with_train(lambda: table().drop(["image"])), [FILE, "no image column", "found label"]
    ),
    Case(
        "parquet without labels", with_train(lambda: table().drop(["label"])), [FILE, "no label column", "found image"]
    ),
    Case("labels that are text", with_train(labelled(*"ababab", kind=pa.string())), ["`label` (=string)", "integers"]),
    Case(
        "labels with fractions",
        with_train(labelled(*[0.0, 1.0] * 3, kind=pa.float64())),
        ["`label` (=double)", "integers"],
    ),
    Case(
        "labels in lists",
        with_train(labelled(*[[0], [1]] * 3, kind=pa.list_(pa.int64()))),
        ["`label` (=list<", "integers"],
    ),
    Case("negative label", with_train(labelled(0, 1, -1, 1, 0, 1)), [f"{FILE}:2: label -1 must be from 0 to 1"]),
    Case(
        "label beyond the class names",
        with_train(labelled(0, 1, 2, 1, 0, 1)),
        [f"{FILE}:2: label 2 must be from 0 to 1"],
    ),
    Case("labels with a gap", unnamed(0, 2, 0, 2, 0, 2), [FILE, "label 2, but no label 1", "anew"]),
    Case("labels from 1", unnamed(1, 2, 1, 2, 1, 2), ["label 1, but no label 0", "0, 1, ..."]),
    Case("label of a million million", unnamed(0, 1, 10**12, 1, 0, 1), ["label 1000000000000, but no label 2"]),
    Case(
        "label beyond 63 bits",
        with_train(labelled(0, 1, 2**64 - 1, 1, 0, 1, kind=pa.uint64())),
        [FILE, "`label`", "18446744073709551615 not in range"],
    ),
    Case("row without a label", with_train(labelled(0, 1, None, 1, 0, 1)), [f"{FILE}:2: no label"]),
    Case(
        "test label that train lacks",
        lambda r: [*TRAIN, *parquets(r, table(names=None), labelled(0, 1, 2, 1, 0, 1, names=None)())],
        ["test.parquet:2: label 2 must be from 0 to 1"],
    ),
    Case("row without an image", with_train(lambda: table([None, *[encoded()] * 5])), [f"{FILE}:0", "no image bytes"]),
    Case(
        "image as a path that leaves the folder", with_train(path_only), [f"{FILE}:0", "a path alone is not followed"]
    ),
    Case("image column of text", with_train(lambda: table(image=["x"] * 6)), ["`image` (=string) must be a struct"]),
    Case(
        "struct without bytes",
        with_train(lambda: table(image=[{"path": "x"}] * 6)),
        ["`image` (=struct<", "{bytes, path}"],
    ),
    Case(
        "broken image in a row",
        with_train(lambda: table([encoded()] * 3 + [encoded()[:90]] + [encoded()] * 2)),
        [f"{FILE}:3: broken"],
    ),
    Case("parquet of no rows", with_train(lambda: table([], pa.array([], pa.int64()))), [FILE, "no images (0 rows)"]),
    Case("truncated parquet", with_train(lambda: stored(table())[:300]), [FILE, "not a readable parquet file"]),
    Case("parquet of zero bytes", with_train(lambda: b""), [FILE, "not a readable parquet file"]),
    Case("picture named .parquet", with_train(lambda: encoded()), [FILE, "not a readable parquet file"]),
    Case("column twice", with_train(twice), [FILE, "2 columns `label`"]),
    Case(
        "class names that differ", with_test(lambda: table(names=("ant", "cat"))), ["class names of", "'cat'", "differ"]
    ),
    Case(
        "class names that are a number",
        with_train(lambda: table(names='{"info": {"features": {"label": {"names": 3}}}}')),
        [FILE, "list of texts"],
    ),
    Case(
        "class list that is empty",
        lambda r: [*TRAIN, *parquets(r, table(names=()), table(names=()))],
        ["the class list is empty"],
    ),
    Case(
        "one class",
        lambda r: [*TRAIN, *parquets(r, *[table(labels=[0] * 6, names=("ant",))] * 2)],
        ["one class (ant)", "at least 2"],
    ),
    Case("damaged metadata", with_train(lambda: table(names="{no json")), [FILE, "metadata `huggingface` is damaged"]),
    Case(
        "metadata nested without end",
        with_train(lambda: table(names="[" * 100_000)),
        [FILE, "metadata `huggingface` is damaged"],
    ),
    Case(
        "test images of another size, parquet",
        with_test(lambda: table([encoded(picture(9))] * 6)),
        ["image sizes differ"],
    ),
    Case(
        "missing parquet",
        lambda root: [*TRAIN, "--data.name", "parquet", "--data.train", "a", "--data.test", "b"],
        ["`data.train` (=", "a) does not exist"],
    ),
    Case("folder without parquet", empty_folder, ["shards) holds no *.parquet file"]),
    Case("folder and files both", both, ["`data.root` (=", "give one or the other"]),
    Case("folder with two sets", two_sets, ["holds several sets (a-train.parquet, b-train.parquet)", "choose one"]),
    Case("train without test", lambda r: [*TRAIN, *parquets(r)[:4]], ["`data.test` (=None)", "give both or neither"]),
]
