"""Bulks of dead letters: what is meant, how fast it goes, and what is refused."""

from __future__ import annotations

import itertools
import math
import uuid
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from celery import Celery
from celery.signals import before_task_publish

from jobkit import Client, JobKit, JobTask, NotAllowed, SettingsError, State, clock
from jobkit.bulk import BURST, DISCARD_ALL, REPLAY_ALL, Bucket, Order
from jobkit.filters import Wanted
from jobkit.job import ErrorInfo, NewJob
from jobkit.store.memory import MemoryStore
from jobkit.store.values import Failure
from tests.unit.runs import new_job

HOUR = timedelta(hours=1)


def bury(
    store: MemoryStore, job_id: str, task: str = "shop.add", error: str = "KeyError"
) -> None:
    message = new_job().message
    store.enqueue(NewJob(job_id, task, message, queue="q"), uuid.uuid4().hex, 300)
    run = store.begin(job_id, uuid.uuid4().hex, "w@test/1", 30).job
    assert run
    store.bury(job_id, run.fence, Failure(ErrorInfo(error, "no")), "permanent")


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with one task, whose store and workers are this process."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True

    def add(x: int, y: int) -> int:
        return x + y

    cast("Any", app).task(add, name="shop.add", base=JobTask, shared=False)
    kit = JobKit(app, store=MemoryStore())
    yield app
    before_task_publish.disconnect(kit._sent_by_name)
    app.close()


@pytest.fixture
def kit(app: Celery) -> JobKit:
    return cast("Any", app).jobkit  # type: ignore[no-any-return]


@pytest.fixture
def store(kit: JobKit) -> MemoryStore:
    return cast("MemoryStore", kit.store)


@pytest.fixture
def jobs(kit: JobKit) -> Client:
    return kit.jobs


# -- the tasks


def test_every_app_with_jobkit_has_the_tasks() -> None:
    app = Celery("plain", broker="memory://", set_as_current=False)
    cast("Any", app).task(one, name="plain.one", base=JobTask, shared=False)
    app.finalize()

    assert {REPLAY_ALL, DISCARD_ALL, "plain.one"} <= set(app.tasks)
    kit = cast("Any", app).jobkit
    assert app.tasks[REPLAY_ALL].app is app
    before_task_publish.disconnect(kit._sent_by_name)
    app.close()


def one() -> None:
    """A task without arguments."""


def test_two_apps_have_each_its_own(app: Celery) -> None:
    other = Celery("other", broker="memory://", set_as_current=False)
    kit = JobKit(other)
    assert other.tasks[REPLAY_ALL].app is other
    assert app.tasks[REPLAY_ALL].app is app
    before_task_publish.disconnect(kit._sent_by_name)
    other.close()


# -- what is meant


def test_all_that_match_are_replayed_and_no_other(
    jobs: Client, store: MemoryStore
) -> None:
    for number in range(450):
        bury(store, f"add {number}")
    bury(store, "other task", task="shop.other")

    done = jobs.replay_all(task="shop.add", reason="fixed", actor="ann")

    assert done.count == 450
    assert len(done.ids) == 50
    assert done.job_id
    assert jobs.get("add 7").state is State.QUEUED
    assert jobs.get("other task").state is State.DEAD
    assert jobs.counts()[State.QUEUED] == 450


def test_nothing_matches_is_an_answer_and_no_job(
    jobs: Client, store: MemoryStore
) -> None:
    bury(store, "a")
    done = jobs.replay_all(task="shop.never")
    assert (done.count, done.ids, done.job_id) == (0, (), None)
    assert sum(jobs.counts().values()) == 1


def test_a_dry_run_tells_and_does_nothing(jobs: Client, store: MemoryStore) -> None:
    bury(store, "a")
    bury(store, "b", error="ValueError")

    done = jobs.replay_all(error="ValueError", dry_run=True)

    assert (done.count, done.ids, done.job_id) == (1, ("b",), None)
    assert jobs.counts()[State.DEAD] == 2


def test_another_number_than_the_expected_is_refused(
    jobs: Client, store: MemoryStore
) -> None:
    for job_id in "abc":
        bury(store, job_id)
    with pytest.raises(NotAllowed, match=r"^3 dead letters match, and not 2 as"):
        jobs.replay_all(task="shop.add", expect=2)
    assert jobs.counts()[State.DEAD] == 3

    assert jobs.replay_all(task="shop.add", expect=3).job_id


@pytest.mark.parametrize("act", ["replay_all", "discard_all"])
def test_all_dead_letters_at_once_need_a_word(
    jobs: Client, store: MemoryStore, act: str
) -> None:
    bury(store, "a")
    with pytest.raises(NotAllowed, match=r"No filter is given.*everything=True"):
        getattr(jobs, act)()
    assert jobs.counts()[State.DEAD] == 1

    assert getattr(jobs, act)(everything=True).count == 1
    assert jobs.counts()[State.DEAD] == 0


def test_discarded_ones_are_cancelled(jobs: Client, store: MemoryStore) -> None:
    bury(store, "a")
    jobs.discard_all(task="shop.add", reason="too old", actor="ann")
    job = jobs.get("a")
    assert (job.state, job.reason) == (State.CANCELLED, "too old")


def test_a_bulk_that_died_is_not_replayed_by_another_bulk(
    jobs: Client, store: MemoryStore
) -> None:
    bury(store, "a")
    bury(store, "bulk", task=REPLAY_ALL)
    assert jobs.replay_all(everything=True).count == 1
    assert jobs.get("bulk").state is State.DEAD
    assert jobs.replay_all(task=REPLAY_ALL, dry_run=True).ids == ("bulk",)


def test_jobs_of_tasks_that_the_app_does_not_have_are_left_alone(
    jobs: Client, store: MemoryStore, kit: JobKit
) -> None:
    bury(store, "a", error="OSError")
    bury(store, "gone", task="shop.gone", error="OSError")

    done = jobs.replay_all(error="OSError")

    assert done.job_id
    assert jobs.get("gone").state is State.DEAD
    progress = Client(kit.local).get(done.job_id).progress
    assert (progress.ok, progress.skipped, progress.percent) == (1, 1, 100.0)


def test_those_that_die_after_it_was_asked_for_are_left_alone(
    jobs: Client, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(store, "before")
    later = jobs.get("before").finished_at
    assert later
    monkeypatch.setattr(store, "_now", lambda: clock.milliseconds(later + HOUR))
    bury(store, "later")

    jobs.replay_all(task="shop.add")

    assert jobs.get("before").state is State.QUEUED
    assert jobs.get("later").state is State.DEAD


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"task": ""}, "task='' names nothing"),
        ({"state": "RUNNING"}, "Dead letters are DEAD, not RUNNING"),
        ({"state": "dead", "task": "x"}, "There is no state 'dead'"),
        ({"task": "x", "rate": 0}, "rate=0 is no number"),
        ({"task": "x", "rate": -1}, "rate=-1 is no number"),
        ({"task": "x", "rate": math.inf}, "rate=inf is no number"),
        ({"task": "x", "rate": math.nan}, "rate=nan is no number"),
        ({"task": "x", "rate": "50"}, "rate='50' is no number"),
        (
            {"task": "x", "mode": "failed_items"},
            "resume or restart, not 'failed_items'",
        ),
        ({"since": datetime(2026, 1, 1)}, "no time zone"),  # noqa: DTZ001
    ],
)
def test_wrong_arguments_are_refused(
    jobs: Client, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(SettingsError, match=why):
        jobs.replay_all(**options)


def test_a_misspelt_filter_is_refused(jobs: Client) -> None:
    with pytest.raises(TypeError, match="tsk"):
        jobs.replay_all(tsk="x")  # type: ignore[call-arg]


def test_a_client_without_an_app_makes_dry_runs_alone(store: MemoryStore) -> None:
    bury(store, "a")
    plain = Client(store)
    assert plain.replay_all(task="shop.add", dry_run=True).count == 1
    with pytest.raises(NotAllowed, match=r"kit\.jobs"):
        plain.replay_all(task="shop.add")


def test_a_job_whose_task_the_app_does_not_have_is_not_replayed(
    jobs: Client, store: MemoryStore
) -> None:
    bury(store, "gone", task="shop.gone")
    with pytest.raises(
        NotAllowed, match=r"task 'shop\.gone', which this app does"
    ) as e:
        jobs.replay("gone")
    assert e.value.state == State.DEAD
    assert jobs.get("gone").state is State.DEAD

    Client(store).replay("gone")
    assert jobs.get("gone").state is State.QUEUED


def test_an_order_is_read_as_it_was_written() -> None:
    since = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    wanted = Wanted(state=State.DEAD, task="x", since=since)
    order = Order("restart", wanted, 2.5, "why", "ann", 7)
    assert Order.decode(order.encode()) == order


# -- how fast


class Time:
    """Monotonic seconds that pass when it is said."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        patch.setattr(clock, "monotonic", lambda: self.now)
        patch.setattr("time.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("rate", [0.5, 3, 47.3, 50, 137.5, 5000])
def test_no_second_has_more_than_rate_and_burst(
    monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    time = Time(monkeypatch)
    moves: list[float] = []
    bucket = Bucket(rate)
    for turn in itertools.count():
        if time.now > 30:
            break
        while not bucket.full():
            bucket.wait()
        # Now and then a script is slow, or the whole process stands still.
        time.now += 0.5 if turn % 37 == 5 else 0.0001
        moves += [time.now] * bucket.size
        bucket.done(bucket.size)
        time.now += 1.7 if turn % 41 == 7 else 0

    assert len(moves) >= min(rate, 500)
    for place, first in enumerate(moves):
        assert bisect_left(moves, first + 1) - place <= rate + BURST


def test_what_was_not_moved_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    Time(monkeypatch)
    bucket = Bucket(10)
    while not bucket.full():
        bucket.wait()
    bucket.done(0)
    assert bucket.full()


def test_without_a_rate_nothing_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time = Time(monkeypatch)
    bucket = Bucket(None)
    assert all(bucket.full() for _ in range(100))
    bucket.wait()
    assert time.now == 0
