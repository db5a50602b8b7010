"""Which kernels serve `adder2d`, and why: what `adderkit doctor` prints."""

from __future__ import annotations

from typing import NamedTuple

import torch

from adderkit import native
from adderkit.ops import gpu


class Backend(NamedTuple):
    """One implementation of `adder2d`.

    `isa` is the instruction set ("cuda" for the GPU's kernels, "torch" for the reference); `active` marks the one that
    float32 tensors on the processor get, and the GPU's where they run; `reason` says why it is, or is not, available.
    """

    name: str
    isa: str
    available: bool
    active: bool
    reason: str


def backends() -> list[Backend]:
    """All implementations, best first: those for tensors on the processor, the GPU's, and the reference for all.

    Raises:
        ValueError: where `ADDERKIT_ISA` names a path that is unknown or cannot run here.
    """
    rows = _for_processor()
    problem = gpu.problem()
    types = "serves float32, bfloat16 and float16 on the GPU; the reference: float64, 2^31 positions or more"
    rows.insert(-1, Backend("triton", "cuda", not problem, not problem, problem or types))
    return rows


def _for_processor() -> list[Backend]:
    rows = [
        Backend(
            f"native {isa.name}",
            isa.name,
            not isa.reason,
            isa.active,
            isa.reason or ("serves float32" if isa.active else "ADDERKIT_ISA=" + isa.name + " chooses it"),
        )
        for isa in native.isas()
    ]
    if not rows:
        rows = [Backend("native", "", False, False, native.reason())]
    is_only = not rows[0].available and len(rows) == 1
    why = "serves everything, slowly" if is_only else "serves float64 and devices without a kernel"
    return [*rows, Backend("torch reference", "torch", True, is_only, why)]


def serving(device: torch.device) -> str:
    """The name of what float32 tensors on `device` get."""
    if device.type == "cpu":
        return next(row.name for row in _for_processor() if row.active)
    has_kernels = device.type == "cuda" and not gpu.problem(device.index or 0)
    return "triton" if has_kernels else "torch reference"
