"""The tests of the GPU's kernels once more, of what Triton compiles them to, which the interpreter can't show."""

from __future__ import annotations

from test_gpu_kernels import *  # noqa: F403
