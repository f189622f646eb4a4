"""Only the failed items are replayed, by a job that is linked to the first."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery import chain

from jobkit import NotAllowed, State
from jobkit.checkpoint import Checkpoint
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, FleetFactory
from tests.worker.promises import backend_writes_here

pytestmark = backend_writes_here

ITEMS = 400
BAD = list(range(10, ITEMS, 11))


def test_a_replay_handles_the_failed_items_alone(make_fleet: FleetFactory) -> None:
    fleet = make_fleet(jobkit_checkpoint_every=5)
    fleet.start("a", concurrency=2)
    first = fleet.send("sift", ITEMS, BAD, 0.01, str(fleet.folder / "mended"))
    assert fleet.wait_for(first.id).state is State.PARTIAL
    (fleet.folder / "mended").touch()

    child = fleet.jobs.replay(first.id, "failed_items", reason="mended", actor="ann")
    victim = fleet.journal.wait_for(child, count=12)
    os.kill(victim.pid, signal.SIGKILL)
    job = fleet.wait_for(child)

    assert (job.state, job.replay_of, job.recoveries) == (State.SUCCEEDED, first.id, 1)
    assert (job.progress.percent, job.starts) == (100.0, 2)
    counted = Checkpoint.decode(job.checkpoint).stage("import")
    assert (counted.total, counted.current, counted.ok) == (len(BAD),) * 3
    assert set(fleet.journal.items(child)) == set(BAD)
    assert len(fleet.journal.repeated(child)) <= 5
    parent = fleet.jobs.get(first.id)
    assert (parent.state, parent.open_failures, parent.replays) == ("SUCCEEDED", 0, 1)
    assert parent.reason == "failures_resolved"
    rows = fleet.jobs.failures(first.id, limit=100).items
    assert [(row.item, row.open) for row in rows] == [(item, False) for item in BAD]
    names = [event.name for event in fleet.jobs.history(first.id)]
    assert names[-3:] == ["partial", "replayed", "resolved"]
    assert not set(fleet.journal.items(first.id)) & set(BAD)


def test_items_that_fail_again_stay_open(fleet: Fleet) -> None:
    fleet.start("a")
    first = fleet.send("sift", 50, [7, 8, 9], 0, str(fleet.folder / "never"))
    assert fleet.wait_for(first.id).state is State.PARTIAL

    child = fleet.jobs.replay(first.id, "failed_items")
    job = fleet.wait_for(child)

    assert (job.state, job.reason) == (State.DEAD, "too_many_failures")
    parent = fleet.jobs.get(first.id)
    assert (parent.state, parent.open_failures) == (State.PARTIAL, 3)
    again = fleet.jobs.replay(first.id, "failed_items")
    assert again != child
    assert fleet.jobs.get(first.id).replays == 2


def test_a_hundred_clicks_make_one_replay(fleet: Fleet) -> None:
    (worker,) = fleet.start("a")
    first = fleet.send("sift", 50, [7], 0)
    assert fleet.wait_for(first.id).state is State.PARTIAL
    worker.stop()

    with ThreadPoolExecutor(10) as pool:
        children = set(
            pool.map(lambda _: fleet.jobs.replay(first.id, "failed_items"), range(100))
        )

    assert len(children) == 1
    assert fleet.jobs.get(first.id).replays == 1


def test_a_replay_calls_nobody_back(fleet: Fleet) -> None:
    fleet.start("a")
    sift, total = fleet.task("sift"), fleet.task("blame")
    last = chain(sift.s(50, [7], 0, str(fleet.folder / "m")), total.si("chain"))()
    first = last.parent
    assert fleet.wait_for(first.id).state is State.PARTIAL
    wait_until(lambda: fleet.shown(last.id) == "SUCCESS", "the chain has ended")
    before = len([e for e in fleet.journal.entries() if e.item.startswith("blame")])
    (fleet.folder / "m").touch()

    child = fleet.jobs.replay(first.id, "failed_items")
    assert fleet.wait_for(child).state is State.SUCCEEDED

    blamed = [e for e in fleet.journal.entries() if e.item.startswith("blame")]
    assert len(blamed) == before
    assert fleet.app.AsyncResult(child).get(timeout=10) == 50


def test_only_a_partial_job_has_items_to_replay(fleet: Fleet) -> None:
    fleet.start("a")
    done = fleet.send("add", 1, 2)
    fleet.wait_for(done.id)
    with pytest.raises(NotAllowed, match="only the items of a PARTIAL job"):
        fleet.jobs.replay(done.id, "failed_items")
