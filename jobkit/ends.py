"""The ends of jobs, told to receivers of their signals: once at least.

A note in the store stands until it is done, so that an end is told by another worker
when the process that came to it dies.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from weakref import ReferenceType

from jobkit import clock, signals
from jobkit.dead_letters import name_of
from jobkit.errors import StoreError
from jobkit.job import Job
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import Death

SIGNALS = {
    State.SUCCEEDED: signals.job_succeeded,
    State.PARTIAL: signals.job_partial,
    State.DEAD: signals.job_dead,
    State.CANCELLED: signals.job_cancelled,
}


def heard(*states: State) -> bool:
    """Whether this process has receivers for one of these ends, or for any."""
    # One that is held weakly, as Celery does unless told otherwise, may be gone.
    return any(
        not isinstance(receiver, ReferenceType) or receiver()
        for state in states or SIGNALS
        for _, receiver in SIGNALS[state].receivers
    )


def told(job: Job) -> dict[str, Any]:
    """What the signal of a job's end says of it."""
    match job.state:
        case State.DEAD:
            return {"reason": job.reason, "error": job.error}
        case State.CANCELLED:
            return {"reason": job.reason}
        case _:
            return {"progress": job.progress}


def tell(store: Store, job_id: str, state: State) -> None:
    """Send the signal of an end to this process's receivers, if it has any.

    Where the store is away the note of it stays, and a worker's round tells it.
    """
    if not heard(state):
        return
    with suppress(StoreError):
        job = store.get(job_id)
        if job is not None and job.state is state:
            send(store, job)


def catch_up(store: Store, job_id: str, patience: float) -> None:
    """Tell of an end that nobody has told of; drop it when it is older than that."""
    job = store.get(job_id)
    if job is None or not job.state.finished:
        return
    old = -clock.seconds_until(job.finished_at or job.updated_at) >= patience
    if old or heard(job.state):
        send(store, job)


def send(store: Store, job: Job) -> None:
    """Send the signal of a job's end, and strike its note."""
    end = Death(job.id, name_of(job))
    SIGNALS[job.state].send(
        sender=job.task, job_id=job.id, event_id=f"{end.id}:{end.name}", **told(job)
    )
    store.noted("unheard", end)
