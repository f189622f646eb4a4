"""Many dead letters at once, in a store in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Unpack

from jobkit.errors import StoreError
from jobkit.filters import Filters, Wanted
from jobkit.job import Job, Page
from jobkit.states import State
from jobkit.store.memory_records import Record, said
from jobkit.store.memory_shelf import Shelf
from jobkit.store.memory_unique import take_key, written
from jobkit.store.values import BulkAct, Letter


class Letters(Shelf):
    """Lists, and what is done to whole lists of dead jobs."""

    def list(
        self, *, after: str | None = None, limit: int = 50, **filters: Unpack[Filters]
    ) -> Page[Job]:
        """Jobs that match all that is given, newest first; without messages."""
        wanted = Wanted.of(**filters)
        with self._changed:
            found = _page(self._jobs.values(), wanted, after, limit)
            jobs = tuple(record.job(message=False) for record in found.items)
            return Page(jobs, found.next)

    def ids(
        self, *, after: str | None = None, limit: int = 50, **filters: Unpack[Filters]
    ) -> Page[tuple[str, str]]:
        """Ids and tasks of jobs that match, newest first."""
        wanted = Wanted.of(**filters)
        with self._changed:
            found = _page(self._jobs.values(), wanted, after, limit)
            named = ((record.text("id"), record.text("task")) for record in found.items)
            return Page(tuple(named), found.next)

    def bulk(
        self,
        job_ids: Sequence[str],
        act: BulkAct,
        bulk: str,
        actor: str = "",
        reason: str = "",
    ) -> Sequence[str]:
        """Replay or discard dead jobs, each once in a bulk."""
        detail = said(actor, reason, f"{act} in bulk {bulk}")
        done = []
        with self._change() as at:
            for job_id in job_ids:
                record = self._jobs.get(job_id)
                if record is None:
                    continue
                moved = record.text("bulk") == bulk
                if not moved and record.state is State.DEAD and not record.newer:
                    moved = self._move(record, act, at, reason, detail)
                    record.fields.update({"bulk": bulk} if moved else {})
                done += [job_id] if moved else []
        return done

    def _move(
        self, record: Record, act: BulkAct, at: int, reason: str, detail: str
    ) -> bool:
        if act == "discard":
            record.discard(at, reason, detail)
            return True
        if self._holder(written(record), record.text("id"), at):
            return False
        record.replay(act, detail, at)
        take_key(record, at)
        return True

    def take_out(self, job_id: str) -> Letter | None:
        """All that is known of a job."""
        with self._changed:
            record = self._jobs.get(job_id)
            if record is None:
                return None
            rows = tuple(record.ledger.values())
            return Letter(dict(record.fields), tuple(record.events), rows)

    def restore(self, letter: Letter, token: str) -> bool:
        """Put a dead job back, unless there is one with its id."""
        with self._change() as at:
            known = self._jobs.get(letter.id)
            if known is not None:
                return known.text("enqueue_token") == token
            record = self._jobs[letter.id] = Record(self._ids)
            record.fields.update(letter.kept)
            record.fields.update(
                enqueue_token=token,
                restored_at=str(at),
                unannounced=str(at),
                entered_at=record.text("finished_at"),
            )
            record.events.extend(
                replace(event, id=str(next(self._ids))) for event in letter.events
            )
            record.event("restored", at)
            record.ledger.update(letter.rows)
            return True


def _page(
    records: Iterable[Record], wanted: Wanted, after: str | None, limit: int
) -> Page[Record]:
    """Those that match all that is wanted, the last to enter its state first."""
    order = "entered_at" if wanted.state else "created_at"
    found = [
        ((record.number(order), record.text("id")), record)
        for record in records
        if record.matches(wanted, record.number(order))
    ]
    if after is not None:
        last = _read_place(after)
        found = [entry for entry in found if entry[0] < last]
    found.sort(key=lambda entry: entry[0], reverse=True)
    shown = found[:limit]
    more = shown and len(found) > len(shown)
    return Page(
        tuple(record for _, record in shown),
        "{}:{}".format(*shown[-1][0]) if more else None,
    )


def _read_place(token: str) -> tuple[int, str]:
    moment, _, job_id = token.partition(":")
    if not (moment.isdecimal() and job_id):
        raise StoreError(
            f"{token!r} is no place in a list: pass the `next` of an earlier page.",
        )
    return int(moment), job_id
