"""Items that threads handle ahead of the place that is saved."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Self, TypeVar

from jobkit.errors import Interrupted, StageError

IN_HAND = 3
"""Items handed out for each thread, so that a slow one lets the others go on."""

LOOK = 0.05
"""Seconds between two looks of who waits for an item at whether the run has to stop."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item that was not just handled.

    It failed with ``error`` after some ``attempts``, was ``skipped``, or was left for
    the next run because of ``stop``.
    """

    error: Exception | None = None
    attempts: int = 0
    skipped: bool = False
    stop: Interrupted | None = None


HANDLED = Outcome()
"""All went well; one for all items, as most are."""


class InHand(NamedTuple, Generic[T]):
    """An item that was handed out, with the source's cursor behind it."""

    cursor: Any
    item: T
    future: Future[Outcome]


class Done(NamedTuple, Generic[T]):
    """An item, and what became of it."""

    item: T
    outcome: Outcome


class Ahead(Generic[T]):
    """Has the items of a source handled by threads, and gives them back in turn.

    At most ``IN_HAND`` items for each thread are out at a time. ``stop`` says why no
    more are to be handed out, if so: those that were begun are still given, and
    ``stopped`` is set. ``enter`` is called once in each thread.
    """

    def __init__(
        self,
        threads: int,
        attempt: Callable[[T], Outcome],
        stop: Callable[[], Interrupted | None],
        enter: Callable[[], None] | None = None,
    ) -> None:
        self.cursor: Any = None
        self.stopped: Interrupted | None = None
        self._room = threads * IN_HAND
        self._attempt = attempt
        self._stop = stop
        self._pool = ThreadPoolExecutor(threads, "jobkit-each", enter or _nothing)
        self._out: deque[InHand[T]] = deque()
        self._source: Iterable[T] = ()
        self._items: Iterator[T] = iter(())
        self._ended = False
        self._broken: Exception | None = None

    def over(self, source: Iterable[T]) -> Self:
        """Take the items of a source."""
        self._source, self._items = source, iter(source)
        return self

    def __iter__(self) -> Iterator[Done[T]]:
        while self._first_is_done():
            self.cursor, item, future = self._out[0]
            yield Done(item, future.result())
            # Only now it is counted; until then it is one of those beyond.
            self._out.popleft()
        if self._broken and not self.stopped:
            raise self._broken

    def end(self) -> None:
        """Wait for the items that threads have begun, and take the others back."""
        self._pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        """Close the source too."""
        self.end()
        if hasattr(self._source, "close"):
            self._source.close()

    def beyond(self) -> Iterator[T]:
        """After the end: the items that were handled and whose turn did not come."""
        for _, item, future in self._out:
            ended = not future.cancelled() and not future.exception()
            if ended and future.result() is HANDLED:
                yield item

    def _first_is_done(self) -> bool:
        while not (self._out and self._out[0].future.done()):
            self._look()
            if not self._ended and len(self._out) < self._room:
                self._hand_out()
            elif self._out:
                wait([self._out[0].future], LOOK)
            else:
                return False
        return True

    def _look(self) -> None:
        self.stopped = self.stopped or self._stop()
        if self.stopped:
            self._ended = True
            # The last ones, as they are begun in turn.
            while self._out and self._out[-1].future.cancel():
                self._out.pop()

    def _hand_out(self) -> None:
        try:
            item = next(self._items)
        except StopIteration:
            self._ended = True
        except Exception as error:  # noqa: BLE001 - raised when those before are done
            self._ended, self._broken = True, error
        else:
            future = self._pool.submit(copy_context().run, self._attempt, item)
            cursor = getattr(self._source, "cursor", None)
            self._out.append(InHand(cursor, item, future))


def threads_of(value: object, stage: str) -> int:
    """A number of threads as given by user code: from 1 on.

    Raises:
        StageError: It is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise StageError(
            f"The threads of stage {stage!r} are a whole number from 1 on, not {value!r}."
        )
    return value


def _nothing() -> None:
    pass
