"""Items that fail are filed, and the others go on; up to a limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from jobkit.checkpoint import Checkpoint
from jobkit.errors import (
    DependencyDown,
    Drained,
    Permanent,
    RateLimited,
    SettingsError,
    SkipItem,
    StageError,
    TooManyFailures,
    Transient,
)
from jobkit.run import CurrentJob, Run
from jobkit.skip import Skipping, SkipPolicy
from jobkit.store.values import Failure
from tests.unit.runs import (
    CRASH,
    ID,
    Watched,
    begin,
    kept,
    kill,
    new_job,
    stop_the_clock,
)

ITEMS = range(1, 21)


@pytest.fixture
def store() -> Watched:
    return Watched()


class Leaving(Exception):  # noqa: N818 - the task's own way out
    """What a task raises to end in a way of its own."""


def policy(**arguments: Any) -> Skipping:
    arguments = {"item_base": 0, **arguments}
    return Skipping(SkipPolicy(**arguments), passing=(Leaving,))


def handle(
    run: Run, handler: Callable[[int], object], items: Any = ITEMS, **options: Any
) -> None:
    options.setdefault("cursor", int)
    with run.stage("import") as stage:
        stage.each(items, handler, **options)


def fails(*bad: int, error: type[Exception] = ValueError) -> Callable[[int], None]:
    def handler(item: int) -> None:
        if item in bad:
            raise error(f"no {item}")

    return handler


def keys(store: Watched) -> list[str]:
    return [row.key for row in store.failures(ID, limit=1_000).items]


def test_a_bad_item_is_filed_and_the_others_go_on(store: Watched) -> None:
    done: list[int] = []

    def handler(item: int) -> None:
        fails(3, 17)(item)
        done.append(item)

    run = begin(store, skipping=policy())
    handle(run, handler)

    assert done == [item for item in ITEMS if item not in (3, 17)]
    row, _ = store.failures(ID).items
    assert (row.stage, row.key, row.item, row.attempts) == ("import", "3", 3, 1)
    assert (row.error, row.message) == ("ValueError", "no 3")
    seen = run.progress
    assert (seen.current, seen.ok, seen.failed, seen.skipped) == (20, 18, 2, 0)
    assert store.succeed(ID, run.job.fence, run.final()) == "PARTIAL"


def test_a_skipped_item_is_no_failure(store: Watched) -> None:
    run = begin(store, skipping=policy())
    handle(run, fails(3, 4, error=SkipItem))
    assert (run.progress.ok, run.progress.failed, run.progress.skipped) == (18, 0, 2)
    assert keys(store) == []


def test_a_transient_error_is_tried_again(store: Watched) -> None:
    tries: list[int] = []

    def handler(item: int) -> None:
        tries.append(item)
        if item == 5 and tries.count(5) <= 2:
            raise ConnectionError

    run = begin(store, skipping=policy(item_retries=2))
    handle(run, handler)
    assert (tries.count(5), run.progress.failed, keys(store)) == (3, 0, [])


def test_tried_often_enough_it_is_filed_with_its_attempts(store: Watched) -> None:
    run = begin(store, skipping=policy(item_retries=2))
    handle(run, fails(5, error=Transient))
    (row,) = store.failures(ID).items
    assert (row.key, row.attempts) == ("5", 3)


@pytest.mark.parametrize("error", [ValueError, Permanent, KeyError])
def test_other_errors_are_final_for_their_item(
    store: Watched, error: type[Exception]
) -> None:
    run = begin(store, skipping=policy())
    handle(run, fails(5, error=error))
    (row,) = store.failures(ID).items
    assert (row.attempts, row.error) == (1, error.__name__)


@pytest.mark.parametrize(
    "error", [RateLimited, SoftTimeLimitExceeded, MemoryError, StageError, Leaving]
)
def test_what_is_not_the_items_own_is_the_jobs(
    store: Watched, error: type[Exception]
) -> None:
    run = begin(store, skipping=policy())
    with pytest.raises(error):
        handle(run, fails(5, error=error))
    assert (run.saved.stage("import").current, keys(store)) == (4, [])


def test_one_too_many_stops_the_stage_behind_it(store: Watched) -> None:
    done: list[int] = []

    def handler(item: int) -> None:
        done.append(item)
        fails(*range(1, 20, 2))(item)

    run = begin(store, skipping=policy(max_failures=4))
    with pytest.raises(TooManyFailures, match="5 of 9 items of stage 'import'"):
        handle(run, handler)

    assert done == list(range(1, 10))
    assert keys(store) == ["1", "3", "5", "7", "9"]
    state = run.saved.stage("import")
    assert (state.current, state.ok, state.failed) == (9, 4, 5)


def test_a_replay_has_a_fresh_allowance(store: Watched) -> None:
    run = begin(store, skipping=policy(max_failures=2))
    with pytest.raises(TooManyFailures):
        handle(run, fails(3, 4, 5, 8, 9))
    store.bury(ID, run.job.fence, Failure(CRASH), "too_many_failures")
    store.replay(ID, "resume")

    run = begin(store, skipping=policy(max_failures=2))
    handle(run, fails(3, 4, 5, 8, 9))

    assert keys(store) == ["3", "4", "5", "8", "9"]
    assert (run.progress.ok, run.progress.failed) == (15, 5)


def test_a_rate_is_looked_at_once_enough_was_seen(store: Watched) -> None:
    run = begin(store, skipping=policy(max_rate=0.2, min_seen=10))
    with pytest.raises(TooManyFailures, match="at most 20"):
        handle(run, fails(1, 2, 3, 15))
    assert run.saved.stage("import").current == 10


def test_many_in_a_row_mean_that_something_is_down(store: Watched) -> None:
    run = begin(store, skipping=policy(max_consecutive=4))
    with pytest.raises(DependencyDown, match="4 items of stage 'import'"):
        handle(run, fails(1, 3, 5, 7, 8, 9, 10, 11))
    assert run.saved.stage("import").current == 10

    kill(store)
    done: list[int] = []

    def handler(item: int) -> None:
        done.append(item)
        fails(11)(item)

    with pytest.raises(DependencyDown, match="5 items"):
        handle(begin(store, skipping=policy(max_consecutive=4)), handler)
    assert done == [11]

    kill(store)
    handle(begin(store, skipping=policy(max_consecutive=4)), fails())
    assert kept(store).open_failures == 8


def test_when_all_have_failed_it_is_no_success(store: Watched) -> None:
    run = begin(store, skipping=policy())
    with pytest.raises(TooManyFailures, match="All 20 items"):
        handle(run, fails(*ITEMS))


def test_no_item_at_all_is_no_failure(store: Watched) -> None:
    run = begin(store, skipping=policy())
    handle(run, fails(), items=())
    assert run.saved.stage("import").done


def test_a_kill_neither_loses_a_row_nor_doubles_one(store: Watched) -> None:
    run = begin(store, skipping=policy(), every=4)

    def dies(item: int) -> None:
        if item == 11:
            raise Leaving
        fails(2, 6, 9, 10)(item)

    with pytest.raises(Leaving):
        handle(run, dies)
    kill(store)
    run = begin(store, skipping=policy(), every=4)
    handle(run, fails(2, 6, 9, 10, 12))

    assert keys(store) == ["2", "6", "9", "10", "12"]
    seen = run.progress
    assert (seen.current, seen.ok, seen.failed) == (20, 15, 5)


def test_rows_that_an_outage_kept_back_come_with_the_next_save(store: Watched) -> None:
    run = begin(store, skipping=policy(), every=1)

    def handler(item: int) -> None:
        store.down = 3 <= item <= 6
        fails(4, 5)(item)

    handle(run, handler)
    assert keys(store) == ["4", "5"]
    assert run.failed == []


def test_a_wait_for_an_item_ends_with_the_run(
    store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = stop_the_clock(monkeypatch)
    run = begin(store, skipping=policy(item_base=60), seconds=1e6)

    def sleep(seconds: float) -> None:
        time.advance(seconds)
        run.lease.tick(draining=time.now > 1_010)

    monkeypatch.setattr("jobkit.items.time.sleep", sleep)
    with pytest.raises(Drained):
        handle(run, fails(5, error=ConnectionError))
    assert kept(store).progress.current == 4
    assert time.now < 1_011


def test_keys_of_names_that_are_no_text_stay_two(store: Watched) -> None:
    run = begin(store, skipping=policy())
    names = ["caf\udce9.csv", "caf\udcea.csv", "caf?.csv"]

    def handler(item: Any) -> None:
        raise ValueError(item)

    with pytest.raises(TooManyFailures):
        handle(run, handler, items=names, key=str, cursor=names.index)
    found = keys(store)
    assert len(found) == 3
    assert sorted(key[:8] for key in found) == ["caf?.csv"] * 3


def test_a_key_names_the_item(store: Watched) -> None:
    run = begin(store, skipping=policy())
    handle(run, fails(3, 4), key=lambda item: "order\ud800" + "x" * 300 + str(item))
    one, other = keys(store)
    assert one != other
    assert one.startswith("order?xxx")
    assert (len(one), len(other)) == (200, 200)


def test_an_item_that_cannot_be_kept_is_named_all_the_same(store: Watched) -> None:
    class Order:
        number = 7

        def __init__(self, number: int) -> None:
            self.number = number

    def handler(order: Order) -> None:
        fails(1)(order.number)

    run = begin(store, skipping=policy())
    orders: Any = [Order(1), Order(2)]
    handle(run, handler, items=orders, cursor=lambda order: order.number)  # type: ignore[arg-type]
    (row,) = store.failures(ID).items
    assert (row.key, row.item) == ("1", None)


def test_of_two_items_with_one_key_the_ledger_has_the_later(store: Watched) -> None:
    run = begin(store, skipping=policy())
    handle(run, fails(3, 4, 9), key=lambda item: item // 2 * 2)

    assert [(row.key, row.item) for row in store.failures(ID).items] == [
        ("2", 3),
        ("4", 4),
        ("8", 9),
    ]
    run = begin(store, job_id="third", skipping=policy())
    handle(run, fails(8, 9), key=lambda _: "same")
    (row,) = store.failures("third").items
    assert (row.item, row.message) == (9, "no 9")
    seen = run.progress
    assert (seen.current, seen.ok, seen.failed) == (20, 18, 2)
    assert kept(store, "third").open_failures == 1


def test_what_a_handler_returns_is_not_kept(store: Watched) -> None:
    run = begin(store, skipping=policy())
    handle(run, lambda _: object())
    assert (run.progress.ok, keys(store)) == (20, [])


@pytest.mark.parametrize("items", [["x" * 5_000, "y"], [{1, 2}, "y"]])
def test_an_item_that_cannot_be_kept_is_named_and_stays_open_when_replayed(
    store: Watched, items: Any
) -> None:
    def handler(item: Any) -> None:
        if item != "y":
            raise ValueError("no good")

    run = begin(store, skipping=policy())
    handle(run, handler, items=items, key=len, cursor=len)
    store.succeed(ID, run.job.fence, run.final())
    place = Checkpoint.decode(kept(store).checkpoint).over_failures().encode()
    store.replay_items(replace(new_job("child"), replay_of=ID), place)
    done: list[Any] = []
    run = begin(store, job_id="child", skipping=policy())
    with pytest.raises(TooManyFailures):
        handle(run, done.append)

    (row,) = store.failures("child").items
    assert row.message == "The item was too large to be kept, or of another type."
    assert (done, kept(store).open_failures, kept(store).state) == ([], 1, "PARTIAL")


def test_failed_items_that_are_gone_are_not_taken_for_handled(store: Watched) -> None:
    run = begin(store, skipping=policy())
    handle(run, fails(3))
    store.succeed(ID, run.job.fence, run.final())
    place = Checkpoint.decode(kept(store).checkpoint).over_failures().encode()
    store.replay_items(replace(new_job("child"), replay_of=ID), place)
    del store._jobs[ID]
    run = begin(store, job_id="child", skipping=policy())

    with pytest.raises(Permanent, match="'job' cannot be replayed: its record is not"):
        handle(run, fails())


def test_more_failures_than_the_ledger_holds_are_all_counted(
    store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobkit.store.memory_records.LEDGER_KEPT", 5)
    run = begin(store, skipping=policy())
    handle(run, fails(*range(1, 10)))
    assert len(keys(store)) == 5
    assert (run.progress.ok, run.progress.failed) == (11, 9)
    assert store.succeed(ID, run.job.fence, run.final()) == "PARTIAL"


def test_a_key_that_fails_is_an_error_of_the_job(store: Watched) -> None:
    run = begin(store, skipping=policy())
    with pytest.raises(ZeroDivisionError):
        handle(run, fails(4), key=lambda item: 1 / (item - 4))
    assert (kept(store).progress.current, keys(store)) == (3, [])


def test_a_task_sees_its_failures(store: Watched) -> None:
    run = begin(store, skipping=policy())
    with run.stage("import") as stage:
        stage.each(ITEMS, fails(3, 8), cursor=int)
        assert [row.item for row in stage.failures()] == [3, 8]


def test_an_item_that_a_replay_skips_is_resolved(store: Watched) -> None:
    run = begin(store, skipping=policy())
    handle(run, fails(3, 4))
    store.succeed(ID, run.job.fence, run.final())
    place = Checkpoint.decode(kept(store).checkpoint).over_failures().encode()
    store.replay_items(replace(new_job("child"), replay_of=ID), place)

    done: list[int] = []

    def handler(item: int) -> None:
        done.append(item)
        fails(4, error=SkipItem)(item)

    run = begin(store, job_id="child", skipping=policy())
    handle(run, handler)

    assert done == [3, 4]
    assert (run.progress.ok, run.progress.skipped) == (1, 1)
    assert (kept(store).state, kept(store).open_failures) == ("SUCCEEDED", 0)


def test_an_item_has_the_key_of_the_first_job_in_replays_of_replays(
    store: Watched,
) -> None:
    keys: list[str] = []
    family = [(ID, [3, 4]), ("child", [4]), ("grandchild", [])]
    for (job_id, bad), (parent, _) in zip(family, [("", []), *family], strict=False):
        if parent:
            place = Checkpoint.decode(kept(store, parent).checkpoint).over_failures()
            new = replace(new_job(job_id), replay_of=parent)
            store.replay_items(new, place.encode())
        run = begin(store, job_id=job_id, skipping=policy())

        def handler(item: int, run: Run = run, bad: list[int] = bad) -> None:
            keys.append(CurrentJob(run).item_key(item))
            fails(*bad)(item)

        handle(run, handler)
        store.succeed(job_id, run.job.fence, run.final())

    assert keys == [f"{ID}:{item}" for item in [*ITEMS, 3, 4, 4]]
    assert {kept(store, job_id).state for job_id, _ in family} == {"SUCCEEDED"}


def test_a_finished_stage_is_not_gone_through_again(store: Watched) -> None:
    handle(begin(store, skipping=policy()), fails(3))
    kill(store)
    done: list[int] = []
    handle(begin(store, skipping=policy()), done.append)
    assert (done, keys(store)) == ([], ["3"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_failures": -1},
        {"max_failures": 1.5},
        {"max_rate": 1.1},
        {"min_seen": None},
        {"item_retries": "3"},
        {"item_base": -1},
        {"max_items": 3},
    ],
)
def test_a_wrong_policy_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="skip policy"):
        SkipPolicy.of(wrong)


def test_a_policy_may_be_a_dict() -> None:
    assert SkipPolicy.of({"max_failures": None}) == SkipPolicy(max_failures=None)
    assert SkipPolicy.of(None) == SkipPolicy()
