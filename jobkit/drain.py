"""The sign that a worker is shutting down, seen by all its processes."""

from __future__ import annotations

import mmap
import os
import weakref
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp

VARIABLE = "JOBKIT_DRAIN_FLAG"
"""Where a worker tells children that are no forks of it where its flag is."""


class DrainFlag:
    """One byte of memory that a worker shares with its children.

    It has to exist before them. A child sees the change within its next look;
    no signal, queue or server is involved.
    """

    def __init__(self) -> None:
        self._byte = _inherited() or mmap.mmap(-1, 1)

    def begin(self, *, forks: bool) -> None:
        """Start anew for a worker, whose children are forks or fresh interpreters."""
        # A worker that a task of another one has started inherits the variable.
        os.environ.pop(VARIABLE, None)
        self._byte = mmap.mmap(-1, 1) if forks else self._in_file()

    def _in_file(self) -> mmap.mmap:
        """A byte that whoever is told its path can see; kill -9 leaves it behind."""
        descriptor, path = mkstemp(prefix="jobkit-drain-")
        weakref.finalize(self, Path(path).unlink, missing_ok=True)
        try:
            os.truncate(descriptor, 1)
            byte = mmap.mmap(descriptor, 1)
        finally:
            os.close(descriptor)
        os.environ[VARIABLE] = path
        return byte

    def set(self) -> None:
        """Ask every running job of this worker to stop at its next item."""
        self._byte[0] = 1

    def is_set(self) -> bool:
        """Whether the worker is shutting down."""
        return self._byte[0] == 1


def _inherited() -> mmap.mmap | None:
    """The flag of the worker that started this process, if it did and goes on."""
    path = os.environ.get(VARIABLE)
    with suppress(OSError, ValueError):
        if path:
            with Path(path).open("rb") as file:
                return mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ)
    return None
