"""Jobs that are followed: their streams, and the places in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jobkit.store import replies
from jobkit.store.keys import Keys
from jobkit.store.values import EVENTS_KEPT, TICKS_KEPT, News

KEPT = (TICKS_KEPT, EVENTS_KEPT)
"""How many entries of its progress and of its history a job has at most."""

FIRST = "0-0"
"""Before the first entry of a stream."""

# The newest progress that was seen and the newest event, as their streams number them.
_PLACE = re.compile(r"(\d{1,16}-\d{1,16})\.(\d{1,16}-\d{1,16})", re.ASCII)


def streams_of(keys: Keys, job_id: str) -> tuple[str, str]:
    """The streams that tell of a job: its progress, and its history."""
    return keys.ticks(job_id), keys.events(job_id)


def entries(place: str) -> tuple[str, str]:
    """The entries that a place stands behind; the first ones for what is no place."""
    found = _PLACE.fullmatch(place)
    return (found[1], found[2]) if found else (FIRST, FIRST)


def standing(answers: list[Any], after: str) -> str:
    """A place: ``after`` if all since is kept, else behind the newest entries.

    ``answers`` has of each stream the newest entry, the one that ``after`` names,
    and how many there are.
    """
    newest, named, lengths = answers[::3], answers[1::3], answers[2::3]
    whole = [
        # Of a stream that was empty nothing is lost until it is full.
        bool(found) or (entry == FIRST and length < kept)
        for found, entry, length, kept in zip(
            named, entries(after), lengths, KEPT, strict=True
        )
    ]
    if _PLACE.fullmatch(after) and all(whole):
        return after
    return ".".join(str(part[0][0]) if part else FIRST for part in newest)


class Following:
    """Several jobs that are read on at once, each from its place.

    ``groups`` are the streams of each partition, with the entries to read after:
    a server takes a command for one partition.
    """

    def __init__(self, keys: Keys, places: Mapping[str, str]) -> None:
        self._whose: dict[str, tuple[str, int]] = {}
        self._places = {
            job_id: list(entries(place)) for job_id, place in places.items()
        }
        groups: dict[int, dict[str, str]] = {}
        for job_id, after in self._places.items():
            group = groups.setdefault(keys.partition(job_id), {})
            for index, stream in enumerate(streams_of(keys, job_id)):
                group[stream] = after[index]
                self._whose[stream] = job_id, index
        self.groups = list(groups.values())

    def read(self, found: Any) -> Iterator[News]:
        """What an answer to XREAD tells, oldest first."""
        for stream, entry_id, fields in replies.in_order(found):
            job_id, index = self._whose[stream]
            self._places[job_id][index] = entry_id
            event = replies.event(entry_id, fields)
            yield News(job_id, event, ".".join(self._places[job_id]))
