"""The contract of a distillation method: what it declares, and what the training loop does with that.

The loop owns the nets, their optimisers and the order of a step; a method owns the losses of the student and whatever
it needs for them. The loop hands a method the teacher's output detached, so no method can send a gradient to a teacher.

Several processes: each runs the method on its own images, a `Batch` being its share of one part of the recipe's batch.
The loop averages gradients over processes and parts, which is exact for losses that are means over images. A loss
between the images of a batch (similarities of pairs) is one per process, unless the method fetches the others' rows:
`adderkit.collectives.gathered_rows` does so differentiably. Statistics come from `collectives.pooled`, a normalisation
by the batch from `nn.batch_norm_of_all`. Buffers must come out the same on every process, for the first one's are
saved; a method that draws random numbers draws the same on each, for all hold one random state: numbers of its
own for each image come from drawing for the images of all and taking its rows, as `dropout` does.

One GPU: a step is captured as a CUDA graph, once in every phase, and replayed. Python runs in `losses` only until
then, so what changes from step to step must be tensors on the device: buffers, random numbers drawn there. A method
that reads a value on the host, draws there, has a buffer on the CPU or `get_extra_state` is noticed, and its steps stay
plain. Test batches are captured and replayed alike, through the hooks that `setup` put on the student.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adderkit.options import Options


class TeacherNeed(Enum):
    """Which teacher a method wants."""

    NONE = "none"
    FIXED = "fixed"  # trained beforehand, frozen, in evaluation mode
    PROGRESSIVE = "progressive"  # initialised with the student, trained beside it by its cross entropy alone


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs with one set of rules.

    Attributes:
        name: stands in the log beside each epoch.
        epochs: its length.
        trains_student: whether the student is updated.
        trains_teacher: whether a progressive teacher is updated.
        restarts_rate: whether the student's cosine starts anew here, instead of spanning this phase and the one before.
        reads_teacher: whether `losses` reads the teacher's output. Where not, `Batch.teacher` is None, and a teacher
            that is not updated either is not run.
    """

    name: str
    epochs: int
    trains_student: bool = True
    trains_teacher: bool = True
    restarts_rate: bool = False
    reads_teacher: bool = True


def first_epochs(share: float, epochs: int) -> int:
    """How many of the epochs a share is; at least one unless it is 0, so that short trainings have the phase."""
    return max(1, round(share * epochs)) if share > 0 else 0


class TapPairs(NamedTuple):
    """Module paths whose outputs a method sees; the i-th of the student belongs to the i-th of the teacher."""

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()


@dataclass(frozen=True)
class NetOutput:
    """What one net made of a batch.

    Attributes:
        logits: (N, classes).
        taps: output of each tapped module by its path, before whatever follows it.
    """

    logits: Tensor
    taps: Mapping[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """One step as a method sees it.

    Attributes:
        images: (N, C, H, W), normalised and augmented; of this process.
        labels: (N,) int64.
        student: with gradients.
        teacher: detached; None where the method needs no teacher, or, in `losses`, the phase does not read it.
        phase: the phase under way.
    """

    images: Tensor
    labels: Tensor
    student: NetOutput
    teacher: NetOutput | None
    phase: Phase

    @property
    def taught(self) -> NetOutput:
        """The teacher's output, for methods that declared a teacher, in phases that read it."""
        if self.teacher is None:
            raise ValueError(
                "this method reads a teacher's output but declares `teacher_need` NONE, or the phase"
                f" {self.phase.name!r} not to read it"
            )
        return self.teacher


class Method(nn.Module):
    """Base of all methods: trains the student alone unless overridden.

    A method is a module: what it registers as parameters is trained with the student, what it registers as buffers or
    returns from `get_extra_state` is saved and resumed with the run. `setup` is called once, before training and before
    a checkpoint is loaded, so everything that the state needs must exist after it.

    Args:
        options: an instance of the class's `Options`.
    """

    Options: ClassVar[type[Options]] = Options

    def __init__(self, options: Any) -> None:
        super().__init__()
        self.options = options

    @property
    def teacher_need(self) -> TeacherNeed:
        """Which teacher the loop provides."""
        return TeacherNeed.NONE

    def phases(self, epochs: int) -> tuple[Phase, ...]:
        """The course of a training of `epochs` epochs."""
        return (Phase("train", epochs),)

    def tap_pairs(self, student: nn.Module, teacher: nn.Module | None) -> TapPairs:
        """The modules whose outputs `losses` reads."""
        return TapPairs()

    def setup(self, student: nn.Module, example: Batch) -> list[RemovableHandle]:
        """Creates parameters and buffers from the shapes of one real batch, and changes the student for the training.

        Args:
            student: may be given hooks (dropout before the classifier, say).
            example: a batch run in evaluation mode, without gradients. Take shapes from it, not values: a fixed teacher
                may get its weights later, and so may the student (where it begins with its twin's).

        Returns:
            Handles of every hook put on the student: removed when training ends, so that nothing is left on it.
        """
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the student's optimiser; `lr_scale` multiplies the run's rate."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [{"params": parameters}] if parameters else []

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the student's loss by name, weighted: their sum is minimised, each stands in the log."""
        raise NotImplementedError

    def end_phase(self, phase: Phase, student: nn.Module) -> None:
        """Called when a phase is over, before the next begins (Snapshot takes its copy here)."""
