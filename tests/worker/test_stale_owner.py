"""A worker that was frozen beyond its lease comes back, and finds itself replaced."""

import signal
import time

import pytest
import redis

from jobkit import State
from tests.waiting import wait_until
from tests.worker.fleet import Fleet
from tests.worker.promises import CHECKPOINT_INTERVAL, SLACK

ITEMS = 100
PAUSE = 0.03


def test_a_frozen_worker_finds_another_owner_and_stops(fleet: Fleet) -> None:
    fleet.start("a", "b")
    result = fleet.send("walk", ITEMS, PAUSE)
    fleet.journal.wait_for(result.id, count=30)

    stale = fleet.owner(result.id)
    stale.send_signal_to_all(signal.SIGSTOP)
    fleet.journal.wait_for(result.id, fence=2, count=10)
    woken_at = time.monotonic()
    stale.send_signal_to_all(signal.SIGCONT)
    job = fleet.wait_for(result.id)
    wait_until(lambda: "the lease of fence 1 is lost" in stale.log, "it is told")

    late = [e for e in fleet.journal.entries(result.id, fence=1) if e.at >= woken_at]
    second = fleet.journal.items(result.id, fence=2)
    assert len(late) <= 3
    assert second == list(range(second[0], ITEMS + 1))
    assert set(fleet.journal.items(result.id)) == set(range(1, ITEMS + 1))
    assert (job.state, job.fence, job.recoveries) == (State.SUCCEEDED, 2, 1)
    assert not job.worker.startswith(stale.name)
    assert fleet.ends(result.id) == [State.SUCCEEDED]
    assert result.get(timeout=10) == ITEMS


@pytest.mark.long
def test_a_frozen_worker_is_of_use_again(fleet: Fleet) -> None:
    (worker,) = fleet.start("a")
    result = fleet.send("walk", 100)
    fleet.journal.wait_for(result.id, count=50)

    worker.send_signal_to_all(signal.SIGSTOP)
    wait_until(fleet.store.rescue, "its lease has ended")
    worker.send_signal_to_all(signal.SIGCONT)
    job = fleet.wait_for(result.id)

    assert (job.state, job.fence, job.recoveries) == (State.SUCCEEDED, 2, 1)
    assert result.get(timeout=10) == 100


def test_a_worker_that_lost_its_job_unawares_is_refused_and_stops(
    fleet: Fleet,
) -> None:
    fleet.start("a", "b")
    result = fleet.send("walk", ITEMS, PAUSE)
    fleet.journal.wait_for(result.id, count=50)
    first = fleet.owner(result.id)

    # As if the store's clock had jumped: the owner has no way to know.
    with redis.Redis.from_url(fleet.setup.store) as client:
        client.zadd(f"{fleet.store.keys.tag_of(result.id)}:leases", {result.id: 0})
    assert [released.id for released in fleet.store.rescue()] == [result.id]
    taken_at = fleet.journal.wait_for(result.id, fence=2).at
    job = fleet.wait_for(result.id)
    wait_until(lambda: "the lease of fence 1 is lost" in first.log, "it is told")

    last = fleet.journal.entries(result.id, fence=1)[-1]
    second = fleet.journal.items(result.id, fence=2)
    assert last.at - taken_at <= CHECKPOINT_INTERVAL + SLACK
    assert second == list(range(second[0], ITEMS + 1))
    assert (job.state, job.fence, job.progress.percent) == (State.SUCCEEDED, 2, 100.0)
    assert fleet.ends(result.id) == [State.SUCCEEDED]
    assert result.get(timeout=10) == ITEMS
