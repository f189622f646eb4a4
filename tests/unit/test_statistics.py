"""How long jobs ran and waited, and how they ended, from records of known times."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from jobkit import Client, Job, SettingsError, State, clock, statistics
from jobkit.clock import from_milliseconds
from jobkit.statistics import (
    QueueStatistics,
    TaskStatistics,
    count,
    in_words,
    newest_ended,
    percentile,
    run_seconds,
    waited_seconds,
)
from jobkit.store.base import Store
from jobkit.store.memory import MemoryStore
from jobkit.store.redis import RedisStore
from jobkit.store.values import Backlog
from tests.servers import ValkeyServer
from tests.store.lives import (
    dead,
    enqueued,
    failure,
    kept,
    new_job,
    rewrite,
    running,
    snapshot,
    started,
)
from tests.waiting import free_port, wait_until

AT = 1_700_000_000_000
"""Milliseconds: when the jobs of these tests were created."""


def ended(ran: float = 1.0, waited: float = 0.0, **fields: Any) -> Job:
    """A job that was created at AT, waited, ran, and ended."""
    begun = AT + round(1000 * waited)
    known = {
        "id": "j",
        "task": "t",
        "queue": "q",
        "state": "SUCCEEDED",
        "created_at": AT,
        "started_at": begun,
        "updated_at": begun,
        "finished_at": begun + round(1000 * ran),
        **fields,
    }
    return Job.from_fields({name: str(value) for name, value in known.items()})


# -- percentiles


@pytest.mark.parametrize(
    ("values", "p50", "p95"),
    [
        ([], None, None),
        ([7.0], 7.0, 7.0),
        ([2.0, 1.0], 1.0, 2.0),
        ([3.0, 1.0, 2.0], 2.0, 3.0),
        ([float(n) for n in range(20, 0, -1)], 10.0, 19.0),
        ([float(n) for n in range(1, 101)], 50.0, 95.0),
        ([1.0] * 94 + [9.0] * 6, 1.0, 9.0),
        ([1.0] * 95 + [9.0] * 5, 1.0, 1.0),
    ],
)
def test_a_percentile_is_one_of_the_values(
    values: list[float], p50: float | None, p95: float | None
) -> None:
    assert (percentile(values, 0.5), percentile(values, 0.95)) == (p50, p95)


# -- times


def test_a_run_lasts_from_its_first_start_to_its_end() -> None:
    assert run_seconds(ended(ran=12.5, waited=3)) == 12.5


@pytest.mark.parametrize(
    "fields",
    [{"replays": 1}, {"reason": "failures_resolved"}, {"finished_at": ""}],
)
def test_a_run_that_days_may_lie_in_has_no_time(fields: Any) -> None:
    assert run_seconds(ended(**fields)) is None


def test_a_job_waits_from_its_record_to_its_start() -> None:
    assert waited_seconds(ended(waited=2)) == 2.0


def test_a_job_with_a_countdown_waits_from_its_message() -> None:
    assert waited_seconds(ended(waited=60, published_at=AT + 59_500)) == 0.5


def test_the_message_of_a_retry_is_not_what_the_first_start_waited_for() -> None:
    assert waited_seconds(ended(waited=2, published_at=AT + 60_000)) == 2.0


# -- what they add up to


def test_jobs_are_counted_by_task() -> None:
    seen = count(
        [
            *(ended(ran=n, id=n) for n in range(1, 18)),
            ended(ran=100, state="PARTIAL"),
            ended(ran=18, state="DEAD", replays=3),
            ended(ran=19, state="DEAD"),
            ended(ran=0.25, task="a", stages='["import"]', checkpoint="{}"),
        ],
        {},
    )

    assert seen.tasks == (
        TaskStatistics("a", 1, 0.25, 0.25, 0.0, 0.0, staged=True, saved=True),
        TaskStatistics("t", 20, 10.0, 100.0, 0.1, 0.05, staged=False, saved=False),
    )
    assert seen.jobs == 21
    assert seen.since == from_milliseconds(AT + 250)


def test_waiting_is_counted_by_queue_against_its_target() -> None:
    jobs = [ended(waited=n, queue="high") for n in (1, 2, 30, 31)]
    standing = [
        Backlog("high", State.DEAD, 9, 99.0),
        Backlog("stuck", State.QUEUED, 5, 70.0),
    ]

    seen = count([*jobs, ended(queue="")], {"low": 9.0, "high": 30.0}, standing)

    assert seen.queues == (
        QueueStatistics("high", 4, 2.0, 31.0, 30.0, 0.25, 0, None),
        QueueStatistics("", 1, 0.0, 0.0, None, None, 0, None),
        QueueStatistics("stuck", 0, None, None, None, None, 5, 70.0),
    )


def test_of_no_jobs_there_is_nothing_to_tell() -> None:
    seen = count([], {"high": 30.0})

    assert (seen.tasks, seen.queues, seen.jobs, seen.since) == ((), (), 0, None)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 ms"),
        (0.0124, "12 ms"),
        (1.26, "1.3 s"),
        (59.9, "60 s"),
        (119, "120 s"),
        (121, "2 min"),
        (3_600, "60 min"),
        (7_200, "2 h"),
        (86_400, "24 h"),
    ],
)
def test_a_time_is_told_in_few_digits(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


# -- from a store


@pytest.fixture(params=["memory", "redis", "redis-3"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    server: ValkeyServer = request.getfixturevalue("valkey")
    partitions = 3 if request.param == "redis-3" else 1
    store = RedisStore(server.url, f"test-{uuid.uuid4().hex}", partitions)
    yield store
    store.close()


def counting(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Write down how lists are asked for from now on."""
    asked = list[dict[str, Any]]()
    read = store.list

    def listing(**options: Any) -> Any:
        asked.append(options)
        return read(**options)

    monkeypatch.setattr(store, "list", listing)
    return asked


def succeed(store: Store, job_id: str, task: str = "shop.sync") -> None:
    assert store.enqueue(new_job(job_id, task), "token", 300).new
    assert store.succeed(job_id, started(store, job_id).fence, snapshot(1))


def test_the_last_to_end_come_first_whatever_their_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "PAGE", 2)
    made = []
    for number in range(9):
        made.append(job_id := f"{number}")
        if number % 3:
            succeed(store, job_id)
        else:
            dead(store, job_id)
        pass_a_millisecond(store, job_id)
    enqueued(store, "waits")
    running(store, "runs")
    store.ask("waits", "cancel", "", "")

    found = [job.id for job in newest_ended(store, 7)]

    assert found == made[:1:-1]


def pass_a_millisecond(store: Store, job_id: str) -> None:
    """Wait until the store's clock has gone on since the end of a job."""
    end = kept(store, job_id).finished_at
    assert end
    wait_until(
        lambda: enqueued(store, uuid.uuid4().hex).created_at > end, "time has passed"
    )


def test_the_jobs_of_one_task_are_found_among_others(store: Store) -> None:
    succeed(store, "mine", "mine")
    for number in range(5):
        succeed(store, f"{number}")

    assert [job.id for job in newest_ended(store, 3, "mine")] == ["mine"]
    (seen,) = Client(store).statistics(task="mine").tasks
    assert (seen.task, seen.count) == ("mine", 1)


def test_no_more_than_the_newest_are_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the bound of a page: `min(PAGE, limit)`."""
    for number in range(9):
        succeed(store, f"{number}")
    asked = counting(store, monkeypatch)

    assert Client(store).statistics(newest=4).jobs == 4
    assert [options["limit"] for options in asked] == [4, 4, 4]


def test_how_many_wait_now_is_told_if_it_is_asked_for(store: Store) -> None:
    enqueued(store, "waits")

    (queue,) = Client(store).statistics().queues
    assert (queue.queue, queue.waiting, queue.count) == ("normal", 1, 0)
    assert Client(store).statistics(waiting=False).queues == ()


def test_a_job_that_never_ran_says_nothing(store: Store) -> None:
    dead(store, "ran")
    dead(store, "never")
    if isinstance(store, MemoryStore):
        del store._jobs["never"].fields["started_at"]
    else:
        rewrite(store, "never", started_at="")

    assert Client(store).statistics().jobs == 1


def test_statistics_of_no_job_are_refused(store: Store) -> None:
    with pytest.raises(SettingsError, match="newest=0"):
        Client(store).statistics(newest=0)


def test_ends_are_counted_by_minute(store: Store) -> None:
    dead(store, "d")

    told = Client(store).ended(2)

    assert {state for state in State if state.finished} == {*told}
    assert {state: [*row] for state, row in told.items() if any(row)} == {
        State.DEAD: [1, 0]
    }


@pytest.mark.parametrize("minutes", [0, -1, 1_441])
def test_minutes_are_those_of_a_day(store: Store, minutes: int) -> None:
    with pytest.raises(SettingsError, match="from 1 to 1440"):
        Client(store).ended(minutes)


# -- the usual time of a task


def took(store: Store, job_id: str, seconds: float, task: str = "shop.sync") -> None:
    """A job that succeeded after so long a run."""
    succeed(store, job_id, task)
    end = kept(store, job_id).finished_at
    assert end
    begun = end - timedelta(seconds=seconds)
    rewrite(store, job_id, started_at=str(round(begun.timestamp() * 1000)))


def test_the_usual_time_is_the_median_of_what_succeeded(store: Store) -> None:
    for number, seconds in enumerate((1, 2, 60, 70, 80)):
        took(store, f"{number}", seconds)
    took(store, "another", 5, "another")
    run = running(store, "died")
    store.bury("died", run.fence, failure(), "permanent")

    client = Client(store)

    assert client.usual_seconds("shop.sync") == 60.0
    assert client.usual_seconds("another") == 5.0
    assert client.usual_seconds("nobody's") is None


def test_the_usual_time_is_asked_for_once_a_minute(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    took(store, "first", 10)
    client, now = Client(store), 100.0
    asked = counting(store, monkeypatch)
    monkeypatch.setattr(clock, "monotonic", lambda: now)

    assert {client.usual_seconds("shop.sync") for _ in range(9)} == {10.0}
    took(store, "second", 30)
    took(store, "third", 30)
    now += 59
    assert client.usual_seconds("shop.sync") == 10.0
    assert len(asked) == 1
    now += 1
    assert client.usual_seconds("shop.sync") == 30.0
    assert len(asked) == 2


def test_one_asks_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    took(store, "first", 10)
    asked, go = threading.Event(), threading.Event()
    read = store.list

    def slow(**options: Any) -> Any:
        asked.set()
        assert go.wait(20)
        return read(**options)

    monkeypatch.setattr(store, "list", slow)
    client, heard = Client(store), list[float | None]()
    asker = threading.Thread(
        target=lambda: heard.append(client.usual_seconds("shop.sync"))
    )
    asker.start()
    assert asked.wait(20)
    assert client.usual_seconds("shop.sync") is None
    go.set()
    asker.join(20)
    assert heard == [10.0]
    assert client.usual_seconds("shop.sync") == 10.0


def test_while_the_store_is_away_nothing_is_raised_and_nothing_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = RedisStore(f"redis://127.0.0.1:{free_port()}/0", timeout=0.2)
    client, asked = Client(store), counting(store, monkeypatch)

    assert {client.usual_seconds("shop.sync") for _ in range(3)} == {None}
    assert len(asked) == 1
    store.close()


def test_only_so_many_tasks_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MOST_TASKS", 3)
    usual = statistics.Usual(MemoryStore())

    for number in range(9):
        usual.seconds(f"{number}")

    assert [*usual._known] == ["6", "7", "8"]
