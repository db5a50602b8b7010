"""Progressive kernel based knowledge distillation (PKKD)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from adderkit.distill.kernels import RunningScale, adder_kernel, convolution_kernel
from adderkit.distill.method import Batch, Method, Phase, TapPairs, TeacherNeed, first_epochs
from adderkit.distill.methods import register
from adderkit.distill.taps import check_one_size, operator_paths, stage_paths
from adderkit.nn import AdderLayer, batch_norm_of_all
from adderkit.options import Options

# Exponent's sign for (adder student, convolution): which of the two kernels rises with the raw output.
_SIGNS = {"mixed": (1.0, -1.0), "rising": (1.0, 1.0), "literal": (-1.0, -1.0)}


_UNMATCHED = ", without L_mid"  # how the names of phases without it end


class PKKDOptions(Options):
    """Progressive kernel based knowledge distillation (Xu et al., 2020)."""

    kernel: bool = Field(default=True, description="compare kernels of the raw outputs; off: the standardised outputs")
    progressive: bool = Field(default=False, description="teacher trained beside the student instead of beforehand")
    head_start: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="how far a progressive teacher is ahead, as a share of `epochs`: it begins so much earlier, alone",
    )
    signs: Literal["mixed", "rising", "literal"] = Field(
        default="rising", description="student exp(+y), teacher exp(-o) | both exp(+) | both exp(-)"
    )
    sigma: Literal["running", "fixed", "learned"] = Field(
        "running",
        description="width in running deviations | in raw units | learned, starting at running deviations",
    )
    sigma_a: float = Field(default=2.0, gt=0, description="width of the adder net's kernel exp(+-y / sigma_a)")
    sigma_c: float = Field(default=1.0, gt=0, description="width of the CNN's kernel exp(+-o / (2 sigma_c^2))")
    scale: Literal["layer", "channel"] = Field(
        default="channel", description="mean and deviation of raw outputs: one of each per layer | per channel"
    )
    rho: Literal["widths", "student", "both"] = Field(
        default="widths",
        description="learned 1x1 maps after the kernels: of the student where widths differ, else channels are compared"
        " one by one | of the student | of both",
    )
    normalise: bool = Field(
        default=True, description="compare with the teacher's features at unit variance per channel"
    )
    label_weight: float = Field(default=1.0, ge=0, description="weight of the cross entropy with the labels")
    alpha: float = Field(default=0.0, ge=0, description="weight of the cross entropy with the teacher's soft labels")
    temperature: float = Field(
        default=4.0, gt=0, description="divides the logits of both nets in that term, which is multiplied by its square"
    )
    beta: float = Field(
        default=1.0, ge=0, description="weight of L_mid, the sum over taps of the mean squared difference"
    )
    mid_share: float = Field(
        default=0.3, ge=0, le=1, description="share of the student's epochs, from the first, that L_mid counts in"
    )
    taps: Literal["stages", "operators"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        default="stages",
        description="the last operator of each stage | every twin operator | module paths, `STUDENT=TEACHER` where they"
        " differ",
    )


def _named_pairs(taps: tuple[str, ...]) -> TapPairs:
    named = [path.split("=") for path in taps]
    if not all(len(pair) <= 2 and all(pair) for pair in named):
        raise ValueError(f"`pkkd.taps` (={' '.join(taps)}) must be module paths, or pairs STUDENT=TEACHER")
    pairs = TapPairs(tuple(pair[0] for pair in named), tuple(pair[-1] for pair in named))
    if any(len(set(side)) < len(side) for side in pairs):
        raise ValueError(f"`pkkd.taps` (={' '.join(taps)}): each net's modules can be in one pair only")
    return pairs


def _phase_name(start: int, ahead: int, epochs: int, matched: int) -> str:
    """Of the phase that begins with an epoch; `matched` is the first one without L_mid."""
    if start < ahead:
        return "teacher alone"
    name = "train" if ahead == 0 else "together" if start < epochs else "teacher done"
    return name if start < matched else name + _UNMATCHED


def _mean_square(difference: Tensor) -> Tensor:
    """Of (N, C, H, W), and so that its gradient has the strides of `difference`.

    Those of `F.mse_loss` and of a mean over all are contiguous, and on two orders the backward pass of BatchNorm takes
    eight times as long: 19 ms instead of 2.5 for 128 images of 16 channels at 32x32.
    """
    return difference.square().sum((2, 3)).mean() / difference[0, 0].numel()


def _map(channels: int, target: int, device: torch.device) -> nn.Conv2d:
    """rho. Its first values come from the host's generator, so that a seed gives the same ones on any device."""
    return nn.Conv2d(channels, target, 1).to(device)


class _Branch(nn.Module):
    """What one net's tap goes through: scale, kernel, 1x1 map. Dropped after training."""

    def __init__(self, options: PKKDOptions, width: float, is_adder: bool, channels: int, device: torch.device) -> None:
        super().__init__()
        self.options = options
        self.is_adder = is_adder
        self.scale = RunningScale(channels=channels if options.scale == "channel" else None, device=device)
        log_sigma = torch.tensor(math.log(width), device=device)
        if options.sigma == "learned":
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma)
        self.rho: nn.Module = nn.Identity()

    def forward(self, output: Tensor) -> Tensor:
        centred = self.scale(output)
        if not self.options.kernel:
            return self.rho(centred / self.scale.deviation)
        sigma = self.log_sigma.exp()
        unit = 1.0 if self.options.sigma == "fixed" else self.scale.deviation
        adder_sign, convolution_sign = _SIGNS[self.options.signs]
        if self.is_adder:
            return self.rho(adder_kernel(centred, sigma * unit, adder_sign))
        # sigma^2 carries the unit of the output: exp(-(o / unit) / (2 sigma^2))
        return self.rho(convolution_kernel(centred, sigma * unit**0.5, convolution_sign))


@register("pkkd")
class PKKD(Method):
    """`L = CE(student, labels) + alpha CE(student, softmax(teacher)) + beta sum_m MSE(rho(k_a(y_m)), rho(k_c(o_m)))`.

    `label_weight` multiplies the first term. Adder filters move by a rate of their own, whatever a loss is multiplied
    by; other weights do not, so rather than raise `alpha` far above 1, lower the labels' weight.

    y_m and o_m are the raw outputs of the m-th tapped operator of student and teacher, before normalisation and
    activation. The adder net's kernel is `exp(y / sigma_a)`, the CNN's `exp(o / (2 sigma_c^2))`; `signs` turns them
    round; a convolutional student has the CNN's. Raw outputs are centred first and measured in running deviations, of
    each channel or of the layer, all in float32 (centring by channel changes constant factors alone, which rho and the
    unit variance absorb). A teacher learns from its own cross entropy alone; a progressive one is `head_start` ahead.
    `kernel` and `progressive` span the paper's ablation (Table 3).

    Source: Xu et al., Kernel Based Progressive Distillation for Adder Neural Networks, NeurIPS 2020, Algorithm 1;
    supplementary, Theorem 1.
    Differs, by the defaults, which are those of a study (docs/results/study): the teacher is fixed, where the algorithm
    trains it beside the student from the start (`progressive`, `head_start` 0); no soft labels, and L_mid in the first
    epochs alone, where it has both in every step (`alpha` 1, `mid_share` 1); rho, which it has on both sides (`rho`
    (=both)); rising kernels, where Theorem 1 has the CNN's falling.
    Reconstruction, since the paper does not say: the student's kernel, where sigma comes from, what rho is, L_mid at
    unit variance of the teacher's features (and of the student's, without rho), the size of the weights, the
    temperature and the taps. Each is an option; the paper's own reading is the recipe cifar10/resnet20-pkkd-paper.yaml.
    rho on both sides without the unit variance admits the collapse rho = 0; the variance keeps that from paying.
    """

    Options = PKKDOptions
    options: PKKDOptions

    @property
    def teacher_need(self) -> TeacherNeed:
        return TeacherNeed.PROGRESSIVE if self.options.progressive else TeacherNeed.FIXED

    def phases(self, epochs: int) -> tuple[Phase, ...]:
        """Both nets are trained for `epochs`; a progressive teacher is ahead; L_mid ends after `mid_share`."""
        ahead = first_epochs(self.options.head_start, epochs) if self.options.progressive else 0
        matched = ahead + first_epochs(self.options.mid_share, epochs)
        if matched < ahead + epochs and self.options.label_weight == self.options.alpha == 0:
            raise ValueError(
                f"`pkkd.label_weight` (=0) and `pkkd.alpha` (=0) leave the student nothing to learn from once L_mid has"
                f" ended: make one of them larger, or `pkkd.mid_share` (={self.options.mid_share}) 1"
            )
        marks = sorted({0, ahead, matched, epochs, ahead + epochs})
        return tuple(
            Phase(
                _phase_name(start, ahead, epochs, matched),
                end - start,
                trains_student=start >= ahead,
                trains_teacher=start < epochs,
                reads_teacher=self.options.alpha > 0 or start < matched,
            )
            for start, end in pairwise(marks)
        )

    def tap_pairs(self, student: nn.Module, teacher: nn.Module | None) -> TapPairs:
        taps = self.options.taps
        if isinstance(taps, tuple):
            return _named_pairs(taps)
        if teacher is None:
            return TapPairs()
        find = operator_paths if taps == "operators" else stage_paths
        pairs = TapPairs(find(student), find(teacher))
        if len(pairs.student) != len(pairs.teacher):
            other = "`stages`, or by module paths" if taps == "operators" else "module paths"
            raise ValueError(
                f"`pkkd.taps` (={taps}) finds {len(pairs.student)} taps in the student and {len(pairs.teacher)} in the"
                f" teacher: match these nets by {other}, `STUDENT=TEACHER` where they differ"
            )
        return pairs

    def setup(self, student: nn.Module, example: Batch) -> list[RemovableHandle]:
        device = example.images.device
        check_one_size("pkkd.taps", example.student.taps, example.taught.taps)
        modules = dict(student.named_modules())
        self.student_branches, self.teacher_branches = nn.ModuleList(), nn.ModuleList()
        for path, output, target in self._pairs(example):
            is_adder = isinstance(modules[path], AdderLayer)
            width = self.options.sigma_a if is_adder else self.options.sigma_c
            branch = _Branch(self.options, width, is_adder, output.shape[1], device)
            if self.options.rho != "widths" or output.shape[1] != target.shape[1]:
                branch.rho = _map(output.shape[1], target.shape[1], device)
            self.student_branches.append(branch)
            branch = _Branch(self.options, self.options.sigma_c, False, target.shape[1], device)
            if self.options.rho == "both":
                branch.rho = _map(target.shape[1], target.shape[1], device)
            self.teacher_branches.append(branch)
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        named = dict(self.named_parameters())
        # A sigma at the nets' rate of 0.1 diverged within two epochs: its logarithm moves at a hundredth of it.
        widths = [parameter for name, parameter in named.items() if name.endswith("log_sigma")]
        maps = [parameter for name, parameter in named.items() if not name.endswith("log_sigma")]
        groups: list[dict[str, Any]] = [{"params": maps}] if maps else []
        if widths:
            groups.append({"params": widths, "lr_scale": 0.01, "weight_decay": 0.0})
        return groups

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        logits = batch.student.logits
        terms = {"ce": self.options.label_weight * F.cross_entropy(logits, batch.labels)}
        if self.options.alpha > 0:
            terms["soft"] = self.options.alpha * self._soft(batch)
        if not batch.phase.name.endswith(_UNMATCHED):
            terms["mid"] = self.options.beta * self._mid(batch)
        return terms

    def _soft(self, batch: Batch) -> Tensor:
        heat = self.options.temperature
        return heat**2 * F.cross_entropy(batch.student.logits / heat, (batch.taught.logits / heat).softmax(dim=1))

    def _mid(self, batch: Batch) -> Tensor:
        branches = zip(self._pairs(batch), self.student_branches, self.teacher_branches, strict=True)
        return torch.stack(
            [
                _mean_square(self._of_student(student_branch, output) - self._normalised(teacher_branch(target)))
                for (_, output, target), student_branch, teacher_branch in branches
            ]
        ).sum()

    def _normalised(self, features: Tensor) -> Tensor:
        return batch_norm_of_all(features, eps=1e-12) if self.options.normalise else features

    def _of_student(self, branch: nn.Module, output: Tensor) -> Tensor:
        """Without a map that could bring them to unit variance, the student's features are normalised too."""
        features = branch(output)
        is_unmapped = isinstance(branch.rho, nn.Identity) and self.options.normalise
        return batch_norm_of_all(features) if is_unmapped else features

    @staticmethod
    def _pairs(batch: Batch):
        student, teacher = batch.student.taps, batch.taught.taps
        return [
            (path, output, target) for (path, output), target in zip(student.items(), teacher.values(), strict=True)
        ]
