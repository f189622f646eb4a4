"""Questions to the store, asked beside Flower's loop, and the answers so far."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from jobkit import clock
from jobkit.errors import StoreUnavailable

FRESH = 1.0
"""Seconds for which an answer is given again."""

PATIENCE = 2.0
"""Seconds that a page waits for the store before it shows what it knew."""

COMMAND_PATIENCE = 8.0
"""Seconds that a command may take: two tries of the store's two seconds, and Celery."""

THREADS = 4

MOST_WAITING = 64
"""Questions under way; a store that hangs lets no more pile up."""

MOST_KEPT = 64
"""Answers that are remembered: the latest that were asked for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the store said; ``down`` is why it is not what it says now, if so.

    ``age`` is seconds.
    """

    value: Any
    age: float = 0.0
    down: str = ""


class Reader:
    """Asks each question once at a time, in a few threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="jobkit-flower")
        self._kept: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self._waiting: dict[Hashable, asyncio.Future[Any]] = {}
        self._changed = 0.0

    async def ask(
        self, key: Hashable, question: Callable[[], Any], fresh: float = FRESH
    ) -> Answer:
        """The answer to a question that has the name ``key``, or the last one.

        For ``fresh`` seconds, or until a command, it is not asked again.

        Raises:
            StoreUnavailable: The store is away and has never answered this.
            JobkitError: What the question itself raises.
        """
        kept = self._kept.get(key)
        if kept and kept[0] > max(self._changed, clock.monotonic() - fresh):
            return Answer(kept[1])
        try:
            future = self._waiting.get(key) or self._begin(key, question)
            value = await asyncio.wait_for(asyncio.shield(future), PATIENCE)
        except TimeoutError:
            return self._known(key, f"The job store did not answer in {PATIENCE:g} s.")
        except StoreUnavailable as error:
            return self._known(key, str(error))
        return Answer(value)

    async def command(self, command: Callable[[], Any]) -> Any:
        """Carry out a command, whatever else is under way; no answer is kept.

        Raises:
            StoreUnavailable: The store is away, or slow: then it may be carried out
                yet.
        """
        try:
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._threads, command)
            return await asyncio.wait_for(asyncio.shield(future), COMMAND_PATIENCE)
        except TimeoutError:
            raise StoreUnavailable(
                f"The job store did not answer in {COMMAND_PATIENCE:g} s: look whether "
                "it has been done before you try again."
            ) from None
        finally:
            # What was asked before is true no more.
            self._changed = clock.monotonic()
            self._waiting.clear()

    def close(self) -> None:
        """Let the threads go, without waiting for the store."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, key: Hashable, question: Callable[[], Any]) -> asyncio.Future[Any]:
        if len(self._waiting) >= MOST_WAITING:
            raise StoreUnavailable("The job store is slow: too many pages wait for it.")
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, question)
        self._waiting[key] = future
        future.add_done_callback(partial(self._keep, key, clock.monotonic()))
        return future

    def _keep(self, key: Hashable, asked: float, future: asyncio.Future[Any]) -> None:
        if self._waiting.get(key) is future:
            del self._waiting[key]
        if future.cancelled() or future.exception() is not None:
            return
        if asked >= self._kept.get(key, (0.0, None))[0]:
            self._kept[key] = asked, future.result()
            self._kept.move_to_end(key)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)

    def _known(self, key: Hashable, why: str) -> Answer:
        if key not in self._kept:
            raise StoreUnavailable(why)
        at, value = self._kept[key]
        return Answer(value, clock.monotonic() - at, why)
