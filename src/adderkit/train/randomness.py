"""The generators of random numbers that a method may draw from: Python's, NumPy's, torch's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

_NUMPY_KEYS = 624  # words of its Mersenne twister


def seed_all(seed: int) -> None:
    """Seeds all of them, with 0 <= `seed` < 2**63."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])


def random_state(device: torch.device) -> dict[str, Any]:
    """Where they stand, as tensors and plain values; CUDA's generator too where `device` is one."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def host_position() -> tuple[Any, ...]:
    """Where those of the host stand, to be compared: equal as long as nothing is drawn."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return random.getstate(), name, np.asarray(keys).tobytes(), rest, torch.get_rng_state().numpy().tobytes()


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Puts them back where `random_state` found them.

    Raises:
        ValueError, TypeError, KeyError, RuntimeError, OverflowError: `state` is not of that kind.
    """
    random.setstate(state["python"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    if not 0 <= position <= _NUMPY_KEYS or keys.shape != (_NUMPY_KEYS,):  # NumPy would read beyond its array
        raise ValueError(f"NumPy's generator does not stand at {position} of {tuple(keys.shape)}")
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
