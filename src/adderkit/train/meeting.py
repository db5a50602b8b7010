"""Where the processes of a job find one another: the store that the launcher provides."""

from __future__ import annotations

import secrets
import time
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

_PAUSE = 0.02  # seconds


def meet(timeout: timedelta) -> tuple[Store, int, int]:
    """What `init_process_group` finds by itself, but with names of their own in the store for these very processes.

    torchrun keeps one store for all restarts of a job, and gloo would try to reach the dead processes of the one
    before: in torch 2.13 a restarted job hangs there.

    Returns:
        The store, which process this is, from 0, and how many there are.

    Raises:
        DistError: the others did not come in time.
    """
    store, rank, count = next(rendezvous("env://", timeout=timeout))
    name = common_name(store, rank, count, timeout)
    return dist.PrefixStore(name, store), rank, count  # pyright: ignore[reportPrivateImportUsage]


def common_name(store: Store, rank: int, count: int, timeout: timedelta) -> str:
    """A name that these processes share, and none that met in the same store before.

    TORCHELASTIC_RESTART_COUNT would be none: each machine counts for itself, and one that replaces another begins at 0.
    So the first process makes the name up, and tells it to each of the others under a number that the other made up:
    what dead processes asked and were told stays in the store and fits nobody.

    Raises:
        DistError: the others did not come in time.
    """
    if rank != 0:
        number = secrets.token_hex(8)
        store.set(f"adderkit/asked/{rank}", number)
        store.wait([f"adderkit/told/{number}"], timeout)
        name = store.get(f"adderkit/told/{number}").decode()
        store.set(f"{name}/came/{rank}", "")
        return name
    name, missing = f"adderkit/{secrets.token_hex(8)}", set(range(1, count))
    end = time.monotonic() + timeout.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"{name}/came/{other}"]):
                missing.remove(other)
            elif store.check([f"adderkit/asked/{other}"]):
                store.set(f"adderkit/told/{store.get(f'adderkit/asked/{other}').decode()}", name)
        if time.monotonic() > end:
            raise dist.DistStoreError(f"processes {sorted(missing)} did not come within {timeout}")
        time.sleep(_PAUSE)
    return name
