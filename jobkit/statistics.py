"""How long jobs run and wait, and how they end: read from those that have ended."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from heapq import merge
from itertools import islice

from jobkit import clock
from jobkit.errors import StoreError
from jobkit.job import Job
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import RESOLVED, Backlog

NEWEST = 2_000
"""Ended jobs that are counted, if nothing else is said: the last to end."""

PAGE = 500
"""Jobs that are read at a time."""

LOOKS = 50
"""Pages of a state that are looked through for the jobs of one task."""

MOST = LOOKS * PAGE
"""Ended jobs that can be counted: as many as are looked through of one state."""

COUNTED = (State.SUCCEEDED, State.PARTIAL, State.DEAD)
"""The ends that say something of a task; jobs are CANCELLED by people."""

SAMPLE = 50
"""Jobs of which the usual time of a task is the median."""

REMEMBERED = 60.0
"""Seconds for which a usual time is not asked for again."""

MOST_TASKS = 1_000
"""Tasks whose usual time is remembered."""


@dataclass(frozen=True, slots=True)
class TaskStatistics:
    """How the jobs of a task have run, as far as they are looked at.

    ``count`` have ended. ``p50`` and ``p95`` are seconds from a job's first start to
    its end, with the retries and pauses between: half of the jobs, and 95 % of them,
    took no longer. They leave out jobs that were replayed, which may have been
    dead for days, and are None where no others are there. ``failed`` and ``partial``
    are the shares, from 0 to 1, that ended as DEAD and as PARTIAL. ``staged`` tells
    whether they have stages, ``saved`` whether any has saved a checkpoint.
    """

    task: str
    count: int
    p50: float | None
    p95: float | None
    failed: float
    partial: float
    staged: bool
    saved: bool


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """How long the jobs of a queue have waited for a worker, against its target.

    Of ``count`` jobs that have ended, half waited no longer than ``p50`` seconds and
    95 % no longer than ``p95``, from their last message to their first start. ``late``
    is the share that waited longer than ``target``; None without a target. ``waiting``
    jobs stand in the queue now, the first of them for ``oldest`` seconds.
    """

    queue: str
    count: int
    p50: float | None
    p95: float | None
    target: float | None
    late: float | None
    waiting: int
    oldest: float | None


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the last ``jobs`` that have ended say; the first of them ended at ``since``.

    Tasks are in the order of their names, queues in that of the routing map.
    """

    tasks: tuple[TaskStatistics, ...]
    queues: tuple[QueueStatistics, ...]
    jobs: int = 0
    since: datetime | None = None


@dataclass(slots=True)
class _Runs:
    """What was seen of a task."""

    count: int = 0
    dead: int = 0
    partial: int = 0
    staged: bool = False
    saved: bool = False
    seconds: list[float] = field(default_factory=list)

    def add(self, job: Job) -> None:
        self.count += 1
        self.dead += job.state is State.DEAD
        self.partial += job.state is State.PARTIAL
        self.staged |= bool(job.stages)
        self.saved |= bool(job.checkpoint)
        seconds = run_seconds(job)
        if seconds is not None:
            self.seconds.append(seconds)

    def told(self, task: str) -> TaskStatistics:
        return TaskStatistics(
            *(task, self.count),
            *(percentile(self.seconds, 0.5), percentile(self.seconds, 0.95)),
            failed=self.dead / self.count,
            partial=self.partial / self.count,
            staged=self.staged,
            saved=self.saved,
        )


def newest_ended(
    store: Store, limit: int = NEWEST, task: str | None = None
) -> Iterator[Job]:
    """Jobs that ran and have ended, the last to end first; up to so many are read.

    Of a task that is rare among very many jobs only the newest may be found.
    """
    streams = (_ended_as(state, store, limit, task) for state in COUNTED)
    found = islice(merge(*streams, key=_end, reverse=True), limit)
    return (job for job in found if job.started_at is not None)


def _ended_as(
    state: State, store: Store, limit: int, task: str | None
) -> Iterator[Job]:
    after = None
    for _ in range(LOOKS):
        size = min(PAGE, limit)
        page = store.list(state=state, task=task, after=after, limit=size)
        yield from page.items
        if page.next is None:
            return
        after = page.next


def _end(job: Job) -> datetime:
    return job.finished_at or job.updated_at


def count(
    jobs: Iterable[Job],
    targets: Mapping[str, float | None],
    backlog: Sequence[Backlog] = (),
) -> Statistics:
    """Add up what ended jobs say; ``targets`` are those of the queues, in order."""
    runs: dict[str, _Runs] = {}
    waits: dict[str, list[float]] = {}
    number, since = 0, None
    for job in jobs:
        runs.setdefault(job.task, _Runs()).add(job)
        waits.setdefault(job.queue, []).append(waited_seconds(job))
        number, since = number + 1, _end(job)
    standing = {row.queue: row for row in backlog if row.state is State.QUEUED}
    order = dict.fromkeys((*targets, *sorted({*waits, *standing})))
    return Statistics(
        tuple(runs[task].told(task) for task in sorted(runs)),
        tuple(
            _queue(name, waits.get(name, []), targets.get(name), standing.get(name))
            for name in order
            if name in waits or name in standing
        ),
        *(number, since),
    )


def _queue(
    name: str, waits: list[float], target: float | None, standing: Backlog | None
) -> QueueStatistics:
    late = None
    if target is not None and waits:
        late = sum(seconds > target for seconds in waits) / len(waits)
    return QueueStatistics(
        *(name, len(waits), percentile(waits, 0.5), percentile(waits, 0.95)),
        *(target, late),
        waiting=standing.jobs if standing else 0,
        oldest=standing.oldest if standing else None,
    )


def run_seconds(job: Job) -> float | None:
    """From a job's first start to its end; None where days may lie between.

    A replay, or one of its failed items, has then ended it a second time.
    """
    if job.started_at is None or job.finished_at is None:
        return None
    if job.replays or job.reason == RESOLVED:
        return None
    return (job.finished_at - job.started_at).total_seconds()


def waited_seconds(job: Job) -> float:
    """How long a job that has started had waited in its queue before.

    From its message, since one with a ``countdown`` was recorded long before; but a
    message that came later than the start was that of a retry.
    """
    started, published = job.started_at or job.created_at, job.published_at
    since = published if published and published <= started else job.created_at
    return max(0.0, (started - since).total_seconds())


def percentile(values: Iterable[float], share: float) -> float | None:
    """The least value that so large a share of them does not exceed; None of none.

    It is one of the values (the nearest rank), and nothing between two of them.
    """
    ranked = sorted(values)
    if not ranked:
        return None
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


class Usual:
    """How long tasks usually run, asked from the store once a minute at the most."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[float, float | None]] = OrderedDict()

    def seconds(self, task: str) -> float | None:
        """The median of the last jobs that succeeded; what was known, if it is away."""
        now = clock.monotonic()
        with self._lock:
            at, seconds = self._known.get(task, (-math.inf, None))
            if now - at < REMEMBERED:
                return seconds
            # One thread asks; the others go on with what is known.
            self._keep(task, now, seconds)
        with suppress(StoreError):
            seconds = self._read(task)
            with self._lock:
                self._keep(task, now, seconds)
        return seconds

    def _keep(self, task: str, at: float, seconds: float | None) -> None:
        self._known[task] = at, seconds
        self._known.move_to_end(task)
        while len(self._known) > MOST_TASKS:
            self._known.popitem(last=False)

    def _read(self, task: str) -> float | None:
        page = self._store.list(state=State.SUCCEEDED, task=task, limit=SAMPLE)
        took = (run_seconds(job) for job in page.items)
        return percentile((each for each in took if each is not None), 0.5)


def in_words(seconds: float) -> str:
    """A time as people say it: two digits, and the unit that fits."""
    if seconds < 0.9995:  # noqa: PLR2004 - what is no whole second in milliseconds
        return f"{round(seconds * 1000):g} ms"
    for unit, size, next_size in (("s", 1, 120), ("min", 60, 7_200)):
        if seconds < next_size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    if seconds < 172_800:  # noqa: PLR2004 - two days
        return f"{seconds / 3_600:.3g} h"
    return f"{seconds / 86_400:,.0f} days"
