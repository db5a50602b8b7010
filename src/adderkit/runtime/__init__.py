"""Runs integer networks with NumPy and the native library alone: no torch.

>>> net = adderkit.runtime.load("net.adk")
>>> logits = net(images)  # uint8 (N, H, W, C) as decoded; float32 (N, classes)

`docs/runtime.md` has the whole interface, the file's format, and the same from C.
"""

from __future__ import annotations

from adderkit.runtime.net import Net, load, parse

__all__ = ["Net", "load", "parse"]
