"""How long finished records stay."""

from dataclasses import replace

import pytest

from jobkit.job import FailedItem, NewJob
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import Retention
from tests.store.clocks import Clock
from tests.store.conftest import StoreFactory
from tests.store.lives import (
    LEASE,
    dead,
    enqueued,
    failure,
    kept,
    message,
    names,
    new_job,
    running,
    snapshot,
    started,
)

RETENTION = Retention(succeeded=10, partial=20, cancelled=30, dead=40)


@pytest.fixture
def store(make_store: StoreFactory) -> Store:
    return make_store(RETENTION)


def succeeded(store: Store, job_id: str) -> None:
    run = running(store, job_id)
    store.succeed(job_id, run.fence, snapshot(1))


def test_each_ending_has_its_own_retention(store: Store, clock: Clock) -> None:
    succeeded(store, "succeeded")
    enqueued(store, "cancelled")
    store.ask("cancelled", "cancel", "", "")
    dead(store, "dead")

    for seconds, gone in ((10, "succeeded"), (20, "cancelled"), (10, "dead")):
        clock.advance(seconds - 0.001)
        assert store.prune() == 0
        assert store.get(gone)
        clock.advance(0.001)
        assert store.prune() == 1
        assert store.get(gone) is None


def test_nothing_is_left_of_a_pruned_job(store: Store, clock: Clock) -> None:
    run = running(store)
    store.save("job", run.fence, 1, snapshot(1), 30)
    store.succeed("job", run.fence, snapshot(2))
    clock.advance(10)
    store.prune()

    assert store.history("job") == []
    assert store.list().items == ()
    assert store.list(state=State.SUCCEEDED).items == ()
    assert sum(store.counts().values()) == 0


def test_its_id_is_free_again(store: Store, clock: Clock) -> None:
    succeeded(store, "job")
    clock.advance(10)
    store.prune()

    assert store.enqueue(new_job(), "other", 300)
    assert (kept(store).fence, kept(store).starts) == (0, 0)
    assert names(store) == ["queued"]


def test_jobs_that_have_not_ended_stay(store: Store, clock: Clock) -> None:
    enqueued(store, "queued")
    running(store, "running")
    enqueued(store, "paused")
    store.ask("paused", "pause", "", "")
    run = running(store, "retrying")
    store.retry("retrying", run.fence, failure(), 5)
    clock.advance(10**6)

    assert store.prune() == 0
    assert sum(store.counts().values()) == 4


def test_all_are_pruned_a_few_at_a_time(store: Store, clock: Clock) -> None:
    for number in range(9):
        succeeded(store, f"job {number}")
    clock.advance(10)

    total = 0
    while count := store.prune(limit=2):
        total += count
    assert total == 9


DAY = 86_400


def replayed(store: Store) -> str:
    """A job over the failed items of ``job``, which has ended."""
    run = running(store)
    failed = FailedItem("import", "a", "ValueError", "no")
    store.save("job", run.fence, 1, replace(snapshot(5), failed=(failed,)), LEASE)
    assert store.succeed("job", run.fence, snapshot(6)) is State.PARTIAL
    text = message().encode()
    child = NewJob(store.partner("job"), "shop.sync", text, replay_of="job")
    assert store.replay_items(child, "where it begins") == ("done", child.id)
    return child.id


@pytest.mark.parametrize("begun", [False, True])
def test_failed_items_stay_as_long_as_a_job_may_go_over_them(
    store: Store, clock: Clock, *, begun: bool
) -> None:
    child = replayed(store)
    if begun:
        started(store, child)
    for seconds in (20, DAY, DAY + 1):
        clock.advance(seconds)
        assert store.prune() == 0
        assert [row.key for row in store.failures("job").items] == ["a"]


def test_failed_items_stay_for_a_job_over_them_that_is_dead(
    make_store: StoreFactory, clock: Clock
) -> None:
    store = make_store(Retention(partial=20, dead=3 * DAY))
    child = replayed(store)
    store.bury(child, started(store, child).fence, failure(), "permanent")
    clock.advance(2 * DAY)
    assert store.prune() == 0

    store.replay(child, "resume")

    started(store, child, "second")
    assert [row.key for row in store.failures("job").items] == ["a"]


def test_failed_items_go_a_day_after_the_job_over_them_has_ended(
    store: Store, clock: Clock
) -> None:
    child = replayed(store)
    clock.advance(20)
    assert store.prune() == 0
    run = started(store, child)
    assert store.succeed(child, run.fence, snapshot(1)) is State.SUCCEEDED
    clock.advance(10)
    assert store.prune() == 1
    assert store.get(child) is None

    clock.advance(DAY - 10.001)
    assert store.prune() == 0
    clock.advance(0.001)
    assert store.prune() == 1
    assert store.get("job") is None
