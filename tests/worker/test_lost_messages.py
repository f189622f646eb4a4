"""Messages vanish in the broker, or come back too early; the record decides."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from kombu import Connection

from jobkit import State
from tests.chaos.relay import Relay
from tests.conftest import need_rabbit
from tests.servers import RabbitServer
from tests.waiting import wait_until
from tests.worker import dying_producer, stranger
from tests.worker.fleet import Fleet, FleetFactory
from tests.worker.promises import on_all_brokers, on_all_brokers_at_length
from tests.worker.setup import QUORUM_CONF, Broker

CONSUMER_TIMEOUT = 3.0
"""Seconds; RabbitMQ looks once a second then (see ``RabbitServer``)."""

on_both_queue_types = pytest.mark.parametrize(
    "conf", [{}, QUORUM_CONF], ids=["classic", "quorum"]
)


@on_all_brokers
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

    def is_counted() -> bool:
        told: Any = fleet.app.control.inspect().stats()
        return bool(told["a@test"]["jobkit"]["done"]["published"] >= 1)

    # The round that published it may still be under way.
    wait_until(is_counted, "the worker has counted it")


@on_all_brokers_at_length
def test_a_message_goes_out_although_an_idle_connection_broke(
    broker: Broker, make_fleet: FleetFactory
) -> None:
    # As RabbitMQ's does that sends no heartbeats, when nothing is due for minutes.
    port = urlsplit(broker.url).port
    assert port
    with Relay(port) as way:
        url = broker.url.replace(f":{port}/", f":{way.port}/")
        fleet = make_fleet(broker=replace(broker, url=url))
        job = fleet.store.get(fleet.send("add", 1, 2).id)
        assert job
        assert job.message
        with fleet.publisher() as publisher, Connection(broker.url) as other:
            queue = fleet.app.amqp.queues[fleet.setup.name](other.default_channel)
            found: list[int] = []

            def arrived(count: int) -> bool:
                found.append(queue.purge() or 0)
                return sum(found) == count

            publisher.publish(job.message)
            wait_until(partial(arrived, 2), "it is there, beside the first")
            way.restart()
            publisher.publish(job.message)
            wait_until(partial(arrived, 3), "it is there again")


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
        # The worker that runs it takes no other message: a copy goes to the idle one.
        worker_prefetch_multiplier=1,
        broker_transport_options={
            "visibility_timeout": 1,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        },
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


@pytest.fixture(scope="module")
def impatient_rabbit() -> Iterator[RabbitServer]:
    """A RabbitMQ whose 30 minutes until it takes a message back are 3 seconds."""
    need_rabbit()
    with RabbitServer(consumer_timeout_ms=int(CONSUMER_TIMEOUT * 1000)) as server:
        yield server


def deliveries(fleet: Fleet, job_id: str) -> int:
    logs = [worker.log for worker in fleet.workers.values()]
    return sum(log.count(f"[{job_id}] received") for log in logs)


@on_both_queue_types
def test_a_job_of_40_minutes_of_rabbitmqs_time_is_delivered_once(
    impatient_rabbit: RabbitServer, make_fleet: FleetFactory, conf: dict[str, Any]
) -> None:
    minute = CONSUMER_TIMEOUT / 30
    fleet = make_fleet(broker=Broker(impatient_rabbit.url, conf), jobkit_ack_after=1)
    fleet.start("a", "b")
    result = fleet.send("walk", 550)
    job = fleet.wait_for(result.id, timeout=40)
    first, *_, last = fleet.journal.entries(result.id)

    assert last.at - first.at >= 40 * minute
    assert deliveries(fleet, result.id) == 1
    assert fleet.journal.items(result.id) == list(range(1, 551))
    assert (job.state, job.starts, job.recoveries) == (State.SUCCEEDED, 1, 0)
    assert fleet.send("add", 1, 2).get(timeout=20) == 3
    assert all(worker.running for worker in fleet.workers.values())
    fleet.close()


@pytest.mark.long
@on_both_queue_types
def test_without_the_early_acknowledgement_the_worker_ends_and_the_job_does_not(
    impatient_rabbit: RabbitServer, make_fleet: FleetFactory, conf: dict[str, Any]
) -> None:
    fleet = make_fleet(broker=Broker(impatient_rabbit.url, conf), jobkit_ack_after=60)
    (worker,) = fleet.start("a")
    # Longer than the broker waits, and shorter than it waits twice.
    result = fleet.send("walk", 550)

    assert worker.wait() == 1
    assert "PRECONDITION_FAILED" in worker.log
    worker.start()
    job = fleet.wait_for(result.id, timeout=40)

    assert job.state is State.SUCCEEDED
    assert set(fleet.journal.items(result.id)) == set(range(1, 551))
    fleet.close()


@pytest.mark.parametrize(
    "conf",
    [
        pytest.param({}, id="classic"),
        pytest.param(QUORUM_CONF, id="quorum"),
    ],
)
@pytest.mark.long
def test_a_job_may_wait_behind_one_of_40_minutes_in_the_same_worker(
    impatient_rabbit: RabbitServer, make_fleet: FleetFactory, conf: dict[str, Any]
) -> None:
    fleet = make_fleet(broker=Broker(impatient_rabbit.url, conf), jobkit_ack_after=1)
    (worker,) = fleet.start("a")
    results = [fleet.send("walk", 700), fleet.send("walk", 10)]
    jobs = [fleet.wait_for(result.id, timeout=40) for result in results]

    assert worker.running
    assert f"{results[1].id} waits in the store: message acknowl" in worker.log
    assert [(job.state, job.starts) for job in jobs] == [(State.SUCCEEDED, 1)] * 2
    assert fleet.send("add", 1, 2).get(timeout=20) == 3
    fleet.close()


def test_a_job_that_waited_in_a_killed_worker_goes_to_another(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_ack_after=0.5)
    (worker,) = fleet.start("a")
    fleet.send("walk", 1000)
    ours, theirs = fleet.send("walk", 10).id, stranger.send(fleet.setup, "t.walk", 10)
    both = f"{ours} waits in the store", f"{theirs} waits in the store"
    wait_until(
        lambda: all(line in worker.log for line in both),
        "the broker has forgotten them",
    )

    worker.kill()
    fleet.start("b", concurrency=2)
    jobs = [fleet.wait_for(waiting) for waiting in (ours, theirs)]

    assert [(job.state, job.starts) for job in jobs] == [(State.SUCCEEDED, 1)] * 2
    for waiting in (ours, theirs):
        assert fleet.journal.items(waiting) == list(range(1, 11))
