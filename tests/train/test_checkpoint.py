"""Checkpoints: whole or not there, the last few, damage found and passed over."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
import torch

from adderkit.train import checkpoint
from adderkit.train.checkpoint import Checkpoints, load_state, save_state
from adderkit.train.files import WriteError, make_folder, write_atomically, write_text
from adderkit.train.folder import locked


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(WriteError, match=r"file\.txt` can't be written: disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_and_folder_are_synced_around_the_renaming(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda number: done.append(os.readlink(f"/proc/self/fd/{number}")) or fsync(number))
    monkeypatch.setattr("os.replace", lambda *paths: done.append("rename") or replace(*paths))
    write_text(tmp_path / "file.txt", "text")
    assert done == [str(tmp_path / ".file.txt.tmp"), "rename", str(tmp_path)]


def test_new_folders_are_synced_in_those_above_them(tmp_path, monkeypatch):
    done = []
    fsync = os.fsync
    monkeypatch.setattr("os.fsync", lambda number: done.append(os.readlink(f"/proc/self/fd/{number}")) or fsync(number))
    with locked(tmp_path / "a" / "run"):
        assert set(done) == {str(tmp_path), str(tmp_path / "a")}
        done.clear()
        Checkpoints(tmp_path / "a" / "run", keep=1).save(0, 1, {})
    assert done[0] == str(tmp_path / "a" / "run")
    done.clear()
    make_folder(tmp_path / "a" / "run")
    assert done == []


def test_state_comes_back(tmp_path):
    state = {"tensor": torch.arange(5.0), "rows": [{"a": 1.5, "b": "x"}], "none": None}
    save_state(tmp_path / "state.pt", state)
    loaded = load_state(tmp_path / "state.pt")
    assert torch.equal(loaded["tensor"], state["tensor"])
    assert loaded["rows"] == state["rows"]


def test_torch_reads_a_checkpoint_too(tmp_path):
    save_state(tmp_path / "state.pt", {"tensor": torch.arange(5.0)})
    assert torch.equal(torch.load(tmp_path / "state.pt", weights_only=True)["tensor"], torch.arange(5.0))


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_state_is_reported(tmp_path, keep):
    path = tmp_path / "state.pt"
    save_state(path, {"tensor": torch.arange(1000.0)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    with pytest.raises(ValueError, match=r"state\.pt` is truncated"):
        load_state(path)


def test_any_flipped_bit_is_found(tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, {"tensor": torch.arange(100.0)})
    whole = path.read_bytes()
    for position in [*range(0, len(whole), 37), *range(len(whole) - 72, len(whole) - 1)]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(ValueError, match=r"state\.pt` is (damaged|truncated)"):
            load_state(path)


def test_interrupt_in_the_middle_of_writing_is_an_interrupt(tmp_path, monkeypatch):
    """A second Ctrl-C at any write, in the file's own or around it: not torch's complaint about its writer."""
    path = tmp_path / "state.pt"
    save_state(path, {"tensor": torch.arange(5.0)})
    whole = path.read_bytes()
    calls = []

    def interrupting(write, at):
        def act(*arguments):
            calls.append(1)
            if len(calls) == at:
                raise KeyboardInterrupt
            return write(*arguments)

        return act

    def make_open(at):
        def opened(*arguments):
            file = open(*arguments)  # noqa: SIM115 (closed by its caller)
            if "w" in arguments[1]:
                return Interrupting(file, at)
            return file

        return opened

    class Interrupting:
        def __init__(self, file, at):
            self.file, self.write = file, interrupting(file.write, at)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

    write = checkpoint._Sink.write
    for where in ("file", "sink"):
        for at in range(1, 100):
            calls.clear()
            with monkeypatch.context() as patched:
                if where == "file":
                    patched.setattr(checkpoint, "open", make_open(at), raising=False)
                else:
                    patched.setattr(checkpoint._Sink, "write", interrupting(write, at))
                try:
                    save_state(path, {"tensor": torch.arange(5.0)})
                except KeyboardInterrupt:
                    assert list(tmp_path.iterdir()) == [path]
                    continue
            break
        assert 5 < at < 99
        assert path.read_bytes() == whole


@pytest.fixture
def saved(tmp_path):
    """Checkpoints after steps 1 to 3 of epoch 2, each holding its step."""
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(1, step, {"step": step})
    return checkpoints


def test_the_last_few_stay_and_their_names_sort(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for epoch, step in [(0, 5), (0, 11), (1, 0), (9, 3), (12, 345)]:
        checkpoints.save(epoch, step, {"at": [epoch, step]})
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["epoch-0009-step-000003.pt", "epoch-0012-step-000345.pt", "newest"]
    assert (tmp_path / "checkpoints" / "newest").read_text() == "epoch-0012-step-000345.pt\n"
    assert checkpoints.load(pytest.fail)["at"] == [12, 345]


def test_no_checkpoint_is_no_fault(tmp_path):
    assert Checkpoints(tmp_path, keep=2).load(pytest.fail) is None


DAMAGE = {
    "flipped": lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}
SAYS = {"flipped": "is damaged", "truncated": "is truncated", "empty": "is truncated", "removed": "is missing"}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("how_many", [1, 2])
def test_damaged_ones_fall_back_to_the_one_before_and_say_so(saved, damage, how_many):
    for path in saved.paths()[:how_many]:
        DAMAGE[damage](path)
    notes = []
    assert saved.load(notes.append)["step"] == 3 - how_many
    (note,) = notes
    assert f"step-000003.pt` {SAYS.get(damage, 'can')}" in note.replace("`, the newest,", "`")
    assert note.endswith(f"Going on from the one before, `{saved.folder}/epoch-0001-step-00000{3 - how_many}.pt`")
    # What is damaged is out of the way: it neither counts among those to keep nor is it said again.
    assert [path.name[-4:-3] for path in saved.paths()] == ["2", "1"][how_many - 1 :]
    assert saved.load(pytest.fail)["step"] == 3 - how_many


@pytest.mark.parametrize("damage", DAMAGE)
def test_all_damaged_is_an_error_that_names_them(saved, damage):
    paths = saved.paths()
    for path in paths:
        DAMAGE[damage](path)
    with pytest.raises(ValueError, match="There is no other: put a copy back, or choose another folder") as error:
        saved.load(pytest.fail)
    assert str(paths[0]) in str(error.value)
    if damage != "removed":
        assert all(str(path) in str(error.value) for path in paths)


def test_another_format_is_refused_not_passed_over(saved):
    path = saved.paths()[0]
    save_state(path, {"format": 99})
    with pytest.raises(ValueError, match=r"step-000003\.pt` has format 99; this version reads 2"):
        saved.load(pytest.fail)


def test_nothing_in_a_checkpoint_is_executed(saved, capsys):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    save_state(saved.paths()[0], {"evil": Evil()})
    notes = []
    assert saved.load(notes.append)["step"] == 2
    assert re.search(r"step-000003\.pt` can't be read", notes[0])
    assert "executed" not in capsys.readouterr().out


def test_what_could_not_be_read_again_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="can't be read: "):
        Checkpoints(tmp_path, keep=2).save(0, 1, {"of a method": np.float64(0.5)})


def test_half_written_files_are_cleaned_away(saved):
    left = saved.folder / ".epoch-0009-step-000001.pt.tmp"
    left.write_bytes(b"half")
    saved.clean()
    assert not left.exists()
    assert len(saved.paths()) == 3
