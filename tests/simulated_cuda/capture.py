"""What a capture records, and a replay does again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from simulated_cuda.tensor import address, fill_with_rubbish, tensors

if TYPE_CHECKING:
    from simulated_cuda.device import Gpu


class Operation:
    """One operation of a capture, on the memory that it had then."""

    def __init__(self, gpu: Gpu, func: Any, args: Any, kwargs: Any, result: Any, needs: list[tuple[Any, str]]) -> None:
        self._gpu = gpu
        self._func, self._args, self._kwargs, self._result = func, args, kwargs, result
        self._needs = needs  # memory that the capture did not make itself

    def replay(self) -> None:
        for memory, title in self._needs:
            if memory() is None:
                raise AssertionError(f"a replay of {self._func} uses {title}, which is freed")
        result = with_its_numbers(self._gpu, self._func, self._args, self._kwargs)
        for old, new in zip(tensors(self._result), tensors(result), strict=True):
            if address(old) != address(new):
                old.copy_(new)

    def fill_with_rubbish(self) -> None:
        """What it makes is not there until it is replayed."""
        inputs = {address(tensor) for tensor in tensors((self._args, self._kwargs))}
        for tensor in tensors(self._result):
            if address(tensor) not in inputs:
                fill_with_rubbish(tensor)


def with_its_numbers(gpu: Gpu, func: Any, args: Any, kwargs: Any) -> Any:
    """Does an operation; random numbers come from the GPU's generator."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return func(*args, **kwargs)
    if gpu.numbers_wait:
        raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
    state = torch.get_rng_state()
    torch.set_rng_state(gpu.random_state)
    try:
        return func(*args, **kwargs)
    finally:
        gpu.random_state = torch.get_rng_state()
        torch.set_rng_state(state)
