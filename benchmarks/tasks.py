"""The app of the benchmark's worker: the same short task, plain and as a job."""

import os
from functools import cache
from hashlib import sha1

import redis
from celery import Celery

from jobkit import JobTask, ProgressTask
from jobkit.store.direct import Direct

QUEUE = "bench"

app = Celery("bench")
app.conf.update(
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    task_default_queue=QUEUE,
)


def use(url: str) -> None:
    """Take a server's databases 0 to 2 as broker, result backend and job store."""
    app.conf.update(
        broker_url=f"{url}/0",
        result_backend=f"{url}/1",
        jobkit_store_url=f"{url}/2",
    )


if "BENCH_VALKEY" in os.environ:
    use(os.environ["BENCH_VALKEY"])


@app.task(name="bench.plain", acks_late=True)
def plain(a: int, b: int) -> int:
    """Add, as a late-acknowledged Celery task."""
    return a + b


EMPTY = "return 1"
"""A script that does nothing."""

EMPTY_SHA = sha1(EMPTY.encode(), usedforsecurity=False).hexdigest()


@cache
def store() -> Direct:
    """The way to the job store that jobs take, without a store."""
    return Direct(redis.Redis.from_url(app.conf.jobkit_store_url))


@app.task(name="bench.trips", acks_late=True)
def trips(a: int, b: int) -> int:
    """Add, as ``plain``, with the two calls of a job's run and nothing in them."""
    for _ in ("begin", "end"):
        store().evalsha(EMPTY_SHA, 0)
    return a + b


@app.task(base=JobTask, name="bench.job")
def job(a: int, b: int) -> int:
    """Add, as a job."""
    return a + b


@app.task(base=ProgressTask, bind=True, name="bench.progress", stages=["items"])
def progress(self: ProgressTask) -> None:
    """A job with a stage, for measuring what a save costs."""
