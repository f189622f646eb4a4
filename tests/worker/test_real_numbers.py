"""The promises in the numbers of a real sync: 50,000 items, a lease of half a minute."""

import signal
import time

import pytest

from jobkit import State
from tests.servers import ValkeyServer
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, FleetFactory
from tests.worker.promises import HANDOVER, RECOVERY, SLACK, on_all_brokers

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

ITEMS = 50_000
EVERY = 100
LEASE = 30.0
PATIENCE = 150.0


@pytest.fixture
def sync_fleet(make_fleet: FleetFactory) -> Fleet:
    return make_fleet(jobkit_lease_seconds=LEASE, jobkit_checkpoint_every=EVERY)


@on_all_brokers
def test_a_kill_in_mid_sync_costs_one_lease_and_a_hundred_items(
    sync_fleet: Fleet,
) -> None:
    fleet = sync_fleet
    fleet.start("a", "b")
    result = fleet.send("walk", ITEMS, 0.0005)
    fleet.journal.wait_for(result.id, count=23_417, timeout=PATIENCE)

    killed_at = fleet.owner(result.id).kill()
    resumed = fleet.journal.wait_for(result.id, fence=2, timeout=PATIENCE)
    job = fleet.wait_for(result.id, timeout=PATIENCE)

    assert resumed.at - killed_at <= LEASE + RECOVERY
    assert fleet.journal.items(result.id, fence=2)[0] > 23_417 - EVERY
    assert set(fleet.journal.items(result.id)) == set(range(1, ITEMS + 1))
    assert len(fleet.journal.repeated(result.id)) <= EVERY
    assert (job.state, job.recoveries, job.attempts) == (State.SUCCEEDED, 1, 0)


@on_all_brokers
def test_a_deploy_in_mid_sync_costs_seconds_and_no_item(sync_fleet: Fleet) -> None:
    fleet = sync_fleet
    fleet.start("a", "b")
    result = fleet.send("walk", 15_000, 0.001)
    fleet.journal.wait_for(result.id, count=10_000, timeout=PATIENCE)

    owner = fleet.owner(result.id)
    asked_at = time.monotonic()
    owner.send_signal(signal.SIGTERM)
    resumed = fleet.journal.wait_for(result.id, fence=2)
    assert owner.wait(timeout=25) == 0
    job = fleet.wait_for(result.id, timeout=PATIENCE)

    assert resumed.at - asked_at <= HANDOVER + SLACK
    assert sorted(fleet.journal.items(result.id)) == list(range(1, 15_001))
    assert (job.interruptions, job.recoveries, job.attempts) == (1, 0, 0)


def test_a_job_of_thirty_visibility_timeouts_runs_once(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(
        broker_transport_options={
            "visibility_timeout": 2,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        },
        jobkit_ack_after=3_600,
    )
    fleet.start("a", "b")
    result = fleet.send("walk", 600, 0.1)
    job = fleet.wait_for(result.id, timeout=PATIENCE)

    logs = "".join(worker.log for worker in fleet.workers.values())
    assert logs.count("is not started: duplicate") >= 1
    assert fleet.journal.items(result.id) == list(range(1, 601))
    assert (job.starts, job.recoveries, job.attempts) == (1, 0, 0)


def test_an_owner_that_was_frozen_for_a_minute_stops_at_the_item_in_hand(
    sync_fleet: Fleet,
) -> None:
    fleet = sync_fleet
    fleet.start("a", "b")
    result = fleet.send("walk", 1_000, 0.1)
    fleet.journal.wait_for(result.id, count=100)

    stale = fleet.owner(result.id)
    stale.send_signal_to_all(signal.SIGSTOP)
    frozen_at = time.monotonic()
    fleet.journal.wait_for(result.id, fence=2, timeout=PATIENCE)
    wait_until(lambda: time.monotonic() - frozen_at > 60, "a minute", 70)
    woken_at = time.monotonic()
    stale.send_signal_to_all(signal.SIGCONT)
    job = fleet.wait_for(result.id, timeout=PATIENCE)

    late = [e for e in fleet.journal.entries(result.id, fence=1) if e.at >= woken_at]
    second = fleet.journal.items(result.id, fence=2)
    assert len(late) <= 1
    assert second == list(range(second[0], 1_001))
    assert "the lease of fence 1 is lost" in stale.log
    assert (job.state, job.fence, job.recoveries) == (State.SUCCEEDED, 2, 1)
    assert not job.worker.startswith(stale.name)


@pytest.mark.parametrize(("outage", "stops"), [(14.0, False), (40.0, True)])
def test_a_run_without_its_store_stops_at_two_thirds_of_its_lease(
    valkey_server: ValkeyServer,
    make_fleet: FleetFactory,
    outage: float,
    stops: bool,
) -> None:
    fleet = make_fleet(valkey_server.url, jobkit_lease_seconds=LEASE)
    fleet.start("a")
    result = fleet.send("walk", 600, 0.1)
    fleet.journal.wait_for(result.id, count=50)

    gone_at = time.monotonic()
    valkey_server.pause()
    wait_until(lambda: time.monotonic() - gone_at > outage, "a while", outage + 5)
    valkey_server.resume()
    back_at = time.monotonic()
    job = fleet.wait_for(result.id, timeout=PATIENCE)

    inside = [e for e in fleet.journal.entries(result.id) if gone_at < e.at < back_at]
    # A save that waits for the store keeps the loop from its next item meanwhile.
    ended = LEASE * 2 / 3 if stops else outage
    assert ended - 5 <= inside[-1].at - gone_at <= ended + 1
    assert set(fleet.journal.items(result.id)) == set(range(1, 601))
    assert (job.starts, job.recoveries) == (1 + stops, int(stops))
    assert (job.state, job.attempts) == (State.SUCCEEDED, 0)
