"""The items of a stage: gone through, counted, and remembered by a cursor."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from jobkit import codec
from jobkit.checkpoint import StageState
from jobkit.errors import StageError
from jobkit.progress import total_of

if TYPE_CHECKING:
    from jobkit.run import Run

T = TypeVar("T")
Source = Iterable[T] | Callable[[Any], Iterable[T]]


class StageRun:
    """A stage while it runs; ``with self.stage(...) as stage`` gives one."""

    def __init__(self, run: Run, name: str, index: int, state: StageState) -> None:
        self.name = name
        self.index = index
        self.state = state
        self._run = run
        self._items: Generator[Any, None, None] | None = None
        every = run.checkpoint_every
        self._save_at = state.current + every if every else sys.maxsize

    def __enter__(self) -> Self:
        self._run.opened(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._items is not None:
                self._items.close()
        except BaseException as failed:
            self._run.closed(self, failed)
            raise
        self._run.closed(self, error)

    @property
    def done(self) -> bool:
        """Whether the stage was finished, now or in an earlier run."""
        return self.state.done

    @property
    def cursor(self) -> Any:
        """The saved place to go on from; None at the beginning."""
        return codec.loads(self.state.cursor) if self.state.cursor else None

    def advance(self, n: int = 1, message: str | None = None) -> None:
        """Count ``n`` more items as done; saves and stops when it is time to.

        Raises:
            StageError: ``n`` is negative.
        """
        if n < 0:
            raise StageError(
                f"Stage {self.name!r} cannot advance by {n}: progress never goes back.",
            )
        if self.state.done:
            return
        self.state.current += n
        if message is not None:
            self._run.say(message)
        self._attend(self.state.current)

    def set(self, current: int, total: int | None, message: str | None) -> None:
        """Say how many items are done, out of how many; never fewer than before.

        A ``total`` of 0 is one that is not known yet.
        """
        if self.state.done:
            return
        self.state.total = total_of(total, self.name) or None
        self.state.current = max(self.state.current, current)
        self._run.say(message)
        self._attend(self.state.current)

    def message(self, text: str | None) -> None:
        """Show a text beside the progress (the first 2,000 characters)."""
        self._run.say(text)

    def checkpoint(self, cursor: Any) -> None:
        """Set the place to go on from; saves and stops when it is time to.

        Raises:
            CodecError: The cursor's type is not kept, or it takes over 4 KiB.
        """
        self.state.place(cursor, self.name)
        if self._run.lease.attention:
            self._run.attend()

    def iterate(
        self,
        source: Source[T],
        total: int | None = None,
        cursor: Callable[[Any], Any] | None = None,
    ) -> Iterator[T]:
        """Go through the items of ``source`` that are not done yet.

        An item is done when the next one is asked for.

        Args:
            source: An iterable, which a later run goes through again, skipping
                what is done; or a callable that takes the saved cursor (None at
                first) and returns the items after it.
            total: How many items there are in all, with those already done.
            cursor: Makes an item's cursor; needed for a callable whose result
                has no ``cursor`` of its own.

        Raises:
            StageError: The stage is iterated outside of its block or a second
                time, or a callable has no way to tell its cursor.
            CodecError: The cursor cannot be kept; raised after the first item.
        """
        self._run.must_be_open(self)
        if self._items is not None:
            raise StageError(
                f"Stage {self.name!r} is iterated a second time in one run: "
                "declare another stage for other items.",
            )
        if total is not None:
            self.state.total = total_of(total, self.name)
        left = self._by_item((), None) if self.done else self._rest(source, cursor)
        self._items = left
        return left

    def _rest(
        self, source: Source[T], cursor: Callable[[T], Any] | None
    ) -> Generator[T, None, None]:
        if not callable(source):
            if self.state.total is None and isinstance(source, Sized):
                self.state.total = len(source)
            left = itertools.islice(source, self.state.current, None)
            return self._by_item(left, cursor)
        items = source(self.cursor)
        if cursor is not None:
            return self._by_item(items, cursor)
        if not hasattr(items, "cursor"):
            raise StageError(
                f"Stage {self.name!r} iterates a callable source without a cursor: pass "
                "cursor=function(item), or use one of jobkit.sources.",
            )
        return self._by_source(items)

    def _by_item(
        self, items: Iterable[T], cursor: Callable[[T], Any] | None
    ) -> Generator[T, None, None]:
        # The hot loop: beside the count it reads one attribute an item. The
        # first item is looked at, so that a cursor that cannot be kept is
        # refused before a second item is handled.
        lease, count, last = self._run.lease, self.state.current, None
        start, due = count, count + 1
        try:
            for item in items:
                yield item
                count += 1
                last = item
                if lease.attention or count >= due:
                    self._mark(count, cursor, last)
                    due = self._attend(count)
        finally:
            if count > start:
                self._mark(count, cursor, last)

    def _by_source(self, items: Any) -> Generator[T, None, None]:
        lease, count, place = self._run.lease, self.state.current, None
        start, due = count, count + 1
        try:
            for item in items:
                yield item
                count += 1
                place = items.cursor
                if lease.attention or count >= due:
                    self._mark(count, _itself, place)
                    due = self._attend(count)
        finally:
            try:
                if count > start:
                    self._mark(count, _itself, place)
            finally:
                if hasattr(items, "close"):
                    items.close()

    def _mark(self, count: int, cursor: Callable[[Any], Any] | None, item: Any) -> None:
        # First the cursor, which may be refused: it and the count belong together.
        if cursor is not None:
            self.state.place(cursor(item), self.name)
        self.state.current = count

    def _attend(self, count: int) -> int:
        """Save if it is time to, and tell at which count to look again."""
        every = self._run.checkpoint_every
        if self._run.lease.attention or count >= self._save_at:
            self._save_at = count + every if every else sys.maxsize
            self._run.attend()
        return self._save_at


def _itself(value: T) -> T:
    return value
