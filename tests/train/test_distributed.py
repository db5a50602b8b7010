"""Whole trainings by several processes under torchrun, against one process; their files, and what stops them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import launching
import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.timeout(900)  # a busy machine: half a minute each on an idle one


@pytest.fixture
def done(distributed_runs) -> dict[str, Any]:
    return distributed_runs


@contextmanager
def started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        env=launching.environment(folder),
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:  # the test failed
                for worker in workers(process.pid):
                    os.kill(worker, signal.SIGKILL)
                process.kill()


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}.safetensors")


def metrics(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest over all tensors, each relative to its own largest element."""
    assert one.keys() == other.keys()
    scales = {key: value.double().abs().max().clamp(min=1e-12) for key, value in one.items()}
    return max(float((one[key].double() - other[key].double()).abs().max() / scales[key]) for key in one)


@pytest.mark.parametrize("method", ["none", "pkkd"])
def test_updates_are_those_of_one_process(done, method):
    """In float64, after three steps with BatchNorm and the adaptive local rate: student, teacher, rho, sigma."""
    (one,), two = done["one"]["results"], done["two"]["results"]
    key = f"{method} in float64"
    assert difference(one[key], two[0][key]) < 1e-11
    assert all(torch.equal(value, two[1][key][name]) for name, value in two[0][key].items())


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("none", 5e-4), ("pkkd", 5e-3), ("kd", 5e-3), ("sp", 5e-3), ("dropout", 5e-3), ("plain", 1e-5), ("apart", 1e-6)],
)
def test_trainings_are_those_of_one_process(done, name, tolerance):
    """In float32, after 8 steps: with a synchronised BatchNorm; in two parts each, without any; with one per process,
    which sees the images that a part of one process sees."""
    (one,), two = done["one"]["results"], done["two"]["results"]
    statistics = ("running", "num_batches") if name == "apart" else ()  # two followings a step, or the mean of two
    expected = {key: value for key, value in one[name][1][-1].items() if not any(part in key for part in statistics)}
    found = {key: two[0][name][1][-1][key] for key in expected}
    assert difference(expected, found) < tolerance


@pytest.mark.parametrize("name", ["none", "plain", "pkkd", "kd", "sp", "dropout"])
def test_metrics_are_those_of_one_process(done, name):
    """Sums over all images. In evaluation the first process has 256 of the 300, the second 44."""
    one, two = (metrics(done[which]["folder"] / name) for which in ("one", "two"))
    assert [row.keys() for row in one] == [row.keys() for row in two]
    for expected, found in zip(one, two, strict=True):
        for key, value in expected.items():
            if key in ("net", "phase") or not value:
                assert found[key] == value
            else:
                assert float(found[key]) == pytest.approx(float(value), rel=1e-3, abs=0.01 if "top" in key else 0), key


@pytest.mark.parametrize("name", ["none", "pkkd", "kd", "sp", "dropout", "plain", "apart"])
def test_both_hold_the_same_and_the_first_has_written_it(done, name):
    first, second = (result[name] for result in done["two"]["results"])
    assert first[0] == second[0] == json.loads((done["two"]["folder"] / name / "summary.json").read_text())
    assert first[0]["processes"] == 2
    for one, other in zip(first[1], second[1], strict=True):
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    saved = weights(done["two"]["folder"] / name)
    assert all(torch.equal(value, first[1][-1][f"student.{key}"]) for key, value in saved.items())


def test_checkpoints_change_nothing(done):
    """Not even where each process takes the statistics of its own images: their means are not taken for a checkpoint
    alone."""
    (result, *_) = done["two"]["results"]
    one, other = (result[name][1][-1] for name in ("apart", "apart, often saved"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_files_are_written_once_and_are_those_of_one_process(done):
    for name in ("none", "pkkd"):
        folders = [done[which]["folder"] / name for which in ("one", "two")]
        one, two = (
            sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "tfevents" not in path.name)
            for folder in folders
        )
        assert one == two
        assert len(list((folders[1] / "tensorboard").iterdir())) == 1
        assert weights(folders[0]).keys() == weights(folders[1]).keys()
    assert done["two"]["output"].count("pkkd: adder resnet8") == 1
    assert len(list((done["two"]["folder"] / "home" / "teachers").glob("*/summary.json"))) == 1


def test_nothing_is_warned_of(done):
    assert "Warning" not in done["two"]["errors"], done["two"]["errors"]


def test_what_goes_wrong_on_one_is_known_to_both(done):
    first, second = done["two"]["results"]
    assert first["nan"] == second["nan"]
    assert first["nan"].startswith("Diverged: the student's loss term `ce` is nan in epoch 2, step 1; the last good")
    assert second["other options"] == "ValueError: process 1 was started with other options than process 0"
    assert second["other images"].startswith("ValueError: process 1 found other images than process 0: their ")
    assert first["other options"] == first["other images"] == second["not shared"] == second["taken"] == "Elsewhere: "
    assert first["not shared"].startswith("ValueError: `batch_size` (=31) is shared by 2 processes")
    assert "is not empty" in first["taken"]
    assert first["finished"] == first["none"][0] == second["finished"]


def test_the_others_wait_for_one_that_loads_for_long(done):
    first, second = (result["patience"] for result in done["two"]["results"])
    assert first == ["loaded", "Elsewhere: "] and second == ["loaded", "ValueError: nothing there"]


def options(out: Path) -> list[str]:
    """The training `pkkd` of `distributed_runs.py` on the command line, with a checkpoint after every step."""
    data = ["--data.train_rows", "0:128", "--data.test_rows", "0:300", "--data.flip", "True"]
    rest = ["--epochs", "2", "--batch_size", "32", "--lr", "0.01", "--device", "cpu", "--checkpoint_minutes", "1e-6"]
    method = ["--method", "pkkd", "--pkkd.rho", "both", "--pkkd.progressive", "--pkkd.head_start", "0"]
    method += ["--pkkd.alpha", "1", "--pkkd.mid_share", "1"]
    return ["train", *method, *data, *rest, "--out", str(out), "--resume"]


def workers(parent: int) -> list[int]:
    """Process ids of a torchrun's workers, the first of them first."""
    found: dict[int, int] = {}
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            variables = dict(item.split("=", 1) for item in (path / "environ").read_text().split("\0") if "=" in item)
        except (OSError, UnicodeDecodeError):
            continue
        if int(fields[1]) == parent and "RANK" in variables:
            found[int(variables["RANK"])] = int(path.name)
    return [found[rank] for rank in sorted(found)]


def wait_for(process: subprocess.Popen[str], pattern: str, folder: Path) -> None:
    limit = time.monotonic() + launching.PATIENCE
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_killed_worker_is_started_again_and_ends_alike(done, tmp_path):
    """SIGKILL in the middle of the first epoch: torchrun restarts both, and they go on to the same bits."""
    command = [*launching.TORCHRUN, "--max_restarts", "1", "-m", "adderkit", *options(tmp_path / "run")]
    with started(command, tmp_path) as process:
        wait_for(process, "run/checkpoints/epoch-0000-step-000002.pt", tmp_path)
        os.kill(workers(process.pid)[1], signal.SIGKILL)
        output = process.communicate(timeout=launching.PATIENCE)[0]
    assert process.returncode == 0, output
    assert "lost another process" in output and "going on after epoch " in output, output
    whole = done["two"]["folder"] / "pkkd"
    for name in ("last", "teacher"):
        one, other = weights(whole, name), weights(tmp_path / "run", name)
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert metrics(whole) == metrics(tmp_path / "run")


def test_sigterm_saves_and_one_process_goes_on(done, tmp_path):
    """A preempted job of two processes, gone on with by one: as near to the whole run as another number is."""
    with started([*launching.TORCHRUN, "-m", "adderkit", *options(tmp_path / "run")], tmp_path) as process:
        wait_for(process, "run/checkpoints/epoch-0000-step-000001.pt", tmp_path)
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=launching.PATIENCE)[0]
    assert "in _main" not in output  # no traceback of a worker
    assert output.count("stopped in epoch") == 1 and "To go on: torchrun ... -m adderkit train " in output, output
    alone = launching.run([sys.executable, "-m", "adderkit", *options(tmp_path / "run")], tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert "processes: 2, now 1" in alone.stdout
    one, other = metrics(done["two"]["folder"] / "pkkd"), metrics(tmp_path / "run")
    for expected, found in zip(one, other, strict=True):
        assert float(found["train_loss"]) == pytest.approx(float(expected["train_loss"]), rel=1e-2)


def test_refusal_under_torchrun_is_one_message_and_no_fault(tmp_path):
    """Both refuse; torchrun's own traceback is the only one."""
    refused = launching.run([*launching.TORCHRUN, "-m", "adderkit", *options(tmp_path), "--batch_size", "31"], tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.count("`batch_size` (=31) is shared by 2 processes") == 1
    assert refused.stderr.count("Traceback") == refused.stderr.count("ChildFailedError:") == 1, refused.stderr
    assert "exitcode  : 2" in refused.stderr.rpartition("Root Cause")[2]


def test_orphans_of_torchrun_save_and_stop(tmp_path):
    with started([*launching.TORCHRUN, "-m", "adderkit", *options(tmp_path / "run")], tmp_path) as process:
        wait_for(process, "run/checkpoints/epoch-0000-step-000001.pt", tmp_path)
        process.kill()
        output = process.communicate(timeout=launching.PATIENCE)[0]  # to the end of the last that can write there
    assert output.count("stopped in epoch") == 1, output
    assert not (tmp_path / "run" / "summary.json").exists()


def test_failing_worker_ends_the_job_with_its_own_traceback(tmp_path):
    """A fault of the program on one of two: its traceback, no endless wait, a checkpoint to go on from."""
    script = tmp_path / "faulty.py"
    script.write_text(
        "import os, sys\n"
        "from adderkit.cli import main\n"
        "from adderkit.distill import method_type\n"
        "kind = method_type('pkkd')\n"
        "losses, calls = kind.losses, []\n"
        "def faulty(self, batch):\n"
        "    calls.append(1)\n"
        "    if os.environ['RANK'] == '1' and len(calls) == 6:\n"
        "        raise RuntimeError('a fault of the method')\n"
        "    return losses(self, batch)\n"
        "kind.losses = faulty\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    failed = launching.run([*launching.TORCHRUN, str(script), *options(tmp_path / "run")], tmp_path)
    assert failed.returncode == 1
    assert "RuntimeError: a fault of the method" in failed.stderr
    assert failed.stderr.count("in faulty") >= 1
    report = failed.stderr.rpartition("Root Cause")[2]
    assert "rank      : 1" in report and "a fault of the method" in report, failed.stderr
    assert failed.stderr.count("lost another process, whose own message says why") == 1
    newest = (tmp_path / "run" / "checkpoints" / "newest").read_text().strip()
    assert newest == "epoch-0001-step-000001.pt"
