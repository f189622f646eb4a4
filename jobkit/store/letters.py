"""Many dead letters at once: found, moved, taken out and put back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from jobkit import clock
from jobkit.filters import Filters, Wanted
from jobkit.job import Event, Job, Page
from jobkit.store import paging, replies, scripts
from jobkit.store.server import Server
from jobkit.store.values import LEDGER_KEPT, BulkAct, Letter

LIST_BUDGET = 2_000
"""Index entries that one page may look at, in all partitions together."""


class Letters(Server):
    """Lists, and what is done to whole lists of dead jobs."""

    def list(
        self, *, after: str | None = None, limit: int = 50, **filters: Unpack[Filters]
    ) -> Page[Job]:
        """Jobs that match, newest first; see ``Store.list``."""
        wanted = Wanted.of(**filters)
        places = paging.places(after, self.keys.partitions)
        budget = max(1, LIST_BUDGET // max(1, len(places)))
        pages = {
            partition: self._run(
                scripts.LIST,
                self.keys.tag(partition),
                *(*_filters(wanted), *place),
                *(limit, budget, 1),
            )
            for partition, place in places.items()
        }
        return paging.merged(pages, limit)

    def ids(
        self, *, after: str | None = None, limit: int = 50, **filters: Unpack[Filters]
    ) -> Page[tuple[str, str]]:
        """Ids and tasks of jobs that match; see ``Store.ids``."""
        places = paging.places(after, self.keys.partitions)
        partition = min(places)
        tag, place = self.keys.tag(partition), places.pop(partition)
        chosen = _filters(Wanted.of(**filters))
        found, score, job_id = self._run(
            scripts.LIST, tag, *chosen, *place, limit, LIST_BUDGET, 0
        )
        if job_id:
            places[partition] = (score, job_id)
        items = tuple((row[0], row[2]) for row in found)
        return Page(items, paging.token(places) if places else None)

    def bulk(
        self,
        job_ids: Sequence[str],
        act: BulkAct,
        bulk: str,
        actor: str = "",
        reason: str = "",
    ) -> Sequence[str]:
        """Replay or discard dead jobs; see ``Store.bulk``."""
        tags: dict[str, list[str]] = {}
        for job_id in job_ids:
            tags.setdefault(self.keys.tag_of(job_id), []).append(job_id)
        return [
            done
            for tag, ids in tags.items()
            for done in self._run(
                scripts.BULK, tag, json.dumps(ids), act, bulk, actor, reason
            )
        ]

    def take_out(self, job_id: str) -> Letter | None:
        """All that is known of a job; see ``Store.take_out``."""
        with self._errors:
            fields = self._client.hgetall(self.keys.job(job_id))
            events = self._client.xrange(self.keys.events(job_id))
        if not fields:
            return None
        rows = self._job(scripts.FAILURES, job_id, "-1", LEDGER_KEPT)[0]
        return Letter(
            fields,
            tuple(replies.event(entry_id, told) for entry_id, told in events),
            tuple(row for _, row in rows),
        )

    def restore(self, letter: Letter, token: str) -> bool:
        """Put a dead job back; see ``Store.restore``."""
        flat = [text for pair in letter.kept.items() for text in pair]
        events = [_entry(event) for event in letter.events]
        answer = self._job(
            *(scripts.RESTORE, letter.id, token, json.dumps(flat)),
            *(json.dumps(events), json.dumps(letter.rows)),
        )
        return bool(answer == "ok")


def _filters(wanted: Wanted) -> list[str]:
    """The arguments of a list, from the index it walks to its last moment."""
    moments = (wanted.since, wanted.until)
    return [
        paging.index(wanted),
        *(wanted.state or "", wanted.task or "", wanted.queue or ""),
        *(wanted.owner or "", wanted.dead_letter_queue or ""),
        # As it stands in the record of an error, which is JSON.
        f'"type":{json.dumps(wanted.error, ensure_ascii=False)}'
        if wanted.error
        else "",
        *(str(clock.milliseconds(moment)) if moment else "" for moment in moments),
    ]


def _entry(event: Event) -> Sequence[str | int]:
    told: Mapping[str, Any] = replies.told(event)
    return [told[name] for name in ("name", "at", "state", "detail", "progress")]
