"""Whether a job of some queues waits for a worker."""

import pytest

from jobkit.states import State
from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.conftest import RedisFactory
from tests.store.lives import HINT, failure, new_job, started


def put(store: Store, job_id: str, queue: str, delay: float | None = None) -> None:
    assert store.enqueue(new_job(job_id, queue=queue, delay=delay), job_id, HINT)


def test_nothing_waits_in_an_empty_store(store: Store) -> None:
    assert not store.waiting(["critical"], 0)


def test_a_queued_job_waits_in_its_queue(store: Store) -> None:
    put(store, "a", "critical")

    assert store.waiting(["high", "critical"], 0)
    assert not store.waiting(["high"], 0)
    assert not store.waiting([], 0)


def test_a_job_that_was_queued_just_now_may_be_on_its_way(
    store: Store, clock: Clock
) -> None:
    put(store, "a", "critical")
    clock.advance(0.4)
    assert not store.waiting(["critical"], 0.5)

    clock.advance(0.1)
    assert store.waiting(["critical"], 0.5)


def test_a_job_that_runs_or_has_its_own_time_does_not_wait(store: Store) -> None:
    put(store, "running", "critical")
    started(store, "running")
    put(store, "later", "critical", delay=60)
    put(store, "paused", "critical")
    store.ask("paused", "pause", "ada", "")

    assert not store.waiting(["critical"], 0)


def test_it_is_seen_among_many_that_are_done_or_patient(
    store: Store, clock: Clock
) -> None:
    for number in range(100):
        put(store, f"done-{number}", "critical")
        run = started(store, f"done-{number}", token=str(number))
        assert store.interrupt(run.id, run.fence, "cancel") is State.CANCELLED
    assert not store.waiting(["critical"], 0)

    clock.advance(0.001)
    put(store, "a", "critical")
    clock.advance(0.001)
    for number in range(100):
        put(store, f"low-{number}", "low")

    assert store.waiting(["critical"], 0)


def test_a_job_that_came_back_to_its_queue_is_seen(store: Store, clock: Clock) -> None:
    put(store, "old", "critical")
    run = started(store, "old")
    assert store.retry("old", run.fence, failure(), 5.0) is State.RETRYING
    for number in range(100):
        put(store, f"done-{number}", "critical")
        started(store, f"done-{number}", token=str(number))
    assert not store.waiting(["critical"], 0)

    clock.advance(5)
    assert store.claim_due(10, 60)

    assert store.waiting(["critical"], 0)


@pytest.mark.parametrize("finished", [10, 2_000])
def test_it_takes_the_same_reads_however_many_there_are(
    make_redis_store: RedisFactory, finished: int
) -> None:
    store = make_redis_store()
    for number in range(finished):
        put(store, f"{number}", "critical")
    for number in range(finished):
        started(store, f"{number}", token=str(number))
    client = store._client

    client.config_resetstat()
    assert not store.waiting(["critical"], 0)

    stats = client.info("commandstats")
    calls = sum(
        stats.get(f"cmdstat_{name}", {}).get("calls", 0)
        for name in ("zscore", "hmget", "zrevrange", "zrevrangebyscore")
    )
    assert 0 < calls <= 70
