"""Losses of the methods against NumPy in float64, written from the papers' formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from adderkit import models
from adderkit.distill import Batch, NetOutput, Phase, TeacherNeed, method_type, register
from adderkit.nn import Adder2d

PHASE = Phase("train", 1)
Array = NDArray[np.float64]


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def cross_entropy(logits: Array, targets: Array) -> float:
    return float(-(targets * np.log(softmax(logits))).sum(1).mean())


def one_hot(labels: Array, classes: int) -> Array:
    return np.eye(classes)[labels.astype(int)]


def standardise(values: Array) -> Array:
    return (values - values.mean()) / values.std()


def per_channel(values: Array) -> Array:
    axes = (0, 2, 3)
    return (values - values.mean(axes, keepdims=True)) / np.sqrt(values.var(axes, keepdims=True) + 1e-12)


@pytest.fixture
def batch() -> Batch:
    """Two taps per net, the student's wider than the teacher's; logits of 5 classes."""
    rng = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float32)

    student = NetOutput(draw(6, 5).requires_grad_(), {"a": 9 * draw(6, 4, 3, 3) - 80, "b": 5 * draw(6, 7, 2, 2) - 60})
    teacher = NetOutput(draw(6, 5), {"a": 2 * draw(6, 3, 3, 3) + 1, "b": 3 * draw(6, 8, 2, 2)})
    labels = torch.randint(5, (6,), generator=rng)
    return Batch(draw(6, 3, 8, 8), labels, student, teacher, PHASE)


@pytest.fixture
def student_net() -> nn.Module:
    return nn.ModuleDict({"a": Adder2d(1, 4, 1), "b": Adder2d(1, 7, 1)})


def array(tensor: torch.Tensor) -> Array:
    return tensor.detach().double().numpy()


def test_none_is_cross_entropy(batch):
    method = method_type("none")(method_type("none").Options())
    assert method.teacher_need is TeacherNeed.NONE
    losses = method.losses(batch)
    expected = cross_entropy(array(batch.student.logits), one_hot(array(batch.labels), 5))
    assert set(losses) == {"ce"}
    assert losses["ce"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("temperature", "weight"), [(4.0, 0.9), (1.0, 0.5), (2.5, 0.0)])
def test_kd_is_hintons_formula(batch, temperature, weight):
    cls = method_type("kd")
    losses = cls(cls.Options(temperature=temperature, weight=weight)).losses(batch)
    student, teacher = array(batch.student.logits), array(batch.teacher.logits)
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    kl = (p * (np.log(p) - np.log(q))).sum(1).mean()
    hard = cross_entropy(student, one_hot(array(batch.labels), 5))
    assert losses["kd"].item() == pytest.approx(weight * temperature**2 * kl, rel=1e-4, abs=1e-9)
    assert losses["ce"].item() == pytest.approx((1 - weight) * hard, rel=1e-5)


def make_pkkd(batch, student_net, **options):
    """With a map of the student's and statistics of the layer, unless `options` say otherwise."""
    cls = method_type("pkkd")
    method = cls(cls.Options(**{"rho": "student", "scale": "layer", **options}))
    torch.manual_seed(0)
    assert method.setup(student_net, batch) == []
    return method.train()


def expected_mid(batch: Batch, method: nn.Module, student_kernel, teacher_kernel) -> float:
    total = 0.0
    pairs = zip(batch.student.taps.values(), batch.teacher.taps.values(), method.student_branches, strict=True)
    for output, target, branch in pairs:
        weight, bias = array(branch.rho.weight)[:, :, 0, 0], array(branch.rho.bias)
        mapped = np.einsum("nchw,oc->nohw", student_kernel(array(output)), weight) + bias[:, None, None]
        total += float(((mapped - per_channel(teacher_kernel(array(target)))) ** 2).mean())
    return total


@pytest.mark.parametrize(
    ("signs", "student_sign", "teacher_sign"), [("mixed", 1, -1), ("rising", 1, 1), ("literal", -1, -1)]
)
def test_pkkd_mid_term(batch, student_net, signs, student_sign, teacher_sign):
    method = make_pkkd(batch, student_net, signs=signs, sigma_a=1.5, sigma_c=0.9, beta=0.3)
    expected = expected_mid(
        batch,
        method,
        lambda output: np.exp(student_sign * standardise(output) / 1.5),
        lambda target: np.exp(teacher_sign * standardise(target) / (2 * 0.9**2)),
    )
    assert method.losses(batch)["mid"].item() == pytest.approx(0.3 * expected, rel=1e-4)


def test_pkkd_scale_of_each_channel(batch, student_net):
    method = make_pkkd(batch, student_net, signs="mixed", scale="channel", sigma_a=1.5, sigma_c=0.9, beta=1.0)
    expected = expected_mid(
        batch,
        method,
        lambda output: np.exp(per_channel(output) / 1.5),
        lambda target: np.exp(-per_channel(target) / (2 * 0.9**2)),
    )
    assert method.losses(batch)["mid"].item() == pytest.approx(expected, rel=1e-4)


def test_pkkd_without_kernel_compares_standardised_outputs(batch, student_net):
    method = make_pkkd(batch, student_net, kernel=False, beta=1.0)
    expected = expected_mid(batch, method, standardise, standardise)
    assert method.losses(batch)["mid"].item() == pytest.approx(expected, rel=1e-4)


def test_pkkd_fixed_sigma_is_in_raw_units(batch, student_net):
    method = make_pkkd(batch, student_net, signs="mixed", sigma="fixed", sigma_a=20.0, sigma_c=2.0, beta=1.0)
    expected = expected_mid(
        batch,
        method,
        lambda output: np.exp((output - output.mean()) / 20.0),
        lambda target: np.exp(-(target - target.mean()) / (2 * 2.0**2)),
    )
    assert method.losses(batch)["mid"].item() == pytest.approx(expected, rel=1e-4)


def test_pkkd_convolutional_student_has_the_teachers_kernel(batch):
    convolutions = nn.ModuleDict({"a": nn.Conv2d(1, 4, 1), "b": nn.Conv2d(1, 7, 1)})
    method = make_pkkd(batch, convolutions, signs="mixed", sigma_c=1.2, beta=1.0)

    def kernel(output: Array) -> Array:
        return np.exp(-standardise(output) / (2 * 1.2**2))

    assert method.losses(batch)["mid"].item() == pytest.approx(expected_mid(batch, method, kernel, kernel), rel=1e-4)


@pytest.mark.parametrize("heat", [1.0, 4.0])
def test_pkkd_blended_loss(batch, student_net, heat):
    losses = make_pkkd(batch, student_net, label_weight=0.3, alpha=0.7, temperature=heat).losses(batch)
    student, teacher = array(batch.student.logits), array(batch.teacher.logits)
    hard = cross_entropy(student, one_hot(array(batch.labels), 5))
    assert losses["ce"].item() == pytest.approx(0.3 * hard, rel=1e-5)
    soft = heat**2 * cross_entropy(student / heat, softmax(teacher / heat))
    assert losses["soft"].item() == pytest.approx(0.7 * soft, rel=1e-5)


def test_pkkd_rho_on_both_sides_cannot_collapse(batch, student_net):
    """Shrinking rho on both sides would bring any plain MSE to 0: the unit variance of the target keeps it at 1."""
    method = make_pkkd(batch, student_net, rho="both", beta=1.0)
    with torch.no_grad():
        for branch in (*method.student_branches, *method.teacher_branches):
            branch.rho.weight.mul_(1e-3)
            branch.rho.bias.zero_()
    # features of a thousandth still have to match a target of unit variance: 1 for each of the two taps
    assert method.losses(batch)["mid"].item() == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("scale", ["layer", "channel"])
def test_pkkd_without_rho_compares_channel_by_channel(batch, scale, normalise):
    """At unit variance on both sides, for no map could bring the student's features to it; or as they are."""
    widths = {path: tap.shape[1] for path, tap in batch.teacher.taps.items()}
    student = nn.ModuleDict({path: Adder2d(1, width, 1) for path, width in widths.items()})
    generator = torch.Generator().manual_seed(1)
    taps = {path: torch.randn(tap.shape, generator=generator) * 9 - 50 for path, tap in batch.teacher.taps.items()}
    batch = replace(batch, student=NetOutput(batch.student.logits, taps))
    options = {"sigma_a": 1.5, "sigma_c": 0.9, "beta": 1.0, "scale": scale, "normalise": normalise}
    method = make_pkkd(batch, student, rho="widths", **options)
    standard = {"layer": standardise, "channel": per_channel}[scale]
    features = per_channel if normalise else np.asarray
    expected = sum(
        ((features(np.exp(standard(array(y)) / 1.5)) - features(np.exp(standard(array(o)) / 1.62))) ** 2).mean()
        for y, o in zip(taps.values(), batch.teacher.taps.values(), strict=True)
    )
    assert method.losses(batch)["mid"].item() == pytest.approx(expected, rel=1e-3)
    assert method.parameter_groups() == []


def test_pkkd_maps_where_widths_differ(batch, student_net):
    method = make_pkkd(batch, student_net, rho="widths", beta=1.0)
    rhos = [branch.rho for branch in method.student_branches]
    widths = [tap.shape[1] for tap in batch.teacher.taps.values()]
    assert [(rho.in_channels, rho.out_channels) for rho in rhos] == list(zip((4, 7), widths, strict=True))

    def kernel(output: Array) -> Array:
        return np.exp(standardise(output) / 2)

    expected = expected_mid(batch, method, kernel, kernel)
    assert method.losses(batch)["mid"].item() == pytest.approx(expected, rel=1e-4)


def test_pkkd_learned_sigma_has_its_own_slow_group(batch, student_net):
    method = make_pkkd(batch, student_net, sigma="learned")
    maps, widths = method.parameter_groups()
    assert widths["lr_scale"] == 0.01
    assert len(widths["params"]) == 4
    assert len(maps["params"]) == 4  # weight and bias of two maps
    method.losses(batch)["mid"].backward()
    assert all(width.grad is not None and width.grad.abs() > 0 for width in widths["params"])


def test_pkkd_maps_of_different_size_are_refused(batch, student_net):
    teacher = NetOutput(batch.teacher.logits, {"a": torch.randn(6, 3, 5, 5), "b": batch.teacher.taps["b"]})
    wrong = Batch(batch.images, batch.labels, batch.student, teacher, PHASE)
    with pytest.raises(ValueError, match=r"`a` gives the student \(3, 3\) pixels, its pair in the teacher \(5, 5\)"):
        make_pkkd(wrong, student_net)


def test_pkkd_taps_of_nets_of_different_depth():
    """`STUDENT=TEACHER` names a pair; a path alone is that of both nets."""
    nets = [models.create(name, "conv") for name in ("resnet8", "resnet20")]
    pairs = pkkd_with(taps=("layer1.0.conv2=layer1.2.conv2", "layer2.0.conv1")).tap_pairs(*nets)
    assert pairs == (("layer1.0.conv2", "layer2.0.conv1"), ("layer1.2.conv2", "layer2.0.conv1"))
    with pytest.raises(ValueError, match=r"finds 8 taps in the student .* match these nets by `stages`, or by module"):
        pkkd_with(taps="operators").tap_pairs(*nets)
    two, three = nn.Module(), nets[0]
    two.stage_paths, two.first, two.second = ("first", "second"), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
    with pytest.raises(ValueError, match=r"finds 2 taps in the student and 3 in .* match these nets by module paths"):
        pkkd_with(taps="stages").tap_pairs(two, three)
    for wrong in ("=layer1", "layer1=", "=", "a=b=c"):
        with pytest.raises(ValueError, match=r"`pkkd.taps` \(=.*\) must be module paths, or pairs STUDENT=TEACHER"):
            pkkd_with(taps=(wrong,)).tap_pairs(*nets)
    for twice in (("a=x", "b=x"), ("a=x", "a=y")):
        with pytest.raises(ValueError, match="each net's modules can be in one pair only"):
            pkkd_with(taps=twice).tap_pairs(*nets)


def test_a_method_has_a_key_as_its_name():
    with pytest.raises(ValueError, match="the method 'my-logits' must have an identifier as its name"):
        register("my-logits")


def pkkd_with(**options):
    return method_type("pkkd")(method_type("pkkd").Options(**options))


def test_pkkd_head_start_shifts_the_teacher():
    """Both nets are trained for all epochs, whatever the head start."""
    for ahead in (0, 3, 8):
        phases = pkkd_with(progressive=True, head_start=ahead / 8).phases(8)
        assert sum(phase.epochs for phase in phases) == 8 + ahead
        for wanted in ("trains_student", "trains_teacher"):
            assert sum(phase.epochs for phase in phases if getattr(phase, wanted)) == 8
        assert phases[0].trains_teacher and phases[-1].trains_student
        assert all(phase.epochs for phase in phases)


def test_pkkd_head_start_is_an_epoch_at_least():
    """As L_mid is: half of one epoch would be none, after rounding to the even."""
    assert [phase.trains_student for phase in pkkd_with(progressive=True, head_start=0.5).phases(1)] == [False, True]
    assert len(pkkd_with(progressive=True, head_start=0.01, mid_share=1).phases(20)) == 3
    assert len(pkkd_with(progressive=True, head_start=0, mid_share=1).phases(20)) == 1


def test_pkkd_mid_ends_after_its_share(batch, student_net):
    for ahead in (0, 2, 6, 8):
        for share, epochs in ((0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)):
            phases = pkkd_with(progressive=True, head_start=ahead / 8, mid_share=share).phases(8)
            assert sum(phase.epochs for phase in phases) == 8 + ahead
            trained = [phase for phase in phases if phase.trains_student]
            with_mid = [not phase.name.endswith("without L_mid") for phase in trained]
            assert with_mid == sorted(with_mid, reverse=True)
            assert sum(p.epochs for p, matched in zip(trained, with_mid, strict=True) if matched) == epochs
            assert len({phase.name for phase in phases}) == len(phases)
    method = make_pkkd(batch, student_net, progressive=True, head_start=0, mid_share=0.5, alpha=1)
    first, second = method.phases(8)
    assert list(method.losses(replace(batch, phase=first))) == ["ce", "soft", "mid"]
    assert list(method.losses(replace(batch, phase=second))) == ["ce", "soft"]


def test_phases_that_do_not_read_the_teacher_do_without_it(batch, student_net):
    """And the others ask for it: a loss that needs it says which phase declared otherwise."""
    method = make_pkkd(batch, student_net, alpha=0, mid_share=0.5)
    first, second = method.phases(8)
    assert first.reads_teacher and not second.reads_teacher
    assert list(method.losses(replace(batch, teacher=None, phase=second))) == ["ce"]
    with pytest.raises(ValueError, match=f"the phase {first.name!r} not to read it"):
        method.losses(replace(batch, teacher=None, phase=first))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"progressive": True, "head_start": 0}])
def test_pkkd_matches_features_in_the_shortest_training_too(options):
    """0.3 of one epoch would be none."""
    names = [phase.name for phase in pkkd_with(**options).phases(1) if phase.trains_student]
    assert len(names) == 1 and not names[0].endswith("without L_mid")


def test_pkkd_student_has_something_to_learn_from_to_the_end():
    with pytest.raises(
        ValueError, match=r"`pkkd.label_weight` \(=0\) and `pkkd.alpha` \(=0\) leave the student nothing"
    ):
        pkkd_with(label_weight=0).phases(10)
    for enough in ({"alpha": 0.1}, {"mid_share": 1}):
        pkkd_with(label_weight=0, **enough).phases(10)


def test_pkkd_with_soft_labels_reads_the_teacher_throughout():
    phases = pkkd_with(alpha=0.1, mid_share=0.0).phases(8)
    assert all(phase.reads_teacher for phase in phases)


def test_pkkd_fixed_teacher_has_no_head_start():
    (phase,) = pkkd_with(head_start=0.5, mid_share=1).phases(8)
    assert phase.epochs == 8 and phase.trains_student


@pytest.mark.parametrize("progressive", [True, False])
def test_pkkd_and_kd_declare_their_teacher(progressive):
    need = TeacherNeed.PROGRESSIVE if progressive else TeacherNeed.FIXED
    for name in ("pkkd", "kd"):
        cls = method_type(name)
        assert cls(cls.Options(progressive=progressive)).teacher_need is need
