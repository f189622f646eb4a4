"""The sign that a worker is shutting down, seen by all its processes."""

from __future__ import annotations

import mmap


class DrainFlag:
    """One byte of memory that a worker shares with the children it forks.

    It has to exist before the fork. A child sees the change within its next
    look; no signal, queue or server is involved.
    """

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        """Ask every running job of this worker to stop at its next item."""
        self._byte[0] = 1

    def clear(self) -> None:
        """Take it back; for a process that starts another worker."""
        self._byte[0] = 0

    def is_set(self) -> bool:
        """Whether the worker is shutting down."""
        return self._byte[0] == 1
