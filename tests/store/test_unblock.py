"""How a job is let go that waited for a limit."""

from dataclasses import replace

import pytest

from jobkit.clock import from_milliseconds
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import BLOCKED_FOR
from tests.store.clocks import Clock
from tests.store.lives import HINT, enqueued, kept, last_event, names, new_job, running


def blocked(store: Store) -> None:
    assert store.enqueue(replace(new_job(), blocked=True), "token", HINT)


def test_it_is_published_by_the_caller_or_else_after_the_grace(
    store: Store, clock: Clock
) -> None:
    blocked(store)
    assert kept(store).state is State.BLOCKED
    state, due = store.unblock("job", 10)
    assert state is State.QUEUED
    assert due
    assert (due.id, due.message, due.hints, due.fence) == (
        "job",
        new_job().message,
        0,
        0,
    )
    assert store.claim_due(10, 10) == []
    clock.advance(10)
    assert [job.id for job in store.claim_due(10, 10)] == ["job"]
    assert names(store) == ["blocked", "queued"]


def test_a_run_that_was_only_judged_is_no_start(store: Store, clock: Clock) -> None:
    run = running(store)
    assert store.interrupt("job", run.fence, "block", "shop:a") is State.BLOCKED
    job = kept(store)
    assert (job.starts, job.started_at, job.interruptions, job.attempts) == (
        0,
        None,
        0,
        0,
    )
    assert job.due_at == from_milliseconds(clock.now + 1000 * int(BLOCKED_FOR))
    assert last_event(store).detail == "shop:a"
    assert store.interrupt("job", run.fence, "block", "shop:a") is State.BLOCKED
    assert kept(store) == job


def test_a_job_that_nobody_lets_go_is_judged_anew_one_day(
    store: Store, clock: Clock
) -> None:
    blocked(store)
    clock.advance(BLOCKED_FOR)
    assert [job.id for job in store.claim_due(10, 10)] == ["job"]


@pytest.mark.parametrize("kind", ["cancel", "pause"])
def test_what_was_asked_meanwhile_is_carried_out(store: Store, kind: str) -> None:
    run = running(store)
    store.ask("job", kind, "ada", "")  # type: ignore[arg-type]
    ended = State.CANCELLED if kind == "cancel" else State.PAUSED
    assert store.interrupt("job", run.fence, "block") is ended
    assert kept(store).starts == 0


def test_of_others_it_only_tells_the_state(store: Store) -> None:
    assert store.unblock("job", 10) == (None, None)
    enqueued(store)
    before = kept(store)
    assert store.unblock("job", 10) == (State.QUEUED, None)
    assert kept(store) == before
