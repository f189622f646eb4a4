"""How a run that met an error waits for its next start."""

import pytest

from jobkit.clock import from_milliseconds
from jobkit.job import RequestKind
from jobkit.states import State
from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.lives import (
    failure,
    kept,
    last_event,
    message,
    names,
    running,
    started,
)


def test_a_failed_run_waits_for_the_delay(store: Store, clock: Clock) -> None:
    run = running(store)
    assert store.retry("job", run.fence, failure(), 2.5) is State.RETRYING

    job = kept(store)
    assert job.due_at == from_milliseconds(clock.now + 2_500)
    assert (job.lease_until, job.finished_at) == (None, None)
    assert (job.error, job.budgets) == (failure().error, "budgets after no")
    assert last_event(store).name == "retrying"


@pytest.mark.parametrize("attempt", [True, False])
@pytest.mark.parametrize("rate_limited", [True, False])
def test_it_costs_what_the_failure_says(
    store: Store, attempt: bool, rate_limited: bool
) -> None:
    run = running(store)
    cost = failure(attempt=attempt, rate_limited=rate_limited)
    store.retry("job", run.fence, cost, 1)
    assert (kept(store).attempts, kept(store).rate_limited) == (attempt, rate_limited)


def test_told_again_it_costs_once(store: Store, clock: Clock) -> None:
    run = running(store)
    store.retry("job", run.fence, failure(), 5)
    before = kept(store)
    clock.advance(1)

    assert store.retry("job", run.fence, failure(), 5) is State.RETRYING
    assert kept(store) == before
    assert names(store).count("retrying") == 1


def test_costs_add_up_over_runs(store: Store, clock: Clock) -> None:
    run = running(store)
    for token in ("second", "third"):
        store.retry("job", run.fence, failure(token), 5)
        clock.advance(6)
        store.claim_due(10, 60)
        run = started(store, token=token)
    job = kept(store)
    assert (job.attempts, job.starts, job.budgets) == (2, 3, "budgets after third")


def test_another_message_may_be_published_next_time(store: Store) -> None:
    run = running(store)
    store.retry("job", run.fence, failure(), 0, message("shop.changed").encode())
    assert kept(store).message == message("shop.changed")


@pytest.mark.parametrize(
    ("kind", "state", "name"),
    [("cancel", State.CANCELLED, "cancelled"), ("pause", State.PAUSED, "paused")],
)
def test_what_was_asked_for_is_done_instead(
    store: Store, kind: RequestKind, state: State, name: str
) -> None:
    run = running(store)
    store.ask("job", kind, "ada", "enough")
    assert store.retry("job", run.fence, failure(), 5) is state

    job = kept(store)
    assert (job.state, job.reason, job.request, job.due_at) == (
        state,
        "enough",
        None,
        None,
    )
    assert (job.attempts, job.error) == (1, failure().error)
    assert (last_event(store).name, last_event(store).detail) == (name, "ada: enough")


@pytest.mark.parametrize(
    ("kind", "state"), [("cancel", State.CANCELLED), ("pause", State.PAUSED)]
)
def test_told_again_what_was_asked_for_is_done_once(
    store: Store, clock: Clock, kind: RequestKind, state: State
) -> None:
    run = running(store)
    store.ask("job", kind, "ada", "enough")
    store.retry("job", run.fence, failure(), 5)
    before, history = kept(store), names(store)
    clock.advance(1)

    assert store.retry("job", run.fence, failure(), 5) is state
    assert kept(store) == before
    assert names(store) == history
    assert store.retry("job", run.fence - 1, failure(), 5) is None


def test_a_stale_owner_does_not_make_it_wait(store: Store) -> None:
    run = running(store)
    store.interrupt("job", run.fence, "drain")
    started(store, token="second")
    before = kept(store)

    assert store.retry("job", run.fence, failure(), 5) is None
    assert kept(store) == before
