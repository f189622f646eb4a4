"""A stage whose items are handled by threads, in every pool."""

import os
import signal

import pytest

from jobkit import State
from jobkit.ahead import IN_HAND
from jobkit.checkpoint import Checkpoint
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, FleetFactory
from tests.worker.promises import backend_writes_here

pytestmark = backend_writes_here

ITEMS = 400
THREADS = 4
BAD = [7, 8, 40, 100, 333, 400]
EVERY = 10

on_all_pools = pytest.mark.parametrize(
    "pool", ["prefork", "threads", pytest.param("gevent", marks=pytest.mark.long)]
)


def is_complete(fleet: Fleet, job_id: str) -> None:
    job = fleet.wait_for(job_id)
    assert job.state is State.PARTIAL
    counted = Checkpoint.decode(job.checkpoint).stage("import")
    assert (counted.current, counted.ok, counted.failed) == (ITEMS, ITEMS - 6, 6)
    assert [row.item for row in fleet.jobs.failures(job_id).items] == BAD
    assert job.open_failures == len(BAD)
    done = set(fleet.journal.items(job_id))
    assert done == set(range(1, ITEMS + 1)) - set(BAD)


@on_all_pools
def test_a_drain_waits_for_the_items_in_hand_and_repeats_none(
    fleet: Fleet, pool: str
) -> None:
    worker = fleet.worker("a", "-P", pool).start()
    result = fleet.send("gather", ITEMS, BAD, THREADS)
    fleet.journal.wait_for(result.id, count=60)
    assert worker.stop() == 0

    job = fleet.jobs.get(result.id)
    assert (job.state, job.interruptions, job.attempts) == (State.QUEUED, 1, 0)
    assert (
        job.progress.current == len(fleet.journal.items(result.id)) + job.open_failures
    )
    assert str(job.progress.message).startswith(f"{job.id}:")
    worker.start()
    is_complete(fleet, result.id)
    assert fleet.journal.repeated(result.id) == []


def test_a_kill_repeats_the_items_in_hand_and_those_since_the_last_save(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_checkpoint_every=EVERY)
    fleet.start("a", concurrency=2)
    result = fleet.send("gather", ITEMS, BAD, THREADS)
    for fence in (1, 2):
        victim = fleet.journal.wait_for(result.id, fence=fence, count=100)
        os.kill(victim.pid, signal.SIGKILL)

    is_complete(fleet, result.id)
    assert fleet.jobs.get(result.id).recoveries == 2
    repeated = fleet.journal.repeated(result.id)
    assert len(repeated) <= 2 * (EVERY + IN_HAND * THREADS)


def test_a_cancel_stops_the_threads(fleet: Fleet) -> None:
    fleet.start("a")
    result = fleet.send("gather", ITEMS, [], THREADS)
    fleet.journal.wait_for(result.id, count=40)
    assert result.cancel("enough")

    job = fleet.wait_for(result.id)
    assert job.state is State.CANCELLED
    assert job.progress.current == len(fleet.journal.items(result.id)) < ITEMS
    other = fleet.send("add", 1, 2)
    wait_until(lambda: fleet.journal.entries(other.id), "the process is free again")
    assert job.progress.current == len(fleet.journal.items(result.id))
