"""How a run stops that did not fail."""

import pytest

from jobkit.clock import from_milliseconds
from jobkit.job import RequestKind
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import REQUEUED_FOR, InterruptKind
from tests.store.clocks import Clock
from tests.store.lives import (
    LEASE,
    kept,
    last_event,
    names,
    running,
    snapshot,
    started,
)


@pytest.mark.parametrize("kind", ["drain", "slice"])
def test_a_drained_job_is_due_at_once(
    store: Store, clock: Clock, kind: InterruptKind
) -> None:
    run = running(store)
    clock.advance(2)
    assert store.interrupt("job", run.fence, kind) is State.QUEUED

    job = kept(store)
    assert job.due_at == job.updated_at == from_milliseconds(clock.now)
    assert (job.attempts, job.interruptions, job.recoveries) == (0, 1, 0)
    assert job.lease_until is None
    event = last_event(store)
    assert (event.name, event.state, event.detail) == ("interrupted", "QUEUED", kind)


def test_one_that_was_put_back_at_the_broker_waits_for_that(
    store: Store, clock: Clock
) -> None:
    run = running(store)
    assert store.interrupt("job", run.fence, "requeue") is State.QUEUED
    clock.advance(REQUEUED_FOR - 0.001)
    assert store.claim_due(10, 60) == []
    clock.advance(0.001)
    assert [due.id for due in store.claim_due(10, 60)] == ["job"]


def test_the_history_says_why_it_was_interrupted(store: Store) -> None:
    run = running(store)
    store.interrupt("job", run.fence, "requeue", "time slice")
    assert last_event(store).detail == "time slice"


def test_a_paused_run_waits_for_a_person(store: Store) -> None:
    run = running(store)
    assert store.interrupt("job", run.fence, "pause", "incompatible") is State.PAUSED

    job = kept(store)
    assert (job.reason, job.interruptions) == ("incompatible", 1)
    assert (job.due_at, job.lease_until, job.finished_at) == (None, None, None)
    event = last_event(store)
    assert (event.name, event.state, event.detail) == (
        "paused",
        State.PAUSED,
        "incompatible",
    )


def test_a_cancelled_run_has_ended(store: Store, clock: Clock) -> None:
    run = running(store)
    store.save("job", run.fence, 1, snapshot(3), LEASE)
    assert store.interrupt("job", run.fence, "cancel", "wrong") is State.CANCELLED

    job = kept(store)
    assert (job.reason, job.interruptions) == ("wrong", 0)
    assert job.finished_at == from_milliseconds(clock.now)
    event = last_event(store)
    assert (event.name, event.state, event.detail) == (
        "cancelled",
        State.CANCELLED,
        "wrong",
    )
    assert event.progress == snapshot(3).progress


@pytest.mark.parametrize(
    ("kind", "state"), [("cancel", State.CANCELLED), ("pause", State.PAUSED)]
)
def test_without_a_reason_the_one_of_the_request_counts(
    store: Store, kind: RequestKind, state: State
) -> None:
    run = running(store)
    store.ask("job", kind, "ada", "wrong\nshop")
    assert store.interrupt("job", run.fence, kind) is state

    assert (kept(store).reason, kept(store).request) == ("wrong\nshop", None)
    assert last_event(store).detail == "ada: wrong\nshop"


def test_a_reason_of_its_own_counts_more(store: Store) -> None:
    run = running(store)
    store.ask("job", "cancel", "ada", "wrong shop")
    store.interrupt("job", run.fence, "cancel", "undone")
    assert kept(store).reason == "undone"


@pytest.mark.parametrize("kind", ["drain", "requeue"])
@pytest.mark.parametrize(
    ("asked", "state"), [("cancel", State.CANCELLED), ("pause", State.PAUSED)]
)
def test_what_was_asked_for_is_done_instead_of_a_drain(
    store: Store, kind: InterruptKind, asked: RequestKind, state: State
) -> None:
    run = running(store)
    store.ask("job", asked, "ada", "enough")
    assert store.interrupt("job", run.fence, kind) is state
    assert (kept(store).reason, kept(store).interruptions) == ("enough", 1)


def test_a_pause_that_was_taken_back_does_not_pause(store: Store, clock: Clock) -> None:
    run = running(store)
    store.ask("job", "pause", "ada", "lunch")
    store.resume("job", "ada")
    clock.advance(1)
    assert store.interrupt("job", run.fence, "pause") is State.QUEUED

    job = kept(store)
    assert job.due_at == from_milliseconds(clock.now)
    assert (job.reason, job.interruptions) == ("", 1)
    assert (last_event(store).name, last_event(store).detail) == (
        "interrupted",
        "pause",
    )


def test_a_cancel_without_a_reason_needs_no_request(store: Store) -> None:
    run = running(store)
    assert store.interrupt("job", run.fence, "cancel") is State.CANCELLED


@pytest.mark.parametrize("reason", ["", "incompatible"])
def test_a_pause_does_not_lose_a_cancel(store: Store, reason: str) -> None:
    run = running(store)
    store.ask("job", "cancel", "ada", "enough")
    assert store.interrupt("job", run.fence, "pause", reason) is State.CANCELLED
    assert kept(store).reason == "enough"


def test_a_cancel_does_not_become_the_pause_that_was_asked_for(store: Store) -> None:
    run = running(store)
    store.ask("job", "pause", "ada", "lunch")
    assert store.interrupt("job", run.fence, "cancel") is State.CANCELLED
    assert (kept(store).reason, kept(store).request) == ("", None)


@pytest.mark.parametrize("reason", ["", "why"])
@pytest.mark.parametrize("kind", ["drain", "requeue", "pause", "cancel"])
def test_told_again_it_stops_once(
    store: Store, clock: Clock, kind: InterruptKind, reason: str
) -> None:
    run = running(store)
    state = store.interrupt("job", run.fence, kind, reason)
    before, history = kept(store), names(store)
    clock.advance(1)

    assert store.interrupt("job", run.fence, kind, reason) is state
    assert kept(store) == before
    assert names(store) == history


@pytest.mark.parametrize("kind", ["drain", "requeue", "pause", "cancel"])
def test_a_stale_owner_stops_nothing(store: Store, kind: InterruptKind) -> None:
    stale = running(store)
    store.interrupt("job", stale.fence, "drain")
    started(store, token="second")
    before = kept(store)

    assert store.interrupt("job", stale.fence, kind) is None
    assert kept(store) == before


def test_an_unknown_job_has_no_owner(store: Store) -> None:
    assert store.interrupt("nobody", 1, "drain") is None
