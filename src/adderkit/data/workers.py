"""Deaths of the processes that decode images. Imports no torch."""

from __future__ import annotations

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
