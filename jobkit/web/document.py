"""What web users are shown of a job: plain values, and safe ones only.

Never shown are arguments, the message, the checkpoint, tracebacks, queue, owner
and whatever people gave as a reason; the worker and the text of an error only
with ``Showing(details=True)``, for pages of the staff.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal

from jobkit import clock
from jobkit.job import Event, Job
from jobkit.states import WAITING, State

Presentation = Literal["spinner", "bar", "stages", "come-back-later"]

SHORT, LONG, LONGER = 5.0, 30.0, 300.0
"""Seconds of a job below which a spinner, a bar, and a list of stages will do."""

ACTIONS = ("cancel", "pause", "resume")

# Reasons that jobkit gives are words; what people write is theirs.
_WORD = re.compile(r"[a-z]+(_[a-z]+)*")
_OWN_REASONS = frozenset({State.SUCCEEDED, State.PARTIAL, State.DEAD})


@dataclass(frozen=True, slots=True)
class Showing:
    """What is shown beside the safe fields, and what is known beside the record.

    ``usual_seconds`` tells how long a task usually takes, None for unknown; it is
    asked often. If it is not given, it is ``Client.usual_seconds``. While nothing is known
    the job's own progress decides how it is presented.
    """

    details: bool = False
    usual_seconds: Callable[[str], float | None] | None = None


SAFE = Showing()


def informed(showing: Showing, usual: Callable[[str], float | None]) -> Showing:
    """The same, with the usual seconds of tasks where the project names none."""
    return showing if showing.usual_seconds else replace(showing, usual_seconds=usual)


def document(
    job: Job, showing: Showing = SAFE, event: str = "snapshot"
) -> dict[str, Any]:
    """A job as a web page gets it; ``event`` is what has just happened to it."""
    stale = is_stale(job)
    shown: dict[str, Any] = {
        "id": job.id,
        "task": job.task,
        "event": event,
        "state": job.state,
        "reason": _reason(job, showing),
        "finished": job.state.finished,
        "asked": job.request.kind if job.request else None,
        "stale": stale,
        "stale_since": _moment(job.lease_until) if stale else None,
        "presentation": presentation(job, showing),
        "progress": _progress(job, running=job.state is State.RUNNING and not stale),
        "stages": _stages(job),
        "attempts": job.attempts,
        "open_failures": job.open_failures,
        "created_at": _moment(job.created_at),
        "started_at": _moment(job.started_at),
        "updated_at": _moment(job.updated_at),
        "finished_at": _moment(job.finished_at),
        "due_at": _moment(job.due_at) if _waits_for_a_time(job) else None,
        "poll_after": poll_after(job, showing),
    }
    if showing.details:
        shown["worker"] = job.worker or None
        shown["error"] = _error(job)
    return shown


def with_actions(shown: Mapping[str, Any], scope: str) -> dict[str, Any]:
    """The document, and what this reader may ask for now."""
    state = State(shown["state"])
    actions: list[str] = []
    if scope == "act" and not state.finished and shown["asked"] != "cancel":
        actions = ["cancel"]
        goes_on = state is State.PAUSED or shown["asked"] == "pause"
        actions.append("resume" if goes_on else "pause")
    return {**shown, "actions": actions}


def after(job: Job, event: Event) -> Job:
    """The record as it was when this happened, as far as a web page sees it."""
    changed = replace(
        job,
        state=event.state,
        progress=event.progress or job.progress,
        updated_at=event.at,
    )
    # Whoever writes progress has renewed its lease.
    return replace(changed, lease_until=None) if event.name == "progressed" else changed


def is_stale(job: Job) -> bool:
    """Whether its owner has been silent for longer than its lease."""
    if job.state is not State.RUNNING or job.lease_until is None:
        return False
    return clock.seconds_until(job.lease_until) < 0


def presentation(job: Job, showing: Showing = SAFE) -> Presentation:
    """How a page should show it, by how long it takes."""
    seconds = expected_seconds(job, showing)
    if seconds < SHORT:
        return "spinner"
    if seconds < LONG:
        return "bar"
    if seconds < LONGER:
        return "stages"
    return "come-back-later"


def expected_seconds(job: Job, showing: Showing = SAFE) -> float:
    """How long it takes from start to end: as usual, and as far as it looks now."""
    usual = showing.usual_seconds(job.task) if showing.usual_seconds else None
    if job.started_at is None:
        return usual or 0.0
    until = job.finished_at or job.updated_at
    elapsed = (until - job.started_at).total_seconds()
    left = 0.0 if job.state.finished else job.progress.eta_seconds or 0.0
    return max(usual or 0.0, elapsed + left)


def poll_after(job: Job, showing: Showing = SAFE) -> float | None:
    """Seconds after which a page that polls should ask again; None at the end."""
    if job.state.finished:
        return None
    if job.state is State.PAUSED or presentation(job, showing) == "come-back-later":
        return 5.0
    return 2.0 if job.state in WAITING else 1.0


def _progress(job: Job, *, running: bool) -> dict[str, Any]:
    shown = asdict(job.progress)
    if not running:
        shown["rate"] = shown["eta_seconds"] = None
    return shown


def _stages(job: Job) -> list[dict[str, str]]:
    names = job.stages
    current = names.index(job.progress.stage) if job.progress.stage in names else -1
    done = job.state in {State.SUCCEEDED, State.PARTIAL}
    shown = []
    for place, name in enumerate(names):
        state = "current" if place == current else "waiting"
        shown.append(
            {"name": name, "state": "done" if done or place < current else state}
        )
    return shown


def _reason(job: Job, showing: Showing) -> str | None:
    own = job.state in _OWN_REASONS or job.reason == "incompatible"
    shown = showing.details or (own and _WORD.fullmatch(job.reason))
    return (job.reason or None) if shown else None


def _waits_for_a_time(job: Job) -> bool:
    return job.state in {State.SCHEDULED, State.RETRYING}


def _error(job: Job) -> dict[str, str] | None:
    if job.error is None:
        return None
    error = job.error
    return {"type": error.type, "message": error.message, "verdict": error.verdict}


def _moment(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="milliseconds") if moment else None
