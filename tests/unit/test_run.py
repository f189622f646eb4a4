"""A run goes through stages and items, saves on time, and stops where it has to."""

# ruff: noqa: PT012 - a stage is a block, and what breaks it has to be inside

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from jobkit import clock, codec
from jobkit.checkpoint import Checkpoint
from jobkit.errors import (
    Cancelled,
    CodecError,
    Drained,
    LeaseLost,
    LimitError,
    Paused,
    StageError,
    StoreUnavailable,
)
from jobkit.job import Progress
from jobkit.progress import Stage
from jobkit.run import CurrentJob, Run
from jobkit.store.memory import MemoryStore
from jobkit.store.redis import RedisStore
from jobkit.store.values import Kept, Snapshot
from tests.servers import ValkeyServer
from tests.unit.runs import (
    ID,
    Time,
    Watched,
    begin,
    kept,
    kill,
    new_job,
    stop_the_clock,
)


@pytest.fixture
def store() -> Watched:
    return Watched()


def after(numbers: range) -> Callable[[int | None], Iterator[int]]:
    """A source that is asked with the last number that was handled."""
    return lambda last: (n for n in numbers if last is None or n > last)


def itself(item: Any) -> Any:
    return item


def never(*_: Any) -> Any:
    pytest.fail("it was called")


def saved(store: MemoryStore, stage: str = "import") -> tuple[int, Any]:
    """What another run would go on from: the count and the cursor."""
    state = Checkpoint.decode(kept(store).checkpoint).stage(stage)
    return state.current, codec.loads(state.cursor) if state.cursor else None


def begin_again(store: MemoryStore, **options: Any) -> Run:
    """The next run, after whatever happened to the one before."""
    kill(store)
    return begin(store, **options)


# -- going through items


def test_every_item_is_gone_through_once_and_in_order(store: Watched) -> None:
    run = begin(store)
    with run.stage("import") as stage:
        assert list(stage.iterate(range(5))) == [0, 1, 2, 3, 4]

    assert stage.done
    assert kept(store).progress.current == 5


def test_an_iterable_is_resumed_by_skipping_what_is_done(store: Watched) -> None:
    handled: list[str] = []
    with pytest.raises(KeyError), begin(store).stage("import") as stage:
        for item in stage.iterate("abcdef"):
            if item == "d":
                raise KeyError
            handled.append(item)

    with begin_again(store).stage("import") as stage:
        handled += stage.iterate("abcdef")

    assert handled == ["a", "b", "c", "d", "e", "f"]


def test_a_callable_is_asked_for_the_items_after_the_cursor(store: Watched) -> None:
    asked: list[Any] = []

    def source(last: int | None) -> Iterator[int]:
        asked.append(last)
        return after(range(10, 20))(last)

    run = begin(store)
    with pytest.raises(ZeroDivisionError), run.stage("import") as stage:
        for item in stage.iterate(source, cursor=itself):
            1 / (item - 14)

    run = begin_again(store)
    with run.stage("import") as stage:
        rest = list(stage.iterate(source, cursor=itself))

    assert rest == [14, 15, 16, 17, 18, 19]
    assert asked == [None, 13]


class Table:
    """Rows that know how far they were read: the cursor is theirs."""

    def __init__(self, cursor: tuple[str, int] | None) -> None:
        self.cursor = cursor
        self.closed = False

    def __iter__(self) -> Iterator[int]:
        start = self.cursor[1] if self.cursor else 0
        for row in range(start, 6):
            self.cursor = ("row", row + 1)
            yield row

    def close(self) -> None:
        self.closed = True


def test_a_source_may_know_its_own_cursor(store: Watched) -> None:
    tables: list[Table] = []

    def source(cursor: Any) -> Table:
        tables.append(Table(cursor))
        return tables[-1]

    run = begin(store)
    with pytest.raises(ZeroDivisionError), run.stage("import") as stage:
        for row in stage.iterate(source):
            1 / (row - 3)
    assert saved(store) == (3, ("row", 3))

    run = begin_again(store)
    with run.stage("import") as stage:
        assert list(stage.iterate(source)) == [3, 4, 5]
    assert [table.closed for table in tables] == [True, True]


def test_a_callable_without_a_cursor_is_refused_with_a_way_out(store: Watched) -> None:
    run = begin(store)
    with (
        pytest.raises(StageError, match=r"'import'.*cursor=.*jobkit\.sources"),
        run.stage("import") as stage,
    ):
        stage.iterate(lambda _: iter([1]))


def test_the_length_of_a_list_is_its_total(store: Watched) -> None:
    run = begin(store)
    with run.stage("import") as stage:
        next(stage.iterate([7, 8, 9]))
        assert run.snapshot().progress.total == 3


def test_a_total_that_was_given_stays(store: Watched) -> None:
    run = begin(store)
    with run.stage("import", total=50) as stage:
        next(stage.iterate([7, 8, 9]))
        assert run.snapshot().progress.total == 50


def test_iterate_may_tell_the_total(store: Watched) -> None:
    run = begin(store)
    with run.stage("import") as stage:
        next(stage.iterate(iter([7, 8, 9]), total=3))
        assert run.snapshot().progress.total == 3


def test_an_item_is_done_when_the_next_one_is_asked_for(store: Watched) -> None:
    run = begin(store)
    with run.stage("import") as stage:
        items = stage.iterate(range(5))
        next(items)
        assert stage.state.current == 0
        next(items)
        assert stage.state.current == 1


def test_a_stage_is_iterated_once(store: Watched) -> None:
    run = begin(store)
    with run.stage("import") as stage:
        list(stage.iterate([1]))
        with pytest.raises(StageError, match="'import' is iterated a second time"):
            stage.iterate([2])


def test_an_empty_stage_is_done(store: Watched) -> None:
    run = begin(store)
    with run.stage("import") as stage:
        assert not list(stage.iterate(lambda _: iter(()), cursor=itself))

    assert stage.done
    assert saved(store) == (0, None)


# -- the exact cursor


def test_after_an_error_the_failing_item_is_not_done(store: Watched) -> None:
    run = begin(store)
    with pytest.raises(ZeroDivisionError), run.stage("import") as stage:
        for item in stage.iterate(after(range(10)), cursor=itself):
            1 / (item - 5)

    assert not stage.done
    assert saved(store) == (5, 4)


def test_an_error_at_the_first_item_leaves_no_cursor(store: Watched) -> None:
    run = begin(store)
    with pytest.raises(ZeroDivisionError), run.stage("import") as stage:
        for item in stage.iterate(after(range(10)), cursor=itself):
            1 / item

    assert saved(store) == (0, None)


def test_an_error_of_the_source_keeps_what_was_handled(store: Watched) -> None:
    def source(_: Any) -> Iterator[int]:
        yield from range(4)
        raise ConnectionError("page 2")

    run = begin(store)
    with pytest.raises(ConnectionError), run.stage("import") as stage:
        list(stage.iterate(source, cursor=itself))

    assert saved(store) == (4, 3)


def test_after_a_break_the_item_in_hand_is_not_done_but_the_stage_is(
    store: Watched,
) -> None:
    run = begin(store)
    with run.stage("import") as stage:
        for item in stage.iterate(after(range(10)), cursor=itself):
            if item == 5:
                break

    assert stage.done
    assert saved(store) == (5, 4)


def test_after_a_close_the_item_in_hand_is_not_done(store: Watched) -> None:
    run = begin(store)
    with run.stage("import") as stage:
        items = stage.iterate(after(range(10)), cursor=itself)
        assert [next(items) for _ in range(4)] == [0, 1, 2, 3]
        items.close()  # type: ignore[attr-defined]
        assert (stage.state.current, stage.cursor) == (3, 2)
        assert not list(items)


STOPS = {
    "drain": Drained,
    "cancel": Cancelled,
    "pause": Paused,
}


@pytest.mark.parametrize("what", STOPS)
def test_after_an_interruption_every_handled_item_is_done(
    store: Watched, what: str
) -> None:
    run = begin(store, interval=600.0)
    handled = []
    with pytest.raises(STOPS[what]), run.stage("import") as stage:
        for item in stage.iterate(after(range(10)), cursor=itself):
            handled.append(item)
            if item == 5:
                ask(store, run, what)

    assert handled == [0, 1, 2, 3, 4, 5]
    assert not stage.done
    assert store.positions[-1] == 6
    assert saved(store) == (6, 5)


def ask(store: MemoryStore, run: Run, what: str) -> None:
    """Ask a run to stop, and let its keeper hear of it."""
    if what == "drain":
        run.lease.tick(draining=True)
    else:
        store.ask(ID, "pause" if what == "pause" else "cancel", "ana", "why not")
        run.lease.attention = True


def test_an_interruption_passes_an_except_exception(store: Watched) -> None:
    run = begin(store)

    def careless() -> None:
        with run.stage("import") as stage:
            for _ in stage.iterate(range(5)):
                try:
                    ask(store, run, "drain")
                    stage.advance(0)
                except Exception:  # noqa: BLE001 - what careless code does
                    pytest.fail("it was swallowed")

    with pytest.raises(Drained):
        careless()
    assert isinstance(run.stopped, Drained)


def test_an_interruption_is_not_saved_twice(store: Watched) -> None:
    run = begin(store)
    with pytest.raises(Drained), run.stage("import") as stage:
        for _ in stage.iterate(range(5)):
            ask(store, run, "drain")

    assert store.positions == [0, 1]


@given(data=st.data())
def test_however_often_it_is_killed_no_item_is_lost_and_few_are_repeated(
    data: st.DataObject,
) -> None:
    store = MemoryStore()
    total, every = 30, data.draw(st.integers(1, 7), "every")
    handled: list[int] = []
    while True:
        run = begin(store, every=every)
        moments = data.draw(st.integers(1, 40), "items before the kill")
        done_before = len(handled)
        stage = run.stage("import").__enter__()
        for item in stage.iterate(after(range(total)), cursor=itself):
            handled.append(item)
            if len(handled) - done_before == moments:
                break
        else:
            break
        # Killed: neither the stage's end nor the generator's is seen.
        kill(store)
        if kept(store).state.finished:  # poison
            break

    lost = set(range(max(handled) + 1)) - set(handled)
    starts = kept(store).starts
    assert not lost
    assert len(handled) - len(set(handled)) <= every * (starts - 1)


# -- finished stages


def test_a_finished_stage_iterates_nothing_on_resume(store: Watched) -> None:
    with begin(store).stage("import") as stage:
        list(stage.iterate(range(3)))

    run = begin_again(store)
    with run.stage("import") as stage:
        assert stage.done
        assert not list(stage.iterate(range(3)))
        assert not list(after(range(0))(None))

    assert saved(store) == (3, None)


def test_a_finished_stage_does_not_even_ask_its_source(store: Watched) -> None:
    with begin(store).stage("import") as stage:
        list(stage.iterate(range(3)))

    run = begin_again(store)
    with run.stage("import") as stage:
        for _ in stage.iterate(never, cursor=itself):
            pass


def test_a_finished_stage_counts_and_saves_nothing_more(store: Watched) -> None:
    with begin(store).stage("import", total=3) as stage:
        stage.advance(3)
    writes = len(store.saved)

    run = begin_again(store)
    with run.stage("import") as stage:
        stage.advance(5)
        stage.set(9, 10, "more")

    assert len(store.saved) == writes
    assert (stage.state.current, stage.state.total) == (3, 3)


def test_a_stage_that_failed_is_not_finished(store: Watched) -> None:
    with pytest.raises(KeyError), begin(store).stage("import") as stage:
        stage.advance(2)
        raise KeyError

    assert not begin_again(store).stage("import").done


# -- steps


def test_a_step_runs_once_over_two_runs(store: Watched) -> None:
    calls: list[str] = []

    def count() -> int:
        calls.append("count")
        return 17

    first = begin(store)
    assert first.step("count", count) == 17
    again = begin_again(store)
    assert again.step("count", count) == 17

    assert calls == ["count"]


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        (1, "a"),
        {"n": Decimal("1.20")},
        b"\x00",
        datetime(2026, 11, 24, tzinfo=UTC),
    ],
)
def test_a_step_value_comes_back_with_its_type(store: Watched, value: Any) -> None:
    begin(store).step("count", lambda: value)

    again: Any = begin_again(store).step("count", never)

    assert again == value
    assert type(again) is type(value)


def test_a_step_that_failed_runs_again(store: Watched) -> None:
    with pytest.raises(ZeroDivisionError):
        begin(store).step("count", lambda: 1 // 0)

    assert begin_again(store).step("count", lambda: 5) == 5


def test_a_step_does_not_begin_when_the_run_has_to_stop(store: Watched) -> None:
    run = begin(store)
    run.step("count", lambda: store.ask(ID, "cancel", "ana", "no")[0])

    with pytest.raises(Cancelled, match="ana: no"):
        run.step("import", never)


def test_a_step_counts_as_one_item(store: Watched) -> None:
    begin(store).step("count", lambda: 5)

    progress = kept(store).progress
    assert (progress.current, progress.total, progress.percent) == (1, 1, 50.0)


# -- stages and their order


def test_a_stage_must_be_declared(store: Watched) -> None:
    with pytest.raises(StageError, match=r"'imprt' is not declared.*\['count'"):
        begin(store).stage("imprt")


def test_a_task_without_stages_is_told_how_to_declare_one(store: Watched) -> None:
    with pytest.raises(StageError, match=r"no stages.*stages=\['import'\]"):
        begin(store, ()).stage("import")


def test_a_stage_is_used_once_in_a_run(store: Watched) -> None:
    run = begin(store)
    with run.stage("import"):
        pass

    with pytest.raises(StageError, match="'import' is used a second time"):
        run.stage("import")


def test_a_stage_does_not_begin_inside_another(store: Watched) -> None:
    run = begin(store)
    with (
        run.stage("count"),
        pytest.raises(StageError, match="'import' begins inside stage 'count'"),
    ):
        run.stage("import")


def test_stages_come_in_their_order(store: Watched) -> None:
    run = begin(store)
    with run.stage("import"):
        pass

    with pytest.raises(StageError, match=r"'count' comes after 'import'.*\['count', "):
        run.stage("count")


def test_a_stage_may_be_left_out(store: Watched) -> None:
    run = begin(store, ["a", "b", "c"])
    with run.stage("a"):
        pass
    with run.stage("c"):
        pass

    assert kept(store).progress.percent == 100.0


def test_a_refused_stage_changes_nothing(store: Watched) -> None:
    run = begin(store)
    with run.stage("count"):
        for name in ("import", "count", "other"):
            with pytest.raises(StageError):
                run.stage(name)
    with run.stage("import") as stage:
        stage.advance()

    assert kept(store).progress.stage == "import"


# -- saving


def test_a_stage_is_seen_before_its_first_item_is_through(store: Watched) -> None:
    run = begin(store)
    with run.stage("count", total=4, title="Counting"):
        job = kept(store)
    assert (job.progress.stage, job.progress.current) == ("count", 0)
    assert (job.progress.total, job.progress.message) == (4, "Counting")

    seen: list[Progress] = []
    run.step("import", lambda: seen.append(kept(store).progress))

    assert [(progress.stage, progress.percent) for progress in seen] == [
        ("import", 50.0)
    ]


def test_a_stage_that_is_shown_or_done_is_not_saved_again(store: Watched) -> None:
    run = begin(store)
    with run.stage("count"):
        pass
    with pytest.raises(KeyError), run.stage("import"):
        raise KeyError
    store.interrupt(ID, run.lease.fence, "drain")
    store.saved.clear()

    again = begin(store)
    with again.stage("count"):
        pass
    with again.stage("import"):
        assert store.saved == []


def test_nothing_is_saved_before_its_time(store: Watched) -> None:
    run = begin(store)
    with run.stage("import") as stage:
        for _ in stage.iterate(range(1000)):
            pass
        assert store.positions == [0]

    assert store.positions == [0, 1001]


def test_checkpoint_every_saves_at_exact_counts(store: Watched) -> None:
    run = begin(store, every=3)
    with run.stage("import") as stage:
        list(stage.iterate(range(10)))

    assert store.positions == [0, 3, 6, 9, 11]


def test_checkpoint_every_counts_from_where_the_run_began(store: Watched) -> None:
    with pytest.raises(KeyError), begin(store).stage("import") as stage:
        stage.advance(4)
        raise KeyError
    store.saved.clear()

    run = begin_again(store, every=3)
    with run.stage("import") as stage:
        list(stage.iterate(range(10)))

    assert store.positions == [7, 10, 11]


def test_checkpoint_every_holds_for_hand_made_progress_too(store: Watched) -> None:
    run = begin(store, every=3)
    with run.stage("import") as stage:
        for n in range(8):
            stage.checkpoint(n)
            stage.advance()

    assert store.positions == [0, 3, 6, 9]


def test_an_interval_save_moves_the_next_count(store: Watched) -> None:
    run = begin(store, every=4)
    with run.stage("import") as stage:
        for item in stage.iterate(range(10)):
            run.lease.attention = item == 1

    assert store.positions == [0, 2, 6, 10, 11]


def test_a_save_asks_for_the_cursor_of_the_last_item_that_is_done(
    store: Watched,
) -> None:
    asked: list[int] = []

    def cursor(item: int) -> int:
        asked.append(item)
        return item

    run = begin(store, every=5)
    with run.stage("import") as stage:
        list(stage.iterate(range(12), cursor=cursor))

    # The first item's is looked at to refuse a bad one early; then one a save.
    assert asked == [0, 4, 9, 11]


def test_the_last_write_is_made_on_success_error_and_interruption(
    store: Watched,
) -> None:
    run = begin(store, ["a", "b", "c"])
    with run.stage("a") as stage:
        stage.advance(1)
    with pytest.raises(KeyError), run.stage("b") as stage:
        stage.advance(2)
        raise KeyError
    with pytest.raises(Drained), run.stage("c") as stage:
        stage.advance(4)
        run.lease.tick(draining=True)
        stage.advance(8)

    assert store.positions == [0, 2, 2, 4, 4, 16]
    assert kept(store).progress.current == 12


def test_an_outage_does_not_fail_the_loop(
    store: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(store, every=1)
    with run.stage("import") as stage:
        for item in stage.iterate(range(10)):
            store.down = 2 <= item <= 6

    assert [snapshot.position for snapshot in store.saved] == [0, 1, 2, 8, 9, 10, 11]
    assert caplog.text.count("goes on without saving") == 5


def test_what_an_outage_kept_back_is_written_before_the_ending(
    store: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    run = begin(store)
    store.down = True
    with pytest.raises(KeyError), run.stage("import") as stage:
        stage.advance(7)
        raise KeyError
    store.down = False

    state = run.insist(
        lambda: store.interrupt(ID, run.lease.fence, "drain", "shutdown")
    )

    assert state == "QUEUED"
    assert kept(store).progress.current == 7


def test_an_ending_waits_for_the_store_while_the_lease_lasts(
    monkeypatch: pytest.MonkeyPatch, store: Watched
) -> None:
    time = stop_the_clock(monkeypatch)
    monkeypatch.setattr("time.sleep", time.advance)
    run = begin(store, seconds=30.0)
    tries: list[float] = []

    def write() -> str:
        tries.append(time.now)
        if len(tries) < 5:
            raise StoreUnavailable("down")
        return "done"

    assert run.insist(write) == "done"
    assert len(tries) == 5


def test_an_ending_that_cannot_be_written_loses_the_lease(
    monkeypatch: pytest.MonkeyPatch, store: Watched
) -> None:
    time = stop_the_clock(monkeypatch)
    monkeypatch.setattr("time.sleep", time.advance)
    run = begin(store, seconds=30.0)
    start = time.now

    def write() -> str:
        raise StoreUnavailable("down")

    with pytest.raises(LeaseLost):
        run.insist(write)

    assert 20.0 <= time.now - start < 21.0


class Telling(MemoryStore):
    """A store that a listener's progress is compared with."""

    @override
    def save(
        self, job_id: str, fence: int, seq: int, snapshot: Snapshot, lease: float
    ) -> Kept:
        answer = super().save(job_id, fence, seq, snapshot, lease)
        assert self._jobs[job_id].job().progress == snapshot.progress
        return answer


def test_the_listener_hears_what_the_store_took() -> None:
    store, heard = Telling(), []

    def listener(progress: Progress) -> None:
        heard.append(progress)
        assert kept(store).progress == progress

    run = begin(store, every=2, listener=listener)
    with run.stage("import") as stage:
        list(stage.iterate(range(5)))

    assert [progress.current for progress in heard] == [0, 2, 4, 5]


def test_the_listener_hears_nothing_that_was_not_saved(store: Watched) -> None:
    heard: list[Progress] = []
    run = begin(store, every=1, listener=heard.append)
    with run.stage("import") as stage:
        store.down = True
        list(stage.iterate(range(5)))

    assert [progress.current for progress in heard] == [0]


# -- a stale owner


def test_a_stale_owner_stops_at_its_next_save_and_changes_nothing(
    store: Watched,
) -> None:
    run = begin(store, every=2)
    handled = []
    with pytest.raises(LeaseLost), run.stage("import") as stage:
        for item in stage.iterate(after(range(10)), cursor=itself):
            handled.append(item)
            if item == 2:
                kill(store)
                other = begin(store)
                with other.stage("import") as theirs:
                    theirs.checkpoint("theirs")
                    theirs.advance(100)

    assert handled == [0, 1, 2, 3]
    assert kept(store).fence == 2
    assert saved(store) == (102, "theirs")  # their count went on from the saved 2


def test_a_run_that_fenced_itself_does_not_even_ask(
    monkeypatch: pytest.MonkeyPatch, store: Watched
) -> None:
    time = stop_the_clock(monkeypatch)
    run = begin(store, seconds=30.0)
    with pytest.raises(LeaseLost), run.stage("import") as stage:
        for item in stage.iterate(range(10)):
            if item == 3:
                time.advance(20.0)
                run.lease.tick(draining=False)

    assert store.positions == [0]
    assert isinstance(run.stopped, LeaseLost)


def test_the_end_of_a_stage_tells_a_stale_owner(store: Watched) -> None:
    run = begin(store)
    with pytest.raises(LeaseLost), run.stage("import") as stage:
        stage.advance()
        kill(store)


def test_an_error_of_a_stale_owner_is_overruled(store: Watched) -> None:
    run = begin(store)
    with pytest.raises(LeaseLost) as caught, run.stage("import") as stage:
        stage.advance()
        kill(store)
        raise KeyError("mine")

    assert isinstance(caught.value.__context__, KeyError)


class Slow(Watched):
    """A store whose answer takes 15 seconds."""

    time = Time()

    @override
    def save(
        self, job_id: str, fence: int, seq: int, snapshot: Snapshot, lease: float
    ) -> Kept:
        answer = super().save(job_id, fence, seq, snapshot, lease)
        self.time.advance(15.0)
        return answer


def test_a_slow_save_keeps_the_lease_from_when_it_was_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Slow()
    store.time = stop_the_clock(monkeypatch)
    run = begin(store, seconds=30.0)
    run.save()
    assert not run.lease.lost

    store.time.advance(5.0)

    assert run.lease.lost


# -- the hot loop


def test_the_hot_loop_reads_no_clock(
    monkeypatch: pytest.MonkeyPatch, store: Watched
) -> None:
    time = stop_the_clock(monkeypatch)
    monkeypatch.setattr(clock, "wall", never)
    run = begin_without_wall(monkeypatch, store)
    with run.stage("import") as stage:
        items = stage.iterate(range(50_000))
        next(items)
        next(items)
        before = time.asked
        for _ in items:
            pass

        assert time.asked == before


def begin_without_wall(patch: pytest.MonkeyPatch, store: Watched) -> Run:
    """A run on a store whose own time does not count."""
    patch.setattr(store, "_now", lambda: 1)
    return begin(store)


# -- what people see


def test_a_message_stands_beside_the_progress(store: Watched) -> None:
    run = begin(store)
    with run.stage("import") as stage:
        stage.message("page 1")
        assert run.snapshot().progress.message == "page 1"
        stage.advance(message="page 2")
        assert run.snapshot().progress.message == "page 2"
        stage.message(None)
        assert run.snapshot().progress.message is None


def test_a_message_is_cut_to_2000_characters(store: Watched) -> None:
    run = begin(store)
    with run.stage("import") as stage:
        stage.message("é" * 3000)
        assert run.snapshot().progress.message == "é" * 2000


def test_a_title_is_the_first_message_of_its_stage(store: Watched) -> None:
    run = begin(store, [Stage("count", title="Counting"), "import"])
    with run.stage("count"):
        assert run.snapshot().progress.message == "Counting"
    with run.stage("import", title="Importing orders") as stage:
        assert run.snapshot().progress.message == "Importing orders"
        stage.advance(message="order 1")
        assert run.snapshot().progress.message == "order 1"


def test_a_title_that_is_given_goes_before_the_declared_one(store: Watched) -> None:
    run = begin(store, [Stage("count", title="Counting")])
    with run.stage("count", title="Counting orders"):
        assert run.snapshot().progress.message == "Counting orders"


def test_a_message_belongs_to_its_stage(store: Watched) -> None:
    run = begin(store)
    with run.stage("count") as stage:
        stage.message("counting")
    with run.stage("import"):
        assert run.snapshot().progress.message is None


def test_a_task_without_stages_reports_by_numbers(store: Watched) -> None:
    run = begin(store, ())
    run.current().set(3, 10, "rows")
    run.current().advance(2)

    progress = run.snapshot().progress
    assert (progress.current, progress.total, progress.percent) == (5, 10, 50.0)
    assert (progress.stage, progress.message) == ("run", "rows")


def test_without_stages_the_last_numbers_are_saved_when_the_body_fails(
    store: Watched,
) -> None:
    run = begin(store, ())
    run.current().set(7, 10, "rows")
    run.left(KeyError())

    assert kept(store).progress.current == 7


def test_a_count_that_is_set_never_goes_back(store: Watched) -> None:
    run = begin(store, ())
    run.current().set(8, 10, None)
    run.current().set(3, 10, None)

    assert run.snapshot().progress.current == 8


def test_a_total_of_0_is_not_known_yet(store: Watched) -> None:
    run = begin(store, ())
    run.current().set(0, 0, None)
    assert run.snapshot().progress.percent is None

    run.current().set(1, 10, None)

    assert run.snapshot().progress.percent == 10.0


def test_numbers_outside_of_a_declared_stage_are_refused(store: Watched) -> None:
    with pytest.raises(StageError, match=r"No stage is open.*with self\.stage"):
        begin(store).current()


def test_the_end_shows_100_percent_and_no_time_left(store: Watched) -> None:
    run = begin(store)
    with run.stage("import", total=500) as stage:
        stage.advance(3)

    progress = run.final().progress

    assert (progress.percent, progress.eta_seconds) == (100.0, None)
    assert (progress.current, progress.total) == (3, 500)


def test_a_job_without_any_progress_ends_without_any(store: Watched) -> None:
    run = begin(store, ())

    assert run.final() == Snapshot(0, "", Progress())


def test_a_cursor_can_be_set_by_hand(store: Watched) -> None:
    with pytest.raises(KeyError), begin(store).stage("import") as stage:
        assert stage.cursor is None
        stage.checkpoint({"page": 3})
        stage.advance(30)
        raise KeyError

    with begin_again(store).stage("import") as stage:
        assert stage.cursor == {"page": 3}
        assert stage.state.current == 30


def test_percent_and_rate_go_on_over_a_takeover(
    monkeypatch: pytest.MonkeyPatch, store: Watched
) -> None:
    time = stop_the_clock(monkeypatch)
    with pytest.raises(KeyError), begin(store).stage("import", total=100) as stage:
        stage.advance(40)
        time.advance(4.0)
        raise KeyError
    shown = kept(store).progress
    assert (shown.percent, shown.rate) == (70.0, 10.0)

    time.advance(3600.0)
    run = begin_again(store)
    with run.stage("import"):
        progress = run.snapshot().progress

    assert (progress.percent, progress.rate) == (70.0, 10.0)
    assert progress.eta_seconds == pytest.approx(6.0)


def test_the_rate_of_a_stage_is_not_the_next_ones(
    monkeypatch: pytest.MonkeyPatch, store: Watched
) -> None:
    time = stop_the_clock(monkeypatch)
    run = begin(store)
    with run.stage("count", total=100) as stage:
        stage.advance(100)
        time.advance(1.0)
    assert kept(store).progress.rate == 100.0

    with run.stage("import", total=100) as stage:
        assert run.snapshot().progress.rate is None
        stage.advance(2)
        time.advance(1.0)
        assert run.snapshot().progress.rate == 2.0


# -- bad values


@pytest.mark.parametrize("cursor", [object(), {1, 2}, [itself]])
def test_a_cursor_that_cannot_be_kept_is_refused_at_the_first_item(
    store: Watched, cursor: Any
) -> None:
    handled = []
    with (
        pytest.raises(CodecError, match="cursor of stage 'import'"),
        begin(store).stage("import") as stage,
    ):
        for item in stage.iterate(range(10), cursor=lambda _: cursor):
            handled += [item]

    assert handled == [0]


def test_a_cursor_that_grows_too_large_keeps_the_last_good_one(store: Watched) -> None:
    with pytest.raises(LimitError), begin(store, every=2).stage("import") as stage:
        list(stage.iterate(range(10), cursor=lambda n: "x" * (1000 * n)))

    count, cursor = saved(store)
    assert cursor == "x" * 3000
    assert count == 4


def test_a_bad_cursor_behind_an_error_still_saves_what_was_good(
    store: Watched,
) -> None:
    with pytest.raises(CodecError), begin(store, every=2).stage("import") as stage:
        for item in stage.iterate(range(10), cursor=lambda n: n if n < 4 else object()):
            1 / (item - 5)

    assert saved(store) == (4, 3)
    assert not begin_again(store).saved.stage("import").done


def test_an_error_of_the_cursor_function_comes_out(store: Watched) -> None:
    with pytest.raises(AttributeError), begin(store).stage("import") as stage:
        list(stage.iterate(range(10), cursor=attrgetter("id")))

    assert saved(store)[1] is None


# -- what a task may know of its job


def test_a_task_knows_its_job(store: Watched) -> None:
    store.enqueue(new_job(owner="acme"), "enqueue", hint=300)
    begin(store)
    kill(store)

    job = CurrentJob(begin(store))

    assert (job.id, job.owner, job.fence) == (ID, "acme", 2)
    assert (job.attempt, job.recoveries) == (1, 1)
    assert job.item_key(17) == f"{ID}:17"
    assert not job.should_stop()


def test_should_stop_tells_a_loop_that_jobkit_does_not_see(store: Watched) -> None:
    run = begin(store)
    run.lease.tick(draining=True)

    assert CurrentJob(run).should_stop()


def test_should_stop_asks_the_store_at_most_once_a_second(
    store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = stop_the_clock(monkeypatch)
    job = CurrentJob(begin(store))
    store.ask(ID, "cancel", "ann", "wrong shop")

    time.advance(0.9)
    assert not job.should_stop()
    store.down = True
    time.advance(0.1)
    assert [job.should_stop() for _ in range(3)] == [False] * 3
    store.down = False
    time.advance(1)

    assert job.should_stop()
    assert store.renewed == 2


def test_the_same_run_works_on_a_real_server(valkey: ValkeyServer) -> None:
    store = RedisStore(valkey.url)
    job_id = str(uuid.uuid4())
    handled: list[int] = []
    first = begin(store, job_id=job_id)
    assert first.step("count", lambda: len(handled)) == 0
    with pytest.raises(Drained), first.stage("import") as stage:
        for item in stage.iterate(after(range(10)), cursor=itself):
            handled.append(item)
            if item == 5:
                first.lease.tick(draining=True)
    assert store.interrupt(job_id, first.lease.fence, "drain") == "QUEUED"

    second = begin(store, job_id=job_id)
    assert second.step("count", lambda: len(handled)) == 0
    with second.stage("import") as stage:
        handled += stage.iterate(after(range(10)), cursor=itself)
    assert store.succeed(job_id, second.lease.fence, second.final())

    job = kept(store, job_id)
    assert handled == list(range(10))
    assert (job.state, job.progress.percent) == ("SUCCEEDED", 100.0)
    assert (job.attempts, job.interruptions) == (0, 1)
    store.close()


def test_the_time_of_a_stage_is_that_of_all_its_runs(
    monkeypatch: pytest.MonkeyPatch, store: Watched
) -> None:
    time = stop_the_clock(monkeypatch)
    run = begin(store)
    with run.stage("count"):
        time.advance(2.0)
    with pytest.raises(ZeroDivisionError), run.stage("import"):
        time.advance(3.0)
        raise ZeroDivisionError
    time.advance(60.0)  # until somebody goes on with it

    run = begin_again(store)
    with run.stage("count"):
        time.advance(5.0)  # what is done already is not timed again
    with run.stage("import"):
        time.advance(4.5)

    stages = Checkpoint.decode(kept(store).checkpoint).stages
    assert {name: state.seconds for name, state in stages.items()} == {
        "count": 2.0,
        "import": 7.5,
    }
