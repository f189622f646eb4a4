"""A job's news as server-sent events, from a snapshot to its end."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from jobkit import clock
from jobkit.client import Client
from jobkit.job import Job
from jobkit.web.document import Showing, after
from jobkit.web.hub import Hub, Message, Reader
from jobkit.web.tokens import Scope
from jobkit.web.views import HEADERS

COMMENT_EVERY = 15.0
"""Seconds of silence after which a comment is sent, for proxies and for the dead."""

LONGEST = 900.0
"""Seconds after which a stream ends: who comes back must still be allowed to."""

RECONNECT = 2_000
"""Milliseconds after which a browser should come back when it was cut off."""

_HEADERS = {
    **HEADERS,
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would keep it back
}


@dataclass(frozen=True, slots=True)
class Opening:
    """What a reader gets first: where it stands, and what it has missed."""

    place: str
    messages: tuple[Message, ...]
    job: Job

    @property
    def over(self) -> bool:
        """Whether the job has ended, and the reader knows it."""
        return self.job.state.finished and not self.messages


def open_at(
    jobs: Client, hub: Hub, job_id: str, last: str, reader: Reader, showing: Showing
) -> Opening:
    """Join the hub, and read what goes before: what was missed, or a snapshot.

    Raises:
        JobNotFound: It is gone. StoreUnavailable as always.
    """
    reader.place = place = jobs.store.place(job_id, last)
    hub.join(job_id, reader)
    job = jobs.get(job_id)
    if not last or place != last:
        reader.since = job.updated_at
        snapshot = Message(job, "snapshot", place, showing)
        return Opening(place, (snapshot,), job)
    missed = [
        Message(after(job, news.event), news.event.name, news.place, showing)
        for news in jobs.store.follow({job_id: place}, 0)
    ]
    return Opening(missed[-1].place if missed else place, tuple(missed), job)


class EventStream(Response):
    """Sends what a reader is told, until the job ends or the reader is gone.

    A reader that does not take its messages is cut off; it comes back with the
    id of the last one, and goes on there.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        opening: Opening,
        reader: Reader,
        scope: Scope,
        leave: Callable[[], None],
    ) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._opening = opening
        self._reader = reader
        self._scope = scope
        self._leave = leave

    async def __call__(self, _: Connection, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            async with anyio.create_task_group() as group:
                for wait in (partial(_gone, receive), self._reader.dropped.wait):
                    group.start_soon(_then_cancel, wait, group.cancel_scope)
                with suppress(OSError):  # the reader is gone
                    await self._send(send)
                group.cancel_scope.cancel()
        finally:
            self._leave()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": self.raw_headers})
        async for text in self._texts():
            part = {"type": "http.response.body", "body": text.encode()}
            await send({**part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _texts(self) -> AsyncIterator[str]:
        yield f"retry: {RECONNECT}\n\n"
        for message in self._opening.messages:
            yield message.text(self._scope)
            if message.ends:
                return
        self._reader.place = self._opening.place
        end = clock.monotonic() + LONGEST
        while not self._reader.over and clock.monotonic() < end:
            news = await self._reader.next(COMMENT_EVERY)
            yield news.text(self._scope) if news else ": still there\n\n"
            if news and news.ends:
                return


def at_shutdown(call: Callable[[], None]) -> None:
    """Call something when this process is asked to end, before the server waits.

    A server that shuts down waits for its open connections, and tells its apps
    only then. What handles the signals goes on to do so; elsewhere than in the
    main thread nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)
        if callable(handler) and not isinstance(handler, _Handler):
            handler = _Handler(handler)
            signal.signal(number, handler)
        if isinstance(handler, _Handler):
            handler.add(asyncio.get_running_loop(), call)


class _Handler:
    """Calls what is to be done first, each in its loop, and then who was there before."""

    def __init__(self, before: Callable[[int, FrameType | None], object]) -> None:
        self._before = before
        self._calls: list[tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = []

    def add(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._calls = [one for one in self._calls if not one[0].is_closed()]
        self._calls.append((loop, call))

    def __call__(self, number: int, frame: FrameType | None) -> None:
        for loop, call in self._calls:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(call)
        self._before(number, frame)


async def _then_cancel(
    wait: Callable[[], Awaitable[object]], scope: anyio.CancelScope
) -> None:
    await wait()
    scope.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def opened(
    job_id: str,
    last: str,
    jobs: Callable[[], Client],
    hub: Hub,
    showing: Showing,
    threads: CapacityLimiter,
) -> tuple[Opening, Reader]:
    """Open a stream's beginning in a thread; nobody is left behind if it fails."""
    reader = Reader()
    try:
        opening = await to_thread.run_sync(
            lambda: open_at(jobs(), hub, job_id, last, reader, showing), limiter=threads
        )
    except BaseException:
        hub.leave(job_id, reader)
        raise
    return opening, reader
