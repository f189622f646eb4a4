"""Messages vanish in the broker, or come back too early; the record decides."""

from typing import Any

import pytest

from jobkit import State
from tests.conftest import need_rabbit
from tests.servers import RabbitServer
from tests.waiting import wait_until
from tests.worker import dying_producer
from tests.worker.fleet import FleetFactory
from tests.worker.promises import on_both_brokers


@on_both_brokers
def test_a_job_whose_message_vanished_is_published_again(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_hint_seconds=1)
    result = fleet.send("add", 1, 2)
    with fleet.app.connection_for_write() as connection:
        queue = fleet.app.amqp.queues[fleet.setup.name]
        assert queue(connection.default_channel).purge() == 1

    fleet.start("a")

    assert result.get(timeout=20) == 3
    assert fleet.wait_for(result.id).starts == 1
    assert len(fleet.journal.entries(result.id)) == 1
    told: Any = fleet.app.control.inspect().stats()
    assert told["a@test"]["jobkit"]["done"]["published"] >= 1


def test_a_job_whose_producer_died_before_its_message_runs(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_hint_seconds=1)
    assert dying_producer.enqueue(fleet.setup, "orphan") == dying_producer.CODE
    assert fleet.jobs.get("orphan").state is State.QUEUED

    fleet.start("a")
    job = fleet.wait_for("orphan")

    assert (job.state, job.starts) == (State.SUCCEEDED, 1)
    assert [entry.item for entry in fleet.journal.entries("orphan")] == ["1+2"]


def test_a_job_longer_than_the_visibility_timeout_runs_once(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(
        broker_transport_options={
            "visibility_timeout": 1,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        }
    )
    fleet.start("a", "b")
    result = fleet.send("walk", 400)

    def delivered_again() -> bool:
        return any("not started: duplicate" in w.log for w in fleet.workers.values())

    wait_until(delivered_again, "Redis has delivered it again")
    job = fleet.wait_for(result.id)

    assert fleet.journal.items(result.id) == list(range(1, 401))
    assert (job.state, job.starts, job.recoveries) == (State.SUCCEEDED, 1, 0)
    assert result.get(timeout=10) == 400


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_job_longer_than_the_consumer_timeout_runs_once(
    make_fleet: FleetFactory,
) -> None:
    need_rabbit()
    with RabbitServer(consumer_timeout_ms=4_000) as server:
        fleet = make_fleet(broker=server.url, jobkit_ack_after=1)
        fleet.start("a", "b")
        result = fleet.send("walk", 900)
        job = fleet.wait_for(result.id, timeout=60)

        assert fleet.journal.items(result.id) == list(range(1, 901))
        assert (job.state, job.starts, job.recoveries) == (State.SUCCEEDED, 1, 0)
        assert all(worker.running for worker in fleet.workers.values())
        assert fleet.send("add", 1, 2).get(timeout=20) == 3
        fleet.close()
