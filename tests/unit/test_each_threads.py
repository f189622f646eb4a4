"""Threads handle several items at a time, and the cursor leaves none of them out."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from celery import Celery, current_task

from jobkit import ProgressTask, StageError
from jobkit.ahead import IN_HAND
from jobkit.checkpoint import Checkpoint
from jobkit.errors import (
    Cancelled,
    DependencyDown,
    Drained,
    Interrupted,
    LeaseLost,
    Paused,
    Permanent,
    RateLimited,
    SkipItem,
    TooManyFailures,
)
from jobkit.run import Run
from jobkit.skip import Skipping, SkipPolicy
from jobkit.store.values import Failure
from tests.unit.runs import CRASH, ID, Watched, begin, kept, kill, new_job
from tests.waiting import wait_until

ITEMS = 60
THREADS = 4
BAD = {7, 8, 30, 59}
SKIPPED = {20, 21}


@pytest.fixture
def store() -> Watched:
    return Watched()


def start(store: Watched, **options: Any) -> Run:
    policy = SkipPolicy(**{"item_base": 0, **options.pop("policy", {})})
    return begin(store, skipping=Skipping(policy), **options)


def after(last: int | None) -> Iterator[int]:
    """A source with a cursor."""
    yield from range((last or 0) + 1, ITEMS + 1)


def handle(
    run: Run, handler: Callable[[int], object], source: Any = after, **options: Any
) -> None:
    options = {"cursor": int, "threads": THREADS, **options}
    with run.stage("import", total=ITEMS) as stage:
        stage.each(source, handler, **options)


class Seen:
    """What handlers were called with, and how many at a time."""

    def __init__(self) -> None:
        self.items: list[int] = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, item: int) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.0003 * (item % 7))
        with self._lock:
            self._now -= 1
            self.items.append(item)
        if item in BAD:
            raise ValueError(item)
        if item in SKIPPED:
            raise SkipItem


def repeated(seen: Seen) -> set[int]:
    return {item for item, count in Counter(seen.items).items() if count > 1}


def rows(store: Watched, job_id: str = ID) -> set[str]:
    return {row.key for row in store.failures(job_id, limit=1000).items}


def sums_up(store: Watched) -> None:
    """At every save the counts, the cursor and the ledger said the same."""
    filed: set[str] = set()
    for snapshot in store.saved:
        filed |= {item.key for item in snapshot.failed}
        state = Checkpoint.decode(snapshot.checkpoint).stage("import")
        place = int(state.cursor or 0)
        assert state.current == place
        assert state.failed == len([item for item in BAD if item <= place])
        assert state.skipped == len([item for item in SKIPPED if item <= place])
        assert filed == {str(item) for item in BAD if item <= place}


class WithCursor:
    """A source of the kind that ``jobkit.sources`` has: it knows its own cursor."""

    def __init__(self, last: int | None) -> None:
        self.cursor = last or 0
        self.closed = False
        OPENED.append(self)

    def __iter__(self) -> Iterator[int]:
        for item in range(self.cursor + 1, ITEMS + 1):
            self.cursor = item
            yield item

    def close(self) -> None:
        self.closed = True


OPENED: list[WithCursor] = []


@pytest.mark.parametrize(
    ("source", "cursor"),
    [(after, int), (WithCursor, None), (range(1, ITEMS + 1), int)],
    ids=["items after a cursor", "a source with a cursor", "an iterable"],
)
def test_several_items_are_handled_at_a_time_and_counted_in_turn(
    store: Watched, source: Any, cursor: Any
) -> None:
    run, seen = start(store, every=1), Seen()
    handle(run, seen, source, cursor=cursor)

    assert sorted(seen.items) == list(range(1, ITEMS + 1))
    assert seen.most == THREADS
    shown = run.progress
    assert (shown.current, shown.ok, shown.failed, shown.skipped) == (60, 54, 4, 2)
    assert rows(store) == {str(item) for item in BAD}
    sums_up(store)
    assert all(one.closed for one in OPENED)


def test_few_items_are_in_hand_at_a_time(store: Watched) -> None:
    run, held = start(store), threading.Event()
    pulled: list[int] = []

    def source(last: int | None) -> Iterator[int]:
        for item in after(last):
            pulled.append(item)
            yield item

    def handler(item: int) -> None:
        if item == 1:
            held.wait(10)

    thread = threading.Thread(target=handle, args=(run, handler, source))
    thread.start()
    wait_until(lambda: len(pulled) == IN_HAND * THREADS, "all that may be is in hand")
    time.sleep(0.1)
    assert len(pulled) == IN_HAND * THREADS
    assert run.saved.stage("import").current == 0
    held.set()
    thread.join()
    assert run.saved.stage("import").current == ITEMS


@pytest.mark.parametrize("kind", ["drain", "cancel", "pause"])
def test_a_stop_waits_for_what_was_begun_and_repeats_nothing(
    store: Watched, kind: str
) -> None:
    run, seen = start(store), Seen()
    reasons: dict[str, type[Interrupted]] = {
        "drain": Drained,
        "cancel": Cancelled,
        "pause": Paused,
    }

    def handler(item: int) -> None:
        if item == 25:
            stop(store, run, kind)
        seen(item)

    with pytest.raises(reasons[kind]):
        handle(run, handler)

    done = list(seen.items)
    assert sorted(done) == list(range(1, len(done) + 1))
    assert 25 <= len(done) < 25 + IN_HAND * THREADS
    assert kept(store).progress.current == len(done)
    sums_up(store)
    kill(store)
    if kind == "cancel":
        return
    if kind == "pause":
        store.resume(ID, "ann")
    run = start(store)
    handle(run, seen)
    assert Counter(seen.items) == Counter(range(1, ITEMS + 1))
    assert (run.progress.ok, run.progress.failed) == (54, 4)


def stop(store: Watched, run: Run, kind: str) -> None:
    if kind == "drain":
        run.lease.drained = True
    else:
        store.ask(ID, "cancel" if kind == "cancel" else "pause", "ann", "why not")
    run.lease.attention = True


def test_a_stop_takes_back_what_no_thread_has_begun(store: Watched) -> None:
    run, gate, seen = start(store), threading.Event(), Seen()

    def handler(item: int) -> None:
        gate.wait(10)
        seen(item)

    def work() -> None:
        with suppress(Drained), run.stage("import") as stage:
            opened.append(stage)
            stage.each(after, handler, cursor=int, threads=THREADS)

    opened: list[Any] = []
    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: opened and opened[0]._ahead, "the threads are at work")
    ahead = opened[0]._ahead
    wait_until(lambda: len(ahead._out) == IN_HAND * THREADS, "all that may be is out")
    run.lease.drained = True
    wait_until(lambda: ahead.stopped, "the stop is seen")
    gate.set()
    thread.join()

    assert sorted(seen.items) == [1, 2, 3, 4]
    assert kept(store).progress.current == 4
    assert not run.saved.stage("import").done


def test_a_stop_ends_the_wait_of_an_item_and_loses_nothing_of_the_others(
    store: Watched,
) -> None:
    run, seen = start(store, policy={"item_base": 60}), Seen()
    first = threading.Event()

    def handler(item: int) -> None:
        if item == 10 and not first.is_set():
            first.set()
            raise ConnectionError
        if item == 14:
            first.wait(10)
            run.lease.drained = True
        seen(item)

    with pytest.raises(Drained):
        handle(run, handler)

    assert kept(store).progress.current == 9
    beyond = Checkpoint.decode(kept(store).checkpoint).stage("import").ahead
    well = {item for item in seen.items if item > 10} - BAD - SKIPPED
    assert set(beyond) == set(map(str, well))
    kill(store)
    run = start(store)
    handle(run, seen)
    assert repeated(seen) <= BAD | SKIPPED
    assert (run.progress.current, run.progress.ok) == (60, 54)
    assert Checkpoint.decode(kept(store).checkpoint).stage("import").ahead == ()


@pytest.mark.parametrize("threads", [THREADS, 1], ids=["by threads", "in turn"])
def test_an_error_of_the_job_lets_the_others_end_and_repeats_none_that_went_well(
    store: Watched, threads: int
) -> None:
    run, seen, broken = start(store), Seen(), threading.Event()

    def handler(item: int) -> None:
        if item == 16 and not broken.is_set():
            time.sleep(0.02)
            broken.set()
            raise RateLimited(retry_after=1)
        seen(item)

    with pytest.raises(RateLimited):
        handle(run, handler)

    assert kept(store).progress.current == 15
    assert any(item > 16 for item in seen.items)
    assert not [one for one in threading.enumerate() if "jobkit-each" in one.name]
    sums_up(store)
    kill(store)
    run = start(store)
    handle(run, seen, threads=threads)
    # What failed or was skipped beyond the place of the error may be tried again.
    assert repeated(seen) <= BAD | SKIPPED
    assert set(seen.items) == set(range(1, ITEMS + 1))
    shown = run.progress
    assert (shown.current, shown.ok, shown.failed, shown.skipped) == (60, 54, 4, 2)
    assert rows(store) == {str(item) for item in BAD}


def test_an_error_of_the_source_comes_after_what_it_gave(store: Watched) -> None:
    def source(last: int | None) -> Iterator[int]:
        yield from range((last or 0) + 1, 20)
        raise RateLimited

    run, seen = start(store), Seen()
    with pytest.raises(RateLimited):
        handle(run, seen, source)
    assert sorted(seen.items) == list(range(1, 20))
    assert kept(store).progress.current == 19


def test_a_lost_lease_hands_out_nothing_more_and_saves_nothing(store: Watched) -> None:
    run, seen = start(store), Seen()

    def handler(item: int) -> None:
        if item == 25:
            run.lease._taken = True
        seen(item)

    with pytest.raises(LeaseLost):
        handle(run, handler)
    assert len(seen.items) < 25 + 2 * THREADS
    assert store.positions == [0]  # where the stage began


def test_a_lease_that_was_lost_for_a_moment_ends_the_run_all_the_same(
    store: Watched,
) -> None:
    run = start(store)
    opened: list[Any] = []

    def handler(item: int) -> None:
        if item == 2:
            run.lease._taken = True
        if item == 1:
            wait_until(lambda: opened[0]._ahead.stopped, "the stop is seen")
            run.lease._taken = False

    with pytest.raises(LeaseLost), run.stage("import") as stage:  # noqa: PT012
        opened.append(stage)
        stage.each(after, handler, cursor=int, threads=THREADS)
    assert not run.saved.stage("import").done
    assert kept(store).progress.current < ITEMS


@dataclass
class Mishaps:
    """Items that end a run when they are handled for the first time, and how."""

    dice: random.Random
    kinds: tuple[str, ...]
    seen: Seen = field(default_factory=Seen)
    left: dict[int, str] = field(init=False)

    def __post_init__(self) -> None:
        places = self.dice.sample(range(1, ITEMS + 1), 6)
        self.left = {place: self.dice.choice(self.kinds) for place in places}

    def handler(self, store: Watched, run: Run) -> Callable[[int], None]:
        def handle(item: int) -> None:
            match self.left.pop(item, ""):
                case "error":
                    raise RateLimited
                case "kill":
                    store.down = True
                    raise GeneratorExit
                case "drain":
                    run.lease.drained = True
            self.seen(item)

        return handle


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kinds", ["error drain", "error drain kill"])
def test_whatever_ends_the_runs_all_is_counted_once(
    store: Watched, kinds: str, seed: int
) -> None:
    mishaps, runs = Mishaps(random.Random(seed), tuple(kinds.split())), 0  # noqa: S311
    while not Checkpoint.decode(kept_text(store)).stage("import").done:
        run = start(store, every=mishaps.dice.choice([1, 5, None]))
        threads = mishaps.dice.choice([1, 2, THREADS, 9])
        with suppress(RateLimited, GeneratorExit, Drained):
            handle(run, mishaps.handler(store, run), threads=threads)
        store.down = False
        kill(store)
        runs += 1
        assert runs < 9

    state = Checkpoint.decode(kept_text(store)).stage("import")
    assert (state.current, state.ok) == (ITEMS, ITEMS - len(BAD) - len(SKIPPED))
    assert (state.failed, state.skipped) == (len(BAD), len(SKIPPED))
    assert rows(store) == set(map(str, BAD))
    assert set(mishaps.seen.items) == set(range(1, ITEMS + 1))
    if "kill" not in kinds:
        assert repeated(mishaps.seen) <= BAD | SKIPPED
    sums_up(store)


def kept_text(store: Watched) -> str:
    job = store.get(ID)
    return job.checkpoint if job else ""


def test_a_kill_repeats_no_more_than_was_not_saved_and_in_hand(store: Watched) -> None:
    run, seen, every = start(store, every=5), Seen(), 5

    class Killed(BaseException):
        pass

    def handler(item: int) -> None:
        if item == 33:
            store.down = True  # nothing is saved any more, as by a dead process
            raise Killed
        seen(item)

    with pytest.raises(Killed):
        handle(run, handler)
    store.down = False
    kill(store)
    run = start(store, every=5)
    handle(run, seen)

    assert len(repeated(seen)) <= every + IN_HAND * THREADS
    assert set(seen.items) == set(range(1, ITEMS + 1))
    shown = run.progress
    assert (shown.current, shown.ok, shown.failed, shown.skipped) == (60, 54, 4, 2)
    assert rows(store) == {str(item) for item in BAD}
    sums_up(store)


def test_the_limit_is_one_of_items_in_their_order(store: Watched) -> None:
    done: list[int] = []

    def handler(item: int) -> None:
        if item % 2:
            time.sleep(0.005)  # so that the next ones are done before its turn
            raise ValueError(item)
        done.append(item)

    run = start(store, policy={"max_failures": 10})
    with pytest.raises(TooManyFailures, match="11 of 21 items"):
        handle(run, handler)
    assert (kept(store).progress.current, kept(store).open_failures) == (21, 11)
    assert len(rows(store)) == 11
    assert done[-1] > 21

    store.bury(ID, run.job.fence, Failure(CRASH), "too_many_failures")
    store.replay(ID, "resume")
    handle(start(store, policy={"max_failures": None}), handler)
    assert sorted(done) == list(range(2, ITEMS + 1, 2))


def test_failures_in_a_row_are_in_a_row_of_the_source(store: Watched) -> None:
    def handler(item: int) -> None:
        if item > 30:
            raise ValueError(item)

    run = start(store, policy={"max_consecutive": 5})
    with pytest.raises(DependencyDown, match="5 items"):
        handle(run, handler)
    assert (kept(store).progress.current, kept(store).open_failures) == (35, 5)


def test_a_replay_by_threads_resolves_each_row_once(store: Watched) -> None:
    run = start(store)
    handle(run, Seen())
    store.succeed(ID, run.job.fence, run.final())
    place = Checkpoint.decode(kept(store).checkpoint).over_failures().encode()
    store.replay_items(replace(new_job("child"), replay_of=ID), place)

    done: list[int] = []
    run = start(store, job_id="child")
    handle(run, done.append)

    assert sorted(done) == sorted(BAD)
    assert (run.progress.ok, run.progress.total) == (4, 4)
    assert (kept(store).state, kept(store).open_failures) == ("SUCCEEDED", 0)


@pytest.mark.parametrize("threads", [0, -1, "x", True, None, 2.0])
def test_a_wrong_number_of_threads_is_refused(store: Watched, threads: Any) -> None:
    run = start(store)
    with pytest.raises(StageError, match="from 1 on, not"):
        handle(run, Seen(), threads=threads)
    assert kept(store).progress.current == 0


@pytest.mark.parametrize(
    "act",
    [
        lambda stage: stage.advance(),
        lambda stage: stage.checkpoint(7),
        lambda stage: stage.set(7, 9, None),
        lambda stage: stage.failures(),
    ],
    ids=["advance", "checkpoint", "set", "failures"],
)
def test_a_thread_does_not_move_the_stage(
    store: Watched, act: Callable[[Any], object]
) -> None:
    run = start(store)
    with (
        pytest.raises(StageError, match="handled by threads"),
        run.stage("import") as stage,
    ):
        stage.each(after, lambda _: act(stage), cursor=int, threads=2)
    assert kept(store).progress.current == 0


def test_a_handler_in_a_thread_sees_its_task(app: Celery) -> None:
    tenant: ContextVar[str] = ContextVar("tenant")
    seen: set[tuple[str | None, ...]] = set()
    bar = threading.Barrier(3)

    @app.task(
        base=ProgressTask, bind=True, name="shop.io", stages=["import"], shared=False
    )
    def io(self: ProgressTask) -> None:
        tenant.set("berlin")

        def handler(item: int) -> None:
            bar.wait(10)
            thread = threading.current_thread().name
            stage.message(f"order {item}")
            key, name = self.job.item_key(item), current_task.name
            seen.add((thread, key, self.request.id, name, tenant.get()))
            assert not self.job.should_stop()

        with self.stage("import") as stage:
            stage.each([1, 2, 3], handler, threads=3)

    result = io.apply(task_id="j1")
    result.get()

    assert len({entry[0] for entry in seen}) == 3
    assert {entry[1:] for entry in seen} == {
        (f"j1:{item}", "j1", "shop.io", "berlin") for item in (1, 2, 3)
    }


def test_an_item_that_is_dead_for_good_is_the_items_own(store: Watched) -> None:
    def handler(item: int) -> None:
        if item == 3:
            raise Permanent("no such order")

    run = start(store)
    handle(run, handler)
    assert rows(store) == {"3"}


def test_a_dead_job_that_is_replayed_does_not_repeat_what_was_beyond(
    store: Watched,
) -> None:
    run, seen = start(store), Seen()

    def handler(item: int) -> None:
        if item == 16:
            time.sleep(0.02)
            raise StageError("of the job")
        seen(item)

    with pytest.raises(StageError):
        handle(run, handler)
    store.bury(ID, run.job.fence, Failure(CRASH), "permanent")
    store.replay(ID, "resume")
    handle(start(store), seen)

    assert repeated(seen) <= BAD | SKIPPED
