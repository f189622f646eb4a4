"""What makes two jobs the same, and what enqueueing the second one does."""

from __future__ import annotations

import enum
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from celery import Celery
from celery._state import _task_stack  # type: ignore[attr-defined]
from celery.backends.cache import CacheBackend
from typing_extensions import override

from jobkit import CodecError, DuplicateJob, JobKit, JobTask, SettingsError, State
from jobkit.job import Progress
from jobkit.publishing import GENERATION, body_of
from jobkit.store.memory import MemoryStore
from jobkit.store.redis import RedisStore
from jobkit.store.values import Snapshot
from tests.servers import ValkeyServer
from tests.unit.conftest import NOWHERE, MakeApp
from tests.waiting import wait_until


@pytest.fixture
def app(make_app: MakeApp) -> Celery:
    """An app whose broker and whose store are in this process."""
    app = make_app(broker_url="memory://", task_default_queue=uuid.uuid4().hex)
    JobKit(app, store=MemoryStore())
    return app


def sync_of(app: Celery, unique_on: Any, name: str = "sync", **options: Any) -> Any:
    """A unique task of several arguments."""

    @app.task(
        base=JobTask, bind=True, name=name, shared=False, unique_on=unique_on, **options
    )
    def sync(
        self: Any, shop: Any, day: Any = None, *rest: Any, deep: bool = False
    ) -> None:
        pass

    app.finalize()
    return sync


def key_of(result: Any) -> str:
    return str(result.job().unique_key)


# -- the key


def test_it_is_made_of_the_named_arguments_however_they_are_given(app: Celery) -> None:
    sync = sync_of(app, ["shop", "day"])
    first = sync.delay("berlin", None)

    assert key_of(first) == 'sync:{"day":null,"shop":"berlin"}'
    assert sync.delay("berlin").id == first.id
    assert sync.delay(shop="berlin", deep=True).id == first.id
    assert sync.delay("berlin", day=None).id == first.id
    assert sync.apply_async(kwargs={"day": None, "shop": "berlin"}).id == first.id
    assert sync.delay("berlin", 1).id != first.id
    assert sync.delay("bern").id != first.id


def test_a_class_is_read_as_a_function_is(app: Celery) -> None:
    class Sync(JobTask):
        name = "sync"
        unique_on = ("shop",)

        def run(self, shop: str, deep: bool = False) -> None:
            """Do nothing."""

    sync: Any = app.register_task(Sync())
    assert key_of(sync.delay("berlin", deep=True)) == 'sync:{"shop":"berlin"}'


def test_a_function_without_self_is_read_as_it_is(app: Celery) -> None:
    @app.task(base=JobTask, name="sync", shared=False, unique_on=["shop"])
    def sync(shop: str) -> None:
        pass

    assert key_of(sync.delay("berlin")) == 'sync:{"shop":"berlin"}'


def test_all_arguments_may_count_or_none(app: Celery) -> None:
    all_of_them, none = sync_of(app, "*", "all"), sync_of(app, [], "none")
    assert all_of_them.delay(1, 2, 3).id == all_of_them.delay(1, 2, 3, deep=False).id
    assert all_of_them.delay(1, 2, 3).id != all_of_them.delay(1, 2, 4).id
    assert none.delay(1).id == none.delay(2).id


def test_two_tasks_do_not_share_keys(app: Celery) -> None:
    ids = {sync_of(app, ["shop"], name).delay(1).id for name in ("one", "other")}
    assert len(ids) == 2


class Colour(enum.StrEnum):
    RED = "red"


SAME = [
    ((1, [2, (3,)]), [1, [2, [3]]]),
    ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}),
    (Colour.RED, "red"),
]
OTHER = [(1, "1"), (1, True), (0, None), ({"a": 1}, {"a": 2}), ([1, 2], [2, 1])]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_values_that_a_worker_gets_alike_are_the_same(
    app: Celery, one: Any, other: Any
) -> None:
    sync = sync_of(app, ["shop"])
    assert sync.delay(one).id == sync.delay(other).id


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_values_that_differ_are_not(app: Celery, one: Any, other: Any) -> None:
    sync = sync_of(app, ["shop"])
    assert sync.delay(one).id != sync.delay(other).id


@pytest.mark.parametrize("serializer", ["json", "pickle"])
@pytest.mark.parametrize(
    "value",
    [
        *(date(2026, 11, 24), datetime(2026, 11, 24, tzinfo=UTC), Decimal("1.50")),
        *(uuid.UUID(int=7), b"\x00\xff"),
    ],
    ids=repr,
)
def test_any_value_that_can_be_sent_may_count_and_by_name_too(
    app: Celery, value: Any, serializer: str
) -> None:
    sync = sync_of(app, ["shop"])
    first = sync.apply_async((value,), serializer=serializer)
    app.conf.task_serializer = serializer
    sent = app.send_task("sync", (value,))
    assert app.jobkit.jobs.get(sent.id).reason == f"duplicate of {first.id}"  # type: ignore[attr-defined]


def test_a_long_key_is_hashed(app: Celery) -> None:
    sync = sync_of(app, ["shop"])
    first = sync.delay("x" * 1000)
    assert len(key_of(first)) == len("sync:") + 64
    assert sync.delay("x" * 1000).id == first.id
    assert sync.delay("x" * 1001).id != first.id


# -- bad input


def test_an_argument_that_cannot_be_kept_is_named(app: Celery) -> None:
    sync = sync_of(app, ["shop"])
    with pytest.raises(CodecError, match=r"Task 'sync' .* argument 'shop': .*object"):
        sync.delay(object())
    with pytest.raises(
        CodecError, match=r"argument 'shop': The value.*type builtins.set"
    ):
        sync.apply_async(({1},), serializer="pickle")


def test_an_argument_that_is_missing_is_named(app: Celery) -> None:
    sync = sync_of(app, ["shop"])
    with pytest.raises(
        CodecError, match=r"'sync' is called without its argument 'shop'"
    ):
        sync.delay()
    with pytest.raises(CodecError, match=r"'sync' does not take this: .*'town'"):
        sync.delay("berlin", town=1)
    assert not any(app.jobkit.jobs.counts().values())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"unique_on": ["shp"]}, r"Task 'sync': unique_on names 'shp'.*mean 'shop'"),
        ({"unique_on": ["rest"]}, r"unique_on names 'rest', which is no argument"),
        ({"unique_on": "shop"}, r"a list of names of arguments, or '\*' for all"),
        ({"unique_on": [1]}, r"a list of names of arguments"),
        ({"unique_on": [], "unique_until": "end"}, r"unique_until is .* not 'end'"),
        ({"unique_on": [], "unique_until": 0}, r"above 0, not 0"),
        ({"unique_on": [], "unique_until": True}, r"unique_until is"),
        ({"unique_on": [], "on_duplicate": "skip"}, r"on_duplicate is one of .*'skip'"),
    ],
)
def test_an_option_that_is_wrong_is_refused_when_the_task_is_made(
    app: Celery, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(SettingsError, match=told):
        sync_of(app, **options)


def test_a_task_of_any_keywords_may_name_any(app: Celery) -> None:
    @app.task(base=JobTask, name="sync", shared=False, unique_on=["shop"])
    def sync(**options: Any) -> None:
        pass

    task: Any = sync
    assert key_of(task.delay(shop=7, deep=True)) == 'sync:{"shop":7}'
    with pytest.raises(CodecError, match="without its argument 'shop'"):
        task.delay(deep=True)


def test_a_time_may_be_a_timedelta(app: Celery) -> None:
    sync = sync_of(app, ["shop"], unique_until=timedelta(minutes=1))
    assert sync.uniqueness.until == 60


# -- the second one


def test_the_job_that_is_there_comes_back(app: Celery) -> None:
    sync = sync_of(app, ["shop"])
    first, second = sync.delay("berlin"), sync.delay("berlin", deep=True)

    assert (first.existing, second.existing) == (False, True)
    assert second.id == first.id
    assert second.job().state is State.QUEUED
    assert messages(app) == 1


def messages(app: Celery) -> int:
    """How many messages lie in the queue."""
    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        return int(channel._size(app.conf.task_default_queue))


def test_it_is_the_one_whose_message_the_broker_did_not_take(make_app: MakeApp) -> None:
    app = make_app(broker_url=NOWHERE, broker_transport_options={"max_retries": 0})
    JobKit(app, store=MemoryStore())
    sync = sync_of(app, ["shop"])
    options = {"retry": False}
    first = sync.apply_async(("berlin",), **options)
    second = sync.apply_async(("berlin",), **options)

    assert (second.id, second.existing) == (first.id, True)
    (due,) = app.jobkit.store.claim_due(9, 10)  # type: ignore[attr-defined]
    assert due.id == first.id


def test_it_may_be_an_error_that_names_the_job(app: Celery) -> None:
    sync = sync_of(app, ["shop"], on_duplicate="raise")
    first = sync.delay("berlin")
    for given in ({}, {"task_id": "mine"}):
        with pytest.raises(DuplicateJob, match=first.id) as error:
            sync.apply_async(("berlin",), **given)
        assert error.value.job_id == first.id
    assert messages(app) == 1
    assert app.jobkit.store.get("mine") is None  # type: ignore[attr-defined]


def test_its_arguments_may_take_the_place_of_those_that_wait(app: Celery) -> None:
    sync = sync_of(app, ["shop"], on_duplicate="replace_queued")
    link = sync_of(app, None, "link").si(1)
    first = sync.apply_async(("berlin", 1), link=link, headers={"trace": "7"})
    for serializer in ("pickle", "json"):
        second = sync.apply_async(
            ("berlin", 2), {"deep": True}, serializer=serializer, compression="gzip"
        )
        assert (second.id, second.existing) == (first.id, True)
        message = first.job().message
        args, kwargs, embed = body_of(message)
        assert (list(args), kwargs) == (["berlin", 2], {"deep": True})
        assert [callback["task"] for callback in embed["callbacks"]] == ["link"]
        assert message.headers["id"] == first.id
        assert message.headers["trace"] == "7"
        assert message.headers["argsrepr"] == "('berlin', 2)"
        assert message.headers[GENERATION] == first.job().generation
    assert messages(app) == 1


def test_an_id_that_is_known_gets_an_end(app: Celery) -> None:
    sync = sync_of(app, ["shop"])
    first = sync.delay("berlin")
    second = sync.apply_async(("berlin",), task_id="mine")

    assert (second.id, second.existing) == (first.id, True)
    mine = app.jobkit.jobs.get("mine")  # type: ignore[attr-defined]
    assert (mine.state, mine.reason) == (State.CANCELLED, f"duplicate of {first.id}")
    assert messages(app) == 1


def test_an_idempotency_key_is_told_first(app: Celery) -> None:
    sync = sync_of(app, ["shop"])
    first = sync.apply_async(("berlin",), idempotency_key="1")
    again = sync.apply_async(("berlin",), idempotency_key="1")
    other = sync.apply_async(("berlin",), idempotency_key="2")
    bern = sync.apply_async(("bern",), idempotency_key="1")

    assert {again.id, other.id, bern.id} == {first.id}
    assert again.existing
    assert other.existing
    app.jobkit.jobs.cancel(first.id)  # type: ignore[attr-defined]
    assert sync.apply_async(("berlin",), idempotency_key="1").existing
    assert not sync.apply_async(("berlin",), idempotency_key="2").existing


def test_who_enqueues_a_duplicate_has_the_job_that_is_there_for_a_child(
    app: Celery,
) -> None:
    sync = sync_of(app, ["shop"])
    first = sync.delay("berlin")
    sync.push_request(children=[], called_directly=False)
    _task_stack.push(sync)
    try:
        sync.delay("berlin")
        assert [child.id for child in sync.request.children] == [first.id]
    finally:
        _task_stack.pop()
        sync.pop_request()


@pytest.fixture
def spread(make_app: MakeApp, valkey: ValkeyServer) -> Iterator[Celery]:
    """An app with more than one partition."""
    app = make_app(broker_url="memory://", task_default_queue=uuid.uuid4().hex)
    name = f"test-{uuid.uuid4().hex[:12]}"
    store = RedisStore(valkey.url, prefix=name, partitions=3)
    JobKit(app, store=store)
    yield app
    store.close()


def test_with_partitions_the_job_is_where_its_key_is(spread: Celery) -> None:
    sync = sync_of(spread, ["shop"])
    for shop in range(9):
        first = sync.delay(shop)
        assert sync.delay(shop).id == first.id


def test_with_partitions_a_known_id_is_refused_or_goes_without_a_key(
    spread: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    sync = sync_of(spread, ["shop"])
    there = sync.delay(7).id
    keys = spread.jobkit.store.keys  # type: ignore[attr-defined]
    far = next(i for i in map(str, range(9)) if keys.tag_of(i) != keys.tag_of(there))

    with pytest.raises(
        SettingsError, match=r"jobkit_partitions = 3 .* without a task_id"
    ):
        sync.apply_async((7,), task_id=far)
    spread.send_task("sync", (7,), task_id=far)
    assert spread.jobkit.jobs.get(far).unique_key == ""  # type: ignore[attr-defined]
    assert "runs without its unique key" in caplog.text


def test_eager_jobs_are_not_compared(make_app: MakeApp) -> None:
    app = make_app(task_always_eager=True)
    sync = sync_of(app, ["shop"])
    results = [sync.delay("berlin") for _ in range(2)]
    assert len({result.id for result in results}) == 2


def test_run_or_delay_returns_what_an_eager_job_returns(make_app: MakeApp) -> None:
    app = make_app(task_always_eager=True)

    @app.task(base=JobTask, name="add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    assert add.run_or_delay(1, y=2) == 3


class Counted(CacheBackend):
    """A result backend in this process that counts how often it is read."""

    reads = 0

    @override
    def get(self, key: Any) -> Any:
        self.reads += 1
        return super().get(key)


def test_run_or_delay_hears_of_the_end_and_does_not_poll_for_the_result(
    app: Celery,
) -> None:
    sync = sync_of(app, None)
    backend: Any = Counted(app=app, backend="memory://")
    sync.backend = backend
    store = app.jobkit.store  # type: ignore[attr-defined]

    def work() -> None:
        (job,) = wait_until(lambda: store.list().items, "it is enqueued")
        run = store.begin(job.id, "t", "w", 30).job
        time.sleep(0.5)
        backend.mark_as_done(job.id, 42)
        store.succeed(job.id, run.fence, Snapshot(0, "", Progress()))

    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(work)
        assert sync.run_or_delay("berlin", wait=20) == 42
        worker.result()
    assert backend.reads <= 3


def test_run_or_delay_does_not_wait_for_a_result_that_nobody_keeps(app: Celery) -> None:
    result = sync_of(app, None).run_or_delay("berlin", wait=600)
    assert result.job().state is State.QUEUED
