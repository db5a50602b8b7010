"""The command line as a user types it: in a process of its own, by exit code and text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = ["--data.train_rows", "0:128", "--data.test_rows", "0:64", "--batch_size", "32", "--device", "cpu"]


@pytest.fixture
def environment(tmp_path):
    # One thread: with a busy core beside them, two threads wait for each other most of the time.
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ADDERKIT_HOME": str(tmp_path / "home"),
        "COLUMNS": "200",
        "PYTHONWARNINGS": "default",
    }


@pytest.fixture
def adderkit(environment, tmp_path):
    def run(*arguments, **extra):
        done = subprocess.run(
            [sys.executable, "-m", "adderkit", *map(str, arguments)],
            capture_output=True, text=True, env={**environment, **extra}, cwd=tmp_path, timeout=240, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def test_train_then_eval(adderkit, tmp_path):
    done = adderkit("train", "--out", "run", "--epochs", 2, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "student" in done.stdout and "teacher" in done.stdout and "curves.png" in done.stdout
    assert (tmp_path / "run" / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    done = adderkit("eval", "run")
    assert done.returncode == 0, done.stderr
    assert f"{100 * summary['final_top1']:.2f} %" in done.stdout
    assert f"{100 * summary['teacher_final_top1']:.2f} %" in done.stdout


def test_recipe_and_options_over_it(adderkit, tmp_path):
    (tmp_path / "recipe.yaml").write_text("epochs: 1\nseed: 7\npkkd: {beta: 0.5, kernel: true}\n")
    done = adderkit("train", "--out", "run", *SMALL, "--seed", 8, "--pkkd.no-kernel", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert "epochs: 1\n" in text and "seed: 8\n" in text and "beta: 0.5\n" in text and "kernel: false\n" in text


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["train", "--out", "x", "--epochs", "0"], ["`epochs` (=0)", "greater than or equal to 1"]),
        (["train", "--out", "x", "--epochs", "many"], ["--epochs", "many"]),
        (["train", "--out", "x", "--epoch", "3"], ["--epoch", "Perhaps you meant", "--epochs"]),
        (["train", "--out", "x", "--method", "pkd"], ["`method` (='pkd')", "must be one of at,", "none, pkkd"]),
        (["train", "--out", "x", "--student", "resnet21"], ["`student` (='resnet21')", "resnet20"]),
        (["train", "--out", "x", "--layer", "shift"], ["--layer", "shift", "adder", "conv"]),
        (["train", "--out", "x", "--pkkd.sigma_a", "-1"], ["`pkkd.sigma_a` (=-1.0)", "greater than 0"]),
        (["train", "--out", "x", "--data.name", "digit"], ["digit", "digits"]),
        (["train", "--out", "x", "--batch_size", "100000"], ["`batch_size` (=100000)", "1438"]),
        (["train", "--out", "x", "--pkkd.taps", "layer9"], ["tap `layer9`", "no module"]),
        (["train"], ["--out"]),
        (["train", "missing.yaml", "--out", "x"], ["recipe `missing.yaml` can't be read"]),
        (["train", "--out", "x", "--teacher_run", "missing", "--method", "kd"], ["missing) holds no finished run"]),
        (["train", "--out", "x", "--device", "cuda"], ["`device` (=cuda)"]),
        (["train", "--out", "x", "--batch_size", "1"], ["`batch_size` (=1)", "greater than or equal to 2"]),
        (["train", "--out", "x", "--data.root", "y"], ["`data.root`", "not used by `name` (=digits)"]),
        (["eval", "nothing"], ["`run` (=nothing) holds no run"]),
        (["eval", "nothing", "--device", "gpu"], ["gpu", "cuda"]),
        (["trian"], ["there is no command `trian`", "train"]),
    ],
)
def test_bad_input_is_named_with_exit_code_2(adderkit, arguments, fragments, tmp_path):
    done = adderkit(*arguments, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2, done.stdout + done.stderr
    for fragment in fragments:
        assert fragment in done.stderr + done.stdout
    left = [path.name for path in (tmp_path / "x").iterdir()] if (tmp_path / "x").exists() else []
    assert left in ([], [".lock"])


def test_options_complete_a_recipe_of_files(adderkit, tmp_path):
    """The recipe's source decides whether a path is of use, not the default's."""
    (tmp_path / "recipe.yaml").write_text("data: {name: imagefolder}\n")
    done = adderkit("train", "recipe.yaml", "--data.root", "pictures", "--out", "x")
    assert done.returncode == 2
    assert "pictures" in done.stderr and "not used" not in done.stderr


@pytest.mark.parametrize("text", ["epoch: 3\n", "data: {nam: digits}\n", "epochs: [\n", "pkkd: 3\n", "lr: .nan\n"])
def test_bad_recipe_is_refused(adderkit, tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    done = adderkit("train", "bad.yaml", "--out", "x")
    assert done.returncode == 2
    assert "recipe `bad.yaml`" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["eval", "--help"], ["doctor", "--help"]])
def test_help(adderkit, arguments):
    done = adderkit(*arguments)
    assert done.returncode == 0
    assert "usage: adderkit" in done.stdout


def test_doctor(adderkit, tmp_path):
    done = adderkit("doctor")
    assert done.returncode == 0, done.stdout
    for fragment in ("torch", "kernels of adder2d", "GPU", str(tmp_path / "home"), "writable"):
        assert fragment in done.stdout


def test_doctor_reports_a_path_that_can_not_be(adderkit):
    done = adderkit("doctor", ADDERKIT_ISA="abacus")
    assert done.returncode == 1
    assert "abacus" in done.stdout and "data and cached teachers" in done.stdout


def test_doctor_reports_a_folder_that_can_not_be(adderkit, tmp_path):
    (tmp_path / "file").write_text("")
    done = adderkit("doctor", ADDERKIT_HOME=str(tmp_path / "file" / "below"))
    assert done.returncode == 1
    assert "not writable" in done.stdout


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the run did not get there"
        time.sleep(0.01)


def start(environment, folder, *arguments):
    command = [sys.executable, "-m", "adderkit", "train", "--out", str(folder), *SMALL, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_run_resumes_and_finishes(environment, adderkit, tmp_path):
    folder: Path = tmp_path / "run"
    process = start(environment, folder, "--epochs", "20")
    wait_for((folder / "checkpoints" / "newest").exists, process)
    process.kill()
    process.communicate()
    assert not (folder / "summary.json").exists()
    done = adderkit("train", "--out", folder, "--resume")
    assert done.returncode == 0, done.stderr
    assert "going on after epoch" in done.stdout
    assert len((folder / "metrics.csv").read_text().splitlines()) == 1 + 2 * 20


def test_exit_code_of_a_signal_in_the_middle_of_an_import(environment, tmp_path):
    """There code is made from strings, and Python ends a process by SIGINT where an interrupt left one."""
    (tmp_path / "interrupted.py").write_text(
        "from adderkit import __main__\n"
        "def main():\n"
        "    try:\n"
        "        exec('raise KeyboardInterrupt')\n"
        "    except KeyboardInterrupt:\n"
        "        return 75\n"
        "__main__.main = main\n"
        "__main__.run()\n"
    )
    paths = os.pathsep.join(path for path in (str(tmp_path), environment.get("PYTHONPATH")) if path)
    done = subprocess.run([sys.executable, "-m", "interrupted"], env=environment | {"PYTHONPATH": paths})
    assert done.returncode == 75


def test_ctrl_c_says_how_to_go_on(environment, adderkit, tmp_path):
    folder: Path = tmp_path / "run"
    process = start(environment, folder, "--epochs", "20")
    wait_for((folder / "checkpoints" / "newest").exists, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    command = errors.split("To go on: adderkit ")[1].split()
    assert adderkit(*command).returncode == 0
    assert (folder / "summary.json").exists()
