"""The items of a stage: gone through, counted, and remembered by a cursor."""

from __future__ import annotations

import hashlib
import itertools
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutinefunction
from operator import attrgetter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar

from jobkit import clock, codec
from jobkit.ahead import HANDLED, LOOK, Ahead, Done, Outcome, threads_of
from jobkit.checkpoint import StageState
from jobkit.errors import CodecError, Interrupted, SkipItem, StageError
from jobkit.job import FailedItem, ItemFailure
from jobkit.progress import count_of, total_of
from jobkit.verdicts import Verdict

if TYPE_CHECKING:
    from jobkit.run import Run

KEY_LIMIT = 200
"""Characters of an item's key that the ledger keeps."""

T = TypeVar("T")
Source = Iterable[T] | Callable[[Any], Iterable[T]]


def _itself(value: T) -> T:
    return value


@dataclass(frozen=True, slots=True)
class Work(Generic[T]):
    """What a stage does with each of its items.

    ``name`` makes an item's key; ``over`` is told of each that was handled or
    skipped, in their order.
    """

    handler: Callable[[T], object]
    name: Callable[[T], object]
    threads: int = 1
    over: Callable[[T], object] = _itself


class StageRun:
    """A stage while it runs; ``with self.stage(...) as stage`` gives one."""

    def __init__(self, run: Run, name: str, index: int, state: StageState) -> None:
        self.name = name
        self.index = index
        self.state = state
        self._run = run
        self._items: Generator[Any, None, None] | None = None
        self._ahead: Ahead[Any] | None = None
        self._by_hand = False
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
            StageError: ``n`` is negative or no finite number, or jobkit counts the
                stage's items itself, as ``iterate`` and ``each`` have it.
        """
        self._must_be_in_turn()
        more = count_of(n, self.name)
        if more < 0:
            raise StageError(
                f"Stage {self.name!r} cannot advance by {n}: progress never goes back.",
            )
        if self.state.done:
            return
        if more:
            self._count_by_hand()
        self.state.current += more
        if message is not None:
            self._run.say(message)
        self._attend(self.state.current)

    def set(self, current: int, total: int | None, message: str | None) -> None:
        """Say how many items are done, out of how many; never fewer than before.

        A ``total`` of 0 is one that is not known yet.

        Raises:
            StageError: ``current`` is no finite or ``total`` no whole number, or jobkit
                counts the stage's items itself.
        """
        self._must_be_in_turn()
        count = count_of(current, self.name)
        if self.state.done:
            return
        if count > self.state.current:
            self._count_by_hand()
        self.state.total = total_of(total, self.name) or None
        self.state.current = max(self.state.current, count)
        self._run.say(message)
        self._attend(self.state.current)

    def message(self, text: str | None) -> None:
        """Show a text beside the progress (the first 2,000 characters)."""
        self._run.say(text)

    def checkpoint(self, cursor: Any) -> None:
        """Set the place to go on from; saves and stops when it is time to.

        Raises:
            CodecError: The cursor's type is not kept, or it takes over 4 KiB.
            StageError: Threads handle the stage's items.
        """
        self._must_be_in_turn()
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
        return self._go_through(source, total, cursor, _itself)

    def _go_through(
        self,
        source: Source[T],
        total: int | None,
        cursor: Callable[[Any], Any] | None,
        over: Callable[[Any], Any],
    ) -> Iterator[Any]:
        self._run.must_be_open(self)
        if self._items is not None:
            raise StageError(
                f"Stage {self.name!r} is iterated a second time in one run: "
                "declare another stage for other items.",
            )
        if self._by_hand:
            raise StageError(
                f"Stage {self.name!r} was advanced by hand: it would skip as many items "
                "of what it iterates now. Declare another stage for them.",
            )
        if total is not None:
            self.state.total = total_of(total, self.name)
        done = self.done
        left = self._by_item((), None) if done else self._rest(source, cursor, over)
        self._items = left
        return left

    def each(
        self,
        source: Source[T],
        handler: Callable[[T], object],
        key: Callable[[T], object] | None = None,
        total: int | None = None,
        cursor: Callable[[T], Any] | None = None,
        threads: int = 1,
    ) -> None:
        """Call ``handler`` with every item that is not done yet; a bad one may fail.

        It is filed in the job's ledger, with the others going on, as far as the
        task's ``skip_policy`` lets them. The job then ends as PARTIAL. Errors
        that are not the item's own (a rate limit, a time limit, a lost lease, an
        error of jobkit's) are the job's, as they are without ``each``.

        With ``threads`` several items are handled at a time, and counted in their
        order: the cursor moves behind items all of whose forerunners are done, and
        at most three items for each thread are ahead of it. These are what a killed
        worker repeats beside those since its last save. At any other end the items
        in hand are waited for, and none that was handled well is handled again.

        Args:
            source: As for ``iterate``; it is read by the run's own thread.
            handler: Does the work; ``SkipItem`` counts an item as skipped. What it
                returns is not kept.
            key: Makes an item's name in the ledger, which must be its own and the
                same in each run; by default its cursor, or the item itself. Of two
                items with one key the ledger has the later one.
            total: As for ``iterate``.
            cursor: As for ``iterate``.
            threads: How many items are handled at a time, for handlers that mostly
                wait. In them ``self.request``, ``self.job`` and ``stage.message`` are
                the task's own; the stage is advanced by jobkit alone.

        Raises:
            TooManyFailures: The job is dead. DependencyDown: It is tried again.
            StageError, CodecError: As for ``iterate``.
        """
        threads = threads_of(threads, self.name)
        call = getattr(handler, "__call__", None)  # noqa: B004 - of an object
        if iscoroutinefunction(handler) or iscoroutinefunction(call):
            raise StageError(
                f"The handler of stage {self.name!r} is async, and nobody would await "
                "it: call asyncio.run(...) in a plain one.",
            )
        if self._run.job.replay_of:
            self._replay(handler, threads)
        else:
            work = Work(handler, key or cursor or _itself, threads)
            self._each(source, work, total, cursor)

    def _replay(self, handler: Callable[[Any], object], threads: int) -> None:
        """Go through what failed in the job that this one replays."""

        def again(row: ItemFailure) -> None:
            if not row.payload:
                raise LookupError(
                    "The item was too large to be kept, or of another type."
                )
            handler(row.item)

        def rows(place: int | None) -> Iterator[ItemFailure]:
            return self._run.to_replay(self.name, place)

        work = Work(again, attrgetter("key"), threads, self._resolve)
        self._each(rows, work, None, attrgetter("place"))

    def _resolve(self, row: ItemFailure) -> None:
        self._run.resolved.append(row.row)

    def _each(
        self,
        source: Source[T],
        work: Work[T],
        total: int | None,
        cursor: Callable[[T], Any] | None,
    ) -> None:
        skipping, stop = self._run.skipping, None
        before = seen = self.state.current
        try:
            for entry in self._entries(source, work, total, cursor):
                # Only here the item before has been counted, and may stop the stage.
                if seen > before:
                    skipping.check(self.name, self.state, seen)
                if self._ahead is None:
                    self._settle(work, entry, self._attempt(work, entry))
                else:
                    self._settle(work, *entry)
                seen += 1
            stop = self._ahead and self._ahead.stopped
        finally:
            self._leave_threads(work)
        if seen > before:
            skipping.check(self.name, self.state, seen)
        if stop:
            self._stop_here(stop)
        if seen > before:
            skipping.check_end(self.name, self.state)

    def _entries(
        self,
        source: Source[T],
        work: Work[T],
        total: int | None,
        cursor: Callable[[T], Any] | None,
    ) -> Iterator[Any]:
        """The items of a source; with threads those that are done."""
        if work.threads == 1:
            return self._go_through(source, total, cursor, _itself)
        run, attempt = self._run, partial(self._attempt, work)
        ahead = self._ahead = Ahead(work.threads, attempt, run.lease.stop, run.enter)
        behind = partial(_behind, cursor) if cursor else None
        return self._go_through(source, total, behind, ahead.over)

    def _leave_threads(self, work: Work[Any]) -> None:
        """Let threads end, and note what they have done beyond the cursor."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.end()
            names = [_key(work.name(item)) for item in ahead.beyond()]
            self.state.ahead = tuple(dict.fromkeys([*self.state.ahead, *names]))

    def _count_by_hand(self) -> None:
        if self._items is not None:
            raise StageError(
                f"Stage {self.name!r} counts the items that it goes through: leave "
                "advance and set_progress out, and say more by stage.message(...)."
            )
        self._by_hand = True

    def _must_be_in_turn(self) -> None:
        if self._ahead is not None:
            raise StageError(
                f"The items of stage {self.name!r} are handled by threads: its cursor "
                "and its counts are kept by jobkit. Report by stage.message(...)."
            )

    def failures(self) -> Iterator[ItemFailure]:
        """The rows of the ledger that belong to this stage, in their order."""
        self._must_be_in_turn()
        rows = self._run.failures()
        return (row for row in rows if self._run.now(row.stage) == self.name)

    def _attempt(self, work: Work[T], item: T) -> Outcome:
        """Handle an item, more than once if need be; it may be in another thread.

        Raises what is the whole job's error.
        """
        if self.state.ahead and _key(work.name(item)) in self.state.ahead:
            return HANDLED
        attempts = 1
        while (outcome := self._try(work, item, attempts)) is None:
            attempts += 1
        return outcome

    def _try(self, work: Work[T], item: T, attempts: int) -> Outcome | None:
        try:
            work.handler(item)
        except SkipItem:
            return Outcome(skipped=True)
        except Exception as error:
            verdict = self._run.skipping.verdict(error)
            if verdict is None:
                raise
            transient = verdict is Verdict.transient
            delay = self._run.skipping.delay(attempts) if transient else None
            if delay is None:
                return Outcome(error, attempts)
        else:
            return HANDLED
        stop = self._wait(delay)
        return Outcome(stop=stop) if stop else None

    def _settle(self, work: Work[T], item: T, outcome: Outcome) -> None:
        """Count an item whose turn it is, but for the place, which ``iterate`` keeps."""
        state = self.state
        if outcome.stop:
            # The item in hand is not done; those before it are.
            self._leave_threads(work)
            self._stop_here(outcome.stop)
        if state.ahead:
            name = _key(work.name(item))
            state.ahead = tuple(one for one in state.ahead if one != name)
        if outcome.error is not None:
            self._file(item, work.name(item), outcome.error, outcome.attempts)
            return
        state.skipped += outcome.skipped
        state.streak = 0
        work.over(item)

    def _stop_here(self, reason: Interrupted) -> NoReturn:
        if self._items is not None:
            self._items.close()
        self._run.leave_for(reason)

    def _file(self, item: object, key: object, error: Exception, attempts: int) -> None:
        self.state.failed += 1
        self.state.streak += 1
        self._run.failed.append(
            FailedItem(
                stage=self.name,
                key=_key(key),
                error=type(error).__qualname__,
                message=str(error)[: codec.TEXT_LIMIT],
                attempts=attempts,
                payload=_payload(item),
            )
        )

    def _wait(self, seconds: float) -> Interrupted | None:
        """Let time pass before an item is tried again; why not, if the run has to stop."""
        until = clock.monotonic() + seconds
        while (left := until - clock.monotonic()) > 0:
            stop = self._run.lease.stop()
            if stop:
                return stop
            time.sleep(min(left, LOOK))
        return None

    def _rest(
        self,
        source: Source[T],
        cursor: Callable[[Any], Any] | None,
        over: Callable[[Any], Any],
    ) -> Generator[Any, None, None]:
        if not callable(source):
            if isinstance(source, set | frozenset):
                raise StageError(
                    f"Stage {self.name!r} iterates a set, whose order is another one in "
                    "each process: give it sorted(...), or a list.",
                )
            if self.state.total is None and isinstance(source, Sized):
                self.state.total = len(source)
            left = itertools.islice(source, self.state.current, None)
            return self._by_item(over(left), cursor)
        items = source(self.cursor)
        if cursor is not None:
            return self._by_item(over(items), cursor)
        if not hasattr(items, "cursor"):
            raise StageError(
                f"Stage {self.name!r} iterates a callable source without a cursor: pass "
                "cursor=function(item), or use one of jobkit.sources.",
            )
        return self._by_source(over(items))

    def _by_item(
        self, items: Iterable[T], cursor: Callable[[T], Any] | None
    ) -> Generator[T, None, None]:
        # The hot loop: beside the count it reads one attribute an item, and the
        # slice ends where it is time to look. The first item is looked at, so that a
        # cursor that cannot be kept is refused before a second item is handled.
        lease, count, last = self._run.lease, self.state.current, None
        start, due, source = count, count + 1, iter(items)
        try:
            while True:
                for item in itertools.islice(source, due - count):
                    yield item
                    count += 1
                    last = item
                    if lease.attention:
                        break
                else:
                    if count < due:  # the source has no more
                        return
                self._mark(count, cursor, last)
                due = self._attend(count)
        finally:
            if count > start:
                self._mark(count, cursor, last)

    def _by_source(self, items: Any) -> Generator[T, None, None]:
        with closing(items) if hasattr(items, "close") else nullcontext():
            yield from self._through(items)

    def _through(self, items: Any) -> Generator[T, None, None]:
        lease, count, place = self._run.lease, self.state.current, None
        start, due, source = count, count + 1, iter(items)
        try:
            while True:
                for item in itertools.islice(source, due - count):
                    yield item
                    count += 1
                    place = items.cursor
                    if lease.attention:
                        break
                else:
                    if count < due:
                        return
                self._mark(count, _itself, place)
                due = self._attend(count)
        finally:
            if count > start:
                self._mark(count, _itself, place)

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
            # With threads ahead, these notice a stop and see to it.
            self._run.attend(stop=self._ahead is None)
        return self._save_at


def _behind(cursor: Callable[[T], Any], done: Done[T]) -> Any:
    return cursor(done.item)


def _key(key: object) -> str:
    """A key as the ledger keeps it; two that differ stay two, whatever they are."""
    text = str(key)
    shown = text.encode(errors="replace").decode()
    if shown == text and len(text) <= KEY_LIMIT:
        return text
    # The names of files may have halves of characters, which nothing else keeps.
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]
    return f"{shown[: KEY_LIMIT - 33]}~{digest}"


def _payload(item: object) -> str:
    """An item as the ledger keeps it, if it can."""
    if isinstance(item, ItemFailure):
        return item.payload
    try:
        return codec.dumps(item, what="item", limit=codec.CURSOR_LIMIT)
    except CodecError:
        return ""
