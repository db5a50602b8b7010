"""Distillation: the contract of a method, its taps, and one file per method."""

from adderkit.distill.method import Batch, Method, NetOutput, Phase, TapPairs, TeacherNeed
from adderkit.distill.methods import method_names, method_type, register
from adderkit.distill.taps import Taps, operator_paths, stage_paths

__all__ = [
    "Batch",
    "Method",
    "NetOutput",
    "Phase",
    "TapPairs",
    "Taps",
    "TeacherNeed",
    "method_names",
    "method_type",
    "operator_paths",
    "register",
    "stage_paths",
]
