"""What user code did, written down by the tasks themselves: the judge of all tests."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.waiting import wait_until


class Entry(NamedTuple):
    """One thing that a run did; ``at`` is monotonic, the same in all processes."""

    job: str
    fence: int
    item: str
    pid: int
    at: float


@dataclass(frozen=True, slots=True)
class Journal:
    """A folder with a file a job, which any number of processes append to.

    What was written stays when the writer is killed: the kernel has it.
    """

    folder: Path

    def write(self, job: str, fence: int, item: object) -> None:
        """Write an entry down, whole or not at all."""
        line = f"{job} {fence} {item} {os.getpid()} {time.monotonic()!r}\n"
        self.folder.mkdir(exist_ok=True)
        descriptor = os.open(self.folder / job, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def entries(self, job: str = "", fence: int = 0) -> list[Entry]:
        """The entries of a job (or of all), of one fence (or of all), by time."""
        entries = [
            _entry(line)
            for path in self.folder.glob(job or "*")
            # A reader may come in the middle of a write.
            for line in path.read_text().split("\n")[:-1]
        ]
        wanted = (entry for entry in entries if fence in (0, entry.fence))
        return sorted(wanted, key=lambda entry: entry.at)

    def items(self, job: str, fence: int = 0) -> list[int]:
        """The numbered items among the entries."""
        return [
            int(entry.item) for entry in self.entries(job, fence) if _numbered(entry)
        ]

    def repeated(self, job: str) -> list[int]:
        """The numbered items that were handled more than once."""
        times = Counter(self.items(job))
        return sorted(item for item, count in times.items() if count > 1)

    def wait_for(
        self, job: str, fence: int = 0, count: int = 1, timeout: float = 30.0
    ) -> Entry:
        """Wait until there are ``count`` entries, and return that one."""
        found = wait_until(
            lambda: self.entries(job, fence)[count - 1 : count],
            f"{job or 'any job'} has {count} entries under fence {fence or 'any'}",
            timeout,
        )
        return found[0]


def _entry(line: str) -> Entry:
    job, fence, item, pid, at = line.split()
    return Entry(job, int(fence), item, int(pid), float(at))


def _numbered(entry: Entry) -> bool:
    return entry.item.isdecimal()
