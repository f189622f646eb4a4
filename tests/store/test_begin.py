"""How runs start, and why they may not."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from jobkit.clock import from_milliseconds
from jobkit.errors import SchemaError
from jobkit.job import SCHEMA
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import Begun
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
    started,
)


def test_a_queued_job_runs(store: Store, clock: Clock) -> None:
    enqueued(store)
    clock.advance(3)
    start = store.begin("job", "token", "w1/7", 30)

    assert start.outcome == "run"
    job = kept(store)
    assert start.job == replace(job, message=None)
    assert (job.state, job.fence, job.starts, job.worker) == ("RUNNING", 1, 1, "w1/7")
    assert job.lease_until == from_milliseconds(clock.now + 30_000)
    assert job.started_at == job.updated_at == from_milliseconds(clock.now)
    assert job.due_at is None
    assert (last_event(store).name, last_event(store).detail) == ("started", "w1/7")


def test_a_message_of_another_task_starts_nothing(store: Store) -> None:
    run = running(store)
    store.replace("job", run.fence, new_job(task="shop.other"), HINT)
    before = kept(store)

    copy = store.begin("job", "late copy", "w1/7", LEASE, "shop.sync")
    assert (copy.outcome, kept(store)) == ("another_task", before)
    start = store.begin("job", "token", "w1/7", LEASE, "shop.other")
    assert start.outcome == "run"


def test_the_same_delivery_gets_the_same_run_again(store: Store, clock: Clock) -> None:
    first = running(store)
    clock.advance(LEASE + 1)

    start = store.begin("job", "first", "w1/7", LEASE)
    assert start.outcome == "run"
    assert start.job
    assert first == replace(
        start.job, lease_until=first.lease_until, updated_at=first.updated_at
    )
    assert names(store).count("started") == 1


def test_its_lease_counts_from_the_last_time_it_was_sent(
    store: Store, clock: Clock
) -> None:
    running(store)
    clock.advance(LEASE - 1)
    store.begin("job", "first", "w1/7", LEASE)
    assert kept(store).lease_until == from_milliseconds(clock.now + 30_000)

    clock.advance(LEASE - 1)
    assert store.rescue() == []
    clock.advance(1)
    assert [released.id for released in store.rescue()] == ["job"]


def test_another_delivery_is_a_duplicate(store: Store) -> None:
    running(store)
    before = kept(store)
    assert store.begin("job", "second", "w2", LEASE).outcome == "duplicate"
    assert kept(store) == before


def test_only_the_rescue_ends_an_expired_lease(store: Store, clock: Clock) -> None:
    running(store)
    clock.advance(LEASE + 1)
    assert store.begin("job", "second", "w2", LEASE).outcome == "duplicate"


def test_an_unknown_job_does_not_run(store: Store) -> None:
    assert store.begin("nobody", "token", "w1", LEASE).outcome == "unknown"


def scheduled(store: Store) -> None:
    store.enqueue(new_job(delay=60), "token", HINT)


def retrying(store: Store) -> None:
    run = running(store)
    store.retry("job", run.fence, failure(), 60)


def paused(store: Store) -> None:
    enqueued(store)
    store.ask("job", "pause", "", "")


def cancelled(store: Store) -> None:
    enqueued(store)
    store.ask("job", "cancel", "", "")


def succeeded(store: Store) -> None:
    run = running(store)
    store.succeed("job", run.fence, snapshot(1))


@pytest.mark.parametrize(
    ("bring", "outcome"),
    [
        (scheduled, "not_due"),
        (retrying, "not_due"),
        (paused, "paused"),
        (cancelled, "cancelled"),
        (succeeded, "finished"),
        (dead, "finished"),
    ],
)
def test_a_job_that_does_not_wait_for_a_worker_does_not_run(
    store: Store, bring: Callable[[Store], object], outcome: Begun
) -> None:
    bring(store)
    before = kept(store)
    start = store.begin("job", "token of now", "w9", LEASE)
    assert (start.outcome, start.job) == (outcome, None)
    assert kept(store) == before


def test_each_run_has_a_greater_fence(store: Store) -> None:
    enqueued(store)
    fences = []
    for token in "abc":
        run = started(store, token=token)
        fences.append(run.fence)
        store.interrupt("job", run.fence, "drain")
    assert fences == [1, 2, 3]
    assert kept(store).starts == 3


def test_a_run_goes_on_from_the_last_checkpoint(store: Store, clock: Clock) -> None:
    first = running(store)
    store.save("job", first.fence, 1, snapshot(7), LEASE)
    clock.advance(5)
    store.interrupt("job", first.fence, "drain")

    second = started(store, token="second")
    assert (second.position, second.checkpoint) == (7, "cursor 7")
    assert second.progress.current == 7
    assert second.started_at == first.started_at


def test_one_of_many_deliveries_runs(store: Store) -> None:
    enqueued(store)
    with ThreadPoolExecutor(8) as threads:
        starts = list(
            threads.map(
                lambda number: store.begin("job", f"t{number}", "w", LEASE), range(24)
            )
        )
    outcomes = [start.outcome for start in starts]
    assert sorted(outcomes) == ["duplicate"] * 23 + ["run"]
    assert kept(store).fence == 1


def test_a_record_of_a_newer_jobkit_is_refused(store: Store) -> None:
    enqueued(store)
    rewrite(store, "job", schema=str(SCHEMA + 1))
    with pytest.raises(SchemaError, match=r"schema 2.*upgrade celery-jobkit"):
        store.begin("job", "token", "w1", LEASE)
    rewrite(store, "job", schema=str(SCHEMA))
    assert kept(store).state is State.QUEUED
