"""Celery's own result: a handle on the job, and what the backend is told."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from celery import Celery, states
from celery.result import AsyncResult

from jobkit import clock
from jobkit.errors import StoreUnavailable
from jobkit.job import Event, Job, Progress
from jobkit.publishing import to_context
from jobkit.store.base import Store
from jobkit.views import hasty

if TYPE_CHECKING:
    from jobkit.client import Client

logger = logging.getLogger(__name__)

CLAIM_LOOK = 0.2
CLAIM_MOST = 60.0
"""Seconds that a chord's body is waited for, and between two looks at its claim."""


PAUSE = 0.05
"""Seconds between two looks for a result that has to be there any moment."""


class JobResult(AsyncResult):  # type: ignore[type-arg]
    """The result of a task that is a job.

    ``existing`` tells that the job was there before the call that returned
    this, and nothing was enqueued.
    """

    existing: bool = False

    @property
    def _jobs(self) -> Client:
        client: Client = cast("Any", self.app).jobkit.jobs
        return client

    def job(self) -> Job:
        """The record now.

        Raises:
            JobNotFound: It was never recorded, or its retention has passed.
        """
        return self._jobs.get(self.id)

    def watch(self) -> Iterator[Event]:
        """What happens to the job from now on, up to its end."""
        return self._jobs.watch(self.id)

    def cancel(self, reason: str = "", actor: str = "") -> bool:
        """Cancel the job; see ``Client.cancel``."""
        return self._jobs.cancel(self.id, reason=reason, actor=actor)


def meta(progress: Progress, floor: float = 0) -> dict[str, Any]:
    """Progress as readers of the result backend know it.

    ``pending``, ``current``, ``total``, ``percent`` and ``description`` are
    celery-progress's keys; its bar needs numbers, so an unknown total is the
    count so far and an unknown percentage is the last one known (``floor``). The
    others are jobkit's.
    """
    text = progress.message or progress.stage or ""
    return {
        "pending": False,
        "current": progress.current,
        "total": progress.current if progress.total is None else progress.total,
        "percent": floor if progress.percent is None else progress.percent,
        "description": text,
        "message": progress.message,
        "stage": progress.stage,
        "stage_index": progress.stage_index,
        "stage_count": progress.stage_count,
        "rate": progress.rate,
        "eta_seconds": progress.eta_seconds,
        "ok": progress.ok,
        "failed": progress.failed,
        "skipped": progress.skipped,
    }


def mirror(task: Any, request: Any, state: str, info: Any = None) -> bool:
    """Tell the result backend of a state that is not an end; False if it failed.

    A backend that is down or refuses is only logged, and not asked again as Celery
    would for many seconds: it holds no truth.
    """
    if request.is_eager or request.called_directly:
        return True
    if task.ignore_result or request.ignore_result:
        return True
    try:
        hasty(task.backend).store_result(request.id, info, state, request=request)
    except Exception as error:  # noqa: BLE001 - any backend, any error
        what = type(error).__name__
        logger.warning("Result backend did not take %s: %s: %s", state, what, error)
        return False
    return True


def is_there(task: Any, job_id: str) -> bool:
    """Whether the result backend has a result of an end."""
    try:
        return task.backend.get_state(job_id) in states.READY_STATES
    except Exception as error:  # noqa: BLE001 - any backend, or none
        logger.debug("Result backend does not tell of job %s: %r", job_id, error)
        return False


def hand_over(task: Any, request: Any, state: str, result: Any) -> None:
    """Have a chord go on whose last member was killed while it handed over.

    The member that completes a chord claims its body in the backend (Celery 5.7 in
    Redis), and for the seconds that the claim outlives it nobody else starts the
    body. When it runs again and finds a claim, it waits for its end and is counted
    once more. Of a body that was started the backend knows.
    """
    backend = task.backend
    if not request.chord or not hasattr(backend, "_chord_claim_extend_script"):
        return
    try:
        if _is_claimed(backend, request.group):
            logger.info("Job %s waits for a claim on its chord's body", request.id)
            deadline = clock.monotonic() + CLAIM_MOST
            while _is_claimed(backend, request.group) and clock.monotonic() < deadline:
                time.sleep(CLAIM_LOOK)
            backend.on_chord_part_return(request, state, result)
    except Exception as error:  # noqa: BLE001 - any backend, any error
        logger.warning("The chord of job %s may not go on: %r", request.id, error)


def _is_claimed(backend: Any, group: str) -> bool:
    claim = backend.client.get(backend.get_key_for_group(group, ".c"))
    return claim not in (None, b"done")


def ends_within(task: Any, job_id: str, seconds: float) -> bool:
    """Whether a job ends within some seconds, and its result is there."""
    deadline = clock.monotonic() + seconds
    with suppress(StoreUnavailable):
        _wait_for_end(task.kit.store, job_id, seconds, deadline)
    while not is_there(task, job_id):
        if clock.monotonic() >= deadline:
            return False
        time.sleep(PAUSE)  # it died outside of any run, or the store is away
    return True


def _wait_for_end(store: Store, job_id: str, seconds: float, deadline: float) -> None:
    # Subscribed before the record is read, so that nothing falls between.
    news = store.watch(job_id, max(seconds / 8, PAUSE))
    job = store.get(job_id)
    if job is None or job.state.finished:
        return
    for event in news:
        over = clock.monotonic() >= deadline
        if over or (event is not None and event.state.finished):
            return


def announce_dead(app: Celery, job: Job, error: Exception) -> None:
    """Tell backend, chord and errbacks that a job died outside of any run."""
    if job.message is None:
        return
    app.backend.mark_as_failure(
        job.id, error, request=to_context(job.message), call_errbacks=True
    )


def announce_cancelled(app: Celery, job: Job, reason: str) -> None:
    """Tell backend and chord that a job was cancelled outside of any run."""
    if job.message is None:
        return
    app.backend.mark_as_revoked(
        job.id, reason or "cancelled", request=to_context(job.message)
    )


def forget_progress(task: Any, request: Any) -> None:
    """Show a job that waits as PENDING again."""
    mirror(task, request, states.PENDING)


def show_pending(app: Celery, job_id: str) -> None:
    """Take back what Celery said of a job by itself: it waits."""
    backend: Any = app.backend
    try:
        backend.store_result(job_id, None, states.PENDING)
    except Exception as error:  # noqa: BLE001 - any backend, any error
        logger.warning("Result backend did not take PENDING: %r", error)
