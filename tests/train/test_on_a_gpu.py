"""Trainings with `device="cuda"`: on a GPU, and where there is none on a simulated one, which shows more.

The simulated one refuses what lies on the wrong device, ends copies late, and replays what a capture recorded without
its Python: a number that was frozen, or memory that was let go, gives other weights or an error.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from PIL import Image
from test_graph import CASES, STEPS, TESTS, make_config
from test_run import assert_same, metrics, weights

from adderkit import data, models, train
from adderkit.cli import main
from adderkit.distill import Method, method_names, method_type
from adderkit.train.evaluate import evaluate
from adderkit.train.graph import PLAIN_STEPS, CudaRecorder
from adderkit.train.graph_evaluation import PLAIN_BATCHES, ReplayedTally
from adderkit.train.interrupt import Stop
from simulated_cuda import Gpu, simulated


@pytest.fixture(autouse=True)
def gpu() -> Iterator[Gpu | None]:
    """None where it is a real one."""
    if torch.cuda.is_available():
        torch.backends.cudnn.deterministic, before = True, torch.backends.cudnn.deterministic
        yield None
        torch.backends.cudnn.deterministic = before
    else:
        with simulated() as simulation:
            yield simulation


def same(one, other, gpu: Gpu | None) -> None:
    """To the last bit; on a real GPU some of torch's kernels may add atomically."""
    if gpu is not None:
        return assert_same(one, other)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-3, msg=name)


def graph_notes(display) -> list[str]:
    return [note for note in display.notes if "CUDA graph" in note]


@pytest.mark.parametrize("case", [case for case in CASES if case != "no graph"])
def test_replayed_steps_equal_plain_ones(tmp_path, display, case, gpu):
    for name, has_graph in (("plain", False), ("replayed", True)):
        config = make_config(**CASES[case], device="cuda", lr=0.01, cuda_graph=has_graph)
        train.train(config, tmp_path / name, display=display)
        if gpu is not None:
            # Its test batches are too few to be captured.
            assert gpu.replays == (STEPS * config.epochs - PLAIN_STEPS if has_graph else 0)
    assert graph_notes(display) == []
    same(weights(tmp_path / "replayed"), weights(tmp_path / "plain"), gpu)


# Epochs of four steps: each phase has some that are replayed.
COURSES = {name: (name, {}, {"snapshot": 8, "pkkd": 7}.get(name, 2)) for name in method_names()} | {
    "pkkd, progressive": ("pkkd", {"progressive": True, "head_start": 0.5}, 6),
    "pkkd, all that can be learned": (
        "pkkd",
        {"sigma": "learned", "rho": "both", "scale": "layer", "taps": "operators", "alpha": 1, "mid_share": 1},
        2,
    ),
    "kd, first half": ("kd", {"share": 0.5}, 4),
    "sp, progressive": ("sp", {"progressive": True}, 2),
    "fsp, one after the other": ("fsp", {"first_phase": 0.5}, 4),
}


@pytest.mark.parametrize("course", COURSES)
def test_every_method_is_replayed_as_it_is_computed(tmp_path, display, course, gpu):
    name, options, epochs = COURSES[course]
    for folder, has_graph in (("plain", False), ("replayed", True)):
        config = config_of(name, options, epochs=epochs, cuda_graph=has_graph, lr=0.01)
        train.train(config, tmp_path / folder, display=display)
    assert graph_notes(display) == []
    if gpu is not None:
        assert gpu.replays >= STEPS * epochs // 4
    same(weights(tmp_path / "replayed"), weights(tmp_path / "plain"), gpu)
    assert len(metrics(tmp_path / "replayed")) == len(metrics(tmp_path / "plain"))


@pytest.mark.parametrize("course", [course for course in COURSES if course != "dropout"])
def test_a_seed_gives_the_same_training_on_any_device(tmp_path, display, course):
    """But for rounding: orders of summing differ, as does the update. Dropout's masks are drawn on the device."""
    name, options, epochs = COURSES[course]
    rows = []
    for device in ("cpu", "cuda"):
        config = config_of(name, options, epochs=epochs, device=device, lr=1e-4, train_rows="0:32")
        train.train(config, tmp_path / device, display=display)
        rows.append([float(row["train_loss"]) for row in metrics(tmp_path / device) if row["train_loss"]])
    assert rows[0] == pytest.approx(rows[1], rel=2e-3) and len(rows[0]) >= epochs


def config_of(name: str, options: dict, *, train_rows: str = "0:128", device: str = "cuda", **values):
    values |= {name: options} if options else {}
    return train.config_type()(
        method=name, batch_size=32, device=device, data={"train_rows": train_rows, "test_rows": "0:50"}, **values
    )


def test_replayed_test_batches_follow_the_weights():
    """Weights and statistics change in place."""
    device, notes = torch.device("cuda", torch.cuda.current_device()), []
    digits = data.load(make_config(data=TESTS).data, device)
    net = models.create("resnet8", num_classes=10, in_channels=1).to(device)
    recorder = CudaRecorder(device)
    replayed = ReplayedTally(recorder, lambda: None, lambda: None, Stop(), notes.append)
    with recorder.running():
        for _ in range(PLAIN_BATCHES + 3):
            with torch.no_grad():
                for tensor in (*net.parameters(), *net.buffers()):
                    if tensor.is_floating_point():
                        tensor.mul_(1.1)
            assert evaluate(net, digits.test, of_batch=replayed) == evaluate(net, digits.test)
    assert notes == []


@pytest.mark.parametrize("method", ["pkkd", "dropout"])
@pytest.mark.parametrize("steps", [3, 6, 10])
def test_resume(tmp_path, display, stop_after, method, steps, gpu):
    """Weights, momentum, statistics and the GPU's random numbers go on."""
    config = make_config(method=method, device="cuda", epochs=4, lr=0.01)
    train.train(config, tmp_path / "whole", display=display)
    with pytest.raises(train.Interrupted):
        train.train(config, tmp_path / "parts", display=stop_after(steps))
    train.train(config, tmp_path / "parts", resume=True, display=display)
    same(weights(tmp_path / "parts"), weights(tmp_path / "whole"), gpu)
    assert len(metrics(tmp_path / "parts")) == len(metrics(tmp_path / "whole"))


@pytest.mark.parametrize("devices", [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_goes_on_on_another_device(tmp_path, display, stop_after, devices):
    first, second = (make_config(device=device, epochs=3, lr=1e-4) for device in devices)
    train.train(first, tmp_path / "whole", display=display)
    with pytest.raises(train.Interrupted):
        train.train(first, tmp_path / "parts", display=stop_after(5))
    train.train(second, tmp_path / "parts", resume=True, display=display)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=2e-3, atol=2e-3, msg=name)


def test_a_capture_that_fails(tmp_path, display, monkeypatch, gpu):
    """Reads a value on the host under capture only, which no watched step could show; random numbers go on."""
    train.train(make_config(method="dropout", device="cuda", cuda_graph=False), tmp_path / "plain", display=display)
    cls = method_type("dropout")
    original = cls.losses

    def losses(self: Method, batch):
        terms = original(self, batch)
        if torch.cuda.is_current_stream_capturing():
            terms["ce"].item()
        return terms

    monkeypatch.setattr(cls, "losses", losses)
    train.train(make_config(method="dropout", device="cuda"), tmp_path / "run", display=display)
    (note,) = graph_notes(display)
    assert "when stream is capturing" in note
    same(weights(tmp_path / "run"), weights(tmp_path / "plain"), gpu)


OBSTACLES = {
    "a read": lambda terms: terms["ce"].item() and terms,
    "a number from the host": lambda terms: {"ce": terms["ce"] * torch.tensor(1.0, device=terms["ce"].device)},
    "a random number of the host": lambda terms: {"ce": terms["ce"] * (1 + 0 * random.random())},
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_method_that_a_replay_would_freeze_has_plain_steps(tmp_path, display, monkeypatch, obstacle, gpu):
    cls = method_type("none")
    original = cls.losses
    monkeypatch.setattr(cls, "losses", lambda self, batch: OBSTACLES[obstacle](original(self, batch)))
    train.train(make_config(method="none", device="cuda"), tmp_path / "run", display=display)
    (note,) = graph_notes(display)
    assert ("draws random numbers" if "random" in obstacle else "test_on_a_gpu.py, line") in note
    if gpu is not None:
        assert gpu.replays == 0


def test_a_nan_is_told_with_its_step_and_never_saved(tmp_path, display):
    config = make_config(method="none", device="cuda", epochs=4, lr=1e30)
    with pytest.raises(train.Diverged, match="epoch 1, step"):
        train.train(config, tmp_path / "run", display=display)
    assert not list((tmp_path / "run" / "checkpoints").glob("*.pt"))


def test_images_that_are_streamed(tmp_path, display):
    for split in ("train", "test"):
        for name in ("one", "two"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(40):
                shade = 3 * number + (120 if name == "two" else 0)
                Image.new("RGB", (12, 12), (shade, shade, 90)).save(
                    tmp_path / "images" / split / name / f"{number}.png"
                )
    images = {"name": "imagefolder", "root": tmp_path / "images", "workers": 0, "memory_limit_mb": 0}
    config = make_config(method="none", device="cuda", batch_size=16, lr=0.01, data=images)
    train.train(config, tmp_path / "run", display=display)
    assert graph_notes(display) == []
    assert float(metrics(tmp_path / "run")[-1]["test_top1"]) > 0


def test_a_run_is_evaluated(tmp_path, display, capsys):
    train.train(make_config(method="none", device="cuda"), tmp_path / "run", display=display)
    printed = []
    for device in ("cpu", "cuda"):
        assert main(["eval", str(tmp_path / "run"), "--device", device]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and "top-1" in printed[0]
