"""Dead letters in queues of the broker: copied there, moved back, and collected."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis
from kombu import Queue
from kombu.utils import json as kombu_json

from jobkit import Job, State, StoreUnavailable, dead_letters
from jobkit.collector import Collector, is_wanted
from jobkit.job import ErrorInfo, Message
from jobkit.publishing import COPIED
from jobkit.rounds import Rounds
from jobkit.store.values import Failure
from tests.servers import ValkeyServer
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, FleetFactory, new_name
from tests.worker.graves import Seen, channel, put, taken, waited_for, waiting
from tests.worker.promises import CLASSIC, QUORUM, REDIS, on_all_brokers_at_length
from tests.worker.setup import Broker

COLLECTED_IN = 5.0
"""Seconds after its last run by which a message that was given up is a dead job."""

on_rabbitmq = pytest.mark.parametrize("broker", [CLASSIC], indirect=True)

Make = Callable[..., tuple[Fleet, str, str]]


@pytest.fixture
def make(make_fleet: FleetFactory) -> Make:
    """Makes a fleet with a queue for all tasks, and one for their dead letters."""

    def made(
        store: str = "", queue: dict[str, Any] | None = None, **conf: Any
    ) -> tuple[Fleet, str, str]:
        work = new_name()
        graves = f"{work}.graves"
        options = {"dead_letter_queue": graves} if queue is None else queue
        fleet = make_fleet(
            store,
            **conf,
            jobkit_queues={work: options},
            jobkit_routes={"*": work},
            jobkit_dispatch_interval=0.1,
        )
        return fleet, work, graves

    return made


def dead(fleet: Fleet, *args: Any) -> Job:
    """A job that died of a permanent error at its tenth item."""
    job = fleet.wait_for(fleet.send("stumble", 20, [10], "permanent", *args).id)
    assert (job.state, job.reason) == (State.DEAD, "permanent")
    return job


def is_copy(seen: Seen, job: Job) -> bool:
    """Whether it is a job's message with the headers of its last death."""
    assert job.message
    told = {k: v for k, v in seen.headers.items() if k.startswith(COPIED)}
    assert told == {
        f"{COPIED}death": dead_letters.name_of(job),
        f"{COPIED}id": job.id,
        f"{COPIED}state": "DEAD",
        f"{COPIED}reason": "permanent",
        f"{COPIED}error": "Permanent",
        f"{COPIED}died_at": job.finished_at.isoformat() if job.finished_at else "",
        f"{COPIED}fence": job.fence,
        f"{COPIED}queue": job.queue,
    }
    assert seen.headers == {**job.message.headers, **told}
    return seen.body == job.message.body


@on_all_brokers_at_length
def test_a_copy_that_is_moved_back_replays_its_job_and_a_stale_one_does_nothing(
    make: Make,
) -> None:
    fleet, work, graves = make()
    (worker,) = fleet.start("a")
    first_death = dead(fleet, 2)
    first = waited_for(fleet, graves)
    assert is_copy(first, first_death)
    if not fleet.setup.broker.startswith("redis"):
        assert int(first.properties["expiration"]) == 30 * 86_400_000

    put(fleet, work, first)
    second = waited_for(fleet, graves)
    job = fleet.wait_for(first_death.id)
    assert is_copy(second, job)
    assert (job.state, job.replays, job.starts) == (State.DEAD, 1, 2)

    put(fleet, work, first)
    wait_until(lambda: worker.log.count("a stale dead letter") == 1, "it is stale")
    assert fleet.jobs.get(job.id) == job
    put(fleet, work, second)
    put(fleet, work, second)
    job = fleet.wait_for(job.id, State.SUCCEEDED)
    wait_until(lambda: worker.log.count("a stale dead letter") == 2, "it is stale")

    assert fleet.journal.items(job.id) == [*range(1, 11), 10, *range(10, 21)]
    assert (job.replays, job.starts) == (2, 3)
    assert fleet.ends(job.id) == [State.DEAD, State.DEAD, State.SUCCEEDED]
    wait_until(lambda: waiting(fleet, work) == 0, "all are acknowledged")
    assert waiting(fleet, graves) == 0


def test_a_copy_whose_record_is_gone_runs_as_a_new_job(make: Make) -> None:
    fleet, work, graves = make()
    fleet.start("a")
    job_id = dead(fleet, 1).id
    copy = waited_for(fleet, graves)
    with redis.Redis.from_url(fleet.setup.store) as client:
        client.delete(*client.scan_iter(match=f"{{{fleet.setup.name}:*"))
    assert fleet.store.get(job_id) is None

    put(fleet, work, copy)
    job = fleet.wait_for(job_id)

    assert (job.state, job.starts, job.replays) == (State.SUCCEEDED, 1, 0)
    assert job.message
    assert not [name for name in job.message.headers if name.startswith(COPIED)]


def test_a_copy_that_waits_in_a_killed_worker_has_replayed_its_job(make: Make) -> None:
    ahead = {"worker_disable_prefetch": False, "worker_prefetch_multiplier": 4}
    fleet, work, graves = make(jobkit_ack_after=0.5, **ahead)
    (worker,) = fleet.start("a")
    job = dead(fleet, 1)
    copy = waited_for(fleet, graves)
    long = fleet.send("walk", 1000)
    fleet.journal.wait_for(long.id, count=1)

    put(fleet, work, copy)
    wait_until(lambda: f"{job.id} waits in the store" in worker.log, "it is acked")
    worker.kill()
    fleet.start("b", concurrency=2)

    assert fleet.wait_for(job.id, State.SUCCEEDED).replays == 1


def test_a_moved_copy_may_be_retried_by_celery(make: Make) -> None:
    fleet, work, graves = make()
    fleet.start("a")
    result = fleet.send("again", 1)
    fleet.wait_for(result.id, State.SUCCEEDED)
    doomed = fleet.send("stumble", 3, [2], "permanent", 1)
    fleet.wait_for(doomed.id, State.DEAD)
    copy = waited_for(fleet, graves)
    with redis.Redis.from_url(fleet.setup.store) as client:
        client.delete(*client.scan_iter(match=f"{{{fleet.setup.name}:*"))
    message = fleet.app.amqp.create_task_message(result.id, "t.again", (2,), {})
    death = {k: v for k, v in copy.headers.items() if k.startswith(COPIED)}
    body = Seen(
        kombu_json.dumps(message.body).encode(),
        *("application/json", "utf-8", {**message.headers, **death}, {}),
    )

    put(fleet, work, body, correlation_id=result.id)

    job = fleet.wait_for(result.id)
    assert (job.state, job.starts) == (State.SUCCEEDED, 3)


def test_an_outage_of_the_broker_delays_a_copy(
    valkey_server: ValkeyServer,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dead_letters, "GRACE", 0.1)
    fleet, _, graves = make(broker=Broker(valkey_server.url))
    (worker,) = fleet.start("a")
    job_id = dead(fleet, 1).id
    waited_for(fleet, graves)
    worker.close()
    fleet.jobs.replay(job_id)
    rounds = Rounds(fleet.kit)
    rounds.dispatch()
    start = fleet.store.begin(job_id, "token", "w", 30)
    assert start.job
    bury(fleet, start.job)
    valkey_server.kill()

    rounds.dispatch()
    assert rounds.done["copied"] == 0
    valkey_server.start()
    wait_until(lambda: rounds.dispatch() or rounds.done["copied"], "it is copied")

    assert is_copy(waited_for(fleet, graves), fleet.jobs.get(job_id))
    rounds.disconnect()
    with redis.Redis.from_url(fleet.setup.store) as client:
        assert not client.exists(f"{fleet.store.keys.tag_of(job_id)}:uncopied")


def bury(fleet: Fleet, job: Job) -> None:
    failure = Failure(ErrorInfo("Permanent", "no"))
    assert fleet.store.bury(job.id, job.fence, failure, "permanent")


def test_while_the_store_refuses_writes_no_dead_letter_is_acknowledged(
    valkey_server: ValkeyServer, make: Make
) -> None:
    fleet, _, graves = make(valkey_server.url, jobkit_lease_seconds=9)
    (worker,) = fleet.start("a")
    result = fleet.send("stumble", 30, [30], "permanent", 9, 0.02)
    fleet.journal.wait_for(result.id, count=5)

    with redis.Redis.from_url(valkey_server.url) as store:
        store.config_set("min-replicas-to-write", 1)
        fleet.journal.wait_for(result.id, count=30)
        place = worker.log_size
        wait_until(
            lambda: "takes no commands" in worker.log_from(place),
            "the end of the job has met a store that refuses it",
        )
        assert fleet.jobs.get(result.id).state is State.RUNNING
        assert unacknowledged(fleet, result.id)
        assert waiting(fleet, graves) == 0
        store.config_set("min-replicas-to-write", 0)

    job = fleet.wait_for(result.id)
    assert (job.state, job.starts, job.attempts) == (State.DEAD, 1, 1)
    wait_until(lambda: not unacknowledged(fleet, job.id), "it is acknowledged")
    assert is_copy(waited_for(fleet, graves), job)
    assert waiting(fleet, graves) == 0
    assert fleet.ends(job.id) == [State.DEAD]


def unacknowledged(fleet: Fleet, job_id: str) -> bool:
    with redis.Redis.from_url(fleet.setup.broker) as client:
        held: list[bytes] = client.hvals("unacked")
    return any(job_id.encode() in message for message in held)


def test_redis_keeps_no_copy_longer_than_the_record(make: Make) -> None:
    fleet, _, graves = make()
    fleet.start("a")
    job = dead(fleet, 1)
    copy = waited_for(fleet, graves)
    long_ago = {**copy.headers, dead_letters.DEATH: "1.1000"}
    for headers in (long_ago, long_ago, copy.headers, {"who": "stranger"}):
        put(fleet, graves, replace(copy, headers=headers), priority=3)
    assert waiting(fleet, graves) == 4

    assert dead_letters.prune(fleet.app, [graves, "nowhere"], keep=1e9) == 2
    assert dead_letters.prune(fleet.app, [graves], keep=1e9) == 0

    assert is_copy(waited_for(fleet, graves), job)
    assert waited_for(fleet, graves).headers == {"who": "stranger"}


# -- what RabbitMQ gives up


def collected(fleet: Fleet, count: int) -> None:
    """File messages as a worker does."""
    rounds = Rounds(fleet.kit)
    collector = Collector(fleet.kit, rounds.collected)
    try:
        wait_until(
            lambda: collector.round() is None or rounds.done["collected"] >= count,
            f"{count} messages are collected",
        )
        assert collector.round() == 0
    finally:
        collector.close()
    assert rounds.done["collected"] == count


def declare(fleet: Fleet, *queues: str) -> None:
    with fleet.app.connection_for_write() as connection:
        for queue in queues:
            fleet.app.amqp.queues[queue](connection.default_channel).declare()
    collector = Collector(fleet.kit, lambda *_: None)
    collector.round()
    collector.close()


def published_again(fleet: Fleet) -> None:
    rounds = Rounds(fleet.kit)
    rounds.dispatch()
    rounds.disconnect()


BODY = (
    b'[ [],  {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null} ]'
)
"""As no serializer of ours writes it."""


def plain_message(fleet: Fleet, job_id: str, task: str) -> Seen:
    made = fleet.app.amqp.create_task_message(job_id, task, (), {})
    properties = {"correlation_id": job_id, "reply_to": "me", "delivery_mode": 2}
    return Seen(BODY, "application/json", "utf-8", made.headers, properties)


def reject(fleet: Fleet, queue: str) -> None:
    with channel(fleet) as opened:
        message = Queue(queue)(opened).get()
        assert message
        message.reject()


def same(seen: Seen, sent: Seen) -> bool:
    got = {k: v for k, v in seen.properties.items() if k in sent.properties}
    return (seen.body, seen.content_type, seen.content_encoding, seen.headers, got) == (
        *(sent.body, sent.content_type, sent.content_encoding),
        *(sent.headers, sent.properties),
    )


@pytest.mark.parametrize("broker", [QUORUM], indirect=True)
def test_a_plain_task_that_kills_its_process_is_a_dead_job_to_replay(
    make: Make,
) -> None:
    limit = {"type": "quorum", "delivery_limit": 2, "collect": True}
    fleet, work, _ = make(queue=limit)
    (worker,) = fleet.start("a", concurrency=2)
    sent = plain_message(fleet, "doomed", "t.plain_doom")
    put(fleet, work, sent)

    last = fleet.journal.wait_for("doomed", count=3)
    job = fleet.wait_for("doomed")
    seen_at = time.monotonic()

    assert seen_at - last.at < COLLECTED_IN
    assert (job.state, job.reason, job.task) == (
        *(State.DEAD, "delivery_limit"),
        "t.plain_doom",
    )
    assert [one.id for one in fleet.jobs.list(state="DEAD").items] == ["doomed"]
    assert "delivery_limit" in str(job.error)
    wait_until(lambda: fleet.shown("doomed") == "FAILURE", "Celery knows")
    worker.close()
    fleet.jobs.replay("doomed")
    published_again(fleet)
    assert same(waited_for(fleet, work), sent)
    assert fleet.store.get("doomed") is None
    assert len(fleet.journal.entries("doomed")) == 3


@on_rabbitmq
def test_whatever_rabbitmq_gives_up_is_filed_and_can_be_sent_again(make: Make) -> None:
    fleet, work, _ = make(queue={"collect": True})
    declare(fleet, work)
    unknown = plain_message(fleet, "unknown-task", "they.have.it")
    raw = Seen(b"\xff\x00 no text", "image/x-odd", "binary", {}, {"type": "odd"})
    odd = Seen(b"caf\xe9", "text/plain", "latin-1", {}, {})
    bare = Seen(b"{", "application/json", "utf-8", {"task": 7, "id": 7}, {})
    for sent in (unknown, raw, odd, bare):
        put(fleet, work, sent)
    waits = fleet.send("add", 1, 2)
    for _ in range(5):
        reject(fleet, work)
    collected(fleet, 5)

    job = fleet.jobs.get(waits.id)
    assert (job.state, job.replays) == (State.QUEUED, 0)
    events = fleet.jobs.history(waits.id)
    assert [(e.name, e.detail) for e in events][1:] == [("dropped", "rejected")]
    found = {one.task: one for one in fleet.jobs.list(state="DEAD").items}
    assert found["they.have.it"].id == "unknown-task"
    dead_jobs = fleet.jobs.list(state="DEAD").items
    assert {(one.reason, one.queue) for one in dead_jobs} == {("rejected", work)}
    assert sorted(one.task for one in dead_jobs) == ["they.have.it", *["unknown"] * 3]

    published_again(fleet)
    assert waited_for(fleet, work).headers["id"] == waits.id
    for one in dead_jobs:
        fleet.jobs.replay(one.id)
    published_again(fleet)
    again = [waited_for(fleet, work) for _ in dead_jobs]
    for sent in (unknown, raw, odd, bare):
        assert any(same(seen, sent) for seen in again), sent
    assert taken(fleet, work) is None


@on_rabbitmq
def test_a_message_that_was_given_up_waits_for_the_store(
    valkey_server: ValkeyServer, make: Make
) -> None:
    fleet, work, _ = make(
        valkey_server.url, queue={"collect": True}, jobkit_store_timeout=0.3
    )
    declare(fleet, work)
    put(fleet, work, plain_message(fleet, "early", "they.have.it"), expiration=0.001)
    pile = fleet.kit.collected
    wait_until(lambda: waiting(fleet, pile) == 1, "it is given up")
    collector = Collector(fleet.kit, lambda *_: pytest.fail("it is taken"))
    valkey_server.kill()
    with pytest.raises(StoreUnavailable):
        collector.round()
    collector.close()
    valkey_server.start()

    def refuse(*_: Any) -> None:
        raise StoreUnavailable("gone just now")

    late = Collector(fleet.kit, refuse)
    with pytest.raises(StoreUnavailable, match="just now"):
        late.round()
    wait_until(lambda: waiting(fleet, pile) == 1, "it is back")
    collected(fleet, 1)
    late.close()

    assert fleet.jobs.get("early").state is State.DEAD
    assert waiting(fleet, pile) == 0


@pytest.mark.parametrize("broker", [QUORUM], indirect=True)
def test_a_job_that_nobody_recorded_is_filed_and_runs_when_it_is_replayed(
    make: Make,
) -> None:
    queue = {"type": "quorum", "delivery_limit": 9, "collect": True}
    fleet, work, _ = make(queue=queue)
    declare(fleet, work)
    made = fleet.app.amqp.create_task_message("stray", "t.add", (1, 2), {})
    body = kombu_json.dumps(made.body).encode()
    put(
        fleet,
        work,
        Seen(body, "application/json", "utf-8", made.headers, {}),
        expiration=0.001,
        correlation_id="stray",
    )
    fleet.start("a")
    job = fleet.wait_for("stray")
    assert (job.state, job.reason, job.task) == (State.DEAD, "expired", "t.add")

    fleet.jobs.replay("stray")

    job = fleet.wait_for("stray", State.SUCCEEDED)
    assert (job.starts, job.replays) == (1, 1)
    assert fleet.ends("stray") == [State.DEAD, State.SUCCEEDED]


@pytest.mark.parametrize("broker", [REDIS, CLASSIC], indirect=True)
def test_only_rabbitmq_is_asked_for_what_it_gave_up(
    make: Make, make_fleet: FleetFactory
) -> None:
    fleet, _, _ = make(queue={"type": "quorum", "delivery_limit": 2, "collect": True})
    assert is_wanted(fleet.kit) is fleet.setup.broker.startswith("amqp")
    assert not is_wanted(make_fleet().kit)


@on_rabbitmq
def test_rabbitmq_confirms_what_is_published_from_the_store(make: Make) -> None:
    fleet, _, graves = make()
    message = Message("t", b"1", "text/plain", "utf-8", routing_key=graves)
    with fleet.publisher() as publisher:
        publisher.publish(message)
        assert publisher._connect().connection.confirm_publish
    assert waited_for(fleet, graves).body == b"1"


@on_rabbitmq
def test_a_queue_that_somebody_declared_otherwise_is_used_as_it_is(make: Make) -> None:
    fleet, _, graves = make()
    with channel(fleet) as opened:
        Queue(graves, queue_arguments={"x-max-length": 7})(opened).declare()
    message = Message("t", b"1", "text/plain", "utf-8", routing_key=graves)
    with fleet.publisher() as publisher:
        publisher.publish(message)
        publisher.publish(message)
    assert waiting(fleet, graves) == 2


@on_rabbitmq
def test_what_was_delayed_by_the_broker_before_is_told_by_its_last_queue(
    make: Make,
) -> None:
    fleet, work, _ = make(queue={"collect": True})
    declare(fleet, work)
    sent = plain_message(fleet, "delayed", "they.have.it")
    delay = new_name()
    with channel(fleet) as opened:
        arguments = {
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": work,
            "x-message-ttl": 1,
        }
        Queue(delay, queue_arguments=arguments)(opened).declare()
    put(fleet, delay, sent)
    wait_until(lambda: waiting(fleet, work) == 1, "it was delayed")
    reject(fleet, work)
    collected(fleet, 1)

    job = fleet.jobs.get("delayed")
    assert (job.queue, job.reason) == (work, "rejected")
