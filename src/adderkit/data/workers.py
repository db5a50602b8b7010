"""Deaths of the processes that decode images. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from multiprocessing.process import BaseProcess
from weakref import WeakSet

_decoders: WeakSet[BaseProcess] = WeakSet()

_TELL_OF_IT = ("DataLoader worker", "Pin memory thread exited unexpectedly")


def death_of_a_worker(error: RuntimeError) -> str | None:
    """What happened and what to do, where torch's error (or `data.stream`'s) tells of a dead worker; else None."""
    text = str(error)
    if not any(words in text for words in _TELL_OF_IT):
        return None
    return (
        f"a process that decodes images died ({text.splitlines()[0]}); short of memory, the system kills one: take"
        " fewer (`data.workers`) or smaller batches, or make /dev/shm larger"
    )


def remember(processes: Iterable[BaseProcess]) -> None:
    """Lets `kill_all` find them."""
    _decoders.update(processes)


def kill_all() -> None:
    """Ends what is left of the decoders once one has died and nothing holds their loader.

    Torch tells the others to end, waits for five seconds and then sends SIGTERM, which they leave to the training: on a
    busy machine one outlived it all, held the folder's lock and kept the process from ending.
    """
    for process in list(_decoders):
        process.kill()
        process.join()
