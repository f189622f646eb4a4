"""Many dead letters are replayed by a job of its own, and single ones in full."""

from __future__ import annotations

import uuid
from bisect import bisect_right
from functools import partial
from typing import Any, cast

import pytest
import redis

from jobkit import JobTask, State
from jobkit.bulk import BURST
from jobkit.job import ErrorInfo
from jobkit.store.values import Failure
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, FleetFactory
from tests.worker.promises import backend_writes_here

pytestmark = backend_writes_here

FAILURE = Failure(ErrorInfo("KeyError", "'id'", "", "permanent"))


def dead_letters(fleet: Fleet, count: int) -> list[str]:
    """Short jobs that died, with their messages gone from the broker."""
    ids = [fleet.send("add", number, 0).id for number in range(count)]
    with redis.Redis.from_url(fleet.setup.broker) as client:
        client.delete(fleet.setup.name)
    for job_id in ids:
        run = fleet.store.begin(job_id, uuid.uuid4().hex, "gone@test/1", 30).job
        assert run
        assert fleet.store.bury(job_id, run.fence, FAILURE, "permanent")
    return ids


def replayed_at(fleet: Fleet, ids: list[str]) -> list[float]:
    """When each replay was made, by the store's clock, in order."""
    return sorted(
        event.at.timestamp()
        for job_id in ids
        for event in fleet.jobs.history(job_id)
        if event.name == "replayed"
    )


def most_in_a_second(times: list[float]) -> int:
    return max(
        bisect_right(times, time + 0.999) - place for place, time in enumerate(times)
    )


def died_twice(fleet: Fleet, job_id: str) -> bool:
    return fleet.ends(job_id) == [State.DEAD] * 2


def bulk(fleet: Fleet, **options: object) -> str:
    """The id of the job that replays the short jobs."""
    job_id = fleet.jobs.replay_all(task="t.add", **options).job_id  # type: ignore[arg-type]
    assert job_id
    return job_id


def test_a_killed_replayer_keeps_to_its_rate_and_replays_nothing_twice(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_hint_seconds=1)  # what the victim had fetched comes again
    ids = dead_letters(fleet, 150)
    (first,) = fleet.start("a")
    bulk_id = bulk(fleet, rate=50, expect=150, reason="fixed", actor="ann")
    wait_until(lambda: len(replayed_at(fleet, ids)) > 30, "some are replayed")
    first.kill()
    before = len(replayed_at(fleet, ids))
    assert before < 150
    fleet.start("b", concurrency=2)

    job = fleet.wait_for(bulk_id)

    assert (job.state, job.recoveries, job.progress.percent) == ("SUCCEEDED", 1, 100.0)
    assert (job.progress.stage, job.progress.current) == ("replay", 150)
    result = fleet.app.AsyncResult(bulk_id).get(timeout=10)
    assert result == {"moved": 150, "skipped": 0}
    for job_id in ids:
        assert fleet.wait_for(job_id).state is State.SUCCEEDED
        assert fleet.jobs.get(job_id).replays == 1
        assert len(fleet.journal.entries(job_id)) == 1
    times = replayed_at(fleet, ids)
    assert len(times) == 150
    assert most_in_a_second(times) <= 50 + BURST
    told = [e.detail for e in fleet.jobs.history(ids[0]) if e.name == "replayed"]
    assert told == [f"resume in bulk {bulk_id} by ann: fixed"]


def test_a_cancelled_replayer_stops_within_a_second(make_fleet: FleetFactory) -> None:
    fleet = make_fleet(jobkit_lease_seconds=30)  # no renewal brings the news
    ids = dead_letters(fleet, 100)
    fleet.start("a", concurrency=2)
    bulk_id = bulk(fleet, rate=20)
    job = wait_until(
        lambda: (job := fleet.jobs.get(bulk_id)).progress.current > 5 and job,
        "its progress is seen",
    )
    assert job
    assert job.progress.total == 100

    assert fleet.jobs.cancel(bulk_id, reason="enough", actor="ann")
    fleet.wait_for(bulk_id, State.CANCELLED)

    at = {event.name: event.at for event in fleet.jobs.history(bulk_id)}
    assert (at["cancelled"] - at["asked"]).total_seconds() <= 1
    replayed = replayed_at(fleet, ids)
    assert replayed[-1] <= at["cancelled"].timestamp()
    assert fleet.jobs.counts()[State.DEAD] == 100 - len(replayed)


def test_a_job_that_dies_again_is_not_replayed_again(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    ids = [fleet.send("stumble", 9, [5], "permanent", 99).id for _ in range(5)]
    for job_id in ids:
        assert fleet.wait_for(job_id).state is State.DEAD

    done = fleet.jobs.replay_all(task="t.stumble", error="Permanent")

    assert done.job_id
    assert (done.count, sorted(done.ids)) == (5, sorted(ids))
    assert fleet.wait_for(done.job_id).state is State.SUCCEEDED
    for job_id in ids:
        wait_until(partial(died_twice, fleet, job_id), "it died again")
        assert fleet.jobs.get(job_id).replays == 1
    fleet.jobs.discard_all(task="t.stumble", expect=5)
    for job_id in ids:
        fleet.wait_for(job_id, State.CANCELLED)


def test_a_replayed_job_has_all_its_retries_again(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    # Three runs with the budget of two; the replay needs two more retries.
    result = fleet.send("stumble", 30, [20], "value", 5)
    job = fleet.wait_for(result.id)
    assert (job.state, job.reason, job.attempts) == ("DEAD", "retries_exhausted", 3)

    fleet.jobs.replay(job.id)
    job = fleet.wait_for(job.id)

    assert (job.state, job.attempts, job.starts) == (State.SUCCEEDED, 2, 6)
    items = fleet.journal.items(job.id)
    assert items == [*range(1, 20), *[20] * 6, *range(21, 31)]


def test_a_restarted_job_begins_at_its_beginning(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("stumble", 30, [20], "permanent", 1)
    assert fleet.wait_for(result.id).state is State.DEAD

    fleet.jobs.replay(result.id, "restart")

    assert fleet.wait_for(result.id).state is State.SUCCEEDED
    assert fleet.journal.items(result.id) == [*range(1, 21), *range(1, 31)]
    names = [event.name for event in fleet.jobs.history(result.id)]
    assert names == ["queued", "started", "dead", "replayed", "started", "succeeded"]


@pytest.mark.parametrize("task", ["again", "automatic"])
def test_a_replay_gives_the_tasks_own_retries_again(
    standing_fleet: Fleet, task: str
) -> None:
    fleet = standing_fleet
    result = fleet.send(task, 99)
    assert fleet.wait_for(result.id).state is State.DEAD
    first = [entry.item for entry in fleet.journal.entries(result.id)]
    assert len(first) >= 3
    assert first == [f"try-{number}" for number in range(len(first))]

    fleet.jobs.replay(result.id)
    wait_until(partial(died_twice, fleet, result.id), "it died again")

    tried = [entry.item for entry in fleet.journal.entries(result.id)]
    assert tried == first * 2


def test_a_job_whose_task_is_not_registered_is_paused_and_not_lost(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_dispatch_interval=0.1)

    def gone(self: JobTask) -> None:
        """A task that the worker does not have."""

    options = {"name": "t.gone", "base": JobTask, "bind": True, "shared": False}
    cast("Any", fleet.app).task(gone, **options)
    fleet.start("a")
    result = fleet.send("gone")

    job = fleet.wait_for(result.id, State.PAUSED)
    assert job.reason.startswith("not_registered: there is no task 't.gone' in this")
    told = fleet.jobs.history(job.id)[-1]
    assert (told.name, told.detail) == ("paused", f"a@test: {job.reason}")
    wait_until(lambda: fleet.shown(job.id) == "PENDING", "Celery shows that it waits")

    fleet.jobs.resume(job.id)
    wait_until(
        lambda: [e.name for e in fleet.jobs.history(job.id)].count("paused") == 2,
        "its message came again",
    )
