"""Runs of jobs without Celery: on a store in memory, and a time that stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from typing_extensions import override

from jobkit import clock
from jobkit.errors import StoreUnavailable
from jobkit.job import ErrorInfo, Job, Message, NewJob, Progress
from jobkit.lease import Lease
from jobkit.progress import Plan, Stage
from jobkit.run import Run
from jobkit.skip import Skipping
from jobkit.store.base import Store
from jobkit.store.memory import MemoryStore
from jobkit.store.values import Kept, Snapshot

ID = "job"
WORKER = "w1/7"
CRASH = ErrorInfo("WorkerLost", "killed by signal 9", verdict="infrastructure")


@dataclass(slots=True)
class Time:
    """Monotonic seconds that pass only when a test says so; counts who asks."""

    now: float = 1000.0
    asked: int = 0

    def __call__(self) -> float:
        self.asked += 1
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def stop_the_clock(patch: pytest.MonkeyPatch) -> Time:
    """Put a time that a test moves in place of the machine's."""
    time = Time()
    patch.setattr(clock, "monotonic", time)
    return time


@dataclass
class Watched(MemoryStore):
    """A store that notes what was saved, and that can be out of reach."""

    saved: list[Snapshot] = field(default_factory=list)
    renewed: int = 0
    down: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def positions(self) -> list[int]:
        """How far the run was at each save."""
        return [snapshot.position for snapshot in self.saved]

    def _reach(self) -> None:
        if self.down:
            raise StoreUnavailable("the network is down")

    @override
    def save(
        self, job_id: str, fence: int, seq: int, snapshot: Snapshot, lease: float
    ) -> Kept:
        self._reach()
        self.saved.append(snapshot)
        return super().save(job_id, fence, seq, snapshot, lease)

    @override
    def renew(self, job_id: str, fence: int, lease: float) -> Kept:
        self.renewed += 1
        self._reach()
        return super().renew(job_id, fence, lease)


def new_job(job_id: str = ID, owner: str = "") -> NewJob:
    """A job before it is recorded."""
    message = Message("shop.sync", b"[[], {}, {}]", "application/json", "utf-8")
    return NewJob(
        id=job_id, task="shop.sync", message=message.encode(), queue="q", owner=owner
    )


def begin(
    store: Store,
    stages: Iterable[str | Stage] = ("count", "import"),
    *,
    job_id: str = ID,
    every: int | None = None,
    seconds: float = 30.0,
    interval: float = 1.0,
    skipping: Skipping | None = None,
    listener: Callable[[Progress], None] | None = None,
) -> Run:
    """Begin the next run of a job, which is recorded if it is new."""
    store.enqueue(new_job(job_id), "enqueue", hint=300)
    record = kept(store, job_id)
    start = store.begin(job_id, f"delivery {record.starts}", WORKER, seconds)
    assert start.job, start.outcome
    lease = Lease(store, job_id, start.job.fence, seconds, interval)
    return Run(
        *(start.job, lease, Plan.of(stages)),
        checkpoint_every=every,
        skipping=skipping,
        listener=listener,
    )


def kill(store: Store, job_id: str = ID) -> None:
    """The worker dies: nothing is saved any more, and the job is due again."""
    assert store.crash(job_id, WORKER, CRASH)


def kept(store: Store, job_id: str = ID) -> Job:
    """The record, which must be there."""
    job = store.get(job_id)
    assert job
    return job
