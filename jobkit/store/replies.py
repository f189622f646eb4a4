"""Values on their way into the scripts, and answers on their way out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from jobkit import clock
from jobkit.job import Event, ItemFailure, Job, NewJob, Page, Progress, StopRequest
from jobkit.states import State
from jobkit.store import scripts
from jobkit.store.values import Backlog, Failure, Kept, Released, Result, Snapshot


def ms(seconds: float) -> int:
    """Whole milliseconds."""
    return int(seconds * 1000)


def text(number: int | None) -> str:
    """A number, or nothing."""
    return "" if number is None else str(number)


def unique(job: NewJob) -> tuple[str, str]:
    """A job's unique key and how long it is its own, as a script takes them."""
    if job.unique is None:
        return "", ""
    until = job.unique.until
    return job.unique.key, until if isinstance(until, str) else str(ms(until))


def snapshot(taken: Snapshot) -> tuple[int, str, str]:
    """A snapshot as a script takes it: position, checkpoint, progress."""
    return taken.position, taken.checkpoint, taken.progress.encode()


def result(kept: Result) -> tuple[str | bytes | int, ...]:
    """A result as a script takes it: key, value, seconds, database."""
    return kept.key, kept.value, kept.seconds, kept.database


def ledger(taken: Snapshot) -> tuple[str, str]:
    """Failed items and resolved rows as a script takes them; nothing for none."""
    failed = [[item.row, item.encode()] for item in taken.failed]
    return _rows(failed), _rows(list(taken.resolved))


def _rows(rows: list[Any]) -> str:
    return json.dumps(rows) if rows else ""


def failures(answer: tuple[list[tuple[str, str]], str]) -> Page[ItemFailure]:
    """A part of the ledger."""
    rows, last = answer
    found = tuple(ItemFailure.read(int(place), row) for place, row in rows)
    return Page(found, last or None)


def failure(met: Failure) -> tuple[int, int, str, str]:
    """A failure as a script takes it: attempt, rate_limited, budgets, error."""
    return int(met.attempt), int(met.rate_limited), met.budgets, met.error.encode()


def kept(answer: list[str]) -> Kept:
    """The answer of renew and save."""
    if answer[0] == "lost":
        return Kept(owner=False)
    return Kept(owner=True, request=StopRequest.decode(answer[1]))


def state(answer: str) -> State | None:
    """A state, or None for a stale owner."""
    return None if answer == "lost" else State(answer)


def released(answers: Iterable[list[tuple[str, str, str]]]) -> list[Released]:
    """Jobs of all partitions with what they became."""
    return [
        Released(job_id, task, State(became))
        for answer in answers
        for job_id, task, became in answer
    ]


def backlog(answers: Iterable[list[tuple[str, str, str, str]]]) -> list[Backlog]:
    """The backlogs of all partitions, added up."""
    rows: dict[tuple[str, State], tuple[int, float]] = {}
    for name, queue, jobs, oldest in (row for answer in answers for row in answer):
        known, age = rows.get((queue, State(name)), (0, 0.0))
        rows[queue, State(name)] = known + int(jobs), max(age, int(oldest) / 1000)
    return [Backlog(*key, *row) for key, row in sorted(rows.items())]


def ended(answers: Iterable[list[list[Any]]]) -> dict[State, tuple[int, ...]]:
    """The ends that all partitions have counted, added up."""
    counts: dict[State, list[list[int]]] = {}
    for state, *row in (row for answer in answers for row in answer):
        counts.setdefault(State(state), []).append([int(number) for number in row])
    return {
        state: tuple(map(sum, zip(*rows, strict=True)))
        for state, rows in counts.items()
    }


def job(values: list[str | None], message: str = "") -> Job:
    """A record as scripts return it, and its message if that comes along."""
    fields = {
        name: value
        for name, value in zip(scripts.FIELDS, values, strict=True)
        if value is not None
    }
    fields["message"] = message
    return Job.from_fields(fields)


def event(entry_id: str, fields: Mapping[str, str]) -> Event:
    """An entry of a stream."""
    progress = fields.get("progress")
    return Event(
        id=entry_id,
        name=fields["name"],
        at=clock.from_milliseconds(int(fields["at"])),
        state=State(fields["state"]),
        detail=fields.get("detail", ""),
        progress=Progress.decode(progress) if progress else None,
    )


def told(event: Event) -> dict[str, str | int]:
    """An entry of a stream, as it is written."""
    return {
        "name": event.name,
        "at": clock.milliseconds(event.at),
        "state": str(event.state),
        "detail": event.detail,
        "progress": event.progress.encode() if event.progress else "",
    }


def in_order(found: Any) -> list[tuple[str, str, Mapping[str, str]]]:
    """The entries of an answer to XREAD, oldest first: stream, id and fields.

    In one millisecond those of the stream that was named first come first: the
    numbers behind it are each stream's own.
    """
    streams = found.items() if isinstance(found, dict) else found or ()
    entries = [(stream, *entry) for stream, part in streams for entry in _flat(part)]
    return sorted(entries, key=lambda entry: int(entry[1].split("-")[0]))


def _flat(entries: Any) -> list[Any]:
    # RESP3 wraps a stream's entries in one more list than RESP2 does.
    if entries and isinstance(entries[0], list):
        return [entry for part in entries for entry in part]
    return list(entries)
