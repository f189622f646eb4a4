"""Store or broker are out of reach for a while; nothing is lost by it."""

import time

import pytest
import redis

from jobkit import State, StoreUnavailable
from tests.servers import RabbitServer, Server, ValkeyServer
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, FleetFactory
from tests.worker.promises import SLACK
from tests.worker.setup import Broker

TIMEOUT = 0.3
"""Seconds for one command of a store that may be gone."""


def waiting_messages(fleet: Fleet) -> int:
    with fleet.app.connection_for_read() as connection:
        channel = connection.default_channel
        declared = fleet.app.amqp.queues[fleet.setup.name](channel).queue_declare()
        return int(declared.message_count)  # type: ignore[union-attr]


def test_an_outage_shorter_than_the_lease_is_a_warning(
    valkey_server: ValkeyServer, make_fleet: FleetFactory
) -> None:
    fleet = make_fleet(
        valkey_server.url, jobkit_lease_seconds=9, jobkit_store_timeout=TIMEOUT
    )
    (worker,) = fleet.start("a")
    result = fleet.send("walk", 300)
    fleet.journal.wait_for(result.id, count=50)

    valkey_server.pause()
    wait_until(lambda: "goes on without saving" in worker.log, "it is noticed")
    valkey_server.resume()
    job = fleet.wait_for(result.id)

    assert fleet.journal.items(result.id) == list(range(1, 301))
    assert (job.state, job.starts, job.recoveries) == (State.SUCCEEDED, 1, 0)


def test_the_end_of_a_job_waits_for_the_store(
    valkey_server: ValkeyServer, make_fleet: FleetFactory
) -> None:
    fleet = make_fleet(
        valkey_server.url, jobkit_lease_seconds=9, jobkit_store_timeout=TIMEOUT
    )
    (worker,) = fleet.start("a")
    result = fleet.send("walk", 50)
    fleet.journal.wait_for(result.id, count=40)

    valkey_server.pause()
    wait_until(
        lambda: "cannot be reached" in worker.log.partition("succeeded in")[2],
        "the end of the job has met the outage",
    )
    valkey_server.resume()
    job = fleet.wait_for(result.id)

    assert (job.state, job.starts) == (State.SUCCEEDED, 1)
    assert (job.progress.stage, job.progress.percent) == ("end", 100.0)
    assert result.get(timeout=10) == 50


@pytest.mark.parametrize("how", ["kill", pytest.param("pause", marks=pytest.mark.long)])
def test_an_outage_longer_than_the_lease_stops_the_run_in_time(
    valkey_server: ValkeyServer, make_fleet: FleetFactory, how: str
) -> None:
    lease = 3.0
    fleet = make_fleet(
        valkey_server.url, jobkit_lease_seconds=lease, jobkit_store_timeout=TIMEOUT
    )
    (worker,) = fleet.start("a")
    result = fleet.send("walk", 250)
    fleet.journal.wait_for(result.id, count=50)

    gone_at = time.monotonic()
    getattr(valkey_server, how)()
    wait_until(lambda: "the lease of fence 1 is lost" in worker.log, "it stops")
    last = fleet.journal.entries(result.id)[-1]
    getattr(valkey_server, {"kill": "start", "pause": "resume"}[how])()
    job = fleet.wait_for(result.id)

    assert last.fence == 1
    assert last.at - gone_at <= lease * 2 / 3 + SLACK / 2 < lease
    assert set(fleet.journal.items(result.id)) == set(range(1, 251))
    assert (job.state, job.starts) == (State.SUCCEEDED, 2)
    assert (job.recoveries, job.attempts) == (1, 0)
    assert result.get(timeout=10) == 250


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_a_job_is_not_sent_when_the_store_cannot_be_reached(
    valkey_server: ValkeyServer, make_fleet: FleetFactory, how: str
) -> None:
    fleet = make_fleet(valkey_server.url, jobkit_store_timeout=TIMEOUT)
    fleet.store.ping()
    getattr(valkey_server, how)()

    asked_at = time.monotonic()
    with pytest.raises(StoreUnavailable):
        fleet.send("add", 1, 2)

    assert time.monotonic() - asked_at <= 2 * TIMEOUT + SLACK
    assert waiting_messages(fleet) == 0
    getattr(valkey_server, {"kill": "start", "pause": "resume"}[how])()
    fleet.start("a")
    assert fleet.send("add", 3, 4).get(timeout=20) == 7


def test_a_worker_starts_without_its_store_and_waits_for_it(
    valkey_server: ValkeyServer, make_fleet: FleetFactory
) -> None:
    fleet = make_fleet(valkey_server.url, jobkit_store_timeout=TIMEOUT)
    result = fleet.send("add", 1, 2)
    valkey_server.kill()

    (worker,) = fleet.start("a")
    assert "Jobs wait until it can be reached" in worker.log
    wait_until(lambda: "cannot begin yet" in worker.log, "the job waits")
    valkey_server.start()

    assert result.get(timeout=20) == 3
    assert fleet.wait_for(result.id).starts == 1
    assert worker.running


def sent_without_a_broker(server: Server, make_fleet: FleetFactory, url: str) -> None:
    fleet = make_fleet(broker=Broker(url))
    with fleet.app.connection_for_write() as connection:
        connection.connect()
    server.kill()

    result = fleet.send("add", 1, 2)
    job = fleet.jobs.get(result.id)
    assert (job.state, job.published_at) == (State.QUEUED, None)
    server.start()
    fleet.start("a")

    assert result.get(timeout=30) == 3
    assert fleet.wait_for(result.id).starts == 1


def test_a_job_is_recorded_without_redis_as_broker_and_runs_later(
    valkey_server: ValkeyServer, make_fleet: FleetFactory
) -> None:
    sent_without_a_broker(valkey_server, make_fleet, valkey_server.url)


@pytest.mark.long
def test_a_job_is_recorded_without_rabbitmq_and_runs_later(
    rabbit_server: RabbitServer, make_fleet: FleetFactory
) -> None:
    sent_without_a_broker(rabbit_server, make_fleet, rabbit_server.url)


def restarts_its_broker(server: Server, make_fleet: FleetFactory, url: str) -> None:
    fleet = make_fleet(broker=Broker(url))
    (worker,) = fleet.start("a")
    result = fleet.send("walk", 200)
    fleet.journal.wait_for(result.id, count=50)

    server.kill()
    server.start()

    def ended() -> bool:
        # Celery's worker may not survive the loss of Redis: kombu#582. What
        # supervises it starts it again.
        if not worker.running:
            worker.start()
        return fleet.jobs.get(result.id).state.finished

    wait_until(ended, "the job has ended")
    job = fleet.jobs.get(result.id)
    assert set(fleet.journal.items(result.id)) == set(range(1, 201))
    assert len(fleet.journal.repeated(result.id)) <= 1
    assert (job.state, job.attempts) == (State.SUCCEEDED, 0)
    assert fleet.ends(result.id) == [State.SUCCEEDED]
    assert fleet.send("add", 3, 4).get(timeout=30) == 7


def test_a_job_does_not_suffer_when_redis_as_broker_restarts(
    valkey_server: ValkeyServer, make_fleet: FleetFactory
) -> None:
    restarts_its_broker(valkey_server, make_fleet, valkey_server.url)


@pytest.mark.long
def test_a_job_does_not_suffer_when_rabbitmq_restarts(
    rabbit_server: RabbitServer, make_fleet: FleetFactory
) -> None:
    restarts_its_broker(rabbit_server, make_fleet, rabbit_server.url)


@pytest.mark.long
def test_what_celery_cancels_when_the_broker_is_gone_is_no_crash(
    make_fleet: FleetFactory, valkey_server: ValkeyServer
) -> None:
    fleet = make_fleet(
        broker_url=valkey_server.database_url(0),
        worker_cancel_long_running_tasks_on_connection_loss=True,
    )
    fleet.start("a")
    result = fleet.send("walk", 4, 2.0)
    with redis.Redis(port=valkey_server.port) as client:
        for fence in range(1, 4):
            fleet.journal.wait_for(result.id, fence=fence)
            client.client_kill_filter(_type="normal", skipme=True)

    job = fleet.wait_for(result.id, timeout=40)

    assert (job.state, job.interruptions, job.recoveries) == (State.SUCCEEDED, 3, 0)
