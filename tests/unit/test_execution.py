"""What becomes of a job when Celery's own tracer runs its message, without a worker."""

from __future__ import annotations

import pickle
import uuid
from asyncio import CancelledError
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
from celery import Celery
from celery.exceptions import Ignore, Reject
from typing_extensions import override

from jobkit import (
    Drained,
    JobKit,
    LeaseLost,
    Limit,
    NotAllowed,
    Permanent,
    ProgressTask,
    State,
    StoreUnavailable,
    Transient,
    clock,
)
from jobkit.dead_letters import copy_of
from jobkit.job import ErrorInfo, Message
from jobkit.progress import Plan
from jobkit.publishing import COPIED
from jobkit.store.memory import MemoryStore
from jobkit.store.values import (
    REQUEUED_FOR,
    Failure,
    InterruptKind,
    Released,
    Result,
    Snapshot,
    Start,
)
from tests.unit.conftest import MakeApp
from tests.unit.delivery import (
    HOST,
    again,
    deliver,
    kit_of,
    names,
    record,
    run,
    running,
    state_of,
)
from tests.unit.runs import CRASH
from tests.waiting import wait_until


class Far(MemoryStore):
    """A store that can be out of reach, for its next calls or for good."""

    def __init__(self) -> None:
        super().__init__()
        self.away = 0
        self.no_hints = False
        self.no_stops = False

    def _reach(self) -> None:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("the network is down")

    @override
    def begin(self, *args: Any, **known: Any) -> Start:
        self._reach()
        return super().begin(*args, **known)

    @override
    def published(self, job_id: str, hint: float, **known: Any) -> None:
        self._reach()
        if self.no_hints:
            raise StoreUnavailable("the network is down")
        super().published(job_id, hint, **known)

    @override
    def interrupt(
        self, job_id: str, fence: int, kind: InterruptKind, reason: str = ""
    ) -> State | None:
        self._reach()
        if self.no_stops:
            raise StoreUnavailable("the network is down")
        return super().interrupt(job_id, fence, kind, reason)

    @override
    def retry(
        self,
        job_id: str,
        fence: int,
        failure: Failure,
        delay: float,
        message: str | None = None,
    ) -> State | None:
        self._reach()
        return super().retry(job_id, fence, failure, delay, message)

    @override
    def crash(self, job_id: str, worker: str, error: ErrorInfo) -> Released | None:
        self._reach()
        return super().crash(job_id, worker, error)

    @override
    def succeed(
        self,
        job_id: str,
        fence: int,
        snapshot: Snapshot,
        reason: str = "",
        *,
        tell: bool = False,
        result: Result | None = None,
    ) -> State | None:
        self._reach()
        return super().succeed(
            job_id, fence, snapshot, reason, tell=tell, result=result
        )

    @override
    def bury(
        self,
        job_id: str,
        fence: int,
        failure: Failure,
        reason: str,
        *,
        tell: bool = False,
    ) -> bool:
        self._reach()
        return super().bury(job_id, fence, failure, reason, tell=tell)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long between two tries."""
    monkeypatch.setattr("jobkit.gate.PATIENCE", 0.001)
    monkeypatch.setattr("jobkit.run.PATIENCE", 0.001)
    monkeypatch.setattr("jobkit.endings.DRAIN_NOTICE", 0.01)


@pytest.fixture
def store() -> Far:
    return Far()


@pytest.fixture
def app(make_app: MakeApp, store: Far) -> Celery:
    app = make_app(
        broker_url="memory://",
        result_backend="cache+memory://",
        task_default_queue=f"q-{uuid.uuid4()}",
        jobkit_checkpoint_every=1,
        jobkit_mirror_interval=0.000001,
        jobkit_retry_policy={"base": 0.1},
    )
    JobKit(app, store=store)
    return app


def make_task(app: Celery, body: Callable[..., Any], **options: Any) -> Any:
    """A job with one stage; the body gets the task first."""
    return app.task(
        **{
            "base": ProgressTask,
            "bind": True,
            "name": "sync",
            "stages": ["import"],
            "shared": False,
            **options,
        }
    )(body)


def importing(
    handled: list[int], then: Callable[[Any, int], object], size: int = 6
) -> Callable[..., Any]:
    """A body that goes through numbers and does something after each."""

    def body(task: Any) -> str:
        with task.stage("import") as stage:
            for item in stage.iterate(range(size)):
                handled.append(item)
                then(task, item)
        return "done"

    return body


# -- well


def test_a_job_that_runs_well_has_succeeded(app: Celery) -> None:
    seen: list[str] = []
    handled: list[int] = []
    task = make_task(
        app,
        importing(handled, lambda t, _: seen.append(state_of(app, t.request.id))),
    )
    result = task.delay()

    job = run(app, result.id)

    assert (job.state, job.progress.percent) == (State.SUCCEEDED, 100.0)
    assert (job.worker.partition("/")[0], job.fence) == (HOST, 1)
    assert seen == ["PROGRESS"] * 6
    assert (result.state, result.result) == ("SUCCESS", "done")


@pytest.mark.parametrize("times", [1, 30])
def test_a_message_that_comes_again_runs_nothing(app: Celery, times: int) -> None:
    handled: list[int] = []

    def redeliver(task: Any, item: int) -> None:
        if item == 2:
            running.add(task.request.id)
            for _ in range(times):
                run(app, task.request.id)
            running.clear()

    result = make_task(app, importing(handled, redeliver)).delay()
    run(app, result.id)
    job = run(app, result.id)

    assert handled == list(range(6))
    assert (job.state, job.starts) == (State.SUCCEEDED, 1)
    assert result.result == "done"


def test_a_job_that_nobody_recorded_is_recorded_when_it_begins(
    app: Celery, store: Far
) -> None:
    result = make_task(app, importing([], lambda *_: None)).apply_async(priority=3)
    message = record(app, result.id).message
    store._jobs.clear()

    deliver(app, message)

    job = record(app, result.id)
    assert (job.state, job.priority, job.queue) == (
        *(State.SUCCEEDED, 3),
        app.conf.task_default_queue,
    )
    assert job.message
    assert job.message.body == (message and message.body)


# -- errors


def test_an_error_that_will_pass_waits_in_the_store(app: Celery) -> None:
    handled: list[int] = []
    errors = [Transient("later")]

    def fail(_: Any, item: int) -> None:
        if item == 3 and errors:
            raise errors.pop()

    result = make_task(app, importing(handled, fail)).delay()
    waiting = run(app, result.id)

    assert (waiting.state, waiting.attempts) == (State.RETRYING, 1)
    assert waiting.due_at
    assert 0.04 <= (waiting.due_at - waiting.updated_at).total_seconds() <= 0.1
    assert state_of(app, result.id) == "RETRY"
    wait_until(lambda: again(app), "the job is due")
    assert handled == [0, 1, 2, 3, 3, 4, 5]
    assert (result.state, record(app, result.id).state) == ("SUCCESS", "SUCCEEDED")


def test_an_error_that_is_final_is_told_to_celery_too(app: Celery) -> None:
    def body(_: Any) -> None:
        raise Permanent("no such shop")

    result = make_task(app, body).delay()
    job = run(app, result.id)

    assert (job.state, job.reason) == (State.DEAD, "permanent")
    assert job.error
    assert (job.error.type, job.error.message) == ("Permanent", "no such shop")
    assert state_of(app, result.id) == "FAILURE"


def test_a_replay_of_a_dead_job_ends_well_for_celery_too(app: Celery) -> None:
    handled: list[int] = []
    broken = [True]

    def fail(_: Any, item: int) -> None:
        if item == 4 and broken:
            raise Permanent("broken")

    result = make_task(app, importing(handled, fail)).delay()
    run(app, result.id)
    broken.clear()
    kit_of(app).jobs.replay(result.id)
    again(app)

    assert handled == [0, 1, 2, 3, 4, 4, 5]
    assert (result.state, record(app, result.id).state) == ("SUCCESS", "SUCCEEDED")
    with pytest.raises(NotAllowed):
        kit_of(app).jobs.replay(result.id)


def test_a_retry_of_ones_own_waits_in_the_store_with_its_new_message(
    app: Celery,
) -> None:
    calls: list[tuple[int, int]] = []

    def body(task: Any, n: int) -> int:
        calls.append((n, task.request.retries))
        if n == 1:
            raise task.retry(args=(2,), countdown=60, exc=KeyError("busy"))
        return n

    result = make_task(app, body).delay(1)
    waiting = run(app, result.id)

    assert waiting.state is State.RETRYING
    assert waiting.due_at
    assert 59 < (waiting.due_at - waiting.updated_at).total_seconds() <= 60
    assert waiting.error
    assert (waiting.error.type, waiting.error.verdict) == ("KeyError", "retry")
    assert state_of(app, result.id) == "RETRY"
    kit_of(app).store.claim_due(10**9, 0)
    waiting_message = record(app, result.id).message
    assert waiting_message
    assert waiting_message.headers["retries"] == 1


def test_ignore_ends_a_job_and_reject_gives_it_back(app: Celery, store: Far) -> None:
    errors: list[Exception] = [Ignore(), Reject("bad"), Reject("later", requeue=True)]

    def body(_: Any) -> None:
        raise errors.pop(0)

    task = make_task(app, body)
    jobs = [run(app, task.delay().id) for _ in range(3)]

    assert [job.state for job in jobs] == [State.SUCCEEDED, State.DEAD, State.QUEUED]
    assert [job.attempts for job in jobs] == [0, 1, 0]
    due_in = store.next_due()  # the broker has it, but for long acknowledged ones
    assert due_in is not None
    assert 0 < due_in <= REQUEUED_FOR


def test_started_is_said_of_what_has_begun(app: Celery) -> None:
    app.conf.task_track_started = True
    seen: list[str] = []

    def body(task: Any) -> None:
        seen.append(state_of(app, task.request.id))
        raise Permanent("no")

    task = make_task(app, body)
    job = run(app, task.delay().id)
    deliver(app, job.message)  # a copy that was late

    assert seen == ["STARTED"]
    assert state_of(app, job.id) == "FAILURE"


def test_a_lease_is_not_kept_for_a_before_start_that_failed(app: Celery) -> None:
    class Careless(ProgressTask):
        abstract = True

        def before_start(self, *_: Any) -> None:
            raise OSError("no disk")

    limits = [Limit("shop:{shop}", 1)]

    def body(_: Any, shop: Any) -> None:
        raise AssertionError(shop)

    task = make_task(app, body, base=Careless, limits=limits)
    app.send_task(task.name, args=[[1, 2]], task_id="odd")  # of which no limit is
    deliver(app, record(app, "odd").message)

    assert record(app, "odd").state is State.DEAD
    assert not kit_of(app).keeper._leases


@pytest.mark.parametrize("first", [True, False])
def test_a_job_whose_before_start_fails_is_dead(app: Celery, *, first: bool) -> None:
    class Careless(ProgressTask):
        abstract = True

        def before_start(self, *args: Any) -> None:
            if not first:
                super().before_start(*args)
            raise OSError("no disk")

    job = run(app, make_task(app, importing([], print), base=Careless).delay().id)

    assert (job.state, job.reason) == (State.DEAD, "failed_before_body")
    assert job.error
    assert job.error.message == "no disk"
    assert state_of(app, job.id) == "FAILURE"


def test_a_backend_that_takes_no_progress_is_not_asked_at_each_save(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_result, asked = type(app.backend).store_result, []

    def refuse(self: Any, job_id: str, result: Any, state: str, **known: Any) -> Any:
        if state != "PROGRESS":
            return store_result(self, job_id, result, state, **known)
        asked.append(job_id)
        raise OSError("the backend is away")

    monkeypatch.setattr(type(app.backend), "store_result", refuse)
    job = run(app, make_task(app, importing([], lambda *_: None)).delay().id)

    assert job.state is State.SUCCEEDED
    assert asked == [job.id]


def test_ignore_takes_the_shown_progress_back(app: Celery) -> None:
    def body(task: Any) -> None:
        with task.stage("import", total=2):
            assert state_of(app, task.request.id) == "PROGRESS"
        raise Ignore

    job = run(app, make_task(app, body).delay().id)

    assert (job.state, job.reason) == (State.SUCCEEDED, "ignored")
    assert state_of(app, job.id) == "PENDING"


@pytest.mark.parametrize(
    "error", [CancelledError(), BaseExceptionGroup("g", [CancelledError()])]
)
def test_what_celery_takes_for_no_error_is_one(
    app: Celery, error: BaseException
) -> None:
    def body(_: Any) -> None:
        raise error

    job = run(app, make_task(app, body, retry_policy="never").delay().id)

    assert job.state is State.DEAD
    assert job.error
    assert job.error.message == f"The body ended with {error!r}."
    assert state_of(app, job.id) == "FAILURE"


def test_what_ends_a_test_ends_an_eager_call(app: Celery) -> None:
    app.conf.task_always_eager = True

    def body(_: Any) -> None:
        pytest.fail("as it should")

    with pytest.raises(pytest.fail.Exception):
        make_task(app, body).delay()


def test_a_greenlet_that_is_killed_in_a_drain_is_handed_over(app: Celery) -> None:
    exits = type("GreenletExit", (BaseException,), {})

    def body(_: Any) -> None:
        kit_of(app).drain.set()
        raise exits

    with suppress(exits):
        job_id = make_task(app, body, retry_policy="never").delay().id
        run(app, job_id)

    job = record(app, job_id)
    assert (job.state, job.attempts, job.interruptions) == (State.QUEUED, 0, 1)


@pytest.mark.filterwarnings("ignore:Exception raised outside body")
def test_an_error_in_on_failure_changes_nothing(app: Celery) -> None:
    class Broken(ProgressTask):
        abstract = True

        def on_failure(self, *_: Any) -> None:
            raise OSError("no disk")

    def body(_: Any) -> None:
        raise Permanent("no")

    task = make_task(app, body, base=Broken)
    job_id = task.delay().id
    with suppress(OSError):  # as Celery does, depending on its version
        run(app, job_id)

    job = record(app, job_id)
    assert (job.state, job.reason, job.starts) == (State.DEAD, "permanent", 1)
    assert job.error
    assert job.error.message == "no"


def test_a_link_has_the_same_id_in_each_run(app: Celery) -> None:
    links: list[str] = []

    def body(task: Any) -> None:
        links.append(task.request.callbacks[0]["options"]["task_id"])
        if len(links) == 1:
            raise Transient

    task = make_task(app, body)
    first = task.apply_async(link=task.si())
    assert run(app, first.id).state is State.RETRYING
    wait_until(lambda: again(app), "the retry is due")
    run(app, task.apply_async(link=task.si()).id)

    assert record(app, first.id).state is State.SUCCEEDED
    assert links[0] == links[1] != links[2]
    assert record(app, links[0]).state is State.QUEUED


def test_a_link_of_a_second_life_has_an_id_of_its_own(app: Celery) -> None:
    links: list[str] = []

    def body(task: Any) -> None:
        links.append(task.request.callbacks[0]["options"]["task_id"])

    task = make_task(app, body)
    for _ in range(2):
        run(app, task.apply_async(task_id="nightly", link=task.si()).id)
        wait_until(lambda: clock.monotonic() % 0.01 < 0.005, "another millisecond")

    assert len(set(links)) == 2


def test_a_link_with_a_unique_key_is_left_alone(app: Celery) -> None:
    links: list[Any] = []

    def body(task: Any) -> None:
        links.append(task.request.callbacks[0])

    sole = make_task(app, body, name="sole", unique_on=[])
    run(app, make_task(app, body).apply_async(link=sole.si()).id)

    assert "task_id" not in links[0]["options"]


# -- interruptions


def test_what_user_code_makes_of_an_interruption_is_one(app: Celery) -> None:
    kinds: list[Callable[[BaseException], BaseException]] = [
        lambda error: BaseExceptionGroup("unhandled errors in a TaskGroup", [error]),
        lambda error: RuntimeError(f"stopped by {error!r}"),
    ]

    def body(task: Any) -> None:
        try:
            with task.stage("import") as stage:
                for _ in stage.iterate(range(3)):
                    kit_of(app).jobs.pause(task.request.id)
                    task._execution.run.lease.renew()
                    task._execution.run.lease.attention = True
        except BaseException as error:
            raise kinds.pop(0)(error) from error

    task = make_task(app, body, retry_policy="never")
    jobs = [run(app, task.delay().id) for _ in range(2)]

    assert [job.state for job in jobs] == [State.PAUSED] * 2
    assert [job.attempts for job in jobs] == [0, 0]
    assert [state_of(app, job.id) for job in jobs] == ["PENDING"] * 2


def test_a_cancel_that_the_backend_does_not_take_is_told_later(
    app: Celery, monkeypatch: pytest.MonkeyPatch, store: Far
) -> None:
    def body(task: Any) -> None:
        with task.stage("import") as stage:
            for _ in stage.iterate(range(3)):
                kit_of(app).jobs.cancel(task.request.id)
                task._execution.run.lease.renew()
                task._execution.run.lease.attention = True

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("the backend is away")

    monkeypatch.setattr(type(app.backend), "mark_as_revoked", refuse)
    job = run(app, make_task(app, body).delay().id)

    assert job.state is State.CANCELLED
    assert [ended.id for ended in store.untold(0)] == [job.id]


def test_a_drain_hands_the_job_over_at_once(app: Celery) -> None:
    handled: list[int] = []

    def drain(task: Any, item: int) -> None:
        if item == 2 and not kit_of(app).drain.is_set():
            kit_of(app).drain.set()
            lease = task._execution.run.lease
            wait_until(lambda: lease.drained, "the keeper has seen it")

    result = make_task(app, importing(handled, drain)).delay()
    stopped = run(app, result.id)

    assert (stopped.state, stopped.attempts, stopped.interruptions) == ("QUEUED", 0, 1)
    assert stopped.progress.current == 3
    assert state_of(app, result.id) == "PENDING"
    kit_of(app).drain.begin(forks=True)
    assert again(app) == 1
    assert handled == list(range(6))
    assert names(app, result.id)[2:] == ["interrupted", "started", "succeeded"]


def test_a_worker_that_shuts_down_begins_nothing(app: Celery, store: Far) -> None:
    handled: list[int] = []
    result = make_task(app, importing(handled, lambda *_: None)).delay()
    kit_of(app).drain.set()

    job = run(app, result.id)

    assert (job.state, job.starts, handled) == (State.QUEUED, 0, [])
    due_in = store.next_due()
    assert due_in is not None
    assert due_in <= 0


def test_a_worker_that_shuts_down_without_a_store_fails_nothing(
    app: Celery, store: Far
) -> None:
    result = make_task(app, importing([], lambda *_: None)).delay()
    kit_of(app).drain.set()
    store.away = 1

    job = run(app, result.id)

    assert job.state is State.QUEUED
    assert state_of(app, result.id) == "PENDING"


@pytest.mark.parametrize(
    ("act", "state", "told"),
    [("cancel", State.CANCELLED, "REVOKED"), ("pause", State.PAUSED, "PENDING")],
)
def test_a_job_that_is_asked_to_stop_stops_after_its_item(
    app: Celery, act: str, state: State, told: str
) -> None:
    handled: list[int] = []

    def ask(task: Any, item: int) -> None:
        if item == 2 and len(handled) == 3:
            getattr(kit_of(app).jobs, act)(task.job.id, reason="why", actor="ana")

    result = make_task(app, importing(handled, ask)).delay()
    job = run(app, result.id)

    assert handled == [0, 1, 2]
    assert (job.state, job.reason, job.attempts) == (state, "why", 0)
    assert state_of(app, result.id) == told
    run(app, result.id)
    assert handled == [0, 1, 2]
    assert state_of(app, result.id) == told

    if act == "pause":
        kit_of(app).jobs.resume(result.id)
        again(app)
        assert handled == list(range(6))
        assert state_of(app, result.id) == "SUCCESS"


@pytest.mark.parametrize(
    ("act", "state", "told"),
    [("cancel", State.CANCELLED, "REVOKED"), ("pause", State.PAUSED, "PENDING")],
)
def test_what_was_asked_goes_before_a_retry(
    app: Celery, act: str, state: State, told: str
) -> None:
    def body(task: Any) -> None:
        getattr(kit_of(app).jobs, act)(task.job.id, reason="why", actor="ana")
        raise Transient("later")

    result = make_task(app, body).delay()
    job = run(app, result.id)

    assert (job.state, job.reason, job.attempts) == (state, "why", 1)
    assert state_of(app, result.id) == told


def test_a_body_that_swallows_everything_is_stopped_all_the_same(app: Celery) -> None:
    def body(task: Any) -> str:
        try:
            with task.stage("import") as stage:
                for item in stage.iterate(range(6)):
                    if item == 2:
                        kit_of(app).jobs.cancel(task.job.id)
        except BaseException:  # noqa: BLE001, S110 - what the worst code does
            pass
        return "as if it were done"

    result = make_task(app, body).delay()

    assert run(app, result.id).state is State.CANCELLED
    assert state_of(app, result.id) == "REVOKED"


def test_saved_stages_that_do_not_fit_the_code_hold_the_job(app: Celery) -> None:
    def fail(_: Any, item: int) -> None:
        if item == 2:
            raise Transient("later")

    result = make_task(app, importing([], fail)).delay()
    run(app, result.id)
    task: Any = app.tasks["sync"]
    plan, type(task).plan = task.plan, Plan.of(["read", "import"])
    wait_until(lambda: again(app), "the job is due")
    held = record(app, result.id)

    assert (held.state, held.attempts) == (State.PAUSED, 1)
    assert held.reason.startswith("incompatible: the saved stages ['import']")
    assert "['read', 'import']" in held.reason
    assert state_of(app, result.id) == "PENDING"

    type(task).plan = plan
    kit_of(app).jobs.resume(result.id)
    assert again(app) == 1
    assert record(app, result.id).state is State.RETRYING


# -- a lost lease, a lost store


def test_a_stale_owner_ends_nothing_and_tells_celery_nothing(
    app: Celery, store: Far
) -> None:
    handled: list[int] = []

    def take_over(task: Any, item: int) -> None:
        if item == 2:
            store.crash(task.job.id, HOST, CRASH)
            start = store.begin(task.job.id, "other", "w2/1", 30)
            assert start.job

    result = make_task(app, importing(handled, take_over)).delay()
    job = run(app, result.id)

    assert handled == [0, 1, 2]
    assert (job.state, job.worker, job.fence) == (State.RUNNING, "w2/1", 2)
    assert state_of(app, result.id) in {"PENDING", "PROGRESS"}


def test_an_ending_waits_for_the_store(app: Celery, store: Far) -> None:
    def body(_: Any) -> str:
        store.away = 2
        return "done"

    result = make_task(app, body).delay()

    assert run(app, result.id).state is State.SUCCEEDED
    assert result.result == "done"


def test_a_death_waits_for_the_store(app: Celery, store: Far) -> None:
    def body(_: Any) -> str:
        store.away = 1
        raise Permanent("no")

    result = make_task(app, body).delay()

    assert run(app, result.id).state is State.DEAD


def test_a_beginning_waits_for_the_store(app: Celery, store: Far) -> None:
    result = make_task(app, importing([], lambda *_: None)).delay()
    store.away = 1

    assert run(app, result.id).state is State.SUCCEEDED


ENDINGS = {
    "retry": Transient("later"),
    "death": Reject("bad"),
    "ignore": Ignore(),
    "requeue": Reject("later", requeue=True),
    "crash": MemoryError(),
    "drain": Drained("a check of one's own"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_store_that_stays_away_leaves_the_ending_to_the_next_owner(
    app: Celery, store: Far, ending: str
) -> None:
    def body(task: Any) -> None:
        task._execution.run.lease.seconds = 0.03
        store.away = 10**9
        raise ENDINGS[ending]

    result = make_task(app, body).delay()
    run(app, result.id)

    assert record(app, result.id).state is State.RUNNING
    assert not result.ready()


def test_a_swallowed_stop_with_the_store_away_is_left_to_the_next_owner(
    app: Celery, store: Far
) -> None:
    def body(task: Any) -> str:
        run = task._execution.run
        run.lease.drained = True
        with suppress(Drained):
            run.check()
        run.lease.seconds = 0.03
        store.away = 10**9
        return "as if it were done"

    result = make_task(app, body).delay()
    run(app, result.id)

    assert record(app, result.id).state is State.RUNNING
    assert not result.ready()


def test_an_exit_with_the_store_away_is_an_exit(app: Celery, store: Far) -> None:
    def body(task: Any) -> None:
        task._execution.run.lease.seconds = 0.03
        store.away = 10**9
        kit_of(app).drain.set()
        raise SystemExit

    result = make_task(app, body).delay()
    with pytest.raises(SystemExit):
        run(app, result.id)

    assert record(app, result.id).state is State.RUNNING


def test_a_rejected_message_needs_no_hint_to_be_rejected(
    app: Celery, store: Far
) -> None:
    def body(_: Any) -> None:
        raise Reject("later", requeue=True)

    result = make_task(app, body).delay()
    store.no_hints = True

    assert run(app, result.id).state is State.QUEUED
    assert not result.ready()


def test_stages_that_do_not_fit_and_a_store_that_stays_away(
    app: Celery, store: Far
) -> None:
    def fail(_: Any, __: int) -> None:
        raise Reject("later", requeue=True)

    result = make_task(app, importing([], fail), lease_seconds=0.06).delay()
    message = record(app, result.id).message
    run(app, result.id)
    task: Any = app.tasks["sync"]
    type(task).plan = Plan.of(["read", "import"])
    store.no_stops = True

    deliver(app, message)

    assert record(app, result.id).state is State.RUNNING


def test_a_store_that_stays_away_gives_the_message_back(
    app: Celery, store: Far
) -> None:
    task = make_task(app, importing([], lambda *_: None), lease_seconds=0.003)
    result = task.delay()
    store.away = 10**9

    job = run(app, result.id)

    assert (job.state, job.starts) == (State.QUEUED, 0)
    assert not result.ready()


def test_a_newer_record_is_left_for_a_newer_worker(
    app: Celery, store: Far, caplog: pytest.LogCaptureFixture
) -> None:
    handled: list[int] = []
    result = make_task(app, importing(handled, lambda *_: None)).delay()
    message = record(app, result.id).message
    store._jobs[result.id].fields["schema"] = "99"

    deliver(app, message)

    assert handled == []
    assert state_of(app, result.id) == "PENDING"
    assert "upgrade celery-jobkit" in caplog.text
    assert store._jobs[result.id].state is State.QUEUED


# -- ends of the process


def test_an_exit_in_a_drain_hands_the_job_over(app: Celery) -> None:
    handled: list[int] = []

    def leave(_: Any, __: int) -> None:
        if len(handled) == 3:
            kit_of(app).drain.set()
            raise SystemExit

    result = make_task(app, importing(handled, leave)).delay()
    with pytest.raises(SystemExit):
        run(app, result.id)
    kit_of(app).drain.begin(forks=True)

    job = record(app, result.id)
    assert (job.state, job.attempts, job.progress.current) == (State.QUEUED, 0, 2)
    again(app)
    assert handled == [0, 1, 2, 2, 3, 4, 5]


def test_an_exit_of_ones_own_leaves_the_job_to_the_rescue(app: Celery) -> None:
    def body(_: Any) -> None:
        raise SystemExit

    result = make_task(app, body).delay()
    with pytest.raises(SystemExit):
        run(app, result.id)

    assert record(app, result.id).state is State.RUNNING
    assert not kit_of(app).keeper._leases


def test_out_of_memory_is_a_crash_and_no_attempt(app: Celery) -> None:
    def body(_: Any) -> None:
        raise MemoryError

    result = make_task(app, body).delay()
    states = [run(app, result.id).state for _ in range(3)]
    job = record(app, result.id)

    assert states == ["QUEUED", "QUEUED", "DEAD"]
    assert (job.reason, job.recoveries, job.attempts) == ("poison", 3, 0)
    assert state_of(app, result.id) == "FAILURE"


def test_a_job_that_is_replaced_goes_on_as_the_other_task(app: Celery) -> None:
    def then(_: Any, n: int) -> int:
        return n + 1

    def first(task: Any) -> Any:
        return task.replace(other.s(4))

    other = make_task(app, then, name="other", stages=["x"])
    result = make_task(app, first).delay()

    replaced = run(app, result.id)
    assert (replaced.task, replaced.state, replaced.stages) == (
        "other",
        "QUEUED",
        ("x",),
    )

    done = run(app, result.id)
    assert (done.state, result.result) == (State.SUCCEEDED, 5)


def test_a_lease_that_is_over_at_the_end_of_the_body_sends_no_callback(
    app: Celery, store: Far
) -> None:
    def after(_: Any, n: int) -> None:
        pytest.fail(f"called with {n}")

    callback = make_task(app, after, name="callback")

    def body(task: Any) -> int:
        task._execution.run.lease.seconds = 0.0
        return 1

    result = make_task(app, body).apply_async(link=callback.s())
    job = run(app, result.id)

    assert job.state is State.RUNNING
    assert [listed.task for listed in kit_of(app).jobs.list().items] == ["sync"]
    assert store.get(result.id) == job


def test_a_lost_lease_is_no_error_of_celery() -> None:
    assert not issubclass(LeaseLost, Exception)


def test_a_run_that_is_gone_strikes_no_note_of_another(app: Celery, store: Far) -> None:
    def body(task: Any) -> None:
        store.interrupt(task.job.id, task.job.fence, "requeue")
        store.ask(task.job.id, "cancel", "ann", "")  # nobody has told Celery of it
        raise LeaseLost("meanwhile")

    job = run(app, make_task(app, body).delay().id)

    assert job.state is State.CANCELLED
    assert [untold.id for untold in store.untold(0)] == [job.id]


# -- dead letters that come back


def dead_letter(app: Celery, body: Callable[..., Any]) -> Message:
    """The copy of a job that has died, as it comes from a broker's queue."""
    job = run(app, make_task(app, body).delay().id)
    assert (job.state, job.reason) == (State.DEAD, "permanent")
    assert job.message
    return replace(copy_of(job, job.message, 60.0), routing_key=job.queue)


def fails_once() -> Callable[..., Any]:
    """A body that dies in its first run."""
    runs: list[int] = []

    def body(task: Any) -> None:
        runs.append(task.job.fence)
        if len(runs) == 1:
            raise Permanent("no")

    return body


def test_a_dead_letter_that_comes_back_to_a_worker_that_leaves_is_due(
    app: Celery, store: Far
) -> None:
    copy = dead_letter(app, fails_once())
    kit_of(app).drain.set()

    deliver(app, copy)
    deliver(app, copy)

    job = record(app, copy.headers["id"])
    assert (job.state, job.starts, job.replays) == (State.QUEUED, 1, 1)
    assert store.next_due() == pytest.approx(0, abs=1)
    kit_of(app).drain.begin(forks=True)
    assert again(app) == 1
    assert record(app, job.id).state is State.SUCCEEDED


def test_a_dead_letter_waits_for_the_store_as_any_message_does(
    app: Celery, store: Far
) -> None:
    copy = dead_letter(app, fails_once())
    store.away = 1

    deliver(app, copy)

    job = record(app, copy.headers["id"])
    assert (job.state, job.starts, job.replays) == (State.SUCCEEDED, 2, 1)


def test_a_dead_letter_that_is_sent_by_celery_leaves_its_headers(app: Celery) -> None:
    copy = dead_letter(app, fails_once())
    own = {k: v for k, v in copy.headers.items() if k.startswith(COPIED)}
    app.send_task("sync", headers=own, task_id="another")

    message = record(app, "another").message
    assert message
    assert own
    assert not [name for name in message.headers if name.startswith(COPIED)]


# -- arguments that are not the task's


def test_a_message_whose_arguments_do_not_fit_is_dead_at_once(app: Celery) -> None:
    handled: list[Any] = []

    def body(task: Any, order: int) -> None:
        handled.append((task, order))

    make_task(app, body)
    job_id = str(uuid.uuid4())
    text = b'[[], {"ordre": 1}, {}]'
    sent = Message("sync", text, "application/json", "utf-8")

    deliver(app, replace(sent, headers={"id": job_id, "task": "sync"}))

    job = record(app, job_id)
    assert (job.state, job.reason, job.starts) == (State.DEAD, "permanent", 1)
    assert job.error
    assert "ordre" in job.error.message
    assert handled == []


def test_a_type_error_from_inside_the_body_has_its_retries(app: Celery) -> None:
    def body(task: Any) -> None:
        len(task.request.delivery_info["priority"])

    result = make_task(app, body).delay()

    assert run(app, result.id).state is State.RETRYING


# -- hooks


@pytest.mark.filterwarnings("ignore:Exception raised outside body")  # Celery 5.6
@pytest.mark.parametrize("error", [ValueError, TypeError, MemoryError])
def test_an_on_success_that_fails_has_nothing_run_again(
    app: Celery, error: type[BaseException]
) -> None:
    def on_success(*_: Any) -> None:
        raise error("from the hook")

    runs: list[Any] = []

    def body(task: Any) -> None:
        runs.append(task)

    result = make_task(app, body, on_success=on_success).delay()

    with suppress(error):
        run(app, result.id)

    job = record(app, result.id)
    assert (job.state, result.state, len(runs)) == (State.SUCCEEDED, "SUCCESS", 1)


@pytest.mark.filterwarnings("ignore:Exception raised outside body")
def test_a_result_that_is_never_stored_ends_its_job(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Any] = []

    def body(task: Any) -> None:
        runs.append(task)

    policy = {"base": 0.001, "total": 2, "verdicts": {Transient: "permanent"}}
    task = make_task(app, body, retry_policy=policy, on_success=Mock())
    monkeypatch.setattr(app.backend, "mark_as_done", _out_of_order)
    job = run(app, task.delay().id)
    for _ in range(2):
        assert (job.state, job.attempts) == (State.RETRYING, 0)
        wait_until(lambda: again(app), "another try", pause=0.001)
        job = record(app, job.id)

    assert (job.state, job.reason) == (State.DEAD, "failed_after_body")
    assert len(runs) == 3
    assert job.error
    assert (job.error.type, job.error.message) == ("OSError", "disk full")


def _out_of_order(*_: Any, **__: Any) -> None:
    raise OSError("disk full")


# -- what the result backend is asked before it is told


@pytest.fixture
def reads(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the results that were read, in their order."""
    backend: Any = app.backend
    read, ids = type(backend)._get_task_meta_for, []

    def noting(self: Any, task_id: str) -> Any:
        ids.append(task_id)
        return read(self, task_id)

    monkeypatch.setattr(type(backend), "_get_task_meta_for", noting)
    return ids


def works(_: Any) -> str:
    return "done"


def fails(_: Any) -> None:
    raise Permanent("no")


def waits_once(task: Any) -> str:
    if not task.job.attempt > 1:
        raise Transient("busy")
    return "done"


@pytest.mark.parametrize("body", [works, fails, importing([], print)])
def test_a_first_run_reads_no_result_before_it_stores_its_own(
    app: Celery, reads: list[str], body: Callable[..., Any]
) -> None:
    result = make_task(app, body).delay()

    assert run(app, result.id).state.finished

    assert reads == []
    assert result.state in ("SUCCESS", "FAILURE")


def test_another_run_reads_first_as_celery_does(app: Celery, reads: list[str]) -> None:
    result = make_task(app, waits_once).delay()
    run(app, result.id)
    told = len(reads)  # RETRY, when another run might have begun by now
    wait_until(lambda: again(app), "the retry is due", 10)

    assert (told, len(reads)) == (1, 2)
    assert result.get() == "done"


def test_a_result_that_a_killed_run_left_is_kept(app: Celery, store: Far) -> None:
    result = make_task(app, fails).delay()
    backend: Any = app.backend
    backend.store_result(result.id, "the first", "SUCCESS")
    store.begin(result.id, "killed", f"{HOST}/1", 30)
    store.crash(result.id, f"{HOST}/1", CRASH)

    again(app)

    assert record(app, result.id).state is State.DEAD
    assert (result.state, result.result) == ("SUCCESS", "the first")


def test_a_run_that_lost_its_lease_does_not_overwrite_a_result(app: Celery) -> None:
    def body(task: Any) -> None:
        other: Any = app.backend
        other.store_result(task.request.id, "the next owner's", "SUCCESS")
        task._execution.run.lease._taken = True
        task.update_state(state="PROGRESS")

    result = make_task(app, body).delay()
    run(app, result.id)

    assert (result.state, result.result) == ("SUCCESS", "the next owner's")


def test_a_success_that_a_body_shows_itself_stays(app: Celery) -> None:
    def body(task: Any) -> None:
        task.update_state(state="SUCCESS", meta="by hand")
        raise Permanent("no")

    result = make_task(app, body).delay()
    run(app, result.id)

    assert (result.state, result.result) == ("SUCCESS", "by hand")


def test_a_result_of_another_task_is_not_overwritten(app: Celery) -> None:
    backend: Any = app.backend
    backend.store_result("other", "done", "SUCCESS")

    def body(task: Any) -> None:
        task.update_state("other", state="PROGRESS")

    run(app, make_task(app, body).delay().id)

    assert state_of(app, "other") == "SUCCESS"


def test_a_task_has_the_backend_of_its_app(app: Celery) -> None:
    seen: list[Any] = []

    def body(task: Any) -> None:
        seen.append(task.backend)

    task = make_task(app, body)
    result = task.delay()
    run(app, result.id)

    [inside] = seen
    backend: Any = app.backend
    assert isinstance(inside, type(backend))
    assert vars(inside) is vars(backend)
    assert inside.get_state(result.id) == "SUCCESS"
    assert type(pickle.loads(pickle.dumps(inside)))  # noqa: S301 is type(backend)
    assert task.backend is backend

    own = type(backend)(app=app, url="memory://")
    task.backend = own
    assert task.backend is own


@pytest.mark.parametrize("own", ["_store_result", "__del__"])
def test_a_backend_that_stores_or_ends_in_its_own_way_is_left_alone(
    app: Celery, own: str
) -> None:
    seen: list[Any] = []

    def body(task: Any) -> None:
        seen.append(task.backend)

    theirs = type(app.backend)
    kept: Any = getattr(theirs, "_store_result")  # noqa: B009 - private

    def way(*args: Any, **kwargs: Any) -> Any:
        return kept(*args, **kwargs) if args[1:] else None

    task = make_task(app, body)
    kind: Any = type("Own", (theirs,), {own: way})
    task.backend = kind(app=app, url="memory://")
    run(app, task.delay().id)

    assert seen == [task.backend]
