"""The names of all keys of a store, and the partition in which a job lives."""

from __future__ import annotations

import uuid
import zlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """Names keys under one prefix.

    The tag in braces puts all keys of a partition into one slot of a cluster;
    ``prelude.lua`` builds the same names behind the tag.
    """

    prefix: str
    partitions: int = 1

    def partition(self, job_id: str) -> int:
        """The partition of a job: the CRC-32 of its id, spread evenly."""
        count = self.partitions
        return zlib.crc32(job_id.encode()) % count if count > 1 else 0

    def tag(self, partition: int) -> str:
        """What every key of a partition begins with."""
        return f"{{{self.prefix}:{partition}}}"

    def tags(self) -> list[str]:
        """The tags of all partitions."""
        return [self.tag(partition) for partition in range(self.partitions)]

    @property
    def limits(self) -> str:
        """What every key of the limits begins with; they share one slot."""
        return f"{{{self.prefix}:limits}}"

    def tag_of(self, job_id: str) -> str:
        """The tag of a job's partition."""
        return self.tag(self.partition(job_id))

    def partner(self, job_id: str) -> str:
        """A new id in a job's or a key's partition: after as many tries as there are."""
        partition = self.partition(job_id)
        while self.partition(new := str(uuid.uuid4())) != partition:
            pass
        return new

    def job(self, job_id: str) -> str:
        """The record: a hash."""
        return f"{self.tag_of(job_id)}:job:{job_id}"

    def events(self, job_id: str) -> str:
        """The history: a stream."""
        return f"{self.tag_of(job_id)}:events:{job_id}"

    def ticks(self, job_id: str) -> str:
        """The progress of the current run, for watchers: a stream."""
        return f"{self.tag_of(job_id)}:ticks:{job_id}"

    def state(self, partition: int, state: str) -> str:
        """The jobs in a state, by the time they entered it: a sorted set."""
        return f"{self.tag(partition)}:state:{state}"
