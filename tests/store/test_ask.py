"""How jobs are cancelled and paused from outside."""

from collections.abc import Callable

import pytest

from jobkit.clock import from_milliseconds
from jobkit.codec import TEXT_LIMIT
from jobkit.errors import JobNotFound, SchemaError
from jobkit.job import RequestKind, StopRequest
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import RESENT
from tests.store.clocks import Clock
from tests.store.lives import (
    HINT,
    LEASE,
    dead,
    enqueued,
    failure,
    kept,
    last_event,
    names,
    new_job,
    rewrite,
    running,
    snapshot,
)


def scheduled(store: Store) -> None:
    store.enqueue(new_job(delay=60), "token", HINT)


def retrying(store: Store) -> None:
    run = running(store)
    store.retry("job", run.fence, failure(), 60)


def paused(store: Store) -> None:
    enqueued(store)
    store.ask("job", "pause", "bob", "before")


WAITING = [scheduled, enqueued, retrying]


@pytest.mark.parametrize("bring", [*WAITING, paused])
def test_a_waiting_job_is_cancelled_at_once(
    store: Store, clock: Clock, bring: Callable[[Store], object]
) -> None:
    bring(store)
    clock.advance(1)
    assert store.ask("job", "cancel", "ada", "no need") == ("done", State.CANCELLED)

    job = kept(store)
    assert (job.state, job.reason, job.due_at) == (State.CANCELLED, "no need", None)
    assert job.finished_at == job.updated_at == from_milliseconds(clock.now)
    event = last_event(store)
    assert (event.name, event.detail) == ("cancelled", "ada: no need")


@pytest.mark.parametrize("bring", WAITING)
def test_a_waiting_job_is_paused_at_once(
    store: Store, clock: Clock, bring: Callable[[Store], object]
) -> None:
    bring(store)
    clock.advance(1)
    assert store.ask("job", "pause", "ada", "lunch") == ("done", State.PAUSED)

    job = kept(store)
    assert (job.state, job.reason, job.due_at) == (State.PAUSED, "lunch", None)
    assert (job.finished_at, job.interruptions) == (None, 0)
    assert (last_event(store).name, last_event(store).detail) == (
        "paused",
        "ada: lunch",
    )


@pytest.mark.parametrize("kind", ["cancel", "pause"])
def test_a_running_jobs_owner_is_asked(
    store: Store, clock: Clock, kind: RequestKind
) -> None:
    run = running(store)
    clock.advance(1)
    assert store.ask("job", kind, "ada", "why not") == ("asked", State.RUNNING)

    job = kept(store)
    assert (job.state, job.reason) == (State.RUNNING, "")
    assert job.request == StopRequest(kind, "ada", "why not")
    assert job.updated_at == from_milliseconds(clock.now)
    event = last_event(store)
    assert (event.name, event.detail) == ("asked", f"{kind} by ada: why not")
    assert store.renew("job", run.fence, LEASE).request == job.request


@pytest.mark.parametrize("kind", ["cancel", "pause"])
def test_asked_again_the_first_request_stays(
    store: Store, clock: Clock, kind: RequestKind
) -> None:
    running(store)
    store.ask("job", kind, "ada", "first")
    before = kept(store)
    clock.advance(1)

    assert store.ask("job", kind, "bob", "second") == ("asked", State.RUNNING)
    assert kept(store) == before
    assert names(store).count("asked") == 1


def test_a_cancel_takes_the_place_of_a_pause(store: Store) -> None:
    running(store)
    store.ask("job", "pause", "ada", "lunch")
    store.ask("job", "cancel", "bob", "no need")
    assert kept(store).request == StopRequest("cancel", "bob", "no need")


def test_a_pause_does_not_take_the_place_of_a_cancel(store: Store) -> None:
    running(store)
    store.ask("job", "cancel", "bob", "no need")
    assert store.ask("job", "pause", "ada", "lunch") == ("asked", State.RUNNING)
    assert kept(store).request == StopRequest("cancel", "bob", "no need")


def test_a_request_does_not_outlive_its_run(store: Store) -> None:
    run = running(store)
    store.ask("job", "pause", "ada", "lunch")
    store.interrupt("job", run.fence, "pause")
    store.resume("job")
    start = store.begin("job", "second", "w2", LEASE)
    assert start.job
    assert store.renew("job", start.job.fence, LEASE).request is None


@pytest.mark.parametrize(
    ("kind", "answer"),
    [("cancel", ("refused", State.CANCELLED)), ("pause", ("done", State.PAUSED))],
)
def test_what_is_done_already_stays_as_it_is(
    store: Store, clock: Clock, kind: RequestKind, answer: tuple[str, State]
) -> None:
    enqueued(store)
    store.ask("job", kind, "ada", "first")
    before = kept(store)
    clock.advance(1)

    assert store.ask("job", kind, "bob", "second") == answer
    assert kept(store) == before


@pytest.mark.parametrize("kind", ["cancel", "pause"])
def test_a_job_that_has_ended_is_not_stopped(store: Store, kind: RequestKind) -> None:
    dead(store)
    run = running(store, "succeeded")
    store.succeed("succeeded", run.fence, snapshot(1))
    before = kept(store)

    assert store.ask("job", kind, "", "") == ("refused", State.DEAD)
    assert store.ask("succeeded", kind, "", "") == ("refused", State.SUCCEEDED)
    assert kept(store) == before


def test_a_cancelled_job_is_not_paused(store: Store) -> None:
    enqueued(store)
    store.ask("job", "cancel", "", "")
    assert store.ask("job", "pause", "", "") == ("refused", State.CANCELLED)


def test_nobody_has_to_be_named(store: Store) -> None:
    enqueued(store)
    store.ask("job", "pause", "", "")
    assert (kept(store).reason, last_event(store).detail) == ("", "")


def test_text_that_is_too_long_is_cut(store: Store) -> None:
    running(store)
    store.ask("job", "pause", "a" * 3000 + "\n", "é" * 3000)
    request = kept(store).request
    assert request == StopRequest("pause", "a" * TEXT_LIMIT, "é" * TEXT_LIMIT)


def test_an_unknown_job_is_an_error(store: Store) -> None:
    with pytest.raises(JobNotFound, match="'nobody'"):
        store.ask("nobody", "cancel", "", "")


def test_a_record_of_a_newer_jobkit_is_refused(store: Store) -> None:
    enqueued(store)
    rewrite(store, "job", schema="2")
    with pytest.raises(SchemaError, match="upgrade"):
        store.ask("job", "cancel", "", "")
    with pytest.raises(SchemaError, match="upgrade"):
        store.resume("job")
    with pytest.raises(SchemaError, match="upgrade"):
        store.get("job")


def test_a_cancel_that_is_sent_again_is_the_same(store: Store, clock: Clock) -> None:
    enqueued(store)
    assert store.ask("job", "cancel", "ada", "no")[0] == "done"
    clock.advance(RESENT - 0.001)
    assert store.ask("job", "cancel", "ada", "no")[0] == "done"
    clock.advance(0.001)
    assert store.ask("job", "cancel", "ada", "no")[0] == "refused"
