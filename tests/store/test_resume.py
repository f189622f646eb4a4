"""How a paused job goes on."""

import pytest

from jobkit.clock import from_milliseconds
from jobkit.errors import JobNotFound
from jobkit.states import State
from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.lives import (
    LEASE,
    dead,
    enqueued,
    failure,
    kept,
    last_event,
    names,
    new_job,
    running,
    snapshot,
    started,
)


def test_a_paused_job_is_due_at_once(store: Store, clock: Clock) -> None:
    run = running(store)
    store.save("job", run.fence, 1, snapshot(4), LEASE)
    store.interrupt("job", run.fence, "pause", "lunch")
    clock.advance(2)

    assert store.resume("job", "ada") == ("done", State.QUEUED)
    job = kept(store)
    assert (job.reason, job.checkpoint) == ("", "cursor 4")
    assert job.due_at == job.updated_at == from_milliseconds(clock.now)
    event = last_event(store)
    assert (event.name, event.state, event.detail) == ("resumed", "QUEUED", "ada")
    assert [due.id for due in store.claim_due(10, 60)] == ["job"]
    assert started(store, token="second").position == 4


def test_a_pause_lasts_until_somebody_ends_it(store: Store, clock: Clock) -> None:
    run = running(store)
    store.save("job", run.fence, 1, snapshot(20_000), LEASE)
    store.ask("job", "pause", "ann", "night")
    store.interrupt("job", run.fence, "pause")
    before = kept(store)

    for _ in range(24):
        clock.advance(3_600)
        assert (store.rescue(), store.claim_due(10, 60)) == ([], [])
        assert (store.prune(), store.next_due()) == (0, None)
    assert store.begin("job", "copy", "w2", LEASE).outcome == "paused"
    assert kept(store) == before

    store.resume("job", "ann")
    assert [due.id for due in store.claim_due(10, 60)] == ["job"]
    assert started(store, token="second").checkpoint == before.checkpoint


def test_a_pause_that_was_asked_for_is_taken_back(store: Store, clock: Clock) -> None:
    run = running(store)
    store.ask("job", "pause", "ada", "lunch")
    clock.advance(1)

    assert store.resume("job", "bob") == ("done", State.RUNNING)
    assert kept(store).updated_at == from_milliseconds(clock.now)
    assert store.renew("job", run.fence, LEASE).request is None
    event = last_event(store)
    assert (event.name, event.state, event.detail) == ("resumed", "RUNNING", "bob")


def test_a_cancel_that_was_asked_for_is_not_taken_back(store: Store) -> None:
    running(store)
    store.ask("job", "cancel", "ada", "")
    assert store.resume("job", "bob") == ("done", State.RUNNING)
    assert kept(store).request
    assert "resumed" not in names(store)


def test_resumed_twice_it_goes_on_once(store: Store, clock: Clock) -> None:
    enqueued(store)
    store.ask("job", "pause", "", "")
    store.resume("job")
    before = kept(store)
    clock.advance(1)

    assert store.resume("job") == ("done", State.QUEUED)
    assert kept(store) == before
    assert names(store).count("resumed") == 1


def test_a_job_that_waits_for_its_time_is_not_resumed(store: Store) -> None:
    store.enqueue(new_job("scheduled", delay=60), "token", 300)
    run = running(store, "retrying")
    store.retry("retrying", run.fence, failure(), 60)
    assert store.resume("scheduled") == ("refused", State.SCHEDULED)
    assert store.resume("retrying") == ("refused", State.RETRYING)


def test_a_job_that_has_ended_is_not_resumed(store: Store) -> None:
    dead(store)
    enqueued(store, "cancelled")
    store.ask("cancelled", "cancel", "", "")
    assert store.resume("job") == ("refused", State.DEAD)
    assert store.resume("cancelled") == ("refused", State.CANCELLED)


def test_an_unknown_job_is_an_error(store: Store) -> None:
    with pytest.raises(JobNotFound, match="'nobody'"):
        store.resume("nobody")
