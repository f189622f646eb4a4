"""The document that celery-progress's own script polls for.

Read from celery-progress 0.5: the script polls again while ``complete`` is False
and after RETRY, and takes every state that Celery does not know for a failure.
"""

from __future__ import annotations

from typing import Any

from jobkit import clock
from jobkit.job import Job
from jobkit.states import State
from jobkit.web.document import SAFE, Showing, is_stale

_FAILED = {State.DEAD: "FAILURE", State.CANCELLED: "REVOKED", State.RETRYING: "RETRY"}


def document(job: Job, showing: Showing = SAFE) -> dict[str, Any]:
    """A job as celery-progress tells of a task; a failure keeps its percentage."""
    if job.state in {State.SUCCEEDED, State.PARTIAL}:
        return _told("SUCCESS", _all_done(job), success=True, result=None)
    if job.state in _FAILED:
        state = _FAILED[job.state]
        return _told(state, _progress(job), success=False, result=_why(job, showing))
    begun = job.progress.current or job.progress.percent
    if job.state is State.RUNNING:
        return _told("PROGRESS" if begun else "STARTED", _progress(job))
    return _told("PENDING", {**_progress(job), "pending": not begun})


def _told(
    state: str, progress: dict[str, Any], *, success: bool | None = None, **result: Any
) -> dict[str, Any]:
    complete = success is not None
    return {
        "state": state,
        "complete": complete,
        "success": success,
        "progress": progress,
        **result,
    }


def _all_done(job: Job) -> dict[str, Any]:
    return {**_progress(job), "current": 100, "total": 100, "percent": 100}


def _progress(job: Job) -> dict[str, Any]:
    progress = job.progress
    counted = progress.current if progress.total is None else progress.total
    total = counted or 100  # as celery-progress does where nothing is known
    return {
        "pending": False,
        "current": progress.current,
        "total": total,
        "percent": progress.percent or 0,
        "description": _description(job),
    }


def _description(job: Job) -> str:
    if is_stale(job):
        return "The worker is silent; another one will go on."
    waits = "" if job.state is State.RUNNING else job.state.lower()
    return ". ".join(filter(None, (waits, job.progress.message or job.progress.stage)))


def _why(job: Job, showing: Showing) -> Any:
    error = job.error.message if job.error and showing.details else ""
    if job.state is State.CANCELLED:
        return "Task revoked"
    if job.state is State.DEAD:
        return error or "The task has failed."
    wait = clock.seconds_until(job.due_at) if job.due_at else 0.0
    return {
        "message": error or "An error; it is tried again.",
        "when": job.due_at.isoformat() if job.due_at else None,
        "next_retry_seconds": max(0, round(wait)),
    }
