"""How a job becomes a dead letter."""

from jobkit.clock import from_milliseconds
from jobkit.states import State
from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.lives import (
    LEASE,
    dead,
    failure,
    kept,
    last_event,
    names,
    running,
    snapshot,
    started,
)


def test_a_dead_letter_keeps_all_that_is_known(store: Store, clock: Clock) -> None:
    job = dead(store)

    assert (job.state, job.reason) == (State.DEAD, "permanent")
    assert (job.error, job.budgets) == (failure().error, "budgets after no")
    assert (job.attempts, job.rate_limited) == (1, 1)
    assert (job.position, job.checkpoint) == (5, "cursor 5")
    assert job.finished_at == from_milliseconds(clock.now)
    assert (job.due_at, job.lease_until) == (None, None)


def test_its_history_ends_with_reason_and_progress(store: Store) -> None:
    dead(store)
    event = last_event(store)
    assert (event.name, event.state, event.detail) == ("dead", "DEAD", "permanent")
    assert event.progress == snapshot(5).progress


def test_told_again_it_dies_once(store: Store, clock: Clock) -> None:
    job = dead(store)
    clock.advance(1)
    assert store.bury("job", job.fence, failure("other"), "other")
    assert kept(store) == job
    assert names(store).count("dead") == 1


def test_a_job_that_saved_nothing_dies_without_progress(store: Store) -> None:
    run = running(store)
    assert store.bury("job", run.fence, failure(attempt=False), "permanent")
    assert kept(store).attempts == 0
    assert last_event(store).progress is None


def test_a_stale_owner_does_not_bury(store: Store) -> None:
    stale = running(store)
    store.interrupt("job", stale.fence, "drain")
    run = started(store, token="second")

    assert not store.bury("job", stale.fence, failure(), "permanent")
    assert store.renew("job", run.fence, LEASE).owner


def test_an_earlier_owner_of_a_dead_job_is_stale(store: Store) -> None:
    stale = running(store)
    store.interrupt("job", stale.fence, "drain")
    run = started(store, token="second")
    store.bury("job", run.fence, failure(), "permanent")
    assert not store.bury("job", stale.fence, failure(), "permanent")
