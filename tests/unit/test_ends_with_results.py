"""Where the store is in the backend's server, a job and its result end in one step."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import redis
from celery import Celery
from celery.backends.redis import RedisBackend
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_success
from kombu.utils.encoding import bytes_to_str

from jobkit import JobKit, ProgressTask, State, StoreUnavailable
from jobkit.backend import LARGE
from jobkit.store.redis import RedisStore
from jobkit.store.values import Kept
from tests.servers import ValkeyServer
from tests.unit.conftest import MakeApp
from tests.unit.delivery import deliver, kit_of, record, run, state_of
from tests.worker.promises import backend_writes_here


class Own(RedisBackend):
    """A backend that notes what it writes."""

    written: ClassVar[list[str]] = []

    def set(self, key: Any, *args: Any, **known: Any) -> Any:
        """Write, and note it."""
        self.written.append(bytes_to_str(key))
        return super().set(key, *args, **known)


MakeBeside = Callable[..., Celery]


@pytest.fixture
def make_beside(make_app: MakeApp, valkey: ValkeyServer) -> Iterator[MakeBeside]:
    """Makes apps whose store and backend are two databases of one server."""
    apps: list[Celery] = []

    def make(**settings: Any) -> Celery:
        app = make_app(
            **{
                "broker_url": "memory://",
                "result_backend": valkey.database_url(1),
                "jobkit_store_url": valkey.database_url(2),
                "jobkit_prefix": f"test-{uuid.uuid4().hex[:12]}",
                "task_default_queue": f"q-{uuid.uuid4()}",
                "result_expires": 1000,
                **settings,
            }
        )
        JobKit(app)
        apps.append(app)
        return app

    yield make
    for app in apps:
        backend: Any = app.backend
        backend.result_consumer.stop()
        # Results die when they like, and would connect it again to unsubscribe.
        backend.result_consumer.cancel_for = lambda _: None
        backend.client.connection_pool.disconnect()
        kit_of(app).store.close()


def make_task(app: Celery, body: Callable[..., Any], **options: Any) -> Any:
    with_us = {"base": ProgressTask, "bind": True, "name": "sync", "shared": False}
    return app.task(**{**with_us, **options})(body)


def server(valkey: ValkeyServer) -> Any:
    return redis.Redis.from_url(valkey.database_url(1))


def key_of(job_id: str) -> str:
    return f"celery-task-meta-{job_id}"


def three(_: Any) -> int:
    return 3


def rows(_: Any) -> dict[str, str]:
    return {"rows": "\xe9"}


def lose(task: Any, _: object = None) -> str:
    """A body whose job another run has taken when it returns."""
    task.kit.store.interrupt(task.job.id, task.job.fence, "requeue")
    return "mine"


# -- as one


@pytest.mark.parametrize("database", [1, 2])
@pytest.mark.parametrize("expires", [1000, 0])
def test_a_result_is_what_celery_makes_of_it(
    make_beside: MakeBeside, valkey: ValkeyServer, database: int, expires: int
) -> None:
    store = valkey.database_url(database)
    app = make_beside(jobkit_store_url=store, result_expires=expires)
    result = make_task(app, rows).delay()

    with server(valkey) as client, client.pubsub() as news:
        news.subscribe(key_of(result.id))
        assert run(app, result.id).state is State.SUCCEEDED
        news.get_message(timeout=5)
        told = news.get_message(timeout=5)
        kept = client.get(key_of(result.id))
        left = client.ttl(key_of(result.id))

    assert result.get(timeout=5) == {"rows": "\xe9"}
    assert told["data"] == kept
    assert 990 <= left <= 1000 if expires else left == -1


def test_a_run_that_has_lost_its_job_stores_no_result(
    make_beside: MakeBeside, valkey: ValkeyServer
) -> None:
    app = make_beside()
    result = make_task(app, lose).delay()

    assert run(app, result.id).state is State.QUEUED

    with server(valkey) as client:
        assert client.get(key_of(result.id)) is None


def test_a_run_that_stood_still_for_too_long_stores_no_result(
    make_beside: MakeBeside, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, succeed = make_beside(), RedisStore.succeed
    task = make_task(app, three)
    result = task.delay()

    def stand_still(*args: Any, **known: Any) -> Any:
        lease = task._execution.run.lease
        if lease.lost:
            return succeed(*args, **known)
        lease.confirm(0, Kept(owner=False))
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "succeed", stand_still)
        job = run(app, result.id)

    assert job.state is State.RUNNING  # until its lease has ended
    with server(valkey) as client:
        assert client.get(key_of(result.id)) is None


def test_a_result_is_stored_where_the_record_is_gone(
    make_beside: MakeBeside, valkey: ValkeyServer
) -> None:
    app = make_beside()

    def body(task: Any) -> int:
        with redis.Redis.from_url(valkey.database_url(2)) as client:
            assert client.delete(*client.keys(f"*{task.job.id}*"))
        return 3

    result = make_task(app, body).delay()
    deliver(app, record(app, result.id).message)

    assert result.get(timeout=5) == 3


@pytest.mark.filterwarnings("ignore:Exception raised outside body:RuntimeWarning")
def test_an_error_in_the_end_itself_is_nobodys(
    make_beside: MakeBeside, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, blamed, succeed = make_beside(), list[str](), RedisStore.succeed
    task = make_task(app, three, retry_policy={"total": 0})

    @app.task(name="blame", shared=False)
    def blame(request: Any, error: Exception, _: object) -> None:
        blamed.append(f"{request.id}: {error!r}")

    def late(*args: Any, **known: Any) -> None:
        succeed(*args, **known)
        raise SoftTimeLimitExceeded

    result = task.apply_async(link_error=blame.s())
    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "succeed", late)
        job = run(app, result.id)

    assert (job.state, result.get(timeout=5), blamed) == (State.SUCCEEDED, 3, [])


@pytest.mark.filterwarnings("ignore:Exception raised outside body:RuntimeWarning")
def test_an_error_behind_the_end_is_nobodys(
    make_beside: MakeBeside,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, blamed = make_beside(), list[str]()
    task = make_task(app, three)

    @app.task(name="blame", shared=False)
    def blame(request: Any, error: Exception, _: object) -> None:
        blamed.append(f"{request.id}: {error!r}")

    def late(*_: Any) -> str:
        raise SoftTimeLimitExceeded

    result = task.apply_async(link_error=blame.s())
    with monkeypatch.context() as patch:
        patch.setattr("celery.app.trace.saferepr", late)
        job = run(app, result.id)

    assert (job.state, job.attempts) == (State.SUCCEEDED, 0)
    assert (state_of(app, result.id), result.result, blamed) == ("SUCCESS", 3, [])
    assert "lease" not in caplog.text


@backend_writes_here
def test_a_success_that_a_body_tells_itself_is_no_end(make_beside: MakeBeside) -> None:
    app, seen = make_beside(), list[State]()

    def body(task: Any) -> None:
        task.update_state(state="SUCCESS", meta="almost")
        seen.append(record(app, task.job.id).state)

    job = run(app, make_task(app, body).delay().id)

    assert (seen, job.state) == ([State.RUNNING], State.SUCCEEDED)


# -- apart, where something comes after the result


@backend_writes_here
@pytest.mark.parametrize("hook", ["on_success", "after_return"])
def test_a_job_ends_after_the_users_hooks(make_beside: MakeBeside, hook: str) -> None:
    app, seen = make_beside(), list[State]()

    def hooked(self: Any, *_: Any) -> None:
        seen.append(record(app, self.request.id).state)

    base = type("Hooked", (ProgressTask,), {hook: hooked, "abstract": True})
    result = make_task(app, three, base=base).delay()

    assert run(app, result.id).state is State.SUCCEEDED
    assert (seen, result.get(timeout=5)) == ([State.RUNNING], 3)


@backend_writes_here
def test_a_job_ends_after_receivers_of_its_success(make_beside: MakeBeside) -> None:
    app, seen = make_beside(), list[State]()
    result = make_task(app, three).delay()

    def receive(**_: Any) -> None:
        seen.append(record(app, result.id).state)

    task_success.connect(receive)
    try:
        assert run(app, result.id).state is State.SUCCEEDED
    finally:
        task_success.disconnect(receive)

    assert (seen, result.get(timeout=5)) == ([State.RUNNING], 3)


@backend_writes_here
def test_a_member_of_a_chord_ends_when_it_is_counted(
    make_beside: MakeBeside, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, seen = make_beside(), list[State]()
    task = make_task(app, three)

    def counted(_: Any, request: Any, *__: Any, **___: Any) -> None:
        seen.append(record(app, request.id).state)

    monkeypatch.setattr(RedisBackend, "on_chord_part_return", counted)
    result = task.apply_async(chord=task.si())

    assert run(app, result.id).state is State.SUCCEEDED
    assert (seen, result.get(timeout=5)) == ([State.RUNNING], 3)


@backend_writes_here
def test_a_job_that_retries_itself_without_raising_goes_on(
    make_beside: MakeBeside,
) -> None:
    app = make_beside()

    def body(task: Any) -> str:
        if not task.request.retries:
            task.retry(throw=False, countdown=0)
        return f"try {task.request.retries}"

    result = make_task(app, body).delay()

    assert run(app, result.id).state is not State.SUCCEEDED


@backend_writes_here
def test_a_result_goes_to_its_own_server_when_that_is_another(
    make_beside: MakeBeside, valkey: ValkeyServer, valkey_server: ValkeyServer
) -> None:
    app = make_beside(jobkit_store_url=valkey_server.database_url(1))
    result = make_task(app, three).delay()

    assert run(app, result.id).state is State.SUCCEEDED
    assert result.get(timeout=5) == 3
    with server(valkey) as near, server(valkey_server) as far:
        assert near.exists(key_of(result.id))
        assert not far.exists(key_of(result.id))


@backend_writes_here
@pytest.mark.parametrize(("size", "by_celery"), [(LARGE // 2, 0), (LARGE, 1)])
def test_a_large_result_is_stored_by_celery(
    make_beside: MakeBeside,
    valkey: ValkeyServer,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    by_celery: int,
) -> None:
    written: list[str] = []
    url = f"{Own.__module__}.{Own.__name__}+{valkey.database_url(1)}"
    app = make_beside(result_backend=url)
    monkeypatch.setattr("jobkit.backend.RedisBackend", Own)
    monkeypatch.setattr(Own, "written", written)

    def body(_: Any) -> str:
        return "x" * size

    result = make_task(app, body).delay()

    assert run(app, result.id).state is State.SUCCEEDED
    assert len(result.get(timeout=5)) == size
    assert len(written) == by_celery


@backend_writes_here
def test_a_backend_of_ones_own_stores_its_results(
    make_beside: MakeBeside, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    url = f"{Own.__module__}.{Own.__name__}+{valkey.database_url(1)}"
    app = make_beside(result_backend=url)
    monkeypatch.setattr(Own, "written", written)
    result = make_task(app, three).delay()

    assert run(app, result.id).state is State.SUCCEEDED
    assert result.get(timeout=5) == 3
    assert written == [key_of(result.id)]


@backend_writes_here
def test_a_store_that_may_not_write_results_is_asked_once(
    make_beside: MakeBeside, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    with server(valkey) as client:
        rules = ("on", ">secret", "~*test-*", "&*", "+@all")
        client.execute_command("ACL", "SETUSER", "jobs", *rules)
    url = valkey.database_url(2).replace("://", "://jobs:secret@")
    app = make_beside(jobkit_store_url=url)
    task = make_task(app, three)
    first, second = task.delay(), task.delay()

    jobs = [run(app, result.id) for result in (first, second)]

    assert [job.state for job in jobs] == [State.SUCCEEDED] * 2
    assert [first.get(timeout=5), second.get(timeout=5)] == [3, 3]
    told = [line for line in caplog.messages if "stored apart" in line]
    assert len(told) == 1


# -- which server it is


@pytest.mark.parametrize(
    ("url", "options", "same"),
    [
        ("redis://h:7/2", {"host": "h", "port": 7, "db": 1}, True),
        ("redis://h:7/2", {"host": "h", "port": 8}, False),
        ("redis://h:7/2", {"host": "other", "port": 7}, False),
        ("redis://", {"host": "localhost", "port": 6379}, True),
        ("redis://localhost", {"host": None, "port": "6379"}, True),
        ("unix:///a/s", {"path": "/a/s", "db": 1}, True),
        ("unix:///a/s", {"path": "/a/t"}, False),
        ("unix:///a/s", {"host": "localhost", "port": 6379}, False),
        (
            "sentinel://localhost:6379?master_name=m",
            {"host": "localhost", "port": 6379},
            False,
        ),
    ],
)
def test_a_store_knows_its_server(
    url: str, options: dict[str, Any], *, same: bool
) -> None:
    assert RedisStore(url).is_at(options) is same


def test_a_store_in_memory_is_nowhere(make_app: MakeApp) -> None:
    local = JobKit(make_app()).local

    assert not local.is_at({"host": "localhost", "port": 6379})
