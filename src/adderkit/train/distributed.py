"""Several processes, started by torchrun, that train one run together.

Every process does the same steps on its share of each batch; the first (rank 0) alone reads and writes the run's folder
and speaks. What the processes must agree on goes through `Processes`.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import record

from adderkit import collectives
from adderkit.data import Share
from adderkit.train.meeting import meet

# A process that dies is noticed at once, by its closed connection. This is for one that hangs.
TIMEOUT = timedelta(minutes=30)
_PAUSE = 0.5  # seconds between two exchanges of processes that wait for a longer work

P = ParamSpec("P")
T = TypeVar("T")


class Elsewhere(Exception):
    """Another process can't go on, and says why itself."""


class LostProcess(Exception):
    """Another process died or hangs; the last checkpoint is untouched."""


class LostWorker(LostProcess):
    """A process that decodes images for this one died; the last checkpoint is untouched."""


def is_launched() -> bool:
    """Whether torchrun (or another launcher that sets its variables) started this process as one of several."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in names) and os.environ["WORLD_SIZE"] != "1"


def local_rank() -> int:
    """Which of the processes on this machine this one is, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if is_launched() else 0


def speaks() -> bool:
    """Whether this process tells the user how the run went: the first of all."""
    return not is_launched() or os.environ["RANK"] == "0"


@contextmanager
def said_once() -> Iterator[None]:
    """What every process of a machine would say alike, about a command line or a recipe, only the first one does."""
    if local_rank() == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            yield
        except (ValueError, OSError, ImportError):
            raise Elsewhere from None


def recorded(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, whose exceptions torchrun's own report then shows with their traceback: for what is a fault."""
    return record(function) if is_launched() else function  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees it. Each method but `share` must be called by all of them.

    Attributes:
        rank: which one this is, from 0.
        count: of all.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process reads and writes the run's folder."""
        return self.rank == 0

    def share(self, parts: int = 1) -> Share:
        """What this process takes of a batch that is done in so many parts."""
        return Share(self.rank, self.count, parts)

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """An error within, on any process, is one of all: the others raise `Elsewhere`. Nothing else is exchanged
        within. Of processes with the same message the first raises it."""
        if self.count == 1:
            yield
            return
        own: Exception | None = None
        try:
            yield
        except (ValueError, OSError, ImportError) as error:
            own = error
        texts: list[Any] = [None] * self.count
        dist.all_gather_object(texts, None if own is None else f"{type(own).__name__}: {own}")
        if own is not None and texts.index(texts[self.rank]) == self.rank:
            raise own
        if any(text is not None for text in texts):
            raise Elsewhere

    def from_first(self, work: Callable[[], T]) -> T:
        """What `work` returns on the first process; it is called there alone."""
        results: list[Any] = [None]
        with self.agreed():
            if self.is_first:
                results = [work()]
        if self.count > 1:
            dist.broadcast_object_list(results, device=torch.device("cpu"))
        return results[0]

    def together(self, work: Callable[[], T]) -> T:
        """Calls `work` on all at the same time; it may take any time."""
        with self.agreed(), self._waiting():
            return work()

    def in_turn(self, work: Callable[[], T]) -> T:
        """Calls `work` on the first process, then on the first of each other machine, then on all others.

        So a download is there when the others look for it, whether machines share a disk or not. It may take any time:
        half an hour (`TIMEOUT`) is soon over where every image of a large set is decoded.
        """
        turn = 0 if self.is_first else 1 if local_rank() == 0 else 2
        results: list[T] = []
        for now in range(3 if self.count > 1 else 1):
            with self.agreed(), self._waiting():
                if now == turn:
                    results.append(work())
        return results[0]

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Lets all end together what is done within, however long one of them takes.

        None of them waits in one exchange for that: a thread of each says twice a second whether its process is done,
        and so learns of one that died as well. Nothing else is exchanged within.
        """
        if self.count == 1:
            yield
            return
        done = threading.Event()
        errors: list[RuntimeError] = []

        def exchange() -> None:
            try:
                while self.largest(int(not done.wait(_PAUSE))) != [0]:
                    pass
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=exchange, daemon=True)  # a process that is about to end leaves it behind
        thread.start()
        try:
            yield
        except Exception:
            done.set()
            thread.join()
            raise
        finally:
            done.set()
        thread.join()
        if errors:
            raise errors[0]

    def largest(self, *numbers: int) -> list[int]:
        """The largest of each number over the processes."""
        if self.count == 1:
            return list(numbers)
        most = torch.tensor(numbers)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return most.tolist()

    def sums(self, values: list[float]) -> list[float]:
        """The sum of each value over the processes; NaN where it is NaN on any."""
        if self.count == 1:
            return values
        return collectives.summed(torch.tensor(values, dtype=torch.float64)).tolist()

    @torch.no_grad()
    def average_statistics(self, network: nn.Module) -> None:
        """Gives every process the mean of the running statistics that each took of its own images; one exchange."""
        if self.count == 1:
            return
        buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        if buffers:
            means = collectives.averaged(torch.cat([buffer.reshape(-1) for buffer in buffers]))
            for buffer, mean in zip(buffers, means.split([buffer.numel() for buffer in buffers]), strict=True):
                buffer.copy_(mean.view_as(buffer))


ALONE = Processes()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Joins the processes that the launcher started together; alone where there was none.

    Args:
        device: `auto`, `cpu` or `cuda`, as in the configuration.

    Raises:
        Elsewhere: another process can't go on, and says why.
        LostProcess: another process died, or did not answer for half an hour.
    """
    if not is_launched():
        yield ALONE
        return
    is_ours = not dist.is_initialized()
    if is_ours:
        with_gpu = device != "cpu" and torch.cuda.is_available() and dist.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if with_gpu else "gloo"
        with _lost():
            store, rank, count = meet(TIMEOUT)
            dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=TIMEOUT)
    processes = Processes(dist.get_rank(), dist.get_world_size())
    with warnings.catch_warnings():
        # DDP means 1x1 filters in channels_last, whose strides have two spellings for the same memory.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        if not processes.is_first:
            warnings.simplefilter("ignore")  # the first one warns for all
        with _lost():
            yield processes
    if is_ours:
        dist.destroy_process_group()  # not after an error: the others may be gone, and this process is about to end


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        why = f"lost another process, whose own message says why ({_first_line(error)})"
        raise LostProcess(why) from None


def _is_lost(error: RuntimeError) -> bool:
    """gloo, which the CPU uses, raises plain RuntimeErrors with the place in its source."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
