"""A worker that a process embeds, as people's own tests do; run as a script.

It has a process of its own because Celery leaves its connections open there.
The arguments are the server's port and a scenario's name; it prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from celery import Celery, chain
from celery.contrib.testing.worker import start_worker

from jobkit import clock

SECONDS = 20

_PORT = sys.argv[1] if len(sys.argv) > 1 else "0"

app = Celery("ways", task_cls="jobkit:ProgressTask")
app.conf.update(
    broker_url=f"redis://127.0.0.1:{_PORT}/0",
    result_backend=f"redis://127.0.0.1:{_PORT}/1",
    jobkit_store_url=f"redis://127.0.0.1:{_PORT}/2",
    jobkit_retry_policy="never",
    jobkit_dispatch_interval=0.1,
    accept_content=["json", "pickle"],
)


class Around(app.Task):  # type: ignore[name-defined,misc]
    """A class between the job and its body."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Wrap what the body returns."""
        return ["around", super().__call__(*args, **kwargs)]


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def now() -> float:
    return clock.wall()


@app.task(bind=True)
def eta_and_headers(self: Any) -> list[Any]:
    return [self.request.eta, self.request.headers]


@app.task(bind=True)
def two_etas(self: Any, first: str = "") -> list[str]:
    if not first:
        raise self.retry(args=[self.request.eta], countdown=0.2)
    return [first, self.request.eta]


@app.task(bind=True)
def twice(self: Any) -> int:
    if not self.request.retries:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@app.task(base=Around, bind=True)
def wrapped(self: Any) -> str:
    return str(self.job.id)


@app.task(bind=True)
def replaced_later(self: Any) -> None:
    raise self.replace(now.s().set(countdown=1.0))


@app.task(bind=True)
def replaced_by_chain(self: Any) -> None:
    raise self.replace(chain(add.s(1, 2), add.s(4)))


@app.task(bind=True)
def slow_to_leave(self: Any) -> None:
    try:
        raise self.replace(chain(add.s(1, 2), add.s(4)))
    finally:
        # The chain is through to its last task before this run has ended.
        while (self.kit.store.get(self.request.id)).task != add.name:
            time.sleep(0.05)


@app.task(bind=True, name="take")
def take(self: Any, items: set[int]) -> list[Any]:
    return [sorted(items), self.request.stamps]


CALLS: list[int] = []


@app.task
def called() -> int:
    CALLS.append(1)
    return len(CALLS)


@app.task(bind=True)
def parent(self: Any) -> bool:
    child: Any = called.apply_async(task_id="child-1")
    if not self.request.retries:
        raise self.retry(countdown=1)
    return bool(child.existing)


def frozen() -> Any:
    signature = called.s()
    signature.freeze()
    got(signature)()
    signature.apply_async()
    return got(called.s())()


def from_a_stranger() -> list[Any]:
    stranger = Celery("stranger", set_as_current=False)
    stranger.conf.update(
        broker_url=app.conf.broker_url, result_backend=app.conf.result_backend
    )
    signature = stranger.signature("take", args=({1, 2},), app=stranger)
    signature.set(serializer="pickle")
    signature.stamp(colour="red")
    result: Any = take.AsyncResult(signature.apply_async().id)
    told = result.get(timeout=SECONDS)
    message = result.job().message
    return [told, message.content_type, message.headers["stamps"]]


def got(signature: Any, **options: Any) -> Callable[[], Any]:
    return lambda: signature.apply_async(**options).get(timeout=SECONDS)


SCENARIOS: dict[str, Callable[[], Any]] = {
    "delayed": got(eta_and_headers.s(), countdown=0.3, headers={"tenant": "acme"}),
    "delayed_retry": got(two_etas.s(), countdown=0.2),
    "retry": got(twice.s()),
    "around": got(wrapped.s(), task_id="job-1"),
    "replaced_later": got(replaced_later.s()),
    "replaced_by_chain": got(replaced_by_chain.s()),
    "slow_to_leave": got(slow_to_leave.s()),
    "stranger": from_a_stranger,
    "frozen": frozen,
    "second_run": got(parent.s()),
}


if __name__ == "__main__":
    pool = "threads" if sys.argv[2] == "slow_to_leave" else "solo"
    with start_worker(
        app,
        pool=pool,
        concurrency=2,
        perform_ping_check=False,
        shutdown_timeout=SECONDS,
    ):
        print(json.dumps(SCENARIOS[sys.argv[2]]()))  # noqa: T201 - a script
