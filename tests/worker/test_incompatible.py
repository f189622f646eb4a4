"""New code meets jobs that the old code began."""

from dataclasses import replace

from jobkit import State
from tests.worker.fleet import Fleet

REORDERED = ("import", "prepare", "end")
REMOVED = ("import", "end")


def interrupted(fleet: Fleet) -> str:
    """A job that a worker of the old code has left in its second stage."""
    (worker,) = fleet.start("a")
    result = fleet.send("phases", 100)
    fleet.journal.wait_for(result.id, count=30)
    assert worker.stop() == 0
    return str(result.id)


def test_stages_that_do_not_fit_hold_the_job_until_they_fit(fleet: Fleet) -> None:
    job_id = interrupted(fleet)
    worker = fleet.workers["a"]
    before = fleet.journal.entries(job_id)

    for stages in (REORDERED, REMOVED):
        worker.start(replace(fleet.setup, stages=stages))
        job = fleet.wait_for(job_id, State.PAUSED)
        assert job.reason.startswith("incompatible")
        assert str(["prepare", "import"]) in job.reason
        assert str(list(stages)) in job.reason
        assert job.attempts == 0
        assert fleet.journal.entries(job_id) == before
        worker.stop()
        fleet.jobs.resume(job_id)

    worker.start(fleet.setup)
    job = fleet.wait_for(job_id)

    assert (job.state, job.attempts) == (State.SUCCEEDED, 0)
    assert fleet.journal.items(job_id) == list(range(1, 101))


def test_a_stage_with_another_name_goes_on_where_the_old_one_was(fleet: Fleet) -> None:
    job_id = interrupted(fleet)
    stages = ("prepare", "load was import", "end")

    fleet.workers["a"].start(replace(fleet.setup, stages=stages))
    job = fleet.wait_for(job_id)

    assert (job.state, job.attempts) == (State.SUCCEEDED, 0)
    assert fleet.journal.items(job_id) == list(range(1, 101))
    assert fleet.app.AsyncResult(job_id).get(timeout=10) == ["prepare", "load", "end"]


def test_a_migration_says_where_the_new_stages_go_on(fleet: Fleet) -> None:
    job_id = interrupted(fleet)
    before = fleet.journal.items(job_id)
    conf = {**fleet.setup.conf, "migrate_to": 90}

    fleet.workers["a"].start(replace(fleet.setup, stages=REMOVED, conf=conf))
    job = fleet.wait_for(job_id)

    assert (job.state, job.attempts) == (State.SUCCEEDED, 0)
    assert fleet.journal.items(job_id) == [*before, *range(91, 101)]


def test_a_stage_that_is_added_behind_just_runs(fleet: Fleet) -> None:
    job_id = interrupted(fleet)
    stages = ("prepare", "import", "publish", "end")

    fleet.workers["a"].start(replace(fleet.setup, stages=stages))
    job = fleet.wait_for(job_id)

    assert job.state is State.SUCCEEDED
    assert fleet.app.AsyncResult(job_id).get(timeout=10) == list(stages)
    done = [entry.item for entry in fleet.journal.entries(job_id)]
    assert done == ["prepare", *map(str, range(1, 101)), "publish", "end"]
