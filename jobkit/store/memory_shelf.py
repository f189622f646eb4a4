"""The records of a store in memory: held, guarded, and read."""

from __future__ import annotations

import functools
import heapq
import itertools
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jobkit import clock
from jobkit.errors import DuplicateJob, JobNotFound
from jobkit.job import Event, ItemFailure, Job, Page, Unique, check_schema
from jobkit.states import State
from jobkit.store.base import watching
from jobkit.store.memory_records import Record, milliseconds
from jobkit.store.memory_unique import holds, written
from jobkit.store.values import BACKLOG_STATES, ENDS, Backlog, News, Retention

_NUMBER = re.compile(r"\d{1,16}", re.ASCII)


def wall() -> int:
    """The time of this machine in milliseconds."""
    return milliseconds(clock.wall())


class Shelf:
    """Where the records are; one lock guards them all.

    ``now`` answers in whole milliseconds since the epoch; the default is the clock
    of this machine.
    """

    def __init__(
        self, retention: Retention | None = None, now: Callable[[], int] = wall
    ) -> None:
        self._retention = retention or Retention()
        self._now = now
        self._jobs: dict[str, Record] = {}
        self._ids = itertools.count(1)
        self._changed = threading.Condition()

    @property
    def retention(self) -> Retention:
        """How long finished records stay."""
        return self._retention

    def is_at(self, options: Mapping[str, Any]) -> bool:
        """No server is this process."""
        del options
        return False

    def ping(self) -> None:
        """Do nothing: it is always there."""

    def close(self) -> None:
        """Do nothing: there is no connection."""

    @contextmanager
    def _change(self) -> Iterator[int]:
        with self._changed:
            yield self._now()
            self._changed.notify_all()

    def _owned(self, job_id: str, fence: int) -> Record | None:
        record = self._held(job_id, fence)
        return record if record and record.state is State.RUNNING else None

    def _held(self, job_id: str, fence: int) -> Record | None:
        record = self._jobs.get(job_id)
        return record if record and record.text("fence") == str(fence) else None

    def _known(self, job_id: str) -> Record:
        record = self._jobs.get(job_id)
        if record is None:
            raise JobNotFound(job_id)
        check_schema(record.fields)
        return record

    def _earliest(self, name: str, at: int, limit: int) -> list[Record]:
        passed = [
            record
            for record in self._jobs.values()
            if name in record.fields and record.number(name) <= at
        ]
        return heapq.nsmallest(
            limit, passed, key=lambda record: (record.number(name), record.text("id"))
        )

    def _holder(self, unique: Unique | None, job_id: str, at: int) -> str:
        """The other job that has a unique key, or nothing."""
        found = (
            other
            for other, record in self._jobs.items()
            if unique and other != job_id and holds(record, unique.key, at)
        )
        return next(found, "")

    def _check_key(self, record: Record, at: int) -> None:
        job_id = record.text("id")
        holder = self._holder(written(record), job_id, at)
        if holder:
            raise DuplicateJob(f"Job {job_id!r}", holder)

    def waiting(self, queues: Sequence[str], age: float) -> bool:
        """Whether a job of these queues waits for a worker."""
        with self._changed:
            until = self._now() - milliseconds(age)
            return any(
                record.state is State.QUEUED
                and record.text("queue") in queues
                and record.number("entered_at") <= until
                for record in self._jobs.values()
            )

    def get(self, job_id: str) -> Job | None:
        """The record, or None."""
        with self._changed:
            record = self._jobs.get(job_id)
            return record.job() if record else None

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        with self._changed:
            counts = dict.fromkeys(State, 0)
            for record in self._jobs.values():
                counts[record.state] += 1
            return counts

    def backlog(self, depth: int = 500) -> list[Backlog]:
        """How many jobs each queue has; see ``Store.backlog``."""
        _ = depth  # here all are looked at
        since: dict[tuple[str, State], list[int]] = {}
        with self._changed:
            for record in self._jobs.values():
                if record.state in BACKLOG_STATES:
                    place = since.setdefault((record.text("queue"), record.state), [])
                    place.append(record.number("entered_at"))
            at = self._now()
        return [
            Backlog(*key, len(moments), (at - min(moments)) / 1000)
            for key, moments in sorted(since.items())
        ]

    def ended(self, span: float, spans: int) -> dict[State, tuple[int, ...]]:
        """How many jobs ended in each of the last spans; see ``Store.ended``."""
        counts = {state: [0] * spans for state in ENDS}
        with self._changed:
            at = self._now()
            for record in self._jobs.values():
                back = (at - record.number("entered_at")) // round(span * 1000)
                if record.state in ENDS and back < spans:
                    counts[record.state][back] += 1
        return {state: tuple(row) for state, row in counts.items()}

    def failures(
        self, job_id: str, after: str | None = None, limit: int = 50
    ) -> Page[ItemFailure]:
        """The ledger of a job's failed items."""
        with self._changed:
            record = self._jobs.get(job_id)
            return record.page_of_failures(after, limit) if record else Page(())

    def history(self, job_id: str, after: str = "") -> list[Event]:
        """The job's events after the one with that id, oldest first."""
        with self._changed:
            record = self._jobs.get(job_id)
            events = record.events if record else ()
            return [event for event in events if int(event.id) > int(after or 0)]

    def watch(self, job_id: str, timeout: float) -> Iterator[Event | None]:
        """Events and progress from now on; None whenever ``timeout`` passed idle."""
        return watching(self.follow, job_id, self.place(job_id), timeout)

    def place(self, job_id: str, after: str = "") -> str:
        """Where to follow a job from."""
        with self._changed:
            record, now = self._jobs.get(job_id), next(self._ids)
            known = _NUMBER.fullmatch(after) and int(after) < now
            return (
                after if known and record and record.tells_all(int(after)) else str(now)
            )

    def follow(self, places: Mapping[str, str], timeout: float) -> Sequence[News]:
        """Events and progress of several jobs after their places."""
        with self._changed:
            news = functools.partial(self._news, places)
            return self._changed.wait_for(news, timeout) or []

    def _news(self, places: Mapping[str, str]) -> Sequence[News]:
        news = [
            News(job_id, event, event.id)
            for job_id, place in places.items()
            if (record := self._jobs.get(job_id))
            for event in record.news(int(place))
        ]
        return sorted(news, key=lambda one: int(one.place))
