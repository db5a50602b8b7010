"""Files are whole or not there."""

from __future__ import annotations

import pytest
import torch

from adderkit.train.checkpoint import load_state, save_state
from adderkit.train.files import write_atomically, write_text


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_state_comes_back(tmp_path):
    state = {"tensor": torch.arange(5.0), "rows": [{"a": 1.5, "b": "x"}], "none": None}
    save_state(tmp_path / "state.pt", state)
    loaded = load_state(tmp_path / "state.pt")
    assert torch.equal(loaded["tensor"], state["tensor"])
    assert loaded["rows"] == state["rows"]


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_state_is_reported(tmp_path, keep):
    path = tmp_path / "state.pt"
    save_state(path, {"tensor": torch.arange(1000.0)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    with pytest.raises(ValueError, match=r"state\.pt` is truncated"):
        load_state(path)
