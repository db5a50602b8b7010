"""`python -m adderkit` is the command line."""

import os
import sys
from collections import namedtuple
from contextlib import suppress
from typing import NoReturn

from adderkit.cli import main
from adderkit.output import outlive_readers


def run() -> NoReturn:
    """Runs the command line and ends the process with its exit code."""
    outlive_readers()
    code = main()
    if "WORLD_SIZE" in os.environ:
        # One of several processes. Its gloo threads may still free tensors while Python shuts down, wait for the GIL
        # then, and abort the process ("terminate called without an active exception": seen once in 30 trainings under
        # torch 2.15, after all was saved). So there is no such shutdown; every file is closed, synced and renamed.
        with suppress(OSError):  # a closed pipe
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    # Under `python -m`, a KeyboardInterrupt that once left code made from a string (a dataclass, while torch is
    # imported) makes Python end itself by SIGINT at last, though it was caught. Making another type so mends that.
    namedtuple("Nothing", "")
    sys.exit(code)


if __name__ == "__main__":
    run()
