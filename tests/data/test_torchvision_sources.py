"""The torchvision sources with a stand-in for torchvision, and their way to fail offline with the true one."""

import hashlib
import importlib.util
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from generated_images import noise

from adderkit.data import DataConfig, load

ARCHIVE = "cifar-10-python.tar.gz"


class CIFAR10:
    """Reads nothing but whether the archive is whole, as torchvision does with download=True."""

    url, filename, tgz_md5 = f"https://example.org/{ARCHIVE}", ARCHIVE, hashlib.md5(b"whole").hexdigest()
    base_folder = "cifar-10-batches-py"
    train_list = (("data_batch_1", "0" * 32),)
    test_list = (("test_batch", "1" * 32),)
    classes = ("ant", "bee")

    def __init__(self, root: Path, train: bool, download: bool) -> None:
        archive = root / self.filename
        if not download:
            raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")
        if not archive.is_file() or archive.read_bytes() != b"whole":
            raise urllib.error.URLError("no route to host")
        self.data = noise(6 if train else 4, (32, 32, 3), seed=int(train))
        self.targets = [0, 1] * (3 if train else 2)


class FashionMNIST:
    mirrors = ("https://example.org/",)
    resources = (("train-images-idx3-ubyte.gz", "0" * 32),)
    classes = ("shirt", "shoe")

    def __init__(self, root: Path, train: bool, download: bool) -> None:
        file = root / "FashionMNIST/raw/train-images-idx3-ubyte"
        if not file.is_file():
            raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried x, got:\nno route to host")
        if file.read_bytes() != b"whole":
            raise ValueError("buffer size")
        self.data = torch.from_numpy(noise(6, (28, 28)))
        self.targets = torch.tensor([0, 1] * 3)


@pytest.fixture
def _stub(monkeypatch: pytest.MonkeyPatch) -> None:
    package, datasets = ModuleType("torchvision"), ModuleType("torchvision.datasets")
    datasets.CIFAR10, datasets.FashionMNIST = CIFAR10, FashionMNIST  # type: ignore[attr-defined]
    package.datasets = datasets  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)


def test_missing_torchvision_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ImportError, match=r'needs torchvision: pip install "adderkit\[vision\]"'):
        load(DataConfig(name="cifar10"))


@pytest.mark.usefixtures("_stub")
def test_cifar_pixels_and_published_statistics(tmp_path: Path):
    (tmp_path / ARCHIVE).write_bytes(b"whole")
    data = load(DataConfig(name="cifar10", root=tmp_path))
    assert (data.name, data.classes, data.channels) == ("cifar10", ("ant", "bee"), 3)
    assert data.mean == (0.4914, 0.4822, 0.4465) and data.std == (0.2023, 0.1994, 0.2010)
    pixels = next(data.train.uint8_batches(6))[0].permute(0, 2, 3, 1).numpy()
    assert np.array_equal(pixels, noise(6, (32, 32, 3), seed=1))
    assert data.test.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.usefixtures("_stub")
def test_downloads_go_to_the_home_of_adderkit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("ADDERKIT_HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ARCHIVE).write_bytes(b"whole")
    assert len(load(DataConfig(name="cifar10")).train) == 6


@pytest.mark.usefixtures("_stub")
def test_failed_download_says_what_to_place_where(tmp_path: Path):
    root = tmp_path / "new"
    with pytest.raises(ValueError) as caught:
        load(DataConfig(name="cifar10", root=root))
    message = str(caught.value)
    assert f"`data.root` (={root}): cifar10 is not there and cannot be downloaded" in message
    assert "no route to host" in message
    assert f"{root / ARCHIVE}: not found" in message
    assert f"{CIFAR10.url} (MD5 {CIFAR10.tgz_md5}) to {root / ARCHIVE}" in message


@pytest.mark.usefixtures("_stub")
def test_damaged_archive_is_reported(tmp_path: Path):
    (tmp_path / ARCHIVE).write_bytes(b"half")
    found = hashlib.md5(b"half").hexdigest()
    with pytest.raises(ValueError, match=rf"{ARCHIVE}: damaged \(MD5 {found}, must be {CIFAR10.tgz_md5}\)"):
        load(DataConfig(name="cifar10", root=tmp_path))


@pytest.mark.usefixtures("_stub")
def test_fashion_mnist(tmp_path: Path):
    file = tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte"
    config = DataConfig(name="fashion-mnist", root=tmp_path)
    with pytest.raises(ValueError, match=r"(?s)cannot be downloaded \(no route to host\).*-ubyte.gz: not found"):
        load(config)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half")
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte: there, but cannot be checked; delete it"):
        load(config)
    file.write_bytes(b"whole")
    data = load(config)
    assert (data.channels, data.height, len(data.train)) == (1, 28, 6)
    assert data.mean == pytest.approx((noise(6, (28, 28)).mean() / 255,), abs=1e-12)


needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"
)


@needs_torchvision
@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist"])
def test_true_torchvision_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str):
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("offline")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(ValueError, match=rf"(?s){name} is not there and cannot be downloaded.*offline.*not found"):
        load(DataConfig(name=name, root=tmp_path))


@needs_torchvision
def test_true_torchvision_reads_fashion_mnist(tmp_path: Path):
    raw = tmp_path / "FashionMNIST/raw"
    raw.mkdir(parents=True)
    for split, count in (("train", 6), ("t10k", 3)):
        sizes = b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        (raw / f"{split}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + noise(count, (28, 28)).tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + sizes[:4] + bytes(range(count)))
    data = load(DataConfig(name="fashion-mnist", root=tmp_path))
    assert data.classes[9] == "Ankle boot" and data.train.labels.tolist() == list(range(6))
    assert np.array_equal(next(data.test.uint8_batches(3))[0][:, 0].numpy(), noise(3, (28, 28)))
