"""Workers and their children are killed; the jobs go on elsewhere."""

import os
import signal
import time

import pytest

from jobkit import State
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, FleetFactory
from tests.worker.journal import Entry
from tests.worker.promises import (
    CHECKPOINT_INTERVAL,
    NOTICED,
    RECOVERY,
    SLACK,
    on_all_brokers,
    on_all_brokers_in_the_long_form,
)
from tests.worker.setup import LEASE


def assert_all_handled(fleet: Fleet, job_id: str, items: int) -> None:
    assert set(fleet.journal.items(job_id)) == set(range(1, items + 1))


def assert_repeats_are_late(fleet: Fleet, job_id: str, killed_at: float) -> None:
    """What was repeated had been done within one checkpoint interval of the kill."""
    earliest = killed_at - CHECKPOINT_INTERVAL - SLACK
    repeated = set(fleet.journal.repeated(job_id))
    first = [e for e in fleet.journal.entries(job_id, fence=1) if numbered(e, repeated)]
    assert all(entry.at >= earliest for entry in first)


def numbered(entry: Entry, items: set[int]) -> bool:
    return entry.item.isdecimal() and int(entry.item) in items


@on_all_brokers
def test_another_worker_goes_on_when_one_is_killed(fleet: Fleet) -> None:
    fleet.start("a", "b")
    result = fleet.send("walk", 250)
    fleet.journal.wait_for(result.id, count=150)

    killed_at = fleet.owner(result.id).kill()
    resumed = fleet.journal.wait_for(result.id, fence=2)
    job = fleet.wait_for(result.id)

    assert resumed.at - killed_at <= LEASE + RECOVERY
    assert_all_handled(fleet, result.id, 250)
    assert_repeats_are_late(fleet, result.id, killed_at)
    assert (job.state, job.recoveries, job.attempts) == (State.SUCCEEDED, 1, 0)
    assert fleet.ends(result.id) == [State.SUCCEEDED]
    assert result.get(timeout=10) == 250


@on_all_brokers_in_the_long_form
def test_the_same_worker_goes_on_when_its_child_is_killed(fleet: Fleet) -> None:
    (worker,) = fleet.start("a")
    result = fleet.send("walk", 250)
    victim = fleet.journal.wait_for(result.id, count=150)

    os.kill(victim.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    resumed = fleet.journal.wait_for(result.id, fence=2)
    job = fleet.wait_for(result.id)

    assert resumed.pid != victim.pid
    assert resumed.at - killed_at <= NOTICED + SLACK
    assert worker.running
    assert_all_handled(fleet, result.id, 250)
    assert_repeats_are_late(fleet, result.id, killed_at)
    assert (job.state, job.recoveries, job.attempts) == (State.SUCCEEDED, 1, 0)
    assert fleet.ends(result.id) == [State.SUCCEEDED]
    assert result.get(timeout=10) == 250


def test_a_job_that_lost_its_worker_waits_for_the_next_one(fleet: Fleet) -> None:
    (worker,) = fleet.start("a")
    result = fleet.send("walk", 100)
    fleet.journal.wait_for(result.id, count=50)

    worker.kill()
    worker.start()
    job = fleet.wait_for(result.id)

    assert_all_handled(fleet, result.id, 100)
    assert (job.state, job.recoveries, job.attempts) == (State.SUCCEEDED, 1, 0)
    assert result.get(timeout=10) == 100


@pytest.mark.long
def test_saving_by_the_number_of_items_bounds_what_is_repeated(
    make_fleet: FleetFactory,
) -> None:
    every = 10
    fleet = make_fleet(jobkit_checkpoint_every=every, jobkit_checkpoint_interval=60)
    fleet.start("a", "b")
    result = fleet.send("walk", 150)
    fleet.journal.wait_for(result.id, count=95)

    fleet.owner(result.id).kill()
    job = fleet.wait_for(result.id)

    assert (job.state, job.recoveries) == (State.SUCCEEDED, 1)
    assert_all_handled(fleet, result.id, 150)
    assert len(fleet.journal.repeated(result.id)) <= every


@on_all_brokers_in_the_long_form
def test_a_job_whose_message_is_acknowledged_is_recovered_all_the_same(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_ack_after=0.5)
    (worker,) = fleet.start("a")
    result = fleet.send("walk", 350)
    wait_until(
        lambda: "message acknowledged" in worker.log, "the broker has forgotten it"
    )

    worker.kill()
    worker.start()
    job = fleet.wait_for(result.id)

    assert_all_handled(fleet, result.id, 350)
    assert (job.state, job.recoveries, job.attempts) == (State.SUCCEEDED, 1, 0)
