"""Standard output and error that outlive their reader."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from typing import Any, TextIO


class _Lasting(io.FileIO):
    """A file whose reader may go away: what is written then is nowhere to be seen, and no error."""

    def write(self, data: Any) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EPIPE and not (error.errno == errno.EIO and self._is_device()):
                raise
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.fileno())
        return len(data)

    def _is_device(self) -> bool:
        return stat.S_ISCHR(os.fstat(self.fileno()).st_mode)


def outlive_readers() -> None:
    """Lets a training go on when `| head` has seen enough, a log's reader dies or its terminal is closed."""
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)


def _lasting(stream: TextIO | None) -> Any:
    if stream is None:  # the process was started without one
        return open(os.devnull, "w")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(stream.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,  # `python -u`, by which torchrun starts workers
    )
