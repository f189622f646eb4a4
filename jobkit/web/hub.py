"""One subscription to the store for all who watch jobs in this process."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import cast

from jobkit import clock
from jobkit.client import Client
from jobkit.errors import JobNotFound, SchemaError, StoreError
from jobkit.job import Job
from jobkit.store.values import News
from jobkit.web.document import SAFE, Showing, after, document, is_stale, with_actions
from jobkit.web.views import dumps

logger = logging.getLogger(__name__)

BLOCK = 0.25
"""Seconds after which the hub looks whether more jobs are watched."""

BACKLOG = 64
"""Messages that a reader may be behind before it is dropped."""

OUTAGE = 1.0
"""Seconds between two tries while the store is away."""

SILENCE = 0.5
"""Seconds after the end of a lease at which the record is looked at."""

STALE = 10.0
"""Seconds between two looks at a job whose lease has ended."""

LOOK = 60.0
"""Seconds between two looks at a job that has no lease: nobody may tell of its loss."""


class Message:
    """What readers of a job are told: the whole document, and the place after it.

    ``fresh`` is one to begin again from, whatever was told before.
    """

    def __init__(
        self, job: Job, event: str, place: str, showing: Showing, *, fresh: bool = False
    ) -> None:
        self.place = place
        self.at = job.updated_at
        self.ends = job.state.finished
        self.fresh = fresh
        self._shown = document(job, showing, event)
        self._texts: dict[str, str] = {}

    def text(self, scope: str) -> str:
        """The message as a stream of events carries it, for readers of that scope."""
        if scope not in self._texts:
            # Most readers have the same scope: written once for all of them.
            kind = "event: end\n" if self.ends else ""
            body = dumps(with_actions(self._shown, scope))
            self._texts[scope] = f"id: {self.place}\n{kind}data: {body}\n\n"
        return self._texts[scope]


class Reader:
    """One open stream; all but ``push`` is called in its own event loop."""

    def __init__(self) -> None:
        self.place = ""
        self.since: datetime | None = None
        self.dropped = asyncio.Event()
        self.over = False
        self._news = asyncio.Event()
        self._backlog: deque[Message | None] = deque()
        self._loop = asyncio.get_running_loop()

    def push(self, message: Message | None) -> bool:
        """Tell it something, from any thread (None: that is all); False if it is gone."""
        try:
            self._loop.call_soon_threadsafe(self._take, message)
        except RuntimeError:  # its loop is closed
            return False
        return True

    def _take(self, message: Message | None) -> None:
        if len(self._backlog) >= BACKLOG:
            self.dropped.set()
            return
        self._backlog.append(message)
        self._news.set()

    async def next(self, seconds: float) -> Message | None:
        """The next message that it has not seen, or None after some seconds."""
        end = self._loop.time() + seconds
        while True:
            while self._backlog:
                message = self._backlog.popleft()
                if message is None:
                    self.over = True
                    return None
                if message.fresh or not self._has_seen(message):
                    return message
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), end - self._loop.time())
            except TimeoutError:
                return None

    def _has_seen(self, message: Message) -> bool:
        told_before = self.since is not None and message.at < self.since
        return told_before or _is_told(message.place, self.place)


def _is_told(place: str, until: str) -> bool:
    """Whether all up to a place has been told to who stands at ``until``."""
    pairs = zip(_numbers(place), _numbers(until), strict=True)
    return all(own <= reached for own, reached in pairs)


def _numbers(place: str) -> list[list[int]]:
    return [[int(number) for number in part.split("-")] for part in place.split(".")]


@dataclass(slots=True)
class _Followed:
    place: str
    job: Job | None = None
    stale: bool = False
    look_at: float = 0.0
    readers: set[Reader] = field(default_factory=set)


class Hub:
    """Follows all jobs that have readers, in one thread, and tells each of them.

    The thread lives while there is a reader. While the store is away readers
    wait; afterwards they go on, or get a new snapshot when something was lost.
    """

    def __init__(self, jobs: Callable[[], Client], showing: Showing = SAFE) -> None:
        self._jobs = jobs
        self._showing = showing
        self._lock = threading.Lock()
        self._followed: dict[str, _Followed] = {}
        self._thread: threading.Thread | None = None
        self._away = False

    def join(self, job_id: str, reader: Reader) -> None:
        """Tell a reader of a job from its place on, or from earlier."""
        with self._lock:
            followed = self._followed.setdefault(job_id, _Followed(reader.place))
            followed.readers.add(reader)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="jobkit-web-hub", daemon=True
                )
                self._thread.start()

    def leave(self, job_id: str, reader: Reader) -> None:
        """Tell a reader no more."""
        with self._lock:
            followed = self._followed.get(job_id)
            if followed is None:
                return
            followed.readers.discard(reader)
            if not followed.readers:
                del self._followed[job_id]

    def close(self) -> None:
        """Let all streams end: their readers come back, to another process."""
        with self._lock:
            followed = list(self._followed.values())
        for one in followed:
            self._push(one, None)

    def _run(self) -> None:
        while followed := self._wanted():
            try:
                if self._away:
                    self._come_back(followed)
                self._learn(followed)
                places = {job_id: one.place for job_id, one in followed.items()}
                news = self._jobs().store.follow(places, BLOCK)
                self._tell(followed, news)
                self._away = False
            except StoreError as error:
                if not self._away and self._followed:
                    logger.warning("Open pages wait for the job store: %s", error)
                self._away = True
                time.sleep(OUTAGE)
            except Exception:
                # A thread that dies would leave every page waiting for ever.
                if not self._away:
                    logger.exception("Open pages wait for news of their jobs")
                self._away = True
                time.sleep(OUTAGE)

    def _wanted(self) -> dict[str, _Followed]:
        with self._lock:
            if not self._followed:
                self._thread = None
            return dict(self._followed)

    def _learn(self, followed: dict[str, _Followed]) -> None:
        """Read records that are not known, or have not been heard of for long."""
        for job_id, one in followed.items():
            if one.job is not None and clock.monotonic() < one.look_at:
                continue
            before, stale = one.job, one.stale
            job = self._read(job_id, one)
            if job and before and (one.stale, job.state) != (stale, before.state):
                name = "stale" if one.stale else "renewed"
                self._push(one, self._message(job, name, one.place, fresh=True))

    def _read(self, job_id: str, one: _Followed) -> Job | None:
        try:
            job = one.job = self._jobs().get(job_id)
        except (JobNotFound, SchemaError):
            with self._lock:
                self._followed.pop(job_id, None)
            self._push(one, None)
            return None
        one.stale, wait = is_stale(job), LOOK
        if one.stale:
            wait = STALE
        elif job.lease_until is not None:
            wait = clock.seconds_until(job.lease_until) + SILENCE
        one.look_at = clock.monotonic() + wait
        return job

    def _tell(self, followed: dict[str, _Followed], news: Sequence[News]) -> None:
        told: dict[str, list[News]] = {}
        for item in news:
            told.setdefault(item.job_id, []).append(item)
        for job_id, items in told.items():
            one = followed[job_id]
            changed = any(item.event.name != "progressed" for item in items)
            job = one.job if one.job and not changed else self._read(job_id, one)
            for item in items if job else ():
                job = one.job = after(cast("Job", job), item.event)
                self._push(one, self._message(job, item.event.name, item.place))
            one.place, one.stale = items[-1].place, False

    def _message(
        self, job: Job, event: str, place: str, *, fresh: bool = False
    ) -> Message:
        return Message(job, event, place, self._showing, fresh=fresh)

    def _come_back(self, followed: dict[str, _Followed]) -> None:
        """After an outage: begin again where the store cannot tell all that came."""
        for job_id, one in followed.items():
            place = self._jobs().store.place(job_id, one.place)
            job = self._read(job_id, one) if place != one.place else None
            if job:
                one.place = place
                self._push(one, self._message(job, "snapshot", place, fresh=True))

    def _push(self, one: _Followed, message: Message | None) -> None:
        with self._lock:
            readers = list(one.readers)
        for reader in readers:
            if not reader.push(message):
                with self._lock:
                    one.readers.discard(reader)
