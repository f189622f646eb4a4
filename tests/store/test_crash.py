"""What becomes of a job whose worker died."""

from dataclasses import replace

import pytest

from jobkit.clock import from_milliseconds
from jobkit.job import Progress, RequestKind
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import Released, Snapshot
from tests.store.clocks import Clock
from tests.store.lives import (
    CRASHED,
    LEASE,
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


def test_a_crashed_job_is_due_at_once(store: Store, clock: Clock) -> None:
    running(store)
    clock.advance(2)

    released = store.crash("job", "w1/7", CRASHED)
    assert released == Released("job", "shop.sync", State.QUEUED)
    job = kept(store)
    assert job.due_at == job.updated_at == from_milliseconds(clock.now)
    assert (job.attempts, job.recoveries, job.crashes_without_progress) == (0, 1, 1)
    assert (job.error, job.lease_until) == (CRASHED, None)
    assert last_event(store).name == "recovered"


def test_the_beginning_of_the_workers_name_is_enough(store: Store) -> None:
    running(store)
    assert store.crash("job", "w1", CRASHED)


@pytest.mark.parametrize("worker", ["w2", "w", "w1/7/1", "w1/", "W1/7"])
def test_another_worker_cannot_crash_it(store: Store, worker: str) -> None:
    running(store)
    before = kept(store)
    assert store.crash("job", worker, CRASHED) is None
    assert kept(store) == before


def test_a_crash_is_the_last_error(store: Store) -> None:
    run = running(store)
    store.retry("job", run.fence, failure(), 0)
    store.claim_due(10, 60)
    started(store, token="second")
    store.crash("job", "w1/7", CRASHED)
    assert kept(store).error == CRASHED


def test_three_crashes_without_progress_are_poison(store: Store, clock: Clock) -> None:
    enqueued(store)
    for token in ("first", "second"):
        started(store, token=token)
        store.crash("job", "w1/7", CRASHED)
    started(store, token="third")
    clock.advance(1)

    released = store.crash("job", "w1/7", CRASHED)
    assert released == Released("job", "shop.sync", State.DEAD)
    job = kept(store)
    assert (job.reason, job.recoveries) == ("poison", 3)
    assert job.error == replace(
        CRASHED, message="killed by signal 9 Nothing was saved."
    )
    assert job.finished_at == from_milliseconds(clock.now)
    assert (job.due_at, job.lease_until) == (None, None)
    assert (last_event(store).name, last_event(store).detail) == ("dead", "poison")


def test_the_error_of_poison_says_how_far_it_was(store: Store) -> None:
    run = running(store, crash_limit=1)
    seen = Progress(current=776, ok=776, stage="import", stage_index=1, stage_count=2)
    store.save("job", run.fence, 1, Snapshot(776, "{}", seen), LEASE)
    store.crash("job", "w1/7", CRASHED)
    started(store, token="second")
    store.crash("job", "w1/7", CRASHED)
    error = kept(store).error
    assert error
    assert error.message == (
        "killed by signal 9 Last checkpoint: item 776 of stage import."
    )


def test_the_history_of_poison_ends_with_its_progress(store: Store) -> None:
    run = running(store, crash_limit=1)
    store.save("job", run.fence, 1, snapshot(5), LEASE)
    store.crash("job", "w1/7", CRASHED)
    started(store, token="second")
    store.crash("job", "w1/7", CRASHED)
    assert last_event(store).name == "dead"
    assert last_event(store).progress == snapshot(5).progress


def test_progress_makes_the_count_begin_again(store: Store) -> None:
    enqueued(store)
    for position, token in enumerate("abcdefgh"):
        run = started(store, token=token)
        store.save("job", run.fence, 1, snapshot(position // 2), LEASE)
        store.crash("job", "w1/7", CRASHED)
    job = kept(store)
    assert (job.state, job.recoveries, job.crashes_without_progress) == ("QUEUED", 8, 1)


def test_only_progress_of_the_crashed_run_counts(store: Store) -> None:
    run = running(store)
    store.save("job", run.fence, 1, snapshot(5), LEASE)
    store.interrupt("job", run.fence, "drain")

    run = started(store, token="second")
    store.save("job", run.fence, 1, snapshot(5), LEASE)
    store.crash("job", "w1/7", CRASHED)
    assert kept(store).crashes_without_progress == 1


def test_a_worker_may_die_before_the_job_begins(store: Store) -> None:
    enqueued(store, crash_limit=2)
    assert store.crash("job", "w1", CRASHED) == Released(
        "job", "shop.sync", State.QUEUED
    )
    assert (kept(store).crashes_without_progress, kept(store).error) == (1, CRASHED)
    assert store.crash("job", "w2", CRASHED) == Released("job", "shop.sync", State.DEAD)
    assert kept(store).reason == "poison"


def test_told_again_the_crash_of_a_run_counts_once(store: Store, clock: Clock) -> None:
    running(store)
    first = store.crash("job", "w1/7", CRASHED)
    before = kept(store)
    clock.advance(1)

    assert store.crash("job", "w1/7", CRASHED) == first
    assert kept(store) == before
    assert names(store).count("recovered") == 1


def test_a_worker_may_die_before_a_later_run_of_its_job_begins(
    store: Store, clock: Clock
) -> None:
    run = running(store)
    store.retry("job", run.fence, failure(), 0)
    store.claim_due(10, 60)
    store.published("job", LEASE)
    clock.advance(1)

    assert store.crash("job", "w1", CRASHED)

    assert [due.id for due in store.claim_due(10, 60)] == ["job"]


def test_a_replacement_that_waits_is_not_brought_forward(store: Store) -> None:
    run = running(store)
    store.replace("job", run.fence, new_job(), 3600)

    store.crash("job", "w1", CRASHED)

    assert store.claim_due(10, 60) == []


def test_told_after_the_rescue_it_counts_once(store: Store, clock: Clock) -> None:
    running(store)
    clock.advance(LEASE)
    store.rescue()
    before = kept(store)

    assert store.crash("job", "w1", CRASHED) == Released(
        "job", "shop.sync", State.QUEUED
    )
    assert kept(store) == before


@pytest.mark.parametrize(
    ("kind", "state"), [("cancel", State.CANCELLED), ("pause", State.PAUSED)]
)
def test_what_was_asked_for_is_done_instead(
    store: Store, kind: RequestKind, state: State
) -> None:
    running(store)
    store.ask("job", kind, "ada", "enough")
    assert store.crash("job", "w1/7", CRASHED) == Released("job", "shop.sync", state)
    assert (kept(store).reason, kept(store).request) == ("enough", None)


def test_poison_is_dead_also_when_it_was_to_be_paused(store: Store) -> None:
    running(store, crash_limit=1)
    store.ask("job", "pause", "ada", "")
    store.crash("job", "w1/7", CRASHED)
    assert (kept(store).state, kept(store).request) == (State.DEAD, None)


def test_a_job_that_is_no_workers_does_not_crash(store: Store) -> None:
    assert store.crash("nobody", "w1", CRASHED) is None
    store.enqueue(new_job(delay=60), "token", 300)
    assert store.crash("job", "", CRASHED) is None
    assert kept(store).state is State.SCHEDULED
