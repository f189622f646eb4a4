"""Messages are caught, recorded and published, byte for byte as Celery would."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest
from celery import Celery, group
from celery.app.task import Context
from celery.signals import before_task_publish
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError
from kombu.transport.native_delayed_delivery import calculate_routing_key
from typing_extensions import override

from jobkit import (
    Client,
    JobKit,
    JobResult,
    LimitError,
    ProgressTask,
    Stage,
    State,
    StoreError,
    StoreUnavailable,
    clock,
)
from jobkit.job import Message
from jobkit.publishing import (
    MessageCatcher,
    Publisher,
    catch,
    declared,
    from_request,
    queue_of,
    to_context,
)
from jobkit.signals import job_queued
from jobkit.store.memory import MemoryStore
from tests.servers import ValkeyServer
from tests.unit.conftest import NOWHERE, MakeApp

MEMORY = "memory://"


class Color(StrEnum):
    RED = "red"


@pytest.fixture
def queue() -> str:
    """A queue of its own: all brokers in memory are one."""
    return f"q-{uuid.uuid4()}"


@pytest.fixture
def app(make_app: MakeApp, queue: str) -> Celery:
    """An app with a broker and a store in memory."""
    app = make_app(broker_url=MEMORY, task_default_queue=queue)
    JobKit(app, store=MemoryStore())
    return app


@pytest.fixture
def sync(app: Celery) -> Any:
    """A task that is a job."""

    @app.task(base=ProgressTask, name="sync", stages=["count", "import"], shared=False)
    def sync(*_args: Any, **_kwargs: Any) -> None:
        pass

    return sync


@pytest.fixture
def plain(app: Celery) -> Any:
    """A task that is none."""

    @app.task(name="plain", shared=False)
    def plain(*_args: Any, **_kwargs: Any) -> None:
        pass

    return plain


def jobs(app: Celery) -> Client:
    client: Client = app.jobkit.jobs  # type: ignore[attr-defined]
    return client


def messages(app: Celery, queue: str) -> list[dict[str, Any]]:
    """Take what is in a queue, whole, but for the number of the delivery."""
    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        Queue(queue, channel=channel).declare()
        found = [channel._get(queue) for _ in range(channel._size(queue))]
    for message in found:
        del message["properties"]["delivery_tag"]
    return found


# -- the same bytes


OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "gzip": {"compression": "gzip"},
    "bzip2": {"compression": "bzip2"},
    "pickle": {"serializer": "pickle"},
    "pickle and gzip": {"serializer": "pickle", "compression": "gzip"},
    "priority": {"priority": 7},
    "transient": {"delivery_mode": 1},
    "expires": {"expires": datetime(2100, 1, 1, tzinfo=UTC)},
    "expiration": {"expiration": 60.0},
    "time limits": {"time_limit": 60, "soft_time_limit": 50},
    "names": {"shadow": "s", "reply_to": "r", "root_id": "root", "parent_id": "p"},
    "headers": {"headers": {"tenant": "acme", "n": 1, "none": None, "list": [1, {}]}},
    "odd headers": {
        "headers": {
            "when": datetime(2026, 1, 1, tzinfo=UTC),
            "bytes": b"\x00\xff",
            "price": Decimal("1.20"),
            "uuid": uuid.UUID(int=7),
            "pair": (1, 2),
            "é": "ü",
        },
    },
    "stamps": {"stamped_headers": ["tenant"], "tenant": ["acme"]},
    "no result": {"ignore_result": True},
    "group": {"group_id": "g", "group_index": 3},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_a_caught_message_is_the_one_that_celery_publishes(
    app: Celery, sync: Any, plain: Any, queue: str, options: Mapping[str, Any]
) -> None:
    given = {"task_id": str(uuid.uuid4()), **options}
    arguments = ((1, "é"), {"b": [None, 2.5]})

    plain.apply_async(*arguments, **given)
    sync.apply_async(*arguments, **given)
    theirs, ours = messages(app, queue)
    job = jobs(app).get(given["task_id"])
    assert job.message
    publisher = Publisher(app)
    publisher.publish(Message.decode(job.message.encode()))
    publisher.close()
    (again,) = messages(app, queue)

    assert theirs["headers"].pop("task") == "plain"
    assert ours["headers"].pop("task") == again["headers"].pop("task") == "sync"
    # The time to live is counted from the moment of each call.
    lives = [m["properties"].pop("expiration", 0) for m in (theirs, ours, again)]
    assert int(lives[0]) - 5_000 < int(lives[1]) == int(lives[2]) <= int(lives[0])
    assert ours == theirs
    assert again == theirs


def test_an_exchange_and_a_routing_key_are_kept(app: Celery, sync: Any) -> None:
    name = f"x-{uuid.uuid4()}"
    bound = Queue(name, Exchange(name, type="topic"), routing_key="shop.#")
    with app.connection_for_write() as connection:
        bound(connection.default_channel).declare()

    result = sync.apply_async(exchange=name, routing_key="shop.orders", declare=[])
    (first,) = messages(app, name)
    job = result.job()
    publisher = Publisher(app)
    publisher.publish(job.message)
    publisher.close()
    (again,) = messages(app, name)

    assert (job.message.exchange, job.message.routing_key) == (name, "shop.orders")
    assert first == again
    assert first["properties"]["delivery_info"] == {
        "exchange": name,
        "routing_key": "shop.orders",
    }


def test_headers_of_a_type_that_is_not_kept_become_plain_and_spare_the_others() -> None:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    headers = {"id": "j", "color": Color.RED, "when": when, "uuid": uuid.UUID(int=7)}

    message = catch("t", [[], {}, {}], {"serializer": "json", "headers": headers})
    kept = Message.decode(message.encode())

    assert kept.headers == {**headers, "color": "red"}
    assert type(kept.headers["color"]) is str


def test_the_body_is_written_once_and_kept() -> None:
    message = catch(
        "t",
        ([1], {}, {"chord": None}),
        {"serializer": "json", "headers": {"id": "j"}, "routing_key": "q"},
    )

    assert message.body == b'[[1], {}, {"chord": null}]'
    assert (message.content_type, message.content_encoding) == (
        "application/json",
        "utf-8",
    )
    assert (message.exchange, message.routing_key) == ("", "q")


def test_events_pass_a_catcher(app: Celery, queue: str) -> None:
    decided: list[Message] = []
    with app.producer_or_acquire() as producer:
        catcher = MessageCatcher(
            producer, "j", "sync", lambda message, _: decided.append(message)
        )
        Queue(queue, channel=producer.channel).declare()
        event = {"type": "task-sent"}
        catcher.publish(event, routing_key=queue, headers={"hostname": "h"})
        catcher.publish(event, routing_key=queue)
        catcher.publish([[], {}, {}], routing_key=queue, headers={"id": "j"})

    assert len(messages(app, queue)) == 2
    assert [message.task for message in decided] == ["sync"]


def test_a_sent_event_is_published_as_ever(make_app: MakeApp, queue: str) -> None:
    app = make_app(
        broker_url=MEMORY, task_default_queue=queue, task_send_sent_event=True
    )
    JobKit(app, store=MemoryStore())
    events = Queue(f"events-{queue}", Exchange("celeryev", type="topic"), "#")
    with app.connection_for_write() as connection:
        events(connection.default_channel).declare()

    @app.task(base=ProgressTask, name="sync", shared=False)
    def sync() -> None:
        pass

    sync.delay()

    (event,) = messages(app, events.name)
    assert event["properties"]["delivery_info"]["routing_key"] == "task.sent"
    assert len(messages(app, queue)) == 1


# -- read again


def test_a_message_gives_its_request_back(sync: Any) -> None:
    result = sync.apply_async(
        (1, 2),
        {"shop": "acme"},
        link=sync.s(3),
        link_error=sync.s(4),
        chord=sync.s(5),
        chain=[sync.s(6)],
        group_id="g",
        group_index=2,
        retries=4,
        compression="gzip",
        serializer="pickle",
    )

    request: Any = to_context(result.job().message)

    assert (tuple(request.args), request.kwargs) == ((1, 2), {"shop": "acme"})
    assert [callback["args"] for callback in request.callbacks] == [(3,)]
    assert [errback["args"] for errback in request.errbacks] == [(4,)]
    assert tuple(request.chord["args"]) == (5,)
    assert [tuple(sig["args"]) for sig in request.chain] == [(6,)]
    assert (request.id, request.task) == (result.id, "sync")
    assert (request.group, request.group_index, request.retries) == ("g", 2, 4)
    assert request.correlation_id == result.id
    assert not request.called_directly


def test_a_request_that_nobody_recorded_is_written_anew(
    app: Celery, sync: Any, plain: Any
) -> None:
    result = plain.apply_async(
        (1,),
        {"shop": "acme"},
        link=plain.s(3),
        headers={"tenant": "acme"},
        priority=3,
        expires=datetime(2100, 1, 1, tzinfo=UTC),
        time_limit=60,
    )
    (raw,) = messages(app, app.conf.task_default_queue)
    args, kwargs, embed = ((1,), {"shop": "acme"}, {"callbacks": [dict(plain.s(3))]})
    request = Context(
        {**raw["headers"], **raw["properties"], **embed},
        args=args,
        kwargs=kwargs,
        delivery_info={"exchange": "", "routing_key": "q", "priority": 3},
    )

    message = from_request(app, sync, request)
    again: Any = to_context(message)

    assert (message.exchange, message.routing_key) == ("", "q")
    assert message.properties["priority"] == 3
    assert message.properties["correlation_id"] == result.id
    assert (tuple(again.args), again.kwargs) == (args, kwargs)
    assert [list(callback["args"]) for callback in again.callbacks] == [[3]]
    for name in ("id", "root_id", "expires", "timelimit", "retries", "group"):
        assert getattr(again, name) == getattr(request, name), name
    assert message.headers["tenant"] == "acme"


@pytest.mark.parametrize(
    ("exchange", "declared", "expected"),
    [
        ("", [], "key"),
        ("x", [], "key"),
        ("x", [Exchange("x")], "key"),
        ("x", [Queue("orders", Exchange("x"))], "orders"),
    ],
)
def test_a_message_goes_to_a_queue(
    exchange: str, declared: list[Any], expected: str
) -> None:
    message = Message("t", b"", "", "", exchange=exchange, routing_key="key")

    assert queue_of(message, declared) == expected


# -- recorded


def test_what_was_enqueued_is_recorded(app: Celery, sync: Any, queue: str) -> None:
    result = sync.apply_async((1,), owner="acme", priority=4)

    job = result.job()
    assert isinstance(result, JobResult)
    assert not result.existing
    assert (job.id, job.task, job.state) == (result.id, "sync", State.QUEUED)
    assert (job.queue, job.priority, job.owner) == (queue, 4, "acme")
    assert job.dead_letter_queue == f"{queue}.dead"
    assert job.stages == ("count", "import")
    assert job.due_at
    assert len(messages(app, queue)) == 1


def test_an_owner_can_be_listed_by(app: Celery, sync: Any) -> None:
    ours = [sync.apply_async(owner="acme").id for _ in range(3)]
    sync.apply_async(owner="other")
    sync.delay()

    page = jobs(app).list(owner="acme")

    assert {job.id for job in page.items} == set(ours)
    assert {job.owner for job in page.items} == {"acme"}


def test_an_idempotency_key_gives_the_same_job(
    app: Celery, sync: Any, queue: str
) -> None:
    first = sync.apply_async((1,), idempotency_key="order-17")
    again = sync.apply_async((2,), idempotency_key="order-17")
    other = sync.apply_async((1,), idempotency_key="order-18")

    assert (first.existing, again.existing, other.existing) == (False, True, False)
    assert first.id == again.id != other.id
    assert [m["headers"]["id"] for m in messages(app, queue)] == [first.id, other.id]
    assert len(jobs(app).list().items) == 2
    assert uuid.UUID(first.id).version == 5


class Full(MemoryStore):
    """A store that takes no word of a message any more."""

    @override
    def published(self, job_id: str, hint: float, **known: Any) -> None:
        raise StoreError("OOM command not allowed")


def test_a_job_is_enqueued_although_the_store_hears_no_more_of_it(
    make_app: MakeApp, queue: str
) -> None:
    app = make_app(broker_url=MEMORY, task_default_queue=queue)
    JobKit(app, store=Full())

    @app.task(base=ProgressTask, name="full", shared=False)
    def full() -> None:
        pass

    result: Any = full.apply_async(idempotency_key="order-17")
    assert [m["headers"]["id"] for m in messages(app, queue)] == [result.id]


def test_keys_of_different_tasks_do_not_meet(app: Celery, sync: Any) -> None:
    @app.task(base=ProgressTask, name="other", shared=False)
    def other() -> None:
        pass

    ids = {task.apply_async(idempotency_key="k").id for task in (sync, other)}

    assert len(ids) == 2


def test_a_task_id_of_ones_own_is_taken_once(
    app: Celery, sync: Any, queue: str
) -> None:
    first = sync.apply_async(task_id="mine")
    again = sync.apply_async(task_id="mine")

    assert (first.id, first.existing, again.existing) == ("mine", False, True)
    assert len(messages(app, queue)) == 1


def test_a_time_to_start_is_kept_in_the_store(
    app: Celery, sync: Any, queue: str
) -> None:
    soon = clock.from_milliseconds(int(clock.wall() * 1000) + 600_000)
    naive = soon.astimezone(app.timezone).replace(tzinfo=None)
    whens: list[dict[str, Any]] = [
        {"countdown": 600},
        {"eta": soon},
        {"eta": naive},
        {"eta": str(soon)},
    ]
    for when in whens:
        job = sync.apply_async(**when).job()

        assert job.state is State.SCHEDULED
        assert 590 < (job.due_at - job.created_at).total_seconds() <= 600
        assert job.message.headers["eta"] is None
    assert messages(app, queue) == []


@pytest.mark.parametrize(
    "when",
    [{"countdown": 0}, {"countdown": -5}, {"eta": datetime(2020, 1, 1, tzinfo=UTC)}],
    ids=["now", "before now", "long ago"],
)
def test_a_time_that_has_passed_is_now(
    app: Celery, sync: Any, queue: str, when: dict[str, Any]
) -> None:
    assert sync.apply_async(**when).job().state is State.QUEUED
    assert len(messages(app, queue)) == 1


def test_receivers_hear_of_each_new_job_once(sync: Any) -> None:
    heard: list[dict[str, Any]] = []

    def receive(**told: Any) -> None:
        del told["signal"]
        heard.append(told)

    job_queued.connect(receive)
    try:
        job = sync.apply_async(idempotency_key="k")
        sync.apply_async(idempotency_key="k")
        later = sync.apply_async(countdown=60)
    finally:
        job_queued.disconnect(receive)

    assert heard == [
        {"sender": "sync", "job_id": job.id, "delay": None},
        {"sender": "sync", "job_id": later.id, "delay": 60.0},
    ]


def test_a_job_that_is_sent_by_name_is_recorded_too(
    app: Celery, sync: Any, queue: str
) -> None:
    result = app.send_task(sync.name, (1,), {"b": 2}, priority=5)

    job = jobs(app).get(result.id)
    assert (job.state, job.queue, job.priority) == (State.QUEUED, queue, 5)
    assert job.message
    request: Any = to_context(job.message)
    assert (list(request.args), request.kwargs) == ([1], {"b": 2})
    assert len(messages(app, queue)) == 1


def test_a_message_without_an_id_is_recorded_when_it_begins(
    make_app: MakeApp, queue: str
) -> None:
    app = make_app(broker_url=MEMORY, task_default_queue=queue, task_protocol=1)
    JobKit(app, store=MemoryStore())

    @app.task(base=ProgressTask, name="sync", shared=False)
    def sync() -> None:
        pass

    sync.delay()

    assert len(messages(app, queue)) == 1
    assert not any(jobs(app).counts().values())


def test_what_a_canvas_publishes_is_recorded(app: Celery, sync: Any) -> None:
    # Of a chain only the first part is published yet.
    chained: Any = (sync.s(1) | sync.s(2)).apply_async()
    grouped: Any = group(sync.s(n) for n in range(3)).apply_async()

    recorded = {job.id for job in jobs(app).list(task="sync").items}
    assert recorded == {chained.parent.id, *(result.id for result in grouped.results)}


def test_celery_is_told_what_it_published(sync: Any) -> None:
    seen: list[str] = []

    def receive(headers: dict[str, Any], **_: Any) -> None:
        seen.append(headers["id"])

    before_task_publish.connect(receive)
    try:
        result = sync.delay()
    finally:
        before_task_publish.disconnect(receive)

    assert seen == [result.id]


# -- what can go wrong


def test_a_message_over_1_mib_is_refused_and_nothing_is_recorded(
    app: Celery, sync: Any, queue: str
) -> None:
    with pytest.raises(LimitError, match=r"message takes \d+ bytes.*1048576"):
        sync.delay("x" * 2**20)

    assert not any(jobs(app).counts().values())
    assert messages(app, queue) == []


def test_what_cannot_be_serialized_is_refused_as_ever(
    app: Celery, sync: Any, queue: str
) -> None:
    with pytest.raises(Exception, match="not JSON serializable"):
        sync.delay(object())

    assert not any(jobs(app).counts().values())
    assert messages(app, queue) == []


def test_without_a_store_nothing_is_published(make_app: MakeApp, queue: str) -> None:
    app = make_app(broker_url=MEMORY, task_default_queue=queue)

    @app.task(base=ProgressTask, name="sync", stages=[Stage("x")], shared=False)
    def sync() -> None:
        pass

    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/0 cannot be reached"):
        sync.delay()

    assert messages(app, queue) == []


@pytest.fixture(params=[NOWHERE, "amqp://127.0.0.1:1//"], ids=["redis", "amqp"])
def cut_off(
    request: pytest.FixtureRequest, make_app: MakeApp, valkey: ValkeyServer
) -> Iterator[Celery]:
    """An app with a real store whose broker is down."""
    app = make_app(
        broker_url=request.param,
        jobkit_store_url=valkey.url,
        jobkit_prefix=f"test-{uuid.uuid4()}",
        task_publish_retry_policy={"max_retries": 0},
    )
    yield app
    app.jobkit.store.close()  # type: ignore[attr-defined]


def test_with_the_broker_down_a_job_is_recorded_and_due_at_once(
    cut_off: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    @cut_off.task(base=ProgressTask, name="sync", shared=False)
    def sync(n: int) -> None:
        pass

    result = sync.apply_async((1,), owner="acme")
    again = sync.apply_async((1,), task_id=result.id)

    job = result.job()
    assert isinstance(result, JobResult)
    assert (result.existing, again.existing) == (False, True)
    assert job.state is State.QUEUED
    assert job.published_at is None
    store = cut_off.jobkit.store  # type: ignore[attr-defined]
    assert store.next_due() <= 0
    assert [due.id for due in store.claim_due(10, 10)] == [job.id]
    assert "recorded, but not published yet" in caplog.text


def test_a_publisher_declares_the_queue_as_the_first_caller_did(
    app: Celery, sync: Any, queue: str
) -> None:
    message: Message = sync.delay().job().message
    elsewhere = replace(message, exchange="x")

    assert declared(app, message) == [app.amqp.queues[queue]]
    assert declared(app, elsewhere) == []


def test_a_publisher_declares_the_queue_behind_an_exchange_too(
    make_app: MakeApp, queue: str
) -> None:
    app = make_app(task_default_queue=queue, task_default_exchange_type="topic")
    message = Message("t", b"", "", "", exchange=queue, routing_key=queue)

    assert declared(app, message) == [app.amqp.queues[queue]]


@pytest.mark.parametrize("level", ["27", "0", "delivery"])
def test_a_message_is_kept_without_the_delay_of_quorum_queues(level: str) -> None:
    delayed = calculate_routing_key(90, "orders.high")
    options = {"exchange": f"celery_delayed_{level}", "routing_key": delayed}

    message = catch("t", {}, options)

    assert message.exchange == "celery_delayed_delivery"
    assert message.routing_key == queue_of(message) == "orders.high"


def test_a_publisher_says_that_the_broker_is_down(make_app: MakeApp) -> None:
    publisher = Publisher(make_app())
    message = catch("t", [[], {}, {}], {"serializer": "json", "routing_key": "q"})

    for _ in range(2):  # it does not keep the broken connection
        with pytest.raises(OperationalError, match="refused"):
            publisher.publish(message)
    publisher.close()
