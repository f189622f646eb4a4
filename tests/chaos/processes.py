"""Processes of a group: found, and frozen."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tests.waiting import wait_until


def freeze(pids: Iterable[int]) -> None:
    """Stop processes, and wait until they have stopped; dead ones are left out."""
    pids = list(pids)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(_status(pid) in "TZX" for pid in pids), "they stop")


def members(group: int) -> list[int]:
    """The processes of a group."""
    found = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return [pid for pid in found if _stat(pid)[2:3] == [str(group)]]


def _stat(pid: int) -> list[str]:
    """State, parent, group and so on; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (ProcessLookupError, FileNotFoundError):
        return []


def _status(pid: int) -> str:
    return (_stat(pid) or ["X"])[0]
