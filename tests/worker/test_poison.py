"""Jobs that kill their process: dead after a number of crashes without progress."""

from jobkit import State
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, FleetFactory


def test_a_job_that_always_kills_its_process_is_dead_after_three(fleet: Fleet) -> None:
    fleet.start("a", concurrency=2)
    result = fleet.send("doom", link_error=fleet.task("blame").s())

    job = fleet.wait_for(result.id)
    wait_until(lambda: fleet.shown(result.id) == "FAILURE", "Celery knows")
    blamed = fleet.journal.wait_for("", count=4)

    assert (job.state, job.reason) == (State.DEAD, "poison")
    assert (job.starts, job.recoveries, job.attempts) == (3, 3, 0)
    assert len(fleet.journal.entries(job.id)) == 3
    assert blamed.item == f"blame-{job.id}"
    assert job.error
    assert job.error.verdict == "infrastructure"
    assert "exitcode 1" in job.error.message
    assert "Nothing was saved." in job.error.message
    assert fleet.ends(job.id) == [State.DEAD]


def test_a_crash_with_progress_is_not_counted_as_poison(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_retry_policy={"crashes": 2}, jobkit_checkpoint_every=5)
    fleet.start("a", concurrency=2)

    result = fleet.send("stumble", 40, [10, 20, 30], "crash")
    job = fleet.wait_for(result.id)

    assert (job.state, job.recoveries, job.attempts) == (State.SUCCEEDED, 3, 0)
    assert set(fleet.journal.items(result.id)) == set(range(1, 41))
    assert len(fleet.journal.items(result.id)) <= 40 + 3 * 5


def test_the_item_that_kills_its_process_can_be_told_from_the_error(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_checkpoint_every=1, jobkit_lease_seconds=30)
    fleet.start("a", concurrency=2)

    result = fleet.send("stumble", 100, [77], "kill", 9)
    job = fleet.wait_for(result.id)

    assert (job.state, job.reason, job.attempts) == (State.DEAD, "poison", 0)
    assert job.progress.current == 76
    assert job.error
    assert "signal 9 (SIGKILL)" in job.error.message
    assert "Last checkpoint: item 76 of stage import." in job.error.message
    assert fleet.journal.items(result.id).count(77) == job.recoveries == job.starts
