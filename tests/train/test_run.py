"""Runs: their files, going on, what stops them."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from adderkit import train
from adderkit.data import load
from adderkit.distill import method_type
from adderkit.train.checkpoint import load_state
from adderkit.train.config import BaseConfig, config_type
from adderkit.train.loop import Trainer

NETS = ("student", "teacher")
SUMMARY_KEYS = {
    "method", "dataset", "student", "teacher", "layer", "seed", "epochs", "final_top1", "best_top1",
    "teacher_final_top1", "seconds", "device", "versions", "commit",
}  # fmt: skip


def weights(folder, name="last"):
    return load_file(folder / f"{name}.safetensors")


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key


def metrics(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def check_goes_on(config: BaseConfig, tmp_path: Path, display: Any, interrupting: Any) -> None:
    """A run that a display interrupts goes on to the end of an undisturbed one, to the last bit of both nets."""
    train.train(config, tmp_path / "whole", display=display)
    with pytest.raises(train.Interrupted):
        train.train(config, tmp_path / "parts", display=interrupting)
    train.train(config, tmp_path / "parts", resume=True, display=display)
    for name in ("last", "teacher"):
        assert_same(weights(tmp_path / "whole", name), weights(tmp_path / "parts", name))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_files_of_a_run(make_config, tmp_path, display):
    config = make_config(pkkd={"progressive": True, "head_start": 0, "alpha": 1})
    summary = train.train(config, tmp_path / "run", display=display)
    folder = tmp_path / "run"
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary.keys() >= SUMMARY_KEYS
    assert (summary["method"], summary["dataset"], summary["student"]) == ("pkkd", "digits", "resnet8")
    assert 0 <= summary["final_top1"] <= summary["best_top1"] <= 1
    rows = metrics(folder)
    assert [(row["epoch"], row["net"]) for row in rows] == [
        ("1", "student"), ("1", "teacher"), ("2", "student"), ("2", "teacher"),
    ]  # fmt: skip
    assert rows[0].keys() >= {"loss.ce", "loss.soft", "loss.mid", "train_loss", "test_top1", "test_top5", "lr"}
    assert list((folder / "tensorboard").iterdir())
    assert train.load_recipe(folder / "config.yaml") == config


def test_head_start_and_rare_tests(make_config, tmp_path, display):
    """The teacher is trained in epochs 1 to 3, the student in 2 to 4; tests are due in epochs 3 and 4."""
    config = make_config(
        epochs=3, test_every=3, pkkd={"progressive": True, "head_start": 0.3, "mid_share": 1}
    )  # one epoch
    summary = train.train(config, tmp_path / "run", display=display)
    rows = metrics(tmp_path / "run")
    trained = {net: [int(row["epoch"]) for row in rows if row["net"] == net and row["train_loss"]] for net in NETS}
    tested = {net: [int(row["epoch"]) for row in rows if row["net"] == net and row["test_top1"]] for net in NETS}
    assert trained == {"student": [2, 3, 4], "teacher": [1, 2, 3]}
    assert tested == {"student": [3, 4], "teacher": [3, 4]}
    assert [row["phase"] for row in rows[::2]] == ["teacher alone", "together", "together", "teacher done"]
    data = load(config.data, torch.device("cpu"))
    for name, key in (("last", "final_top1"), ("teacher", "teacher_final_top1")):
        network, _ = train.load_network(tmp_path / "run" / f"{name}.safetensors")
        assert train.evaluate(network, data.test).top1 == summary[key]


@pytest.mark.parametrize("method", ["kd", "pkkd"])
def test_training_goes_on_where_the_teacher_is_not_read(make_config, tmp_path, display, stop_after, method):
    """A run of 2 epochs of 5 steps, the first with the fixed teacher, stopped in the second."""
    options = {"kd": {"share": 0.5}, "pkkd": {"progressive": False, "mid_share": 0.5, "alpha": 0}}[method]
    config = make_config(method=method, **{method: options})
    train.train(config, tmp_path / "whole", display=display)
    with pytest.raises(train.Interrupted, match="in epoch 2"):
        train.train(config, tmp_path / "parts", display=stop_after(5))
    train.train(config, tmp_path / "parts", resume=True, display=display)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


@pytest.mark.parametrize("steps", [1, 2])
def test_head_start_goes_on_to_the_same_end(make_config, tmp_path, display, stop_after, steps):
    config = make_config(epochs=1, test_every=2, pkkd={"progressive": True, "head_start": 1})
    check_goes_on(config, tmp_path, display, stop_after(steps))


@pytest.mark.parametrize("progressive", [False, True])
def test_leaving_out_a_teacher_that_nothing_reads_changes_no_bit(
    progressive, make_config, tmp_path, display, monkeypatch
):
    options = {"progressive": progressive, "head_start": 0.5, "alpha": 0, "mid_share": 0.25}
    config = make_config(epochs=4, pkkd=options)
    train.train(config, tmp_path / "left-out", display=display)
    method = method_type("pkkd")
    phases = method.phases
    unread = []

    def all_read(self, epochs):
        unread.append([phase.name for phase in phases(self, epochs) if not phase.reads_teacher])
        return tuple(replace(phase, reads_teacher=True) for phase in phases(self, epochs))

    monkeypatch.setattr(method, "phases", all_read)
    train.train(config, tmp_path / "read", display=display)
    assert unread[0]
    assert_same(weights(tmp_path / "left-out"), weights(tmp_path / "read"))


def test_a_snapshot_is_the_student_at_the_end_of_the_cycle_before(tmp_path, stop_after):
    data = {"name": "digits", "train_rows": "0:128", "test_rows": "0:100"}
    fixed = {"method": "snapshot", "epochs": 6, "batch_size": 32, "device": "cpu", "data": data}
    config = config_type()(**fixed, snapshot={"cycles": 3})
    for cycle in (1, 2):
        folder = tmp_path / f"cycle-{cycle}"
        with pytest.raises(train.Interrupted):  # in the next one's first epoch: the files are of the cycle's last
            train.train(config, folder, display=stop_after(8 * cycle + 2))
        (newest,) = (folder / "checkpoints").glob(f"epoch-*{2 * cycle}-step-*2.pt")
        method = {name: tensor for name, tensor in load_state(newest)["method"].items()}
        assert_same(weights(folder), {name.removeprefix("snapshot."): tensor for name, tensor in method.items()})


def test_saved_student_scores_what_the_summary_says(make_config, tmp_path, display):
    config = make_config()
    summary = train.train(config, tmp_path / "run", display=display)
    data = load(config.data, torch.device("cpu"))
    for name, key in (("last", "final_top1"), ("teacher", "teacher_final_top1")):
        network, info = train.load_network(tmp_path / "run" / f"{name}.safetensors")
        assert train.evaluate(network, data.test).top1 == summary[key]
        assert info.dataset == "digits"


def test_student_alone_is_saved(make_config, tmp_path, display):
    """No rho, no statistics of the method: exactly what the network itself has."""
    train.train(make_config(), tmp_path / "run", display=display)
    network, _ = train.load_network(tmp_path / "run" / "last.safetensors")
    assert weights(tmp_path / "run").keys() == network.state_dict().keys()


@pytest.fixture
def make_config() -> Callable[..., BaseConfig]:
    """A configuration of 4 steps an epoch; PKKD in one phase and with parameters of its own."""

    def make(**values: Any) -> BaseConfig:
        data = {"name": "digits", "train_rows": "0:128", "test_rows": "0:100"}
        if values.get("method", "pkkd") == "pkkd":
            values["pkkd"] = {"progressive": True, "head_start": 0, "rho": "student", **values.get("pkkd", {})}
        return config_type()(**{"epochs": 2, "batch_size": 32, "device": "cpu", "data": data, **values})

    return make


@pytest.mark.parametrize("method", ["none", "pkkd"])
def test_same_seed_same_weights_other_seed_others(make_config, tmp_path, display, method):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train.train(make_config(method=method, seed=seed, epochs=1), tmp_path / name, display=display)
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not torch.equal(weights(tmp_path / "a")["conv1.weight"], weights(tmp_path / "c")["conv1.weight"])


@pytest.mark.parametrize("steps", [1, 4, 6])
def test_interrupted_run_goes_on_to_the_same_end(make_config, tmp_path, display, stop_after, steps):
    config = make_config()
    train.train(config, tmp_path / "whole", display=display)
    with pytest.raises(train.Interrupted, match=f"epoch {(steps - 1) // 4 + 1}, step {(steps - 1) % 4 + 1}"):
        train.train(config, tmp_path / "parts", display=stop_after(steps))
    assert not (tmp_path / "parts" / "summary.json").exists()
    before = display.steps
    train.train(config, tmp_path / "parts", resume=True, display=display)
    assert display.steps - before == 8 - steps  # no batch is trained twice
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert_same(weights(tmp_path / "whole", "teacher"), weights(tmp_path / "parts", "teacher"))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_checkpoints_every_few_epochs(make_config, tmp_path, display, stop_after, monkeypatch):
    """Between them a signal saves all the same, and a death costs the epochs since."""
    config = make_config(epochs=5, save_every=3, keep_checkpoints=9, method="none")
    train.train(config, tmp_path / "whole", display=display)
    saved = sorted(path.name for path in (tmp_path / "whole" / "checkpoints").glob("*.pt"))
    assert saved == ["epoch-0003-step-000000.pt", "epoch-0005-step-000000.pt"]
    with pytest.raises(train.Interrupted):
        stopping = stop_after(0)
        stopping.epoch = lambda rows: signal.raise_signal(signal.SIGINT) if rows[0]["epoch"] == 2 else None
        train.train(config, tmp_path / "parts", display=stopping)
    (name,) = (path.name for path in (tmp_path / "parts" / "checkpoints").glob("*.pt"))
    assert name == "epoch-0002-step-000000.pt"
    assert len(metrics(tmp_path / "parts")) == 2
    with monkeypatch.context() as patched:
        original = Trainer._train_epoch

        def die(self, *arguments):
            if self.epoch == 4:
                raise MemoryError
            original(self, *arguments)

        patched.setattr(Trainer, "_train_epoch", die)
        with pytest.raises(MemoryError):
            train.train(config, tmp_path / "parts", resume=True, display=display)
    train.train(config, tmp_path / "parts", resume=True, display=display)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_ctrl_c_is_left_as_it_was(make_config, tmp_path, display):
    before = signal.getsignal(signal.SIGINT)
    train.train(make_config(epochs=1), tmp_path / "run", display=display)
    assert signal.getsignal(signal.SIGINT) is before


def test_finished_run_is_not_trained_again(make_config, tmp_path, display):
    config = make_config(epochs=1)
    summary = train.train(config, tmp_path / "run", resume=True, display=display)
    steps = display.steps
    assert train.train(config, tmp_path / "run", resume=True, display=display) == summary
    assert display.steps == steps


def test_folder_with_anything_is_refused(make_config, tmp_path, display):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"`out` \(=.*\) is not empty"):
        train.train(make_config(), tmp_path / "run", display=display)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_another_configuration_does_not_go_on(make_config, tmp_path, display):
    train.train(make_config(epochs=1), tmp_path / "run", display=display)
    with pytest.raises(ValueError, match=r"`epochs` is 1 there and 3 here; `pkkd\.beta` is 1\.0 there and 0\.5 here"):
        train.train(make_config(epochs=3, pkkd={"beta": 0.5}), tmp_path / "run", resume=True, display=display)


def test_impossible_batch_size_leaves_no_folder_behind(make_config, tmp_path, display):
    with pytest.raises(ValueError, match=r"`batch_size` \(=129\)"):
        train.train(make_config(batch_size=129), tmp_path / "run", display=display)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_nan_stops_the_run_and_keeps_the_checkpoint(make_config, tmp_path, display, monkeypatch):
    """The third epoch's second step meets a NaN in one term: named, and the state of epoch 2 survives."""
    cls = method_type("pkkd")
    original = cls.losses
    calls = []

    def poisoned(self, batch):
        terms = original(self, batch)
        calls.append(1)
        return {**terms, "mid": terms["mid"] * float("nan")} if len(calls) == 10 else terms

    monkeypatch.setattr(cls, "losses", poisoned)
    config = make_config(epochs=3, pkkd={"progressive": True, "head_start": 0, "mid_share": 1})
    with pytest.raises(train.Diverged, match=r"student's loss term `mid` is nan in epoch 3, step 2"):
        train.train(config, tmp_path / "run", display=display)
    monkeypatch.setattr(cls, "losses", original)
    train.train(config, tmp_path / "run", resume=True, display=display)
    train.train(config, tmp_path / "whole", display=display)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


@pytest.mark.parametrize("owner", ["student", "method"])
def test_weights_that_are_not_finite_are_not_saved(make_config, tmp_path, stop_after, monkeypatch, owner):
    """A weight that became NaN after the last loss was seen: found before a checkpoint takes it."""
    stopping = stop_after(1)
    original = Trainer._train_step

    def poisoned(self, *arguments):
        losses = original(self, *arguments)
        module = self.student.network.fc if owner == "student" else self.method.student_branches[0].rho
        with torch.no_grad():
            module.weight.view(-1)[0] = float("nan")
        return losses

    monkeypatch.setattr(Trainer, "_train_step", poisoned)
    with pytest.raises(
        train.Diverged, match=rf"the {owner}'s `.*weight` holds a NaN .* in epoch 1, step 1; there was no"
    ):
        train.train(make_config(), tmp_path / "run", display=stopping)
    assert not (tmp_path / "run" / "checkpoints").exists()


EVERY_EPOCH = ["newest", "metrics.csv", "last.safetensors", "teacher.safetensors"]
CHECKPOINTS = ["epoch-0001-step-000000.pt", "epoch-0002-step-000000.pt"]


@pytest.mark.parametrize(
    ("name", "time"),
    [
        *((name, time) for name in EVERY_EPOCH for time in (1, 2)),
        *((name, 1) for name in [*CHECKPOINTS, "summary.json"]),
    ],
)
def test_death_before_any_file_of_an_epoch(make_config, tmp_path, display, monkeypatch, name, time):
    """Whichever file a crash leaves unwritten, the resumed run ends with all files of the uninterrupted one."""
    train.train(make_config(), tmp_path / "whole", display=display)
    replace, seen = os.replace, []

    def crash(source, target):
        seen.extend([1] if Path(target).name == name else [])
        if Path(target).name == name and len(seen) == time:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("adderkit.train.files.os.replace", crash)
    with pytest.raises(KeyboardInterrupt):
        train.train(make_config(), tmp_path / "parts", display=display)
    monkeypatch.setattr("adderkit.train.files.os.replace", replace)
    train.train(make_config(), tmp_path / "parts", resume=True, display=display)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert_same(weights(tmp_path / "whole", "teacher"), weights(tmp_path / "parts", "teacher"))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    names = [
        sorted(
            str(path.relative_to(tmp_path / run)) for path in (tmp_path / run).rglob("*") if "tfevents" not in path.name
        )
        for run in ("whole", "parts")
    ]
    assert names[0] == names[1]


def test_other_images_do_not_go_on(make_config, tmp_path, display, stop_after):
    """The same label and number of images, but others: the mean of the pixels tells them apart."""
    for name, shade in (("light", 200), ("dark", 50)):
        for split in ("train", "test"):
            for label in ("a", "b"):
                folder = tmp_path / name / split / label
                folder.mkdir(parents=True)
                for index in range(8):
                    Image.new("L", (8, 8), shade + index + (label == "a")).save(folder / f"{index}.png")
    data = {"name": "imagefolder", "label": "squares"}
    light, dark = (make_config(batch_size=8, data={**data, "root": tmp_path / name}) for name in ("light", "dark"))
    with pytest.raises(train.Interrupted):
        train.train(light, tmp_path / "run", display=stop_after(1))
    with pytest.raises(ValueError, match=r"step-000001\.pt` is of a run on other images: their mean is"):
        train.train(dark, tmp_path / "run", resume=True, display=display)


def test_refused_configuration_leaves_the_folder_free(make_config, tmp_path, display):
    with pytest.raises(ValueError, match="tap `layer9` is no module"):
        train.train(make_config(pkkd={"taps": ["layer9"]}), tmp_path / "run", display=display)
    train.train(make_config(epochs=1), tmp_path / "run", display=display)


def test_small_images_are_refused(make_config, tmp_path, display):
    data = {"name": "digits", "image_size": 4}
    with pytest.raises(ValueError, match=r"`student` \(=vgg_small\) does not take images of 4x4 pixels"):
        train.train(make_config(student="vgg_small", data=data), tmp_path / "run", display=display)


def test_second_process_is_refused(make_config, tmp_path, display):
    from adderkit.train.folder import locked

    with locked(tmp_path / "run"), pytest.raises(ValueError, match="another process is training there"):
        train.train(make_config(), tmp_path / "run", display=display)


def test_recipe_of_plain_values_only(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("method: !!python/object/apply:os.system ['touch pwned']\n")
    with pytest.raises(ValueError, match="is no YAML"):
        train.load_recipe(path)
    path.write_text("- a\n- b\n")
    with pytest.raises(ValueError, match="must be a mapping"):
        train.load_recipe(path)
    path.write_text("data: {1: 2}\n")
    with pytest.raises(ValueError, match="unknown key `1`: keys are words"):
        train.load_recipe(path)
    path.write_text("lr: 2020-13-45\n")
    with pytest.raises(ValueError, match="is no YAML: month must be"):
        train.load_recipe(path)
    path.write_text("pkkd: {sigma_a: -3}\n")
    with pytest.raises(ValueError, match=r"recipe `.*`: `pkkd.sigma_a` \(=-3\) must be greater than 0"):
        train.load_recipe(path)


def test_every_method_has_its_group_of_options():
    assert set(config_type().model_fields) >= {"kd", "pkkd"}
    assert "none" not in config_type().model_fields  # it has no options
