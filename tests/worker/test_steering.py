"""Jobs are cancelled, paused and resumed from outside, whatever they are doing."""

import time

import pytest

from jobkit import NotAllowed, State
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, FleetFactory
from tests.worker.promises import ANSWER, SLACK, backend_writes_here

pytestmark = backend_writes_here

ITEMS = 1000


def running(fleet: Fleet, items: int = ITEMS) -> str:
    result = fleet.send("walk", items)
    fleet.journal.wait_for(result.id, count=10)
    return str(result.id)


def test_a_running_job_is_cancelled(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    job_id = running(fleet)

    asked_at = time.monotonic()
    assert fleet.jobs.cancel(job_id, reason="wrong shop", actor="ann")
    job = fleet.wait_for(job_id)

    last = fleet.journal.entries(job_id)[-1]
    assert last.at - asked_at <= ANSWER + SLACK
    assert (job.state, job.reason, job.attempts) == (State.CANCELLED, "wrong shop", 0)
    assert len(fleet.journal.entries(job_id)) < ITEMS
    wait_until(lambda: fleet.shown(job_id) == "REVOKED", "Celery knows")
    assert fleet.ends(job_id) == [State.CANCELLED]
    (told,) = (e for e in fleet.jobs.history(job_id) if e.name == "cancelled")
    assert told.detail == "ann: wrong shop"
    cleaned_up = [entry.item for entry in fleet.journal.entries("clean-up")]
    assert cleaned_up.count(job_id) == 1


def test_a_loop_that_saves_nothing_hears_of_a_cancel_in_time(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_lease_seconds=60)
    fleet.start("a")
    result = fleet.send("patient", 1_000)
    fleet.journal.wait_for(result.id)

    asked_at = time.monotonic()
    assert fleet.jobs.cancel(result.id, actor="ann")
    job = fleet.wait_for(result.id)

    assert time.monotonic() - asked_at <= ANSWER + SLACK
    assert (job.state, job.attempts) == (State.CANCELLED, 0)


def test_a_cancel_after_the_end_changes_nothing(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("add", 1, 2)
    job = fleet.wait_for(result.id)

    assert not fleet.jobs.cancel(result.id)
    assert not fleet.jobs.pause(result.id)

    assert fleet.jobs.get(result.id) == job
    assert fleet.shown(result.id) == "SUCCESS"


def test_a_running_job_is_paused_and_resumed_at_the_cursor(
    standing_fleet: Fleet,
) -> None:
    fleet = standing_fleet
    job_id = running(fleet, 150)

    asked_at = time.monotonic()
    assert fleet.jobs.pause(job_id, reason="night", actor="ann")
    job = fleet.wait_for(job_id, State.PAUSED)

    done = fleet.journal.items(job_id)
    assert fleet.journal.entries(job_id)[-1].at - asked_at <= ANSWER + SLACK
    assert (job.reason, job.progress.current) == ("night", done[-1])
    assert (job.interruptions, job.attempts) == (1, 0)
    assert fleet.shown(job_id) == "PENDING"

    fleet.jobs.resume(job_id)
    job = fleet.wait_for(job_id)

    assert fleet.journal.items(job_id) == list(range(1, 151))
    assert (job.state, job.starts) == (State.SUCCEEDED, 2)


def test_only_a_paused_job_is_resumed(standing_fleet: Fleet) -> None:
    result = standing_fleet.send("add", 1, 2)
    standing_fleet.wait_for(result.id)

    with pytest.raises(NotAllowed):
        standing_fleet.jobs.resume(result.id)


def test_a_revoke_with_terminate_cancels_the_job(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("wait_long")
    fleet.journal.wait_for(result.id)

    fleet.app.control.revoke(result.id, terminate=True, destination=["w@test"])
    job = fleet.wait_for(result.id)

    assert job.state is State.CANCELLED
    wait_until(lambda: fleet.shown(result.id) == "REVOKED", "Celery knows")
    assert fleet.ends(result.id) == [State.CANCELLED]
    assert len(fleet.journal.entries(result.id)) == 1


def test_a_queued_job_that_is_cancelled_never_runs(fleet: Fleet) -> None:
    cancelled, other = fleet.send("add", 1, 2), fleet.send("add", 3, 4)

    assert fleet.jobs.cancel(cancelled.id)
    assert fleet.jobs.get(cancelled.id).state is State.CANCELLED
    assert fleet.shown(cancelled.id) == "REVOKED"
    fleet.start("a")

    assert other.get(timeout=20) == 7
    wait_until(
        lambda: f"{cancelled.id} is not started: cancelled" in fleet.workers["a"].log,
        "its message is done with",
    )
    assert not fleet.journal.entries(cancelled.id)
    assert fleet.shown(cancelled.id) == "REVOKED"


def test_a_pause_survives_the_restart_of_the_worker(fleet: Fleet) -> None:
    (worker,) = fleet.start("a")
    running_job = fleet.send("walk", 100)
    fleet.journal.wait_for(running_job.id, count=10)
    queued_job = fleet.send("add", 1, 2)
    for result in (queued_job, running_job):
        fleet.jobs.pause(result.id)
        fleet.wait_for(result.id, State.PAUSED)

    worker.stop()
    worker.start()
    marker = fleet.send("add", 5, 6)
    assert marker.get(timeout=20) == 11

    assert fleet.jobs.get(running_job.id).state is State.PAUSED
    assert fleet.jobs.get(queued_job.id).state is State.PAUSED
    assert not fleet.journal.entries(queued_job.id)
    for result in (running_job, queued_job):
        fleet.jobs.resume(result.id)
    assert running_job.get(timeout=20) == 100
    assert queued_job.get(timeout=20) == 3
    assert fleet.journal.items(running_job.id) == list(range(1, 101))
