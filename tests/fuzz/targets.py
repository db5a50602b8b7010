"""What is fuzzed: for each kind the good inputs to spoil, and the code that reads a spoilt one.

A reader raises ValueError for what it refuses; anything else is a fault.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import pyarrow.parquet as pq
import torch
from bad_files import encoded, picture, table
from network_file import drawn, encode, repaired
from PIL import Image

from adderkit import cli, models, runtime
from adderkit.data import DataConfig, load
from adderkit.data.image import header, open_image, read
from adderkit.data.raw import RawSplit
from adderkit.nn import load_official
from adderkit.train import config_type, load_network, load_recipe, save_network, to_yaml
from adderkit.train.checkpoint import load_state, save_state
from adderkit.train.weights import NetworkInfo

Target = Callable[[Path, bytes], Any]
RECIPES = Path(__file__).parents[2] / "recipes"


def recipes(folder: Path) -> tuple[list[bytes], Target]:
    seeds = [path.read_bytes() for path in sorted(RECIPES.rglob("*.yaml"))] + [to_yaml(config_type()()).encode()]

    def target(folder: Path, data: bytes) -> None:
        path = folder / "recipe.yaml"
        path.write_bytes(data)
        config = load_recipe(path)
        path.write_text(to_yaml(config), encoding="utf-8")
        assert load_recipe(path) == config

    return seeds, target


def images(folder: Path) -> tuple[list[bytes], Target]:
    exif = Image.Exif()
    exif[0x112] = 6
    wide = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 999)
    frames = [picture(8, seed=k) for k in range(3)]
    seeds = [encoded(picture(8), kind) for kind in ("PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG")]
    seeds += [encoded(picture(24), "JPEG", progressive=True, exif=exif), encoded(picture(8, "CMYK"), "JPEG")]
    seeds += [encoded(picture(8, mode), "PNG") for mode in ("1", "L", "P", "RGBA", "LA")]
    seeds += [encoded(wide, "PNG"), encoded(wide, "TIFF"), encoded(picture(8), "TIFF", compression="jpeg")]
    seeds += [encoded(picture(8), "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_deflate", "packbits")]
    seeds += [encoded(frames[0], kind, save_all=True, append_images=frames[1:]) for kind in ("GIF", "PNG", "WEBP")]

    def target(folder: Path, data: bytes) -> None:
        raw = RawSplit(np.zeros(1, np.int64), lambda row: open_image(io.BytesIO(data)), lambda row: "image")
        refused = None
        for reader in (lambda: header(raw, 0), lambda: read(raw, 0, None), lambda: read(raw, 0, 12)):
            try:
                reader()
            except ValueError as error:
                refused = error
        if refused is not None:
            raise refused

    return seeds, target


def parquet(folder: Path) -> tuple[list[bytes], Target]:
    seeds = []
    for options in ({}, {"compression": "zstd"}, {"use_dictionary": False, "compression": "none"}):
        for content in (table(), table(names=None), table([encoded(picture(8, "L"))] * 6)):
            stream = io.BytesIO()
            pq.write_table(content, stream, **options)  # type: ignore[arg-type]
            seeds.append(stream.getvalue())
    pq.write_table(table(), folder / "good.parquet")

    def target(folder: Path, data: bytes) -> None:
        (folder / "bad.parquet").write_bytes(data)
        load(DataConfig(name="parquet", train=folder / "bad.parquet", test=folder / "good.parquet"))

    return seeds, target


def weights(folder: Path) -> tuple[list[bytes], Target]:
    info = NetworkInfo("resnet8", "adder", "x", ("a", "b"), 1, 8, 8, (0.5,), (0.2,))
    save_network(folder / "good.safetensors", models.create("resnet8", "adder", 2, 1), info)
    sealed = (folder / "good.safetensors").read_bytes()
    length = int.from_bytes(sealed[:8], "little")
    header = json.loads(sealed[8 : 8 + length])
    del header["__metadata__"]["sha256"]  # as files of older versions: every change would be found by it
    text = json.dumps(header).encode()
    # most of the file is numbers, where a change does little: let most changes meet the header
    head = len(text).to_bytes(8, "little") + text
    data = head + sealed[8 + length :]

    def target(folder: Path, spoilt: bytes) -> None:
        path = folder / "bad.safetensors"
        path.write_bytes(spoilt if len(spoilt) > 2 * len(head) else spoilt + data[len(head) :])
        load_network(path)

    return [head, head, data, sealed], target


def integers(folder: Path) -> tuple[list[bytes], Target]:
    """Files of integer networks: as they are, with a right checksum, or with another header and a right checksum."""
    networks = [drawn(seed) for seed in range(4)]
    seeds = [encode(*network) for network in networks]

    def target(folder: Path, data: bytes) -> None:
        source = random.Random(data)
        way = source.randrange(3)
        if way == 1 and b'"sha256": "' in data:
            data = repaired(data)
        elif way == 2:
            network, arrays = source.choice(networks)
            forged: Any = network
            for _ in range(source.choice((1, 1, 2))):
                forged = mutations.structure(source, forged)
            data = encode(json.dumps(forged, default=str), arrays)
        (folder / "net.adk").write_bytes(data)
        net = runtime.load(folder / "net.adk")
        if way == 0 and data not in seeds:
            raise RuntimeError("accepted, though its checksum was not repaired")
        if net.height * net.width * net.channels < 100_000:
            image = np.frombuffer(source.randbytes(int(np.prod(net.shape))), np.uint8).reshape(1, *net.shape)
            assert np.isfinite(net(image)).all()
            net.layer_output(image[0], 0)
        net.arrays()

    return seeds, target


def states(folder: Path) -> tuple[list[bytes], Target]:
    state = {
        "epoch": 1,
        "nets": {"student": {"w": torch.randn(3, 3), "b": torch.arange(4)}},
        "rows": [{"a": 1.5, "b": "x"}],
    }
    save_state(folder / "state.pt", state)
    data = (folder / "state.pt").read_bytes()

    def target(folder: Path, spoilt: bytes) -> None:
        """Half of them with a checksum that is right: what the unpickler meets then has been forged."""
        if hashlib.sha256(spoilt).digest()[0] % 2:
            spoilt += b"sha256 " + hashlib.sha256(spoilt).hexdigest().encode() + b"\n"
        (folder / "bad.pt").write_bytes(spoilt)
        load_state(folder / "bad.pt")

    return [data, data[:-72]], target


def official(folder: Path) -> tuple[list[bytes], Target]:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    seeds = []
    for legacy in (False, True):
        stream = io.BytesIO()
        torch.save(model.state_dict(), stream, _use_new_zipfile_serialization=not legacy)
        seeds.append(stream.getvalue())

    def target(folder: Path, spoilt: bytes) -> None:
        (folder / "bad.pth").write_bytes(spoilt)
        load_official(model, folder / "bad.pth")

    return seeds, target


def commands(folder: Path) -> tuple[list[bytes], Target]:
    """Command lines whose data are missing, so that a good one ends as early as a bad one."""
    lines = [
        "train --out run --epochs 1 --data.name imagefolder --data.root none",
        "train --method pkkd --pkkd.beta 0.5 --pkkd.taps a b --pkkd.no-kernel --data.name parquet --out run",
        "train recipe.yaml --out run --method kd --teacher_run none --kd.weight 1 --data.root none",
        "eval none --device cpu",
        "import none --network resnet8 --data.name imagefolder --data.root none --out run",
        "bench ops --only nothing-of-this-name --passes forward --no_rivals --rounds 1",
        "doctor --none",
        "predict none picture.png --top 3 --json --threads 1",
    ]
    seeds = [json.dumps(line.replace("none", str(folder / "none")).split()).encode() for line in lines]

    def target(folder: Path, data: bytes) -> None:
        words = json.loads(data)
        if words[:1] in (["train"], ["import"]):  # whatever was spoilt, there must be nothing to read or to download
            words += ["--data.name", "imagefolder", "--data.root", str(folder / "none"), "--out", str(folder / "run")]
        elif words[:1] == ["bench"] or not words:
            words += ["--only", "nothing-of-this-name"]
        try:
            code = cli.main(words)
        except SystemExit as end:
            code = end.code
        if code == 2:
            raise ValueError("refused")
        if code not in (0, 1):
            raise RuntimeError(f"exit code {code!r}")

    return seeds, target


def resumed(folder: Path) -> tuple[list[bytes], Target]:
    """Checkpoints with a right checksum that hold something else than the run saved."""
    options = ["--method", "kd", "--epochs", "1", "--batch_size", "16", "--data.train_rows", "0:32", "--device", "cpu"]
    options += ["--data.test_rows", "0:16", "--teacher_run", str(folder / "teacher")]
    words = ["train", "--out", str(folder / "run")]
    assert (
        cli.main(["train", "--out", str(folder / "teacher"), "--method", "none", "--layer", "conv", *options[2:-2]])
        == 0
    )
    assert cli.main([*words, *options]) == 0
    (path,) = (folder / "run" / "checkpoints").glob("*.pt")
    good = path.read_bytes()
    state = load_state(path)

    def target(folder: Path, data: bytes) -> None:
        source = random.Random(data)
        forged = state
        for _ in range(source.choice((1, 1, 2))):
            forged = mutations.structure(source, forged)
        save_state(path, forged if isinstance(forged, dict) else {"x": forged})
        (folder / "run" / "summary.json").unlink(missing_ok=True)
        try:
            code = cli.main([*words, "--resume"])
        finally:
            path.write_bytes(good)
        if code:
            raise ValueError("refused") if code == 2 else RuntimeError(f"exit code {code}")

    return [b""], target


TARGETS: dict[str, Callable[[Path], tuple[list[bytes], Target]]] = {
    "recipes": recipes,
    "images": images,
    "integers": integers,
    "parquet": parquet,
    "weights": weights,
    "states": states,
    "official": official,
    "resumed": resumed,
    "commands": commands,
}
