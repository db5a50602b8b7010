"""Runs, weights and checkpoints that can't be."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bad_case import Case
from bad_files import table
from safetensors import safe_open
from safetensors.torch import save_file

from adderkit import cli, models

DIGITS = [
    "--epochs",
    "1",
    "--batch_size",
    "16",
    "--device",
    "cpu",
    "--data.train_rows",
    "0:32",
    "--data.test_rows",
    "0:16",
]
GO_ON = ["train", "--out", "run", "--resume", "--device", "cpu"]


@functools.cache
def trained(layer: str, student: str = "resnet8", epochs: str = "1") -> tempfile.TemporaryDirectory[str]:
    """A finished run, made once."""
    folder = tempfile.TemporaryDirectory(prefix="adderkit-")
    options = ["--method", "none", "--layer", layer, "--student", student, *DIGITS]
    assert cli.main(["train", "--out", folder.name, *options, "--epochs", epochs]) == 0
    return folder


def run(change: Callable[[Path], object], arguments: list[str], layer: str = "adder") -> Callable[[Path], list[str]]:
    def build(root: Path) -> list[str]:
        shutil.copytree(trained(layer).name, root / "run")
        change(root / "run")
        return arguments

    return build


def keep(folder: Path) -> None:
    """Changes nothing."""


def weights(change: Callable[[dict[str, Any], dict[str, str]], object], name: str = "last") -> Callable[[Path], None]:
    """Rewrites a file of weights after `change` had its tensors and its metadata."""

    def rewrite(folder: Path) -> None:
        path = folder / f"{name}.safetensors"
        with safe_open(path, framework="pt") as file:
            metadata, tensors = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        del metadata["sha256"]  # what a forger leaves out, and older versions did
        change(tensors, metadata)
        save_file(tensors, path, metadata)

    return rewrite


def info(**values: Any) -> Callable[[dict[str, Any], dict[str, str]], None]:
    def change(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
        metadata["network"] = json.dumps(json.loads(metadata["network"]) | values)

    return change


def newer(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    metadata["format"] = "adderkit-network-9"


def foreign(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    metadata.clear()


def nan(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    tensors["conv1.weight"][0, 0, 0, 0] = float("nan")


def halved(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    tensors["conv1.weight"] = tensors["conv1.weight"].half()


def unlearned(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    del tensors["fc.weight"]


def more_classes(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    for key in list(tensors):
        if key.startswith(("fc.", "bn2.")) and tensors[key].ndim:
            tensors[key] = torch.cat([tensors[key], tensors[key][:1]])
    info(classes=[str(k) for k in range(11)])(tensors, metadata)


def file(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def cut(name: str, length: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def flip(folder: Path) -> None:
    """One bit of the last number."""
    path = folder / "last.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])


def pipe(folder: Path) -> None:
    (folder / "last.safetensors").unlink()
    os.mkfifo(folder / "last.safetensors")


def unfinished(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """A run that stopped after its last checkpoint, with one thing changed."""

    def rewrite(folder: Path) -> None:
        (folder / "summary.json").unlink()
        change(folder)

    return rewrite


def newest(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("*.pt"), reverse=True)


def every_state(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        for path in newest(folder):
            path.write_bytes(change(path.read_bytes()))

    return unfinished(rewrite)


def forged(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Every checkpoint with other content, and a checksum that is right."""

    def rewrite(data: bytes) -> bytes:
        state = torch.load(io.BytesIO(data[: data.rindex(b"sha256 ")]), weights_only=True)
        change(state)
        stream = io.BytesIO()
        torch.save(state, stream)
        body = stream.getvalue()
        return body + b"sha256 " + hashlib.sha256(body).hexdigest().encode() + b"\n"

    return every_state(rewrite)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must never be printed",))


def nan_state(state: dict[str, Any]) -> None:
    state["nets"]["student"]["network"]["conv1.weight"][0] = float("nan")


def other_networks_state(state: dict[str, Any]) -> None:
    state["nets"]["student"]["network"] = models.create("resnet20", "adder", 10, 1).state_dict()


def official(content: Callable[[], Any]) -> Callable[[Path], list[str]]:
    def build(root: Path) -> list[str]:
        made = content()
        if isinstance(made, bytes):
            (root / "official.pth").write_bytes(made)
        else:
            torch.save(made, root / "official.pth")
        return ["import", "official.pth", "--network", "resnet8", "--data.name", "digits", "--out", "run"]

    return build


def official_weights(network: str = "resnet8") -> dict[str, Any]:
    """Weights of a network of ours under the official names."""
    from adderkit.nn import Adder2d

    model = models.create(network, "adder", 10, 1)
    adders = {path for path, module in model.named_modules() if isinstance(module, Adder2d)}
    renamed = {}
    for key, value in model.state_dict().items():
        path, _, last = key.rpartition(".")
        renamed[f"{path}.adder" if path in adders and last == "weight" else key] = value
    return renamed


def with_tensor(value: Callable[[Any], Any]) -> Callable[[], Any]:
    def make() -> dict[str, Any]:
        state = official_weights()
        state["conv1.weight"] = value(state["conv1.weight"])
        return state

    return make


def compressed() -> bytes:
    """An archive of torch.save, packed anew with compression: 64 MB of zeros in 70 kB."""
    stream, packed = io.BytesIO(), io.BytesIO()
    torch.save(with_tensor(lambda t: torch.zeros(16 * 2**20))(), stream)
    with zipfile.ZipFile(stream) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as other:
        for entry in archive.namelist():
            other.writestr(entry, archive.read(entry))
    return packed.getvalue()


def teacher(change: Callable[[Path], object], *options: str, layer: str = "conv") -> Callable[[Path], list[str]]:
    words = ["train", "--method", "kd", "--out", "pupil", "--teacher_run", "run", *DIGITS, *options]
    return run(change, words, layer)


def on_parquet(root: Path) -> list[str]:
    from bad_files import parquets

    shutil.copytree(trained("conv").name, root / "run")
    words = [
        "train",
        "--method",
        "kd",
        "--out",
        "pupil",
        "--teacher_run",
        "run",
        "--batch_size",
        "2",
        "--device",
        "cpu",
    ]
    return [*words, *parquets(root, table(), table())]


def line(text: str) -> Callable[[Path], list[str]]:
    return lambda root: text.split()


EVAL = ["eval", "run", "--device", "cpu"]
LAST = "run/last.safetensors"

CASES = [
    Case("evaluation of nothing", line("eval run"), ["`run` (=run) holds no run", "config.yaml"]),
    Case("evaluation without weights", run(lambda f: (f / "last.safetensors").unlink(), EVAL), [LAST, "can't be read"]),
    Case("truncated weights", run(cut("last.safetensors", 5000), EVAL), [LAST, "can't be read"]),
    Case("weights with a wrong byte", run(flip, EVAL), [LAST, "are damaged: their checksum"]),
    Case("weights that are a pipe", run(pipe, EVAL), [LAST, "can't be read: it is no regular file"]),
    Case("weights of zero bytes", run(cut("last.safetensors", 0), EVAL), [LAST, "can't be read"]),
    Case("weights with a huge header", run(file("last.safetensors", b"\xff" * 64), EVAL), [LAST, "can't be read"]),
    Case(
        "weights of a newer version",
        run(weights(newer), EVAL),
        [LAST, "'adderkit-network-9'", "reads 'adderkit-network-1'"],
    ),
    Case("weights of another program", run(weights(foreign), EVAL), [LAST, "not of adderkit"]),
    Case("weights with a NaN", run(weights(nan), EVAL), [LAST, "`conv1.weight` holds a NaN"]),
    Case("weights of another type", run(weights(halved), EVAL), [LAST, "`conv1.weight` is float16", "not float32"]),
    Case("weights without a layer", run(weights(unlearned), EVAL), [LAST, "`fc.weight` is missing"]),
    Case(
        "weights of another network",
        run(weights(info(network="resnet20")), EVAL),
        [LAST, "`layer1.1.conv1.weight` is missing"],
    ),
    Case("weights of an unknown network", run(weights(info(network="resnet9")), EVAL), [LAST, "'resnet9'"]),
    Case("weights that claim a million channels", run(weights(info(in_channels=10**6)), EVAL), [LAST, "do not fit"]),
    Case("weights that claim a deviation of 0", run(weights(info(std=[0.0])), EVAL), [LAST, "deviation (0.0,)"]),
    Case(
        "weights of other classes",
        run(weights(more_classes), EVAL),
        [LAST, "does not fit the data: its classes are", "digits"],
    ),
    Case(
        "run whose recipe is damaged",
        run(file("config.yaml", "epochs: [\n"), EVAL),
        ["recipe `run/config.yaml`", "no YAML"],
    ),
    Case(
        "teacher that is no run",
        line("train --out pupil --method kd --teacher_run none"),
        ["none) holds no finished run"],
    ),
    Case(
        "teacher that is unfinished", teacher(lambda f: (f / "summary.json").unlink()), ["run) holds no finished run"]
    ),
    Case("teacher that is an adder network", teacher(keep, layer="adder"), ["run) holds an adder network"]),
    Case(
        "teacher of another network",
        teacher(keep, "--teacher", "resnet20"),
        ["run) holds a resnet8, but `teacher` is resnet20"],
    ),
    Case("teacher of other classes", on_parquet, ["`teacher_run`", "does not fit the data: its classes are"]),
    Case("teacher with a NaN", teacher(weights(nan)), [LAST, "`conv1.weight` holds a NaN"]),
    Case(
        "teacher where none is fixed",
        run(keep, ["train", "--out", "pupil", "--pkkd.progressive", "--teacher_run", "run"], "conv"),
        ["`teacher_run`", "no fixed teacher"],
    ),
    Case(
        "resuming another run",
        run(keep, [*GO_ON, "--seed", "1"]),
        ["`out` (=run) holds another run", "`seed` is 0 there and 1 here"],
    ),
    Case("damaged summary", run(file("summary.json", "{"), GO_ON), ["run/summary.json", "can't be read"]),
    Case("summary of something else", run(file("summary.json", "[]"), GO_ON), ["run/summary.json", "no summary"]),
    Case(
        "truncated checkpoints",
        run(every_state(lambda data: data[:1000]), GO_ON),
        ["checkpoints/epoch-", "truncated", "There is no other"],
    ),
    Case(
        "tampered checkpoints",
        run(every_state(lambda d: d[:5000] + b"x" + d[5001:]), GO_ON),
        ["checkpoints/epoch-", "damaged", "checksum"],
    ),
    Case("empty checkpoints", run(every_state(lambda data: b""), GO_ON), ["checkpoints/epoch-", "truncated"]),
    Case(
        "checkpoints of a newer version",
        run(forged(lambda s: s.update(format=99)), GO_ON),
        ["has format 99; this version reads", "version"],
    ),
    Case(
        "checkpoints that run code",
        run(forged(lambda s: s.update(evil=Evil())), GO_ON),
        ["checkpoints/epoch-", "more than tensors and plain values"],
    ),
    Case(
        "checkpoints of another network",
        run(forged(other_networks_state), GO_ON),
        ["checkpoints/epoch-", "no checkpoint of this run"],
    ),
    Case(
        "checkpoints without networks",
        run(forged(lambda s: s.pop("nets")), GO_ON),
        ["checkpoints/epoch-", "no checkpoint of this run"],
    ),
    Case(
        "checkpoints at an impossible epoch",
        run(forged(lambda s: s.update(epoch=-5)), GO_ON),
        ["checkpoints/epoch-", "after epoch -5"],
    ),
    Case("checkpoints with a NaN", run(forged(nan_state), GO_ON), ["checkpoints/epoch-", "`conv1.weight` holds a NaN"]),
    Case(
        "missing official checkpoint",
        line("import none.pth --network resnet8 --data.name digits --out run"),
        ["none.pth) can't be read"],
    ),
    Case(
        "official checkpoint that is a folder",
        lambda r: (r / "x").mkdir() or ["import", "x", "--data.name", "digits", "--out", "run"],
        ["x) can't be read", "directory"],
    ),
    Case(
        "official checkpoint that is a pipe",
        lambda r: os.mkfifo(r / "x") or ["import", "x", "--data.name", "digits", "--out", "run"],
        ["x) can't be read: it is no regular file"],
    ),
    Case("official checkpoint that is text", official(lambda: b"weights"), ["official.pth) can't be read"]),
    Case("official checkpoint of zero bytes", official(lambda: b""), ["official.pth) can't be read"]),
    Case(
        "official checkpoint that runs code",
        official(lambda: {"a": Evil()}),
        ["official.pth) holds pickled Python objects", "print"],
    ),
    Case(
        "official checkpoint that is a module",
        official(lambda: models.create("resnet8", "adder", 10, 1)),
        ["holds pickled Python objects", "state_dict"],
    ),
    Case("official checkpoint that is empty", official(dict), ["must hold a state dict", "an empty"]),
    Case("official checkpoint of numbers", official(lambda: {"a": 3}), ["named tensors only", "'a': a int"]),
    Case(
        "official checkpoint of another network",
        official(lambda: official_weights("resnet20")),
        ["does not fit ResNetCifar", "not in the model"],
    ),
    Case(
        "official checkpoint with a NaN",
        official(with_tensor(lambda t: t * float("nan"))),
        ["`conv1.weight` holds a NaN"],
    ),
    Case(
        "official checkpoint with a sparse tensor",
        official(with_tensor(lambda t: t.to_sparse())),
        ["`conv1.weight` is no plain tensor"],
    ),
    Case(
        "official checkpoint of complex numbers",
        official(with_tensor(lambda t: t.to(torch.complex64))),
        ["`conv1.weight` has the dtype torch.complex64"],
    ),
    Case("official checkpoint that is compressed", official(compressed), ["official.pth) can't be read", "compressed"]),
    Case(
        "import of an unknown network",
        line("import x --network resnet9 --out run"),
        ["`network` (='resnet9')", "resnet8"],
    ),
    Case("import of nothing", line("import --network resnet8 --data.name digits --out run"), ["`file` is required"]),
    Case(
        "import of torchvision's network by two names",
        line("import --network resnet8 --torchvision resnet18 --out run"),
        ["`torchvision` (='resnet18')", "goes without `network` (=resnet8)"],
    ),
    Case(
        "import of torchvision's network for images of another normalisation",
        line("import --torchvision resnet18 --data.name digits --out run"),
        ["`data.normalisation` (=own) must be imagenet"],
    ),
    Case("import into a folder with files", run(keep, ["import", "x", "--out", "run"]), ["`out` (=run) is not empty"]),
    Case("bench of nothing", line("bench foo"), ["no command `foo`", "ops, train"]),
    Case("bench of no images", line("bench ops --batch 0"), ["`batch` (=0)", "greater than or equal to 1"]),
    Case("bench of an unknown pass", line("bench ops --passes sideways"), ["sideways", "forward"]),
    Case("bench of layers that are not there", line("bench ops --only 9x9"), ["9x9"]),
    Case("bench of an unknown network", line("bench train --network resnet9"), ["resnet9", "resnet8"]),
    Case(
        "bench into a folder that is missing",
        line("bench ops --json none/x.json"),
        ["`json` (=none/x.json)", "folder that exists"],
    ),
    Case("doctor with an option", line("doctor --all"), ["--all"]),
    Case("evaluation on an unknown device", line("eval run --device tpu"), ["tpu", "cuda"]),
]
