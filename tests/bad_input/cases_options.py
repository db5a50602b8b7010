"""Recipes, options and folders that can't be."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from bad_case import TRAIN, Case


def recipe(content: str | bytes) -> Callable[[Path], list[str]]:
    def build(root: Path) -> list[str]:
        (root / "bad.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
        return ["train", "bad.yaml", "--out", "run"]

    return build


def given(*options: str) -> Callable[[Path], list[str]]:
    return lambda root: [*TRAIN, "--data.train_rows", "0:32", *options]


def line(text: str) -> Callable[[Path], list[str]]:
    return lambda root: text.split()


def out(make: Callable[[Path], object], folder: str = "run") -> Callable[[Path], list[str]]:
    def build(root: Path) -> list[str]:
        make(root)
        return ["train", "--out", folder]

    return build


def pipe(root: Path) -> list[str]:
    os.mkfifo(root / "bad.yaml")
    return ["train", "bad.yaml", "--out", "run"]


_held: list[object] = []  # an open file keeps its lock


def in_use(root: Path) -> None:
    (root / "run").mkdir()
    file = open(root / "run" / ".lock", "w")  # noqa: SIM115
    fcntl.flock(file, fcntl.LOCK_EX)
    _held.append(file)


def release() -> None:
    while _held:
        _held.pop().close()  # type: ignore[attr-defined]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
R = "recipe `bad.yaml`"

CASES = [
    Case("recipe with an unknown key", recipe("epoch: 3\n"), [R, "unknown key `epoch` (=3)", "did you mean epochs?"]),
    Case("recipe with an unknown key in a group", recipe("data: {nam: x}\n"), [R, "`data.nam`", "did you mean name?"]),
    Case("recipe with a group's key outside", recipe("beta: 3\n"), [R, "unknown key `beta`", "did you mean pkkd.beta"]),
    Case(
        "recipe with a dotted key",
        recipe("data.name: digits\n"),
        [R, "unknown key `data.name`", "write `data: {name: ...}`"],
    ),
    Case("recipe with text for a number", recipe("epochs: many\n"), [R, "`epochs` (='many')", "integer"]),
    Case("recipe with true for a number", recipe("epochs: true\n"), [R, "`epochs` (=True)", "must be a number"]),
    Case("recipe with a fraction of an epoch", recipe("epochs: 1.5\n"), [R, "`epochs` (=1.5)", "integer"]),
    Case("recipe with a NaN", recipe("lr: .nan\n"), [R, "`lr` (=nan)", "finite"]),
    Case("recipe with an infinity", recipe("pkkd: {beta: .inf}\n"), [R, "`pkkd.beta` (=inf)", "finite"]),
    Case("recipe with a null", recipe("epochs:\n"), [R, "`epochs` (=None)"]),
    Case("recipe with a number for a group", recipe("pkkd: 3\n"), [R, "`pkkd` (=3)", "must be a group of options"]),
    Case("recipe with a date", recipe("data: {label: 2020-02-02}\n"), [R, "`data.label`", "string"]),
    Case("recipe with a date that is none", recipe("seed: 2020-02-31\n"), [R, "day"]),
    Case(
        "recipe that calls",
        recipe("seed: !!python/object/apply:os.system [touch called]\n"),
        [R, "line 1", "tag", "only plain values"],
    ),
    Case("recipe that builds a set", recipe("data: !!set {a, b}\n"), [R, "tag `tag:yaml.org,2002:set`"]),
    Case("recipe with a billion values", recipe(BOMB), [R, "line 2", "alias `*a`: write the value itself"]),
    Case("recipe with a key twice", recipe("epochs: 3\nlr: 1\nepochs: 4\n"), [R, "line 3", "`epochs` is given twice"]),
    Case("recipe with a group twice", recipe("data: {name: digits}\ndata: {}\n"), [R, "`data` is given twice"]),
    Case("recipe nested without end", recipe("[" * 20_000), [R, "more than 10 levels"]),
    Case("recipe of a million characters", recipe("# " + "x" * 10**6), [R, "more than 65536 characters"]),
    Case("recipe with a number of 5,000 digits", recipe(f"seed: {'9' * 5000}\n"), [R, "digits"]),
    Case(
        "recipe with a number of 5,000 digits in hex",
        recipe(f"seed: 0x{'9' * 5000}\n"),
        [R, "`seed`", "too long to show"],
    ),
    Case("recipe that is a list", recipe("- epochs\n"), [R, "must be a mapping", "list"]),
    Case("recipe that is text", recipe("epochs\n"), [R, "must be a mapping", "str"]),
    Case("recipe that is no YAML", recipe("epochs: [\n"), [R, "no YAML"]),
    Case("recipe with numbers as keys", recipe("1: 2\n"), [R, "unknown key `1`", "keys are words"]),
    Case("recipe with a list as key", recipe("? [a, b]\n: 2\n"), [R, "unhashable key"]),
    Case("recipe of random bytes", recipe(bytes(range(256))), [R, "can't be read", "utf-8"]),
    Case("recipe with a NUL", recipe('data: {label: "a\\0b"}\n'), [R, "`data.label`", "without NUL"]),
    Case("recipe with a lone surrogate", recipe('data: {label: "\\ud800"}\n'), [R, "`data.label`", "UTF-8"]),
    Case("recipe that is a picture", recipe(b"\x89PNG\r\n\x1a\n\0\0\0"), [R, "can't be read"]),
    Case(
        "recipe that is a folder",
        lambda r: (r / "bad.yaml").mkdir() or ["train", "bad.yaml", "--out", "run"],
        [R, "no regular file"],
    ),
    Case("recipe that is a pipe", pipe, [R, "no regular file"]),
    Case("missing recipe", line("train none.yaml --out run"), ["recipe `none.yaml` can't be read", "No such file"]),
    Case("unknown command", line("trian --out run"), ["no command `trian`", "train, eval"]),
    Case("unknown option", line("train --out run --epoch 3"), ["--epoch", "--epochs"]),
    Case("no folder for the run", line("train"), ["--out"]),
    Case("text for a number", given("--epochs", "many"), ["--epochs", "many"]),
    Case("argument that is no UTF-8", given("--data.label", "\udcff"), ["argument '\\udcff' must be UTF-8"]),
    Case("unknown method", given("--method", "pkd"), ["`method` (='pkd')", "kd, none, pkkd"]),
    Case("unknown network", given("--student", "resnet21"), ["`student` (='resnet21')", "resnet20"]),
    Case("unknown layer", given("--layer", "shift"), ["shift", "adder", "conv"]),
    Case("unknown data", given("--data.name", "digit"), ["`data.name` (='digit')", "Did you mean digits"]),
    Case("no epochs", given("--epochs", "0"), ["`epochs` (=0)", "greater than or equal to 1"]),
    Case("negative seed", given("--seed", "-1"), ["`seed` (=-1)", "greater than or equal to 0"]),
    Case("seed of 64 bits", given("--seed", str(2**63)), [f"`seed` (={2**63})", "less than"]),
    Case("batch of one image", given("--batch_size", "1"), ["`batch_size` (=1)", "greater than or equal to 2"]),
    Case("batch larger than the set", given("--batch_size", "33"), ["`batch_size` (=33)", "32, the number of images"]),
    Case("negative learning rate", given("--lr", "-0.1"), ["`lr` (=-0.1)", "greater than or equal to 0"]),
    Case("eta of 0", given("--eta", "0"), ["`eta` (=0.0)", "greater than 0"]),
    Case("negative eta", given("--eta", "-1"), ["`eta` (=-1.0)", "greater than 0"]),
    Case("NaN as rate", given("--lr", "nan"), ["`lr` (=nan)", "finite"]),
    Case("momentum of 1", given("--momentum", "1"), ["`momentum` (=1.0)", "less than 1"]),
    Case(
        "negative weight decay", given("--weight_decay", "-1"), ["`weight_decay` (=-1.0)", "greater than or equal to 0"]
    ),
    Case("width of 0", given("--method", "pkkd", "--pkkd.sigma_a", "0"), ["`pkkd.sigma_a` (=0.0)", "greater than 0"]),
    Case(
        "nothing to learn from",
        given("--method", "pkkd", "--pkkd.label_weight", "0", "--epochs", "4"),
        ["`pkkd.label_weight` (=0)", "once L_mid has ended", "`pkkd.mid_share` (=0.3)"],
    ),
    Case(
        "first phase of all epochs",
        given("--method", "fsp", "--fsp.first_phase", "0.9", "--epochs", "3"),
        ["`fsp.first_phase` (=0.9)", "leaves none of 3 epochs"],
    ),
    Case("tap that is not there", given("--method", "pkkd", "--pkkd.taps", "layer9"), ["tap `layer9`", "no module"]),
    Case(
        "teacher for a method without", given("--teacher", "resnet8"), ["`teacher` (=resnet8)", "`none` has no teacher"]
    ),
    Case("rows beyond the set", given("--data.test_rows", "0:1000"), ["`data.test_rows` (=0:1000)", "<= 359"]),
    Case("rows that are none", given("--data.test_rows", "9:9"), ["`data.test_rows` (=9:9)", "START < STOP"]),
    Case("rows that are words", given("--data.test_rows", "all"), ["`data.test_rows` (='all')", "START:STOP"]),
    Case(
        "padding wider than the images",
        given("--data.crop_padding", "100000000"),
        ["`data.crop_padding` (=100000000)", "at most 8"],
    ),
    Case("image size of 0", given("--data.image_size", "0"), ["`data.image_size` (=0)", "greater than or equal to 1"]),
    Case(
        "image size of a million",
        given("--data.image_size", "1000000"),
        ["`data.image_size` (=1000000)", "less than or equal to 8192"],
    ),
    Case(
        "resized crops of no size",
        given("--data.augmentation", "resized_crop"),
        ["`data.augmentation` (='resized_crop')", "needs `image_size`"],
    ),
    Case(
        "padding beside resized crops",
        given("--data.augmentation", "resized_crop", "--data.image_size", "8", "--data.crop_padding", "1"),
        ["`data.crop_padding` (=1)", "not used by `augmentation` (=resized_crop)"],
    ),
    Case(
        "centre larger than the image",
        given("--data.image_size", "8", "--data.resize", "7"),
        ["`data.resize` (=7)", "must be >= `image_size` (=8)"],
    ),
    Case(
        "colours' normalisation of grey images",
        given("--data.normalisation", "imagenet"),
        ["`data.normalisation` (=imagenet)", "these are grey", "own"],
    ),
    Case(
        "a million workers",
        given("--data.workers", "1000000"),
        ["`data.workers` (=1000000)", "less than or equal to 256"],
    ),
    Case("files for a set without", given("--data.root", "x"), ["`data.root`", "not used by `name` (=digits)"]),
    Case(
        "images too small for the network",
        given("--student", "vgg_small", "--data.image_size", "4"),
        ["`student` (=vgg_small)", "4x4 pixels"],
    ),
    Case("GPU that is not there", given("--device", "cuda"), ["`device` (=cuda)", "auto, cpu"]),
    Case("run's folder that is a file", out(lambda r: (r / "run").write_text("kept")), ["`out` (=run) is no folder"]),
    Case(
        "run's folder that is a link to nowhere",
        out(lambda r: (r / "run").symlink_to("nowhere")),
        ["`out` (=run) is no folder"],
    ),
    Case(
        "run's folder below a file", out(lambda r: (r / "a").write_text("kept"), "a/run"), ["a/run", "Not a directory"]
    ),
    Case(
        "run's folder with other files",
        out(lambda r: (r / "run").mkdir() or (r / "run" / "x").write_text("kept")),
        ["`out` (=run) is not empty", "--resume"],
    ),
    Case("run's folder in use", out(in_use), ["folder `run` is in use"]),
    Case(
        "run's folder without the right to write",
        out(lambda r: (r / "run").mkdir(0o555)),
        ["`run`", "Permission denied"],
        nobody=True,
    ),
]
