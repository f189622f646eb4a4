"""How dead letters are given up."""

from jobkit.clock import from_milliseconds
from jobkit.states import State
from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.lives import (
    dead,
    enqueued,
    failure,
    kept,
    last_event,
    running,
    snapshot,
)


def test_a_discarded_job_is_cancelled(store: Store, clock: Clock) -> None:
    dead(store)
    clock.advance(2)
    assert store.discard("job", "ada", "not ours") == ("done", State.CANCELLED)

    job = kept(store)
    assert (job.state, job.reason) == (State.CANCELLED, "not ours")
    assert (job.error, job.checkpoint) == (failure().error, "cursor 5")
    assert job.finished_at == job.updated_at == from_milliseconds(clock.now)
    event = last_event(store)
    assert (event.name, event.detail) == ("discarded", "ada: not ours")


def test_without_a_reason_it_is_discarded(store: Store) -> None:
    dead(store)
    store.discard("job")
    assert kept(store).reason == "discarded"


def test_discarded_twice_it_is_discarded_once(store: Store, clock: Clock) -> None:
    dead(store)
    store.discard("job", "ada", "first")
    before = kept(store)
    clock.advance(1)
    assert store.discard("job", "bob", "second") == ("done", State.CANCELLED)
    assert kept(store) == before


def test_it_is_kept_as_long_as_a_cancelled_job(store: Store, clock: Clock) -> None:
    dead(store)
    clock.advance(29 * 86_400)
    store.discard("job")
    clock.advance(store.retention.cancelled - 1)
    assert store.prune() == 0
    clock.advance(1)
    assert store.prune() == 1


def test_only_a_dead_job_is_discarded(store: Store) -> None:
    enqueued(store)
    assert store.discard("job") == ("refused", State.QUEUED)
    run = running(store, "succeeded")
    store.succeed("succeeded", run.fence, snapshot(1))
    assert store.discard("succeeded") == ("refused", State.SUCCEEDED)
