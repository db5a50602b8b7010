"""What the documents show is what works: their code runs, their command lines parse."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from adderkit import cli
from adderkit.train import config_type, load_recipe

ROOT = Path(__file__).parents[1]


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def command_lines() -> list[list[str]]:
    """What follows `adderkit` in the documents' shell blocks and inline code, environment variables aside."""
    found = []
    for document in ("README.md", "docs/guide.md"):
        text = (ROOT / document).read_text()
        shell = "\n".join(blocks(document, "sh")).splitlines()
        inline = re.findall(r"`(adderkit (?:train|eval|quantize|import|bench|doctor|table|theorem1) [^`]*)`", text)
        for line in [*shell, *inline]:
            words = shlex.split(re.sub(r"^(?:\w+=\S+ +)+", "", line), comments=True)
            # what is in brackets makes a form; the guide's own method is run whole below
            if words[:1] == ["adderkit"] and not re.search(r"\[|--help|--method logits", line):
                found.append(words[1:])
    return found


TRAIN_LINES = [words[1:] for words in command_lines() if words[0] == "train" and "DIR" not in words]
OTHER_LINES = [words for words in command_lines() if words[0] != "train"]


@pytest.mark.parametrize("arguments", TRAIN_LINES, ids=" ".join)
def test_train_command_lines_parse(arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    defaults = config_type()()
    options = cli._parse_train(arguments, defaults)
    if options.recipe is not None:
        options = cli._parse_train(arguments, load_recipe(options.recipe))
    assert options.out


class Understood(BaseException):
    """Raised in place of a command's work."""


@pytest.mark.parametrize("arguments", OTHER_LINES, ids=" ".join)
def test_other_command_lines_reach_their_work(arguments, monkeypatch, tmp_path):
    def work(*_: object, **__: object) -> None:
        raise Understood

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("adderkit.train.load_network", work)
    monkeypatch.setattr("adderkit.train.import_weights", work)
    monkeypatch.setattr("adderkit.cli_bench.measure_ops", work)
    monkeypatch.setattr("adderkit.cli_bench.measure_train", work)
    monkeypatch.setattr("adderkit.cli_bench.measure_infer", work)
    monkeypatch.setattr("adderkit.doctor.report", work)
    monkeypatch.setattr("adderkit.tables.run_cells", work)
    monkeypatch.setattr("adderkit.report.truncation", work)
    monkeypatch.setattr("adderkit.cli_quantize.load", work)
    monkeypatch.setattr("adderkit.runtime.load", work)
    if arguments[0] in ("eval", "quantize"):
        run = tmp_path / arguments[1]
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("")
    with pytest.raises(Understood):
        cli.main(arguments)


def test_there_are_command_lines():
    assert len(TRAIN_LINES) >= 7
    assert {words[0] for words in OTHER_LINES} >= {"eval", "quantize", "import", "bench", "doctor", "table", "theorem1"}


def test_readme_code_runs():
    (code,) = blocks("README.md", "python")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_guides_method_is_one_file_of_another_package(tmp_path, home):
    """The guide's example, put into a distribution outside the project, is trained through the command line."""
    (code,) = blocks("docs/guide.md", "python")
    site = tmp_path / "site"
    info = site / "logits_box-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "logits_box.py").write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: logits-box\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[adderkit.methods]\nlogits = logits_box\n")
    command = "train --method logits --logits.weight 0.5 --out run --epochs 1 --batch_size 32 --device cpu"
    rows = ["--data.train_rows", "0:128", "--data.test_rows", "0:64"]
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "adderkit", *command.split(), *rows],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "ADDERKIT_HOME": str(home)},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["method"], summary["teacher"]) == ("logits", "resnet8")
    assert "loss.logits" in (tmp_path / "run" / "metrics.csv").read_text()
