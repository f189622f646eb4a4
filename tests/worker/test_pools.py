"""Jobs in pools other than prefork."""

import signal
import time

import pytest

from jobkit import State
from tests.waiting import wait_until
from tests.worker.fleet import Fleet
from tests.worker.promises import ANSWER, HANDOVER, SLACK

SOLO_AT_LENGTH, GEVENT_AT_LENGTH = (
    pytest.param(pool, marks=pytest.mark.long) for pool in ("solo", "gevent")
)


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_job_runs_and_is_drained(fleet: Fleet, pool: str) -> None:
    worker = fleet.worker("a", "-P", pool).start()
    result = fleet.send("walk", 150)
    fleet.journal.wait_for(result.id, count=50)

    assert worker.stop() == 0
    job = fleet.jobs.get(result.id)
    assert (job.state, job.interruptions) == (State.QUEUED, 1)
    worker.start()
    job = fleet.wait_for(result.id)

    assert fleet.journal.items(result.id) == list(range(1, 151))
    assert (job.state, job.attempts, job.recoveries) == (State.SUCCEEDED, 0, 0)
    assert result.get(timeout=10) == 150


@pytest.mark.parametrize("pool", ["threads", SOLO_AT_LENGTH, GEVENT_AT_LENGTH])
def test_a_job_is_recovered_from_a_killed_worker(fleet: Fleet, pool: str) -> None:
    worker = fleet.worker("a", "-P", pool).start()
    result = fleet.send("walk", 100)
    fleet.journal.wait_for(result.id, count=30)

    worker.kill()
    worker.start()
    job = fleet.wait_for(result.id)

    assert set(fleet.journal.items(result.id)) == set(range(1, 101))
    assert (job.state, job.recoveries) == (State.SUCCEEDED, 1)


def test_two_jobs_in_threads_have_leases_of_their_own(fleet: Fleet) -> None:
    fleet.worker("a", "-P", "threads", concurrency=2).start()
    kept, cancelled = fleet.send("walk", 400), fleet.send("walk", 400)
    for result in (kept, cancelled):
        fleet.journal.wait_for(result.id, count=10)

    until = [fleet.jobs.get(r.id).lease_until for r in (kept, cancelled)]
    assert fleet.jobs.cancel(cancelled.id)
    assert fleet.wait_for(cancelled.id).state is State.CANCELLED
    job = fleet.wait_for(kept.id)

    assert all(until)
    assert (job.state, job.starts, job.recoveries) == (State.SUCCEEDED, 1, 0)
    assert fleet.journal.items(kept.id) == list(range(1, 401))
    wait_until(lambda: fleet.jobs.get(kept.id).lease_until is None, "nobody keeps it")


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_job_is_cancelled_within_two_seconds(fleet: Fleet, pool: str) -> None:
    fleet.worker("a", "-P", pool).start()
    result = fleet.send("walk", 1_000)
    fleet.journal.wait_for(result.id, count=10)

    asked_at = time.monotonic()
    assert fleet.jobs.cancel(result.id, reason="wrong shop", actor="ann")
    job = fleet.wait_for(result.id)

    assert fleet.journal.entries(result.id)[-1].at - asked_at <= ANSWER + SLACK
    assert (job.state, job.reason) == (State.CANCELLED, "wrong shop")


@pytest.mark.long
def test_a_green_job_reports_and_is_drained(fleet: Fleet) -> None:
    worker = fleet.worker("a", "-P", "gevent", concurrency=4).start()
    result, beside = fleet.send("walk", 400), fleet.send("walk", 20)
    assert fleet.wait_for(beside.id).state is State.SUCCEEDED
    progress = wait_until(
        lambda: fleet.jobs.get(result.id).progress.current, "it shows progress"
    )

    asked_at = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert fleet.wait_for(result.id, State.QUEUED).interruptions == 1
    assert time.monotonic() - asked_at <= HANDOVER + SLACK
    # Celery's own loop looks once in 5 seconds without an event loop.
    assert worker.wait() == 0
    worker.start()
    job = fleet.wait_for(result.id)

    assert 0 < progress < 400
    assert fleet.journal.items(result.id) == list(range(1, 401))
    assert (job.state, job.attempts, job.recoveries) == (State.SUCCEEDED, 0, 0)


def test_a_green_job_is_cancelled_and_its_neighbours_go_on(fleet: Fleet) -> None:
    fleet.worker("a", "-P", "gevent", concurrency=4).start()
    kept, cancelled = fleet.send("walk", 400), fleet.send("walk", 2000)
    for result in (kept, cancelled):
        fleet.journal.wait_for(result.id, count=10)

    asked_at = time.monotonic()
    assert fleet.jobs.cancel(cancelled.id)
    assert fleet.wait_for(cancelled.id).state is State.CANCELLED

    assert time.monotonic() - asked_at <= ANSWER + SLACK
    assert fleet.journal.entries(cancelled.id)[-1].at - asked_at <= ANSWER + SLACK
    job = fleet.wait_for(kept.id)
    # It went on for longer than a lease: its keeper had its turns.
    assert (job.state, job.starts, job.recoveries) == (State.SUCCEEDED, 1, 0)
