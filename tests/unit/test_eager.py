"""Eager mode and direct calls need no server, and are otherwise the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, chain, chord, current_task, group
from celery._state import get_current_task
from celery.exceptions import Ignore, Reject, Retry
from typing_extensions import override

from jobkit import (
    Client,
    JobkitError,
    JobTask,
    Permanent,
    ProgressTask,
    RateLimited,
    Stage,
    StageError,
    State,
    Transient,
    signals,
)
from jobkit.run import CurrentJob
from tests.unit.conftest import MakeApp

STAGES = ["count", Stage("import", weight=8), "reconcile"]
SIGNALS = [name for name in vars(signals) if name.startswith("job_")]

Ways = Callable[..., Any]


def eagerly(task: Any, *args: Any, **kwargs: Any) -> Any:
    """What ``apply`` makes of a task."""
    return task.apply(args, kwargs).get(disable_sync_subtasks=False)


def directly(task: Any, *args: Any, **kwargs: Any) -> Any:
    """What a plain call makes of a task."""
    return task(*args, **kwargs)


both_ways = pytest.mark.parametrize("call", [eagerly, directly])


def local(app: Celery) -> Client:
    """The client of the jobs that ran in this process."""
    return Client(app.jobkit.local)  # type: ignore[attr-defined]


def ended(app: Celery) -> dict[str, int]:
    """How many jobs ended how in this process."""
    counts = local(app).counts()
    return {str(state): count for state, count in counts.items() if count}


class Flaky:
    """Fails with the given errors, one a call, and then works."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


# -- all that a task can do


@both_ways
def test_every_method_works_without_a_server(app: Celery, call: Ways) -> None:
    seen: list[CurrentJob] = []

    @app.task(base=ProgressTask, bind=True, name="sync", stages=STAGES, shared=False)
    def sync(self: Any, shop: str, *, size: int = 3) -> Any:
        seen.append(self.job)
        total = self.step("count", lambda n: n * 2, size)
        handled = []
        with self.stage("import", total=total, title="Importing") as stage:
            for item in stage.iterate(source(total), cursor=lambda n: n):
                handled.append(item)
                stage.message(f"item {item}")
            stage.checkpoint("the end")
            stage.advance(0, message="all")
            self.set_progress(total, total, "still all")
            self.increment_progress(0)
            cursor, done = stage.cursor, stage.done
        return self.step(
            "reconcile", dict, shop=shop, handled=handled, cursor=cursor, done=done
        )

    def source(total: int) -> Callable[[int | None], Iterator[int]]:
        return lambda last: iter(range((last or 0) + 1, total + 1))

    result = call(sync, "acme", size=2)

    assert result == {
        "shop": "acme",
        "handled": [1, 2, 3, 4],
        "cursor": "the end",
        "done": False,
    }
    (job,) = seen
    assert (job.fence, job.attempt, job.recoveries, job.owner) == (1, 1, 0, "")
    assert job.id
    assert not job.should_stop()
    assert job.item_key(7) == f"{job.id}:7"


def test_an_eager_job_can_be_looked_at_afterwards(app: Celery) -> None:
    @app.task(base=ProgressTask, bind=True, name="sync", stages=STAGES, shared=False)
    def sync(self: Any) -> None:
        with self.stage("import") as stage:
            list(stage.iterate(range(5)))

    result = sync.apply()
    job = local(app).get(result.id)

    assert (job.state, job.task, job.progress.percent) == (State.SUCCEEDED, "sync", 100)
    assert job.progress.current == 5
    names = [event.name for event in local(app).history(result.id)]
    assert names == ["queued", "started", "succeeded"]


@both_ways
def test_a_task_without_stages_reports_like_celery_progress(
    app: Celery, call: Ways
) -> None:
    @app.task(base=ProgressTask, bind=True, name="old", shared=False)
    def old(self: Any) -> str:
        for n in range(10):
            self.set_progress(n + 1, 10, description=f"row {n}")
        self.increment_progress()
        self.increment_progress(by=2)
        return "done"

    assert call(old) == "done"


@both_ways
def test_a_job_task_needs_no_progress(app: Celery, call: Ways) -> None:
    @app.task(base=JobTask, bind=True, name="mail", shared=False)
    def mail(self: Any) -> int:
        return int(self.job.attempt)

    assert call(mail) == 1


def test_a_class_is_the_same_as_the_decorator(app: Celery) -> None:
    class Sync(ProgressTask):
        name = "shop.sync"
        stages = ("count",)

        @override
        def run(self, n: int) -> int:
            return self.step("count", lambda: n + 1)

    task = app.register_task(Sync())

    assert task(1) == 2
    assert task.apply((2,)).get() == 3


def test_always_eager_runs_at_once(make_app: MakeApp) -> None:
    app = make_app(task_always_eager=True)

    @app.task(base=ProgressTask, bind=True, name="sync", stages=STAGES, shared=False)
    def sync(self: Any, n: int) -> int:
        return int(self.step("count", lambda: n))

    assert sync.delay(3).get() == 3
    assert sync.apply_async((4,), countdown=60).get() == 4


def test_a_canvas_works_eagerly(make_app: MakeApp) -> None:
    app = make_app(task_always_eager=True)

    @app.task(base=ProgressTask, bind=True, name="add", stages=["add"], shared=False)
    def add(self: Any, x: int, y: int) -> int:
        return int(self.step("add", lambda: x + y))

    @app.task(base=ProgressTask, bind=True, name="total", stages=["sum"], shared=False)
    def total(self: Any, numbers: list[int]) -> int:
        return int(self.step("sum", sum, numbers))

    assert chain(add.s(1, 2), add.s(3)).apply().get() == 6
    assert group([add.s(1, 2), add.s(3, 4)]).apply().get() == [3, 7]
    assert chord([add.s(1, 2), add.s(3, 4)])(total.s()).get() == 10
    assert ended(app) == {"SUCCEEDED": 7}


# -- errors


@both_ways
@pytest.mark.parametrize(
    "error", [Permanent("no such shop"), StageError("odd"), MemoryError("too much")]
)
def test_a_final_error_comes_out_unchanged(
    app: Celery, call: Ways, error: Exception
) -> None:
    @app.task(base=ProgressTask, name="sync", retry_policy="never", shared=False)
    def sync() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        call(sync)

    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [Transient("t"), ConnectionError("c"), RateLimited("r", retry_after=9), KeyError()],
)
def test_a_direct_call_never_tries_again(app: Celery, error: Exception) -> None:
    body = Flaky(error)

    @app.task(base=ProgressTask, name="sync", shared=False)
    def sync() -> int:
        return body()

    with pytest.raises(type(error)) as caught:
        sync()

    assert caught.value is error
    assert body.calls == 1


@pytest.mark.parametrize(
    "errors",
    [
        [Transient("t")] * 5,
        [ConnectionError("c"), TimeoutError("t")],
        [RateLimited("r", retry_after=3600)] * 10,
        [KeyError("unknown")] * 3,
    ],
    ids=["transient", "network", "rate limited", "unknown"],
)
def test_an_eager_job_tries_again_at_once_as_its_verdicts_say(
    app: Celery, errors: list[Exception]
) -> None:
    body = Flaky(*errors)

    @app.task(base=ProgressTask, name="sync", shared=False)
    def sync() -> int:
        return body()

    result = sync.apply()

    assert result.get() == len(errors) + 1
    job = local(app).get(result.id)
    limited = sum(isinstance(error, RateLimited) for error in errors)
    assert (job.state, job.starts) == (State.SUCCEEDED, len(errors) + 1)
    assert (job.attempts, job.rate_limited) == (len(errors) - limited, limited)


def test_an_eager_job_dies_when_its_budget_is_used_up(app: Celery) -> None:
    body = Flaky(*[KeyError("unknown")] * 9)

    @app.task(base=ProgressTask, name="sync", shared=False)
    def sync() -> int:
        return body()

    result = sync.apply()

    with pytest.raises(KeyError, match="unknown"):
        result.get()
    job = local(app).get(result.id)
    assert body.calls == 4
    assert (job.state, job.reason) == (State.DEAD, "retries_exhausted")
    assert job.error
    assert (job.error.type, job.error.verdict) == ("KeyError", "unknown")
    assert "in sync" in job.error.traceback


def test_an_eager_retry_resumes_and_does_not_restart(app: Celery) -> None:
    handled: list[int] = []
    count = Flaky()

    @app.task(base=ProgressTask, bind=True, name="sync", stages=STAGES, shared=False)
    def sync(self: Any) -> str:
        total = self.step("count", count)
        with self.stage("import", total=total) as stage:
            for item in stage.iterate(range(10)):
                if item == 6 and self.job.attempt == 1:
                    raise ConnectionError
                handled.append(item)
        return str(self.step("reconcile", lambda: "well"))

    assert sync.apply().get() == "well"
    assert handled == list(range(10))
    assert count.calls == 1


def test_an_error_that_is_to_propagate_comes_out_at_once(make_app: MakeApp) -> None:
    app = make_app(task_always_eager=True, task_eager_propagates=True)
    error = ConnectionError("down")
    body = Flaky(error)

    @app.task(base=ProgressTask, name="sync", shared=False)
    def sync() -> int:
        return body()

    with pytest.raises(ConnectionError) as caught:
        sync.delay()

    assert caught.value is error
    assert ended(app) == {"DEAD": 1}


# -- Celery's own ways


def test_a_retry_of_ones_own_runs_again_at_once(app: Celery) -> None:
    calls: list[tuple[int, int, int]] = []

    @app.task(
        base=ProgressTask,
        bind=True,
        name="sync",
        default_retry_delay=3600,
        shared=False,
    )
    def sync(self: Any, n: int) -> int:
        calls.append((n, self.request.retries, self.job.attempt))
        if n < 3:
            raise self.retry(args=(n + 1,), exc=KeyError("again"))
        return n

    result = sync.apply((1,))

    assert result.get() == 3
    assert calls == [(1, 0, 1), (2, 1, 2), (3, 2, 3)]
    assert ended(app) == {"SUCCEEDED": 1}


def test_a_retry_that_is_returned_runs_again_too(app: Celery) -> None:
    body = Flaky(KeyError(), KeyError())

    @app.task(base=ProgressTask, bind=True, name="sync", shared=False)
    def sync(self: Any) -> Any:
        try:
            return body()
        except KeyError:
            return self.retry(throw=False)

    result = sync.apply()

    assert result.get() == 3
    assert ended(app) == {"SUCCEEDED": 1}


def test_retries_of_ones_own_are_used_up(app: Celery) -> None:
    body = Flaky(*[KeyError("no")] * 9)

    @app.task(base=ProgressTask, bind=True, name="sync", max_retries=2, shared=False)
    def sync(self: Any) -> int:
        try:
            return body()
        except KeyError as error:
            raise self.retry(exc=error) from error

    result = sync.apply()

    assert body.calls == 3
    assert isinstance(result.result, KeyError)
    job = Client(app.jobkit.local).get(result.id)  # type: ignore[attr-defined]
    assert (job.state, job.reason) == (State.DEAD, "retries_exhausted")


def test_autoretry_goes_the_same_way(app: Celery) -> None:
    body = Flaky(*[KeyError("no")] * 2)

    @app.task(base=ProgressTask, name="s", autoretry_for=(KeyError,), shared=False)
    def sync() -> int:
        return body()

    assert sync.apply().get() == 3
    assert ended(app) == {"SUCCEEDED": 1}


def test_a_direct_call_that_retries_gets_its_own_error(app: Celery) -> None:
    @app.task(base=ProgressTask, bind=True, name="sync", shared=False)
    def sync(self: Any, error: Exception | None) -> None:
        raise self.retry(exc=error)

    with pytest.raises(KeyError):
        sync(KeyError())
    with pytest.raises(Retry):
        sync(None)


def test_ignore_and_reject_keep_their_meaning(app: Celery) -> None:
    @app.task(base=ProgressTask, bind=True, name="sync", shared=False)
    def sync(self: Any, error: Exception) -> None:  # noqa: ARG001
        raise error

    ignored = sync.apply((Ignore("enough"),))
    rejected = sync.apply((Reject("bad"),))

    assert (ignored.state, rejected.state) == ("IGNORED", "REJECTED")
    assert local(app).get(ignored.id).state is State.SUCCEEDED
    dead = local(app).get(rejected.id)
    assert (dead.state, dead.reason) == (State.DEAD, "rejected")


def test_a_task_may_replace_itself(app: Celery) -> None:
    @app.task(base=ProgressTask, bind=True, name="other", stages=["x"], shared=False)
    def other(self: Any, n: int) -> int:
        return int(self.step("x", lambda: n + 1))

    @app.task(base=ProgressTask, bind=True, name="first", stages=["a"], shared=False)
    def first(self: Any, n: int) -> Any:
        return self.replace(other.s(self.step("a", lambda: n * 10)))

    result = first.apply((4,))

    assert result.get() == 41
    job = local(app).get(result.id)
    assert (job.task, job.state) == ("other", State.SUCCEEDED)


def test_an_error_of_a_replacement_comes_out(app: Celery) -> None:
    @app.task(base=ProgressTask, name="other", shared=False)
    def other() -> None:
        raise Permanent("no")

    @app.task(base=ProgressTask, bind=True, name="first", shared=False)
    def first(self: Any) -> Any:
        return self.replace(other.s())

    result = first.apply()

    assert isinstance(result.result, Permanent)
    assert local(app).get(result.id).state is State.DEAD


# -- tasks within tasks


@both_ways
def test_a_task_may_call_another_one(app: Celery, call: Ways) -> None:
    ids: list[str] = []

    @app.task(base=ProgressTask, bind=True, name="inner", stages=["x"], shared=False)
    def inner(self: Any, n: int) -> int:
        ids.append(self.job.id)
        return int(self.step("x", lambda: n * 2))

    @app.task(base=ProgressTask, bind=True, name="outer", stages=["x"], shared=False)
    def outer(self: Any) -> int:
        ids.append(self.job.id)
        with self.stage("x") as stage:
            doubled = [inner(n) for n in stage.iterate(range(3))]
        ids.append(self.job.id)
        return sum(doubled)

    assert call(outer) == 6
    assert ids[0] == ids[-1]
    assert len(set(ids)) == 4


@both_ways
def test_a_task_may_call_itself(app: Celery, call: Ways) -> None:
    @app.task(
        base=ProgressTask, bind=True, name="factorial", stages=["x"], shared=False
    )
    def factorial(self: Any, n: int) -> int:
        with self.stage("x") as stage:
            (before,) = [factorial(n - 1) if n else 1 for _ in stage.iterate([1])]
        return max(n, 1) * int(before)

    assert call(factorial, 5) == 120


def test_an_error_of_a_task_within_a_task_can_be_caught(app: Celery) -> None:
    @app.task(base=ProgressTask, name="inner", shared=False)
    def inner() -> None:
        raise ConnectionError

    @app.task(base=ProgressTask, bind=True, name="outer", stages=["x"], shared=False)
    def outer(self: Any) -> str:
        try:
            inner()
        except ConnectionError:
            return str(self.step("x", lambda: "caught"))
        return "missed"

    assert outer.apply().get() == "caught"


@both_ways
def test_the_current_task_is_the_one_that_runs(app: Celery, call: Ways) -> None:
    @app.task(base=ProgressTask, name="inner", shared=False)
    def inner() -> str:
        return str(current_task.name)

    @app.task(base=ProgressTask, name="outer", shared=False)
    def outer() -> list[str]:
        return [current_task.name, inner(), current_task.name]

    assert call(outer) == ["outer", "inner", "outer"]
    assert get_current_task() is None


# -- classes of one's own


def test_handlers_need_not_call_super(app: Celery) -> None:
    called: list[str] = []

    def handler(name: str) -> Callable[..., None]:
        return lambda *_: called.append(name)

    class Base(ProgressTask):
        abstract = True
        before_start = handler("before")
        on_success = handler("success")
        on_failure = handler("failure")
        on_retry = handler("retry")
        after_return = handler("after")

    body = Flaky(ConnectionError(), Permanent("no"))

    @app.task(base=Base, bind=True, name="sync", stages=["x"], shared=False)
    def sync(self: Any) -> Any:
        return self.step("x", body)

    first, second = sync.apply(), sync.apply()

    assert isinstance(first.result, Permanent)
    assert second.get() == 3
    assert ended(app) == {"DEAD": 1, "SUCCEEDED": 1}
    assert called == [
        *("before", "retry"),
        *("before", "failure", "after"),
        *("before", "success", "after"),
    ]


@both_ways
def test_a_mixin_may_have_its_own_call(app: Celery, call: Ways) -> None:
    around: list[str] = []

    class Timed:
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            around.append("in")
            try:
                return super().__call__(*args, **kwargs)  # type: ignore[misc]
            finally:
                around.append("out")

    class Base(Timed, ProgressTask):
        abstract = True

    @app.task(base=Base, bind=True, name="sync", stages=["x"], shared=False)
    def sync(self: Any, n: int) -> Any:
        around.append("body")
        return self.step("x", lambda: n)

    assert call(sync, 5) == 5
    assert around == ["in", "body", "out"]


def test_an_on_success_that_fails_is_seen_and_the_job_has_succeeded(
    app: Celery,
) -> None:
    class Base(ProgressTask):
        abstract = True

        @override
        def on_success(self, *_: Any) -> None:
            raise KeyError("in the handler")

    @app.task(base=Base, name="sync", shared=False)
    def sync() -> int:
        return 1

    with pytest.raises(KeyError, match="in the handler"):
        sync.apply(task_id="j")

    assert local(app).get("j").state is State.SUCCEEDED


# -- outside of a run


@pytest.mark.parametrize(
    "use",
    [
        lambda task: task.job,
        lambda task: task.stage("count"),
        lambda task: task.step("count", int),
        lambda task: task.set_progress(1, 2),
        lambda task: task.increment_progress(),
    ],
    ids=["job", "stage", "step", "set_progress", "increment_progress"],
)
def test_outside_of_a_run_there_is_no_job(
    app: Celery, use: Callable[[Any], Any]
) -> None:
    @app.task(base=ProgressTask, name="shop.sync", stages=STAGES, shared=False)
    def sync() -> None:
        pass

    with pytest.raises(JobkitError, match=r"shop\.sync is not running"):
        use(sync)
    sync()
    with pytest.raises(JobkitError, match=r"shop\.sync is not running"):
        use(sync)


@both_ways
def test_a_run_in_its_callers_process_cannot_lose_its_lease(
    app: Celery, call: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = iter(range(0, 10**9, 3600))  # an hour whenever somebody looks
    monkeypatch.setattr("jobkit.clock.monotonic", lambda: float(next(time)))

    @app.task(base=ProgressTask, bind=True, name="sync", stages=STAGES, shared=False)
    def sync(self: Any) -> bool:
        self.step("count", int)
        with self.stage("import") as stage:
            list(stage.iterate(range(3)))
        return bool(self.job.should_stop())

    assert call(sync) is False


@pytest.mark.parametrize("act", ["cancel", "pause"])
def test_an_eager_job_stops_at_its_next_save_when_asked_to(
    app: Celery, act: str
) -> None:
    handled: list[int] = []

    @app.task(
        base=ProgressTask,
        bind=True,
        name="sync",
        stages=["x"],
        checkpoint_every=1,
        shared=False,
    )
    def sync(self: Any) -> None:
        with self.stage("x") as stage:
            for item in stage.iterate(range(9)):
                handled.append(item)
                if len(handled) == 3:
                    getattr(local(app), act)(self.job.id, reason="why", actor="ana")

    result: Any = sync.apply()
    job = local(app).get(result.id)

    assert handled == [0, 1, 2]
    assert result.state == "IGNORED"
    assert job.state is (State.CANCELLED if act == "cancel" else State.PAUSED)
    assert job.reason == "why"
    assert job.attempts == 0

    if act == "pause":
        local(app).resume(result.id)
        sync.apply(task_id=result.id)
        assert handled == list(range(9))
        assert local(app).get(result.id).state is State.SUCCEEDED


def test_a_direct_call_tells_no_result_backend(make_app: MakeApp) -> None:
    app = make_app(result_backend="cache+memory://")

    @app.task(base=ProgressTask, bind=True, name="sync", stages=["x"], shared=False)
    def sync(self: Any) -> str:
        self.step("x", int)
        return str(self.request.id)

    job_id = sync()

    assert app.AsyncResult(job_id).state == "PENDING"


# -- signals


def test_receivers_hear_what_happens_to_a_job(app: Celery) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []

    def receiver(name: str) -> Callable[..., None]:
        def receive(sender: str, signal: object, **told: Any) -> None:  # noqa: ARG001
            assert sender == "sync"
            heard.append((name, told))

        return receive

    receivers = {name: receiver(name) for name in SIGNALS}
    for name, receive in receivers.items():
        getattr(signals, name).connect(receive, sender="sync")

    error, last = ConnectionError("down"), Permanent("broken")
    body = Flaky(error, last)

    @app.task(base=ProgressTask, bind=True, name="sync", stages=["x"], shared=False)
    def sync(self: Any) -> Any:
        return self.step("x", body)

    sync.apply(task_id="dies")
    names = [name for name, _ in heard]
    told = dict(heard)

    assert names == [
        *("job_started", "job_progressed", "job_progressed", "job_retrying"),
        *("job_started", "job_progressed", "job_dead"),
    ]
    assert {kwargs["job_id"] for _, kwargs in heard} == {"dies"}
    assert told["job_started"]["job"].id == "dies"
    assert told["job_retrying"]["error"] is error
    assert 0.5 <= told["job_retrying"]["delay"] <= 1.0
    assert told["job_dead"]["reason"] == "permanent"
    assert told["job_dead"]["error"].message == "broken"

    heard.clear()
    sync.apply(task_id="works")
    assert [name for name, _ in heard] == [
        *("job_started", "job_progressed", "job_progressed", "job_succeeded")
    ]
    assert dict(heard)["job_succeeded"]["progress"].percent == 100.0


def test_a_receiver_that_fails_fails_no_job(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    def receive(**_: Any) -> None:
        raise KeyError("in the receiver")

    @app.task(base=ProgressTask, bind=True, name="sync", stages=["x"], shared=False)
    def sync(self: Any) -> Any:
        return self.step("x", lambda: 5)

    signals.job_progressed.connect(receive, sender="sync")

    assert sync.apply().get() == 5
    assert "in the receiver" in caplog.text


def test_an_id_may_be_used_again(app: Celery) -> None:
    @app.task(base=ProgressTask, shared=False)
    def add(a: int, b: int) -> int:
        return a + b

    assert add.apply((1, 2), task_id="nightly").get() == 3
    assert add.apply((3, 4), task_id="nightly").get() == 7
