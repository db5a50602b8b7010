"""The rivals' losses against NumPy in float64, written from the papers' formulas, and what they do to a training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from adderkit import models
from adderkit.distill import Batch, NetOutput, Phase, Taps, TeacherNeed, method_type

Array = NDArray[np.float64]


def make(name: str, **options):
    cls = method_type(name)
    return cls(cls.Options(**options))


def array(tensor: torch.Tensor) -> Array:
    return tensor.detach().double().numpy()


def soft(logits: Array, temperature: float = 1.0) -> Array:
    powers = np.exp(logits / temperature - (logits / temperature).max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def hard_loss(batch: Batch) -> float:
    chosen = soft(array(batch.student.logits))[np.arange(len(batch.labels)), batch.labels.numpy()]
    return float(-np.log(chosen).mean())


def make_batch(student: list[tuple[int, ...]], teacher: list[tuple[int, ...]], phase: str = "train") -> Batch:
    """Six images of five classes; taps of these shapes (C, H, W), positive as after a ReLU."""
    draw = torch.Generator().manual_seed(7)

    def net(shapes: list[tuple[int, ...]]) -> NetOutput:
        taps = {f"tap{i}": torch.randn(6, *shape, generator=draw).relu() for i, shape in enumerate(shapes)}
        return NetOutput(torch.randn(6, 5, generator=draw), taps)

    labels = torch.randint(5, (6,), generator=draw)
    images = torch.randn(6, 3, 8, 8, generator=draw)
    return Batch(images, labels, net(student), net(teacher), Phase(phase, 1))


def test_sp_is_the_papers_formula():
    batch = make_batch([(4, 3, 3)], [(7, 2, 2)])  # neither channels nor pixels need be equal

    def similarities(maps: Array) -> Array:
        flat = maps.reshape(len(maps), -1)
        products = np.array([[sum(a * b for a, b in zip(x, y, strict=True)) for y in flat] for x in flat])
        return products / np.linalg.norm(products, axis=1, keepdims=True)

    (student,), (teacher,) = (net.taps.values() for net in (batch.student, batch.taught))
    expected = np.linalg.norm(similarities(array(teacher)) - similarities(array(student)), "fro") ** 2 / 6**2
    losses = make("sp", weight=20.0).losses(batch)
    assert losses["sp"].item() == pytest.approx(20 * expected, rel=1e-5)
    assert losses["ce"].item() == pytest.approx(hard_loss(batch), rel=1e-5)


def test_at_is_the_formula_of_the_authors_code():
    batch = make_batch([(4, 3, 5), (2, 2, 2)], [(7, 3, 5), (9, 2, 2)])

    def attention(maps: Array) -> Array:
        squares = np.stack([(image**2).mean(0).ravel() for image in maps])
        return squares / np.sqrt((squares**2).sum(1, keepdims=True))

    expected = 0.0
    for student, teacher in zip(batch.student.taps.values(), batch.taught.taps.values(), strict=True):
        expected += ((attention(array(student)) - attention(array(teacher))) ** 2).mean()
    losses = make("at", weight=10.0).losses(batch)
    assert losses["at"].item() == pytest.approx(10 * expected, rel=1e-5)
    assert losses["ce"].item() == pytest.approx(hard_loss(batch), rel=1e-5)


def test_fsp_is_the_papers_matrix():
    shapes = [(3, 4, 4), (5, 2, 2), (4, 4, 4), (6, 2, 2)]  # two beginnings, then two ends
    batch = make_batch(shapes, shapes)
    for net in (batch.student, batch.taught):  # beginnings as a ReLU that is not in place leaves them
        for path in ("tap0", "tap1"):
            net.taps[path].sub_(0.3)  # type: ignore[index]

    def matrices(net: NetOutput) -> list[Array]:
        taps = [array(tap) for tap in net.taps.values()]
        found = []
        for first, last in zip(taps[:2], taps[2:], strict=True):
            first = np.maximum(first, 0)
            height, width = first.shape[2:]
            total = np.zeros((6, first.shape[1], last.shape[1]))
            for y in range(height):
                for x in range(width):
                    total += first[:, :, None, y, x] * last[:, None, :, y, x]
            found.append(total / (height * width))
        return found

    pairs = zip(matrices(batch.student), matrices(batch.taught), strict=True)
    expected = sum(((student - teacher) ** 2).mean() for student, teacher in pairs)
    losses = make("fsp", weight=3.0).losses(batch)
    assert set(losses) == {"ce", "fsp"}
    assert losses["fsp"].item() == pytest.approx(3 * expected, rel=1e-5)
    assert losses["ce"].item() == pytest.approx(hard_loss(batch), rel=1e-5)


def test_fsp_pools_the_larger_map():
    """A stage that ends with a pool: each 2x2 block of its beginning counts by its largest value."""
    big, small = [(2, 4, 4), (3, 2, 2)], [(2, 2, 2), (3, 2, 2)]
    batch = make_batch(big, big)
    pooled = {}
    for name, net in (("student", batch.student), ("teacher", batch.taught)):
        first, last = net.taps.values()
        blocks = array(first).reshape(6, 2, 2, 2, 2, 2).max((3, 5))
        pooled[name] = NetOutput(net.logits, {"tap0": torch.from_numpy(blocks).float(), "tap1": last})
    smaller = Batch(batch.images, batch.labels, pooled["student"], pooled["teacher"], batch.phase)
    assert smaller.student.taps["tap0"].shape[1:] == small[0]
    found, expected = (make("fsp").losses(case)["fsp"].item() for case in (batch, smaller))
    assert found == pytest.approx(expected, rel=1e-6)


def test_fsp_in_two_phases():
    method = make("fsp", first_phase=0.25)
    phases = method.phases(8)
    assert [(phase.name, phase.epochs, phase.restarts_rate) for phase in phases] == [
        ("flow", 2, False),
        ("labels", 6, True),
    ]
    shapes = [(3, 2, 2), (4, 2, 2)]
    assert set(method.losses(make_batch(shapes, shapes, "flow"))) == {"fsp"}
    assert set(method.losses(make_batch(shapes, shapes, "labels"))) == {"ce"}
    with pytest.raises(ValueError, match=r"`fsp.first_phase` \(=0.25\) leaves none of 1 epochs"):
        method.phases(1)


def test_fsp_wants_nets_of_one_width():
    batch = make_batch([(3, 2, 2), (4, 2, 2)], [(3, 2, 2), (5, 2, 2)])
    with pytest.raises(ValueError, match="`tap1` has 4 channels in the student, its pair in the teacher 5"):
        make("fsp").setup(nn.Identity(), batch)


def test_at_wants_maps_of_one_size():
    batch = make_batch([(3, 2, 2)], [(3, 4, 4)])
    with pytest.raises(ValueError, match=r"`at`: `tap0` gives the student \(2, 2\) pixels"):
        make("at").setup(nn.Identity(), batch)


def test_snapshot_teaches_the_next_cycle():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5), nn.Dropout(0.5))
    method = make("snapshot", cycles=2, temperature=2.5)
    batch = make_batch([], [])
    assert method.setup(student, batch) == []
    assert not any(parameter.requires_grad for parameter in method.parameters())
    with torch.no_grad():
        student[1].weight.mul_(2)
    method.end_phase(Phase("cycle 1", 1), student)
    snapshot = array(batch.images.flatten(1)) @ array(student[1].weight).T + array(student[1].bias)
    with torch.no_grad():
        student[1].weight.zero_()  # the copy must not follow
    method.train()
    first = method.losses(Batch(batch.images, batch.labels, batch.student, None, Phase("cycle 1", 1)))
    assert set(first) == {"ce"} and first["ce"].item() == pytest.approx(hard_loss(batch), rel=1e-5)
    losses = method.losses(Batch(batch.images, batch.labels, batch.student, None, Phase("cycle 2", 1)))
    p, q = soft(snapshot, 2.5), soft(array(batch.student.logits))
    assert losses["kd"].item() == pytest.approx((p * (np.log(p) - np.log(q))).sum(1).mean(), rel=1e-4)
    assert losses["ce"].item() == pytest.approx((1 + 1 / 2.5) * hard_loss(batch), rel=1e-5)


def test_snapshot_cycles():
    phases = make("snapshot", cycles=3).phases(8)
    assert [(phase.epochs, phase.restarts_rate) for phase in phases] == [(3, False), (3, True), (2, True)]
    with pytest.raises(ValueError, match=r"`epochs` \(=2\) must be >= `snapshot.cycles` \(=3\)"):
        make("snapshot", cycles=3).phases(2)


def test_dropout_zeroes_inputs_of_the_classifier_while_training_only():
    torch.manual_seed(0)
    network = models.create("resnet8", "adder")
    method = make("dropout", rate=0.25)
    seen: list[torch.Tensor] = []
    (handle,) = method.setup(network, make_batch([], []))
    watch = network.get_submodule(network.classifier_path).register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].detach())
    )
    before: list[torch.Tensor] = []
    network.avgpool.register_forward_hook(lambda module, inputs, output: before.append(output.detach()))
    images = torch.randn(64, 3, 16, 16)
    network.train()(images)
    kept = seen[0] != 0
    share = (kept & (before[0] != 0)).sum() / (before[0] != 0).sum()
    assert 0.70 < share < 0.80
    assert torch.allclose(seen[0][kept], before[0][kept] / 0.75)
    network.eval()(images)
    assert torch.equal(seen[1], before[1])
    handle.remove()
    network.train()(images)
    assert torch.equal(seen[2], before[2])
    watch.remove()


@pytest.mark.parametrize("name", ["sp", "at", "fsp"])
def test_teachers(name):
    assert make(name).teacher_need is TeacherNeed.FIXED
    assert make(name, progressive=True).teacher_need is TeacherNeed.PROGRESSIVE


@pytest.mark.parametrize("name", ["snapshot", "dropout"])
def test_no_teacher(name):
    assert make(name).teacher_need is TeacherNeed.NONE


@pytest.mark.parametrize("name", ["sp", "at", "fsp"])
@pytest.mark.parametrize("network", ["resnet8", "resnet20", "vgg_small"])
def test_taps_of_every_network(name, network):
    """The tapped maps exist, carry gradients, and give a finite term on random twins."""
    outputs = []
    method = make(name)
    nets = [models.create(network, layer) for layer in ("adder", "conv")]
    paths = method.tap_pairs(*nets)
    for net, tapped in zip(nets, (paths.student, paths.teacher), strict=True):
        with Taps(net, tapped) as taps:
            logits = net(torch.randn(4, 3, 16, 16))
            outputs.append(NetOutput(logits, taps.take()))
    teacher = NetOutput(outputs[1].logits.detach(), {key: tap.detach() for key, tap in outputs[1].taps.items()})
    batch = Batch(torch.zeros(4, 3, 16, 16), torch.arange(4), outputs[0], teacher, Phase("train", 1))
    method.setup(nets[0], batch)
    loss = method.losses(batch)[name]
    loss.backward()
    assert loss.isfinite() and loss > 0
    assert nets[0].get_submodule(nets[0].stem_path).weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["kd", "sp", "at"])
def test_a_led_student_ends_with_the_labels_alone(name):
    """The teacher's term counts in the first share of the epochs; behind it stands the cross entropy, unweighted."""
    method = make(name, share=0.25)
    first, second = method.phases(8)
    assert (first.epochs, second.epochs) == (2, 6)
    assert first.reads_teacher and not second.reads_teacher
    batch = make_batch([(4, 3, 3)], [(4, 3, 3)])
    assert list(method.losses(replace(batch, phase=first))) == ["ce", name]
    losses = method.losses(replace(batch, phase=second, teacher=None))
    logits, labels = array(batch.student.logits), batch.labels.numpy()
    expected = np.mean([np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, labels, strict=True)])
    assert list(losses) == ["ce"] and losses["ce"].item() == pytest.approx(expected, rel=1e-5)
    assert [phase.epochs for phase in make(name).phases(8)] == [8]
    assert [phase.reads_teacher for phase in make(name, share=0.0).phases(8)] == [False]
