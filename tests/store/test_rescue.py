"""How jobs are taken from owners whose lease has ended."""

from typing import Any

import pytest

from jobkit.clock import from_milliseconds
from jobkit.job import Progress, RequestKind
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import Released, Snapshot
from tests.store.clocks import Clock
from tests.store.lives import (
    HINT,
    LEASE,
    enqueued,
    failure,
    kept,
    names,
    new_job,
    running,
    snapshot,
    started,
)


def test_a_lease_is_not_ended_a_millisecond_early(store: Store, clock: Clock) -> None:
    running(store)
    clock.advance(LEASE - 0.001)
    assert store.rescue() == []

    clock.advance(0.001)
    assert store.rescue() == [Released("job", "shop.sync", State.QUEUED)]
    job = kept(store)
    assert job.due_at == job.updated_at == from_milliseconds(clock.now)
    assert (job.recoveries, job.crashes_without_progress, job.attempts) == (1, 1, 0)
    assert names(store)[-1] == "recovered"


def test_the_error_says_that_the_owner_is_silent(store: Store, clock: Clock) -> None:
    running(store)
    clock.advance(LEASE)
    store.rescue()

    error = kept(store).error
    assert error
    assert (error.type, error.verdict) == ("LeaseExpired", "infrastructure")


def test_an_error_of_the_task_tells_more_and_stays(store: Store, clock: Clock) -> None:
    run = running(store)
    store.retry("job", run.fence, failure(), 0)
    store.claim_due(10, 60)
    started(store, token="second")
    clock.advance(LEASE)
    store.rescue()
    assert kept(store).error == failure().error


def test_its_owner_is_stale(store: Store, clock: Clock) -> None:
    run = running(store)
    clock.advance(LEASE)
    store.rescue()
    before = kept(store)

    assert not store.renew("job", run.fence, LEASE).owner
    assert not store.save("job", run.fence, 1, snapshot(1), LEASE).owner
    assert not store.succeed("job", run.fence, snapshot(1))
    assert kept(store) == before


def test_poison_dies_of_silence_too(store: Store, clock: Clock) -> None:
    enqueued(store, crash_limit=2)
    states = []
    for token in ("first", "second"):
        started(store, token=token)
        clock.advance(LEASE)
        states += [released.state for released in store.rescue()]
    assert states == [State.QUEUED, State.DEAD]
    job = kept(store)
    assert (job.reason, job.error and job.error.type) == ("poison", "LeaseExpired")


def test_progress_makes_the_count_begin_again(store: Store, clock: Clock) -> None:
    run = running(store)
    store.save("job", run.fence, 1, snapshot(1), LEASE)
    clock.advance(LEASE)
    store.rescue()
    assert kept(store).crashes_without_progress == 0


@pytest.mark.parametrize(
    ("kind", "state"), [("cancel", State.CANCELLED), ("pause", State.PAUSED)]
)
def test_what_was_asked_for_is_done_instead(
    store: Store, clock: Clock, kind: RequestKind, state: State
) -> None:
    running(store)
    store.ask("job", kind, "ada", "enough")
    clock.advance(LEASE)
    assert store.rescue() == [Released("job", "shop.sync", state)]


def test_all_are_rescued_a_few_at_a_time(store: Store, clock: Clock) -> None:
    for number in range(9):
        running(store, f"job {number}")
    clock.advance(LEASE)

    found: set[str] = set()
    while released := store.rescue(limit=2):
        ids = {job.id for job in released}
        assert not found & ids
        found |= ids
    assert found == {f"job {number}" for number in range(9)}


def test_one_expired_lease_is_found_behind_thousands_of_healthy_ones(
    store: Store, clock: Clock
) -> None:
    running(store, "expired")
    clock.advance(LEASE - 1)
    for number in range(5_000):
        assert store.enqueue(new_job(f"a healthy {number}"), "enqueue", HINT)
        assert store.begin(f"a healthy {number}", "first", "w1/7", LEASE).job
    clock.advance(1)
    assert [job.id for job in store.rescue(limit=100)] == ["expired"]


def test_a_job_that_stopped_has_no_lease(store: Store, clock: Clock) -> None:
    for number, stop in enumerate(("drain", "pause", "cancel")):
        run = running(store, f"job {number}")
        store.interrupt(f"job {number}", run.fence, stop)  # type: ignore[arg-type]
    run = running(store, "succeeded")
    store.succeed("succeeded", run.fence, snapshot(1))
    run = running(store, "retrying")
    store.retry("retrying", run.fence, failure(), 999)
    clock.advance(LEASE)
    assert store.rescue() == []


def test_a_place_that_is_no_number_stops_no_rescue(store: Store, clock: Clock) -> None:
    run = running(store, "a", crash_limit=1)
    place: Any = True  # as older code could save
    odd = Snapshot(0, "", Progress(current=place, stage="count"))
    store.save("a", run.fence, 1, odd, LEASE)
    running(store, "b")
    clock.advance(LEASE)

    released = {job.id: job.state for job in store.rescue()}

    assert released == {"a": State.DEAD, "b": State.QUEUED}
