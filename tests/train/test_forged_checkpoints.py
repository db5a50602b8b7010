"""Checkpoints with a right checksum that this run can't have written: refused, never a traceback or a silent start."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adderkit import train
from adderkit.train.checkpoint import load_state, save_state
from adderkit.train.config import BaseConfig, config_type
from adderkit.train.display import SilentDisplay

Change = Callable[[dict[str, Any]], object]


def make_config() -> BaseConfig:
    data = {"name": "digits", "train_rows": "0:32", "test_rows": "0:20"}
    return config_type()(method="none", epochs=2, batch_size=16, device="cpu", data=data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train.train(make_config(), folder, display=SilentDisplay())
    return folder


def row(**values: Any) -> Change:
    return lambda state: state["rows"][0].update(values)


def meter(**values: Any) -> Change:
    return lambda state: state["nets"]["student"]["meter"].update(values)


def momentum(state: dict[str, Any]) -> dict[int, Any]:
    return state["nets"]["student"]["optimizer"]["state"]


def numpy_state(at: int, value: Any) -> Change:
    return lambda state: state["random"]["numpy"].__setitem__(at, value)


FORGED: dict[str, tuple[Change, str]] = {
    "images of tensors": (lambda s: s["data"].update(mean=torch.ones(3)), "of a run on other images: their mean"),
    "list of tensors": (lambda s: s["data"].update(mean=[torch.ones(3)]), "of a run on other images: their mean"),
    "no images": (lambda s: s.pop("data"), "does not say of which images"),
    "no mean": (lambda s: s["data"].pop("mean"), "does not say of which images"),
    "epoch inf": (lambda s: s.update(epoch=math.inf), "epoch inf"),
    "epoch fraction": (lambda s: s.update(epoch=1.0, step=0), "its epoch, step or seconds"),
    "epoch true": (lambda s: s.update(epoch=True, step=1), "its epoch, step or seconds"),
    "epoch tensor": (lambda s: s.update(epoch=torch.tensor(1)), "its epoch, step or seconds"),
    "step after the end": (lambda s: s.update(step=1), "epoch 2, step 1, which this run does not have"),
    "seconds beyond floats": (lambda s: s.update(seconds=10**400), "int too large"),
    "seconds nan": (lambda s: s.update(seconds=math.nan), "its epoch, step or seconds"),
    "seconds negative": (lambda s: s.update(seconds=-1.0), "its epoch, step or seconds"),
    "row of epoch inf": (row(epoch=math.inf), "of an epoch inf"),
    "row of a text epoch": (row(epoch="1"), "of an epoch '1'"),
    "row with a NaN": (row(test_loss=math.nan), "lack the test's figures"),
    "row that UTF-8 can't write": (row(phase="\udcff"), "surrogates not allowed"),
    "images inf": (meter(images=math.inf), "cannot convert float infinity"),
    "images negative": (meter(images=-1), "its sums over the epoch"),
    "terms nan": (meter(terms={"ce": math.nan}), "its sums over the epoch"),
    "no momentum": (lambda s: momentum(s).clear(), "lacks momentum"),
    "momentum of one lost": (lambda s: momentum(s).pop(0), "lacks momentum"),
    "momentum none": (lambda s: momentum(s)[0].update(momentum_buffer=None), "does not fit its weights"),
    "momentum renamed": (lambda s: momentum(s).update({0: {"x": momentum(s)[0]["momentum_buffer"]}}), "other values"),
    "numpy position": (numpy_state(2, 10**6), "does not stand at 1000000"),
    "numpy position negative": (numpy_state(2, -1), "does not stand at -1"),
    "numpy keys": (numpy_state(1, torch.zeros(3, dtype=torch.int64)), r"of \(3,\)"),
    "environment of tensors": (lambda s: s["environment"].update(torch=torch.ones(3)), ""),
}


def go_on(finished: Path, folder: Path, change: Change) -> dict[str, Any]:
    shutil.copytree(finished, folder)
    (folder / "summary.json").unlink()
    for path in (folder / "checkpoints").glob("*.pt"):
        state = load_state(path)
        change(state)
        save_state(path, state)
    return train.train(make_config(), folder, resume=True, display=SilentDisplay())


@pytest.mark.parametrize("name", FORGED)
def test_is_refused(finished: Path, tmp_path: Path, name: str) -> None:
    change, says = FORGED[name]
    if not says:  # what the run was trained on is shown, not compared
        go_on(finished, tmp_path / "run", change)
        return
    with pytest.raises(ValueError, match=rf"step-000000.pt` is .*{says}"):
        go_on(finished, tmp_path / "run", change)


def test_unchanged_goes_on(finished: Path, tmp_path: Path) -> None:
    assert go_on(finished, tmp_path / "run", lambda state: None)["epochs"] == 2
