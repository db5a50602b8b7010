"""A file that can't be written: a clear error, everything before it whole, and the run goes on once there is room."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

from adderkit import cli, train
from adderkit.train import run
from adderkit.train.checkpoint import load_state
from adderkit.train.config import config_type

OPTIONS = ["--data.train_rows", "0:64", "--data.test_rows", "0:50", "--batch_size", "32", "--epochs", "2"]
OPTIONS += ["--pkkd.progressive"]  # all files in one folder
WHOLE = ["last.safetensors", "teacher.safetensors"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    data = {"name": "digits", "train_rows": "0:64", "test_rows": "0:50"}
    train.train(config_type()(data=data, batch_size=32, epochs=2, pkkd={"progressive": True}), folder)
    return folder


@pytest.fixture
def quiet(monkeypatch, display):
    monkeypatch.setattr(run, "make_display", lambda: display)
    return display


@pytest.fixture
def file_size_limit():
    """Sets the limit on the size of files; the system's answer to a longer write is EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def temporary_files(folder):
    return list(folder.rglob(".*.tmp"))


def assert_goes_on(folder, whole):
    assert temporary_files(folder) == []
    for path in (folder / "checkpoints").glob("*.pt"):
        load_state(path)
    assert cli.main(["train", "--out", str(folder), "--resume"]) == 0
    for name in WHOLE:
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(("limit", "checkpoints"), [(200_000, 0), (200_000, 1), (20_000, 1)])
def test_limit_on_file_sizes(limit, checkpoints, quiet, whole, tmp_path, file_size_limit, capsys):
    """The first or the second checkpoint breaks off at the limit."""
    quiet.step = lambda *_: file_size_limit(limit) if not checkpoints else None
    quiet.epoch = lambda rows: file_size_limit(limit) if rows[0]["epoch"] == checkpoints else None
    folder = tmp_path / "run"
    assert cli.main(["train", "--out", str(folder), *OPTIONS]) == 74
    errors = capsys.readouterr().err
    assert f"{folder}/checkpoints/epoch-000{checkpoints + 1}-step-000000.pt` can't be written: File too large" in errors
    assert "ulimit -f" in errors and "What was saved before is whole. To go on: adderkit train" in errors
    assert len(list((folder / "checkpoints").glob("*.pt"))) == checkpoints
    file_size_limit(resource.RLIM_INFINITY)
    quiet.step = quiet.epoch = lambda *_: None
    assert_goes_on(folder, whole)


FILES = [
    "config.yaml", "epoch-0001-step-000000.pt", "newest", "metrics.csv", "last.safetensors", "teacher.safetensors",
    "epoch-0002-step-000000.pt", "summary.json", "curves.png",
]  # fmt: skip
ERRORS = [(errno.ENOSPC, "make room"), (errno.EDQUOT, "quota"), (errno.EROFS, "read-only"), (errno.EACCES, "the right")]


@pytest.mark.parametrize("name", FILES)
def test_full_disk_at_any_file(name, quiet, whole, tmp_path, monkeypatch, capsys):
    number, remedy = ERRORS[FILES.index(name) % len(ERRORS)]
    fsync = os.fsync

    def full(descriptor):
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).name == f".{name}.tmp":
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", full)
    folder = tmp_path / "run"
    assert cli.main(["train", "--out", str(folder), *OPTIONS]) == 74
    errors = capsys.readouterr().err
    assert f"{name}` can't be written: {os.strerror(number)}" in errors and remedy in errors
    assert "To go on: adderkit train" in errors
    monkeypatch.setattr("os.fsync", fsync)
    if name == "config.yaml":
        assert cli.main(["train", "--out", str(folder), *OPTIONS, "--resume"]) == 0
    assert_goes_on(folder, whole)


@pytest.mark.parametrize("at", [1, 20])
def test_full_disk_at_the_events(at, quiet, whole, tmp_path, monkeypatch, capsys):
    write, calls = RecordWriter.write, []

    def full(self, data):
        calls.append(1)
        if len(calls) == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    monkeypatch.setattr(RecordWriter, "write", full)
    assert cli.main(["train", "--out", str(tmp_path / "run"), *OPTIONS]) == 74
    assert "/tensorboard/events.out.tfevents." in capsys.readouterr().err
    assert_goes_on(tmp_path / "run", whole)


def test_pruning_that_fails_is_told(quiet, tmp_path, monkeypatch, capsys):
    unlink = Path.unlink

    def refuse(self, missing_ok=False):
        if self.suffix == ".pt":
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert cli.main(["train", "--out", str(tmp_path / "run"), *OPTIONS, "--keep_checkpoints", "1"]) == 74
    assert "epoch-0001-step-000000.pt` can't be removed: Permission denied" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_output_on_a_full_disk(tmp_path):
    """The log of a run often lies on the same disk."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ADDERKIT_HOME": str(tmp_path / "home")}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "adderkit", "train", "--out", "run", *OPTIONS]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment, timeout=240
        )
    assert done.returncode == 74, done.stderr
    assert done.stderr.startswith("adderkit train: ") and "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1
