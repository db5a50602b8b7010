from pathlib import Path

import numpy as np
import pytest

from adderkit.data import DataConfig, RawData, load, names, register, registry
from adderkit.data.raw import from_arrays


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch):
    names()  # fills the table before the copy is taken
    monkeypatch.setattr(registry._registry, "_table", dict(registry._registry._table))


def toy(config: DataConfig) -> RawData:
    pixels = np.arange(12 * 16, dtype=np.uint8).reshape(12, 4, 4)
    split = from_arrays(pixels, np.arange(12) % 2, "toy")
    return RawData("toy", ("even", "odd"), split, split)


def test_names():
    assert names() == ("cifar10", "cifar100", "digits", "fashion-mnist", "imagefolder", "parquet")


def test_source_from_outside():
    register("toy")(toy)
    data = load(DataConfig(name="toy", root=Path("x")))
    assert "toy" in names() and (data.name, len(data.train)) == ("toy", 12)


def test_taken_name_is_refused():
    with pytest.raises(ValueError, match="the data source 'digits' is taken by"):
        register("digits")(toy)
