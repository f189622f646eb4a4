"""Jobs to fill a store with, and short ways to bring one where a test needs it."""

from jobkit.job import ErrorInfo, Event, Job, Message, NewJob, Progress
from jobkit.store.base import Store
from jobkit.store.memory import MemoryStore
from jobkit.store.redis import RedisStore
from jobkit.store.values import Dropped, Failure, Snapshot

HINT = 300.0
LEASE = 30.0
CRASHED = ErrorInfo("WorkerLost", "killed by signal 9", "", "infrastructure")
DROPPED = Dropped("work:rejected:12:00", "rejected", CRASHED)


def message(task: str = "shop.sync") -> Message:
    """A message as a producer would store it."""
    return Message(task, b"[[], {}, null]", "application/json", "utf-8", {"task": task})


def new_job(
    job_id: str = "job",
    task: str = "shop.sync",
    queue: str = "normal",
    owner: str = "",
    *,
    delay: float | None = None,
    crash_limit: int = 3,
) -> NewJob:
    """A job before it is recorded."""
    return NewJob(
        id=job_id,
        task=task,
        message=message(task).encode(),
        queue=queue,
        priority=4,
        dead_letter_queue="dead",
        owner=owner,
        stages=("count", "import"),
        crash_limit=crash_limit,
        delay=delay,
    )


def enqueued(store: Store, job_id: str = "job", *, crash_limit: int = 3) -> Job:
    """A QUEUED job."""
    assert store.enqueue(new_job(job_id, crash_limit=crash_limit), "enqueue", HINT)
    return kept(store, job_id)


def started(
    store: Store, job_id: str = "job", token: str = "first", worker: str = "w1/7"
) -> Job:
    """A QUEUED job's next run."""
    start = store.begin(job_id, token, worker, LEASE)
    assert start.outcome == "run"
    assert start.job
    return start.job


def running(store: Store, job_id: str = "job", *, crash_limit: int = 3) -> Job:
    """A RUNNING job that was not recorded before."""
    enqueued(store, job_id, crash_limit=crash_limit)
    return started(store, job_id)


def dead(store: Store, job_id: str = "job") -> Job:
    """A DEAD job that had saved something."""
    run = running(store, job_id)
    store.save(job_id, run.fence, 1, snapshot(5), LEASE)
    assert store.bury(job_id, run.fence, failure(rate_limited=True), "permanent")
    return kept(store, job_id)


def kept(store: Store, job_id: str = "job") -> Job:
    """The record, which must be there."""
    job = store.get(job_id)
    assert job
    return job


def snapshot(position: int) -> Snapshot:
    """What a run writes when it has done so many items."""
    return Snapshot(
        position, f"cursor {position}", Progress(current=position, ok=position)
    )


def failure(
    text: str = "no", *, attempt: bool = True, rate_limited: bool = False
) -> Failure:
    """An error of a run."""
    error = ErrorInfo("ValueError", text, "Traceback ...", "unknown")
    return Failure(error, f"budgets after {text}", attempt, rate_limited)


def names(store: Store, job_id: str = "job") -> list[str]:
    """What has happened to a job."""
    return [event.name for event in store.history(job_id)]


def last_event(store: Store, job_id: str = "job") -> Event:
    """What has happened to a job last."""
    return store.history(job_id)[-1]


def rewrite(store: Store, job_id: str, **fields: str) -> None:
    """Change a record behind the store's back."""
    if isinstance(store, MemoryStore):
        store._jobs[job_id].fields.update(fields)
    else:
        assert isinstance(store, RedisStore)
        store._client.hset(store.keys.job(job_id), mapping=fields)
