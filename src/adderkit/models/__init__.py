"""Networks for image classification, each built as adder network or as its convolutional twin."""

from __future__ import annotations

from adderkit.models.network import LAYERS, Network, Operator
from adderkit.models.registry import create, names, register
from adderkit.models.torchvision_weights import load_torchvision

__all__ = ["LAYERS", "Network", "Operator", "create", "load_torchvision", "names", "register"]
