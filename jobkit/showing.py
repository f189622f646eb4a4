"""Jobs as the documents that pages and programs are given: formatted, not judged."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from jobkit import clock, codec
from jobkit.checkpoint import Checkpoint, StageState
from jobkit.errors import CodecError
from jobkit.job import Event, ItemFailure, Job, Progress
from jobkit.states import MOVES, State

SHOWN = 300
"""Characters of a cursor that are shown."""

COUNTS = (
    *("current", "total", "percent", "rate", "message", "stage"),
    *("stage_index", "stage_count", "ok", "failed", "skipped"),
)


def row(job: Job) -> dict[str, Any]:
    """A line of a list of jobs."""
    return {
        "id": job.id,
        "task": job.task,
        "state": str(job.state),
        "reason": job.reason,
        "queue": job.queue,
        "owner": job.owner,
        "worker": job.worker,
        "attempt": attempt(job),
        "starts": job.starts,
        "recoveries": job.recoveries,
        "replays": job.replays,
        "open_failures": job.open_failures,
        "asked": job.request.kind if job.request else "",
        "stale": is_stale(job),
        "created_at": _moment(job.created_at),
        "updated_at": _moment(job.updated_at),
        "due_at": _moment(job.due_at),
        "progress": _progress(job.progress),
        "actions": actions(job),
    }


def dead_letter(job: Job) -> dict[str, Any]:
    """A line of the list of dead letters: a job, and why it is dead."""
    return {
        **row(job),
        "dead_letter_queue": job.dead_letter_queue,
        "finished_at": _moment(job.finished_at),
        "error": _error(job),
    }


def detail(job: Job, history: Iterable[Event], *, arguments: bool) -> dict[str, Any]:
    """All that is shown of one job; its arguments only if they may be."""
    return {
        **dead_letter(job),
        "priority": job.priority,
        "fence": job.fence,
        "interruptions": job.interruptions,
        "rate_limited": job.rate_limited,
        "crashes": f"{job.crashes_without_progress} of {job.crash_limit}",
        "published_at": _moment(job.published_at),
        "started_at": _moment(job.started_at),
        "lease_until": _moment(job.lease_until),
        "replay_of": job.replay_of,
        "request": _request(job),
        "stages": _stages(job),
        "arguments": _arguments(job) if arguments else None,
        "history": [_event(event) for event in history],
    }


def failure(item: ItemFailure) -> dict[str, Any]:
    """A line of the list of failed items; without the item, as it is data."""
    return {
        "stage": item.stage,
        "key": item.key,
        "error": item.error,
        "message": item.message,
        "attempts": item.attempts,
        "first_at": _moment(item.first_at),
        "last_at": _moment(item.last_at),
        "open": item.open,
    }


def in_words(job: Job) -> str:
    """How far a job is, in one line."""
    progress = job.progress
    parts = [progress.stage or str(job.state).lower()]
    if progress.total is not None:
        parts.append(f"{progress.current:,} of {progress.total:,}")
    elif progress.current:
        parts.append(f"{progress.current:,} done")
    if progress.percent is not None:
        parts.append(f"{progress.percent:.0f} %")
    if is_stale(job):
        parts.append("stale: its worker is silent")
    return ", ".join(parts)


def is_stale(job: Job) -> bool:
    """Whether it is said to run by a worker whose lease has ended."""
    return (
        job.state is State.RUNNING
        and job.lease_until is not None
        and clock.seconds_until(job.lease_until) < 0
    )


def attempt(job: Job) -> int:
    """Which attempt it is at, or had come to."""
    return max(1, job.attempts + (job.state is not State.DEAD))


def actions(job: Job) -> list[str]:
    """What may be asked of a job in its state."""
    moves = MOVES[job.state]
    pausing = job.request is not None and job.request.kind == "pause"
    possible = {
        "pause": State.PAUSED in moves and job.request is None,
        "resume": job.state is State.PAUSED or pausing,
        "cancel": not job.state.finished,
        "replay": job.state in (State.DEAD, State.PARTIAL),
        "discard": job.state is State.DEAD,
    }
    return [action for action, fits in possible.items() if fits]


def _progress(progress: Progress) -> dict[str, Any]:
    shown = {name: getattr(progress, name) for name in COUNTS}
    return {**shown, "eta": progress.eta_seconds}


def _error(job: Job) -> dict[str, str] | None:
    error = job.error
    if error is None:
        return None
    return {
        "type": error.type,
        "message": error.message,
        "traceback": error.traceback,
        "verdict": error.verdict,
    }


def _request(job: Job) -> dict[str, str] | None:
    request = job.request
    if request is None:
        return None
    return {"kind": request.kind, "actor": request.actor, "reason": request.reason}


def _stages(job: Job) -> list[dict[str, Any]]:
    """The stages in the order of the plan, with what is saved of each."""
    try:
        saved = Checkpoint.decode(job.checkpoint)
    except (CodecError, ValueError):
        saved = Checkpoint()
    names = dict.fromkeys((*job.stages, *saved.plan, *saved.stages))
    return [_stage(name, saved.stages.get(name), job) for name in names]


def _stage(name: str, state: StageState | None, job: Job) -> dict[str, Any]:
    progress, here = job.progress, job.progress.stage == name
    if state is None:
        state = StageState()
        at = "current" if here and not job.state.finished else "waiting"
    else:
        at = "done" if state.done else "current"
    live = here and not state.done
    return {
        "name": name,
        "at": at,
        "current": progress.current if live else state.current,
        "total": progress.total if live else state.total,
        "ok": progress.ok if live else state.ok,
        "failed": progress.failed if live else state.failed,
        "skipped": progress.skipped if live else state.skipped,
        "seconds": state.seconds,
        "cursor": _cursor(state.cursor),
    }


def _cursor(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        shown = repr(codec.loads(text))
    except (CodecError, ValueError):
        shown = text
    return shown if len(shown) <= SHOWN else shown[:SHOWN] + "..."


def _arguments(job: Job) -> dict[str, str]:
    """The arguments as Celery describes them: shortened, or as a task's caller said."""
    headers = job.message.headers if job.message else {}
    return {
        "args": str(headers.get("argsrepr") or ""),
        "kwargs": str(headers.get("kwargsrepr") or ""),
    }


def _event(event: Event) -> dict[str, Any]:
    return {
        "name": event.name,
        "at": _moment(event.at),
        "state": str(event.state),
        "detail": event.detail,
    }


def _moment(moment: datetime | None) -> float | None:
    """Seconds since the epoch: a browser shows them in the time of its place."""
    return moment.timestamp() if moment else None
