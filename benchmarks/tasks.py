"""The app of the benchmark's worker: the same short task, plain and as a job."""

import os

from celery import Celery

from jobkit import JobTask, ProgressTask

QUEUE = "bench"

app = Celery("bench")
app.conf.update(
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    task_default_queue=QUEUE,
)


def use(url: str) -> None:
    """Take a server's database 0 as broker, and 1 for results, and so for jobs."""
    app.conf.update(broker_url=f"{url}/0", result_backend=f"{url}/1")


if "BENCH_VALKEY" in os.environ:
    use(os.environ["BENCH_VALKEY"])


@app.task(name="bench.plain", acks_late=True)
def plain(a: int, b: int) -> int:
    """Add, as a late-acknowledged Celery task."""
    return a + b


@app.task(base=JobTask, name="bench.job")
def job(a: int, b: int) -> int:
    """Add, as a job."""
    return a + b


@app.task(base=ProgressTask, bind=True, name="bench.progress", stages=["items"])
def progress(self: ProgressTask) -> None:
    """A job with a stage, for measuring what a save costs."""
