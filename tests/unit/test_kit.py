"""Everything of jobkit that belongs to one Celery app hangs on its JobKit."""

from __future__ import annotations

import logging
import threading
import uuid
from datetime import timedelta
from functools import partial
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from jobkit import (
    Client,
    JobKit,
    JobTask,
    ProgressTask,
    RetryPolicy,
    SettingsError,
    State,
)
from jobkit.store.memory import MemoryStore
from jobkit.store.redis import RedisStore
from jobkit.store.values import Retention
from jobkit.worker import JobStep
from tests.servers import ValkeyServer
from tests.unit.conftest import NOWHERE, MakeApp

MEMORY = "memory://"


def kit_of(app: Any) -> JobKit:
    kit: JobKit = app.jobkit
    return kit


def task_of(app: Celery, **options: Any) -> Any:
    """A task of the app that is a job."""

    @app.task(base=ProgressTask, name="sync", shared=False, **options)
    def sync() -> None:
        pass

    app.finalize()
    return sync


# -- making one


def test_a_kit_hangs_on_its_app(app: Celery) -> None:
    kit = JobKit(app)

    assert kit_of(app) is kit
    assert kit.app is app
    assert JobStep in app.steps["worker"]


def test_a_task_alone_makes_a_kit_with_the_defaults(app: Celery) -> None:
    assert not hasattr(app, "jobkit")

    task = task_of(app)

    assert task.kit is kit_of(app)
    assert JobStep in app.steps["worker"]


def test_a_task_uses_the_kit_that_is_there(app: Celery) -> None:
    kit = JobKit(app)

    assert task_of(app).kit is kit


def test_making_a_kit_reads_nothing(make_app: MakeApp) -> None:
    app = make_app(jobkit_store_url="nonsense")
    kit = JobKit(app)
    app.conf.jobkit_store_url = NOWHERE
    app.conf.jobkit_lease_seconds = 7

    assert kit.settings.lease_seconds == 7
    assert kit.settings.store_url == NOWHERE


def test_each_app_has_a_kit_of_its_own(make_app: MakeApp) -> None:
    one, other = JobKit(make_app()), JobKit(make_app())

    assert one.drain is not other.drain
    assert one.keeper is not other.keeper
    assert one.local is not other.local


def test_a_second_kit_takes_over(make_app: MakeApp) -> None:
    app = make_app(broker_url=MEMORY, task_default_queue=str(uuid.uuid4()))
    first = JobKit(app, store=MemoryStore())
    second = JobKit(app, store=MemoryStore())
    task = task_of(app)

    task.delay()
    app.send_task("sync")

    assert task.kit is kit_of(app) is second
    assert first.jobs.counts()[State.QUEUED] == 0
    assert second.jobs.counts()[State.QUEUED] == 2
    assert len([step for step in app.steps["worker"] if step is JobStep]) == 1


# -- the store


def test_a_store_of_ones_own_is_used_by_all(app: Celery) -> None:
    store = MemoryStore()
    kit = JobKit(app, store=store)

    assert kit.store is kit.open_store() is kit.jobs.store is store
    assert isinstance(kit.jobs, Client)


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"jobkit_store_url": "redis://own/3"}, "redis://own/3"),
        (
            {"jobkit_store_url": None, "result_backend": "redis://backend/1"},
            "redis://backend/1",
        ),
        (
            {"jobkit_store_url": None, "broker_url": "redis://broker/2"},
            "redis://broker/2",
        ),
    ],
    ids=["its own", "the backend's", "the broker's"],
)
def test_the_store_is_where_the_settings_say(
    make_app: MakeApp, settings: dict[str, Any], url: str
) -> None:
    app = make_app(
        **settings,
        jobkit_prefix="shop",
        jobkit_partitions=4,
        jobkit_keep_dead=99,
    )
    store = JobKit(app).store

    assert isinstance(store, RedisStore)
    assert (store.url, store.keys.prefix, store.keys.partitions) == (url, "shop", 4)
    assert store.retention == Retention(dead=99.0)
    store.close()


def test_without_any_redis_there_is_no_store(make_app: MakeApp) -> None:
    app = make_app(jobkit_store_url=None, broker_url="amqp://localhost//")

    with pytest.raises(SettingsError, match=r"no store.*Set jobkit_store_url"):
        _ = JobKit(app).store


def test_a_store_of_a_thread_has_connections_of_its_own(
    make_app: MakeApp, valkey: ValkeyServer
) -> None:
    kit = JobKit(make_app(jobkit_store_url=valkey.url))
    other = kit.open_store()

    assert other is not kit.store
    other.ping()
    other.close()
    kit.store.ping()
    kit.store.close()


# -- settings


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("jobkit_lease_second", 30, "Did you mean jobkit_lease_seconds?"),
        ("jobkit_lease_seconds", "30", "jobkit_lease_seconds is '30'"),
        ("jobkit_store_url", "http://store", "jobkit_store_url"),
    ],
)
def test_a_wrong_setting_is_refused_when_it_is_first_needed(
    make_app: MakeApp, name: str, value: Any, part: str
) -> None:
    app = make_app(**{name: value})
    task = task_of(app)

    for use in (task.delay, task.apply().get, task, kit_of(app).check):
        with pytest.raises(SettingsError) as caught:
            use()
        assert part in str(caught.value)


def test_a_wrong_policy_is_refused_by_the_check(make_app: MakeApp) -> None:
    kit = JobKit(make_app(jobkit_retry_policy={"transien": 5}))

    with pytest.raises(SettingsError, match="transient"):
        kit.check()


def test_a_wrong_map_is_refused_by_the_check(make_app: MakeApp) -> None:
    app = make_app(jobkit_routes={"shop.*": "hihg"})
    kit = JobKit(app)
    app.finalize()

    with pytest.raises(SettingsError, match="hihg"):
        kit.check()


@pytest.mark.parametrize(
    "settings",
    [
        {"jobkit_queues": {"shop.dead_letters": {}}},
        {"jobkit_queues": {"fast": {"dead_letter_queue": "shop.dead_letters"}}},
        {
            "jobkit_routes": {
                "*": {"queue": "low", "dead_letter_queue": "shop.dead_letters"}
            }
        },
    ],
    ids=["queue", "its-dead-letters", "a-route-s"],
)
def test_the_queue_of_what_rabbitmq_gives_up_is_no_project_s(
    make_app: MakeApp, settings: dict[str, Any]
) -> None:
    app = make_app(jobkit_prefix="shop", **settings)
    kit = JobKit(app)
    app.finalize()

    with pytest.raises(SettingsError, match=r"'shop\.dead_letters' .* another name"):
        kit.check()


def test_settings_that_come_too_late_are_refused_by_the_check(
    make_app: MakeApp,
) -> None:
    class Sync(JobTask):
        name = "t.sync"

        def run(self) -> None:
            pass

    app = make_app(jobkit_lease_seconds=40)
    kit = JobKit(app)
    app.register_task(Sync())  # for which Celery finalizes the app
    kit.check_settings()
    app.conf.jobkit_lease_seconds = 77

    with pytest.raises(SettingsError, match="jobkit_lease_seconds came too late"):
        kit.check()


def test_settings_of_any_kind_are_read_twice_alike(make_app: MakeApp) -> None:
    class Chooser:
        lock = threading.Lock()

        def choose(self, *_: Any) -> str:
            return "fast"

    chooser = Chooser()
    rules = {"a": partial(str), "b": chooser.choose, "c": {"queue": chooser.choose}}
    app = make_app(
        jobkit_queues={"fast": {}},
        jobkit_routes=MappingProxyType(rules),
        jobkit_retry_policy=RetryPolicy(),
        jobkit_keep_dead=timedelta(days=3),
    )

    JobKit(app).check_settings()


def test_the_check_only_warns_of_a_store_that_is_away(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    JobKit(make_app()).check()

    assert "127.0.0.1:1/0 cannot be reached" in caplog.text
    assert "Jobs wait until it can be reached." in caplog.text


def test_the_check_of_a_healthy_app_says_nothing(
    make_app: MakeApp, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    kit = JobKit(make_app(jobkit_store_url=valkey.url))

    kit.check()

    assert not caplog.records
    kit.store.close()


def test_a_task_has_its_own_policy_or_the_apps(make_app: MakeApp) -> None:
    app = make_app(jobkit_retry_policy={"transient": 9})

    assert task_of(app).policy.transient == 9
    assert task_of(make_app()).policy == RetryPolicy()
    assert task_of(make_app(), retry_policy="never").policy.never
    assert task_of(make_app(), retry_policy={"unknown": 1}).policy.unknown == 1


# -- routes


def landed(app: Any) -> set[str]:
    """The queues in which messages are."""
    with app.connection_for_read() as connection:
        queues = connection.default_channel.queues
        return {name for name, queue in queues.items() if queue.qsize()}


@pytest.mark.parametrize("configured", ["before", "after", "late"])
@pytest.mark.parametrize("by_name", [True, False])
def test_the_first_message_of_a_process_goes_by_the_map(
    configured: str, *, by_name: bool
) -> None:
    queue = uuid.uuid4().hex
    app: Any = Celery("shop", broker=MEMORY, set_as_current=False)
    conf = {"jobkit_queues": {queue: {}}, "jobkit_routes": {"sync": queue}}
    if configured == "before":
        app.conf.update(conf)
    if configured == "late":
        assert app.conf.task_routes is None
    JobKit(app, MemoryStore())
    if configured != "before":
        app.conf.update(conf)

    def sync() -> None: ...

    task = app.task(sync, name="sync", shared=False, ignore_result=True)
    if configured == "late":
        app.finalize()  # what is set after the first look counts from here on

    if by_name:
        app.send_task("sync", ignore_result=True)
    else:
        task.delay()

    assert queue in landed(app)


def test_the_map_of_the_app_routes_its_tasks(make_app: MakeApp) -> None:
    app = make_app(
        broker_url=MEMORY,
        jobkit_queues={"high": {}, "low": {"dead_letter_queue": "low.dead"}},
        jobkit_routes={"sync": "low", "*": "high"},
    )
    kit = JobKit(app, store=MemoryStore())

    job = task_of(app).delay().job()

    assert (job.queue, job.dead_letter_queue) == ("low", "low.dead")
    assert kit.dead_letter_queue("other", "high") == ""


def test_without_a_map_the_projects_own_routing_stays(make_app: MakeApp) -> None:
    app = make_app(broker_url=MEMORY, task_routes={"sync": {"queue": "theirs"}})
    JobKit(app, store=MemoryStore())

    job = task_of(app).delay().job()

    assert (job.queue, job.dead_letter_queue) == ("theirs", "theirs.dead")


# -- a cancel without an owner


def test_a_waiting_job_that_is_cancelled_is_revoked_for_celery(
    make_app: MakeApp,
) -> None:
    app = make_app(broker_url=MEMORY, result_backend="cache+memory://")
    kit = JobKit(app, store=MemoryStore())
    result = task_of(app).delay()

    assert result.cancel(reason="wrong shop", actor="ana")

    assert result.state == "REVOKED"
    assert "wrong shop" in str(result.result)
    assert kit.jobs.get(result.id).state is State.CANCELLED


def test_a_result_watches_and_reads_its_job(make_app: MakeApp) -> None:
    app = make_app(broker_url=MEMORY)
    kit = JobKit(app, store=MemoryStore())
    task = task_of(app)
    result = task.delay()
    kit.jobs.cancel(result.id)

    assert [event.name for event in result.watch()] == ["now"]
    assert result.job().state is State.CANCELLED
    assert task.AsyncResult(result.id).job() == result.job()
    assert not task.AsyncResult(result.id).existing


# -- in a worker


def test_a_shutdown_is_noted_without_a_lock(make_app: MakeApp) -> None:
    kit = JobKit(make_app())
    step = JobStep(SimpleNamespace(app=kit.app))

    # As the handler of a second signal finds it that has interrupted the first's.
    with step._stop._cond:  # type: ignore[attr-defined]
        noting = threading.Thread(target=step._drain, daemon=True)
        noting.start()
        noting.join(5)
        assert not noting.is_alive()

    assert kit.drain.is_set()


def test_what_a_worker_holds_is_noted_before_anybody_knows_of_the_shutdown(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = JobKit(make_app())
    known: list[bool] = []

    class Requests(dict[str, Any]):
        def values(self) -> Any:
            known.append(kit.drain.is_set())
            return super().values()

    monkeypatch.setattr("celery.worker.state.requests", Requests())

    JobStep(SimpleNamespace(app=kit.app))._drain()

    assert known == [False]
    assert kit.drain.is_set()
