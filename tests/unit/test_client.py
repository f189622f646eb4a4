"""Jobs are read, watched and steered from outside."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jobkit import (
    Client,
    Event,
    Job,
    JobkitError,
    JobNotFound,
    NotAllowed,
    Page,
    Progress,
    State,
)
from jobkit.job import ErrorInfo, NewJob
from jobkit.store.base import Store
from jobkit.store.memory import MemoryStore
from jobkit.store.redis import RedisStore
from jobkit.store.values import Failure, Snapshot
from tests.servers import ValkeyServer
from tests.unit.runs import WORKER, new_job
from tests.waiting import wait_until

FAILURE = Failure(ErrorInfo("KeyError", "'id'", "Traceback ...", "unknown"))


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


@pytest.fixture
def client(store: Store) -> Client:
    return Client(store)


def enqueue(store: Store, job_id: str, task: str = "sync", owner: str = "") -> None:
    queue = "high" if task == "sync" else "low"
    job = NewJob(job_id, task, new_job().message, queue=queue, owner=owner)
    assert store.enqueue(job, "enqueue", hint=300)


def start(store: Store, job_id: str) -> int:
    """Begin the next run, and tell its fence."""
    begun = store.begin(job_id, uuid.uuid4().hex, WORKER, 30)
    assert begun.job
    return begun.job.fence


def succeed(store: Store, job_id: str) -> None:
    fence = start(store, job_id)
    end = Snapshot(5, "", Progress(current=5, total=5, percent=100.0))
    assert store.succeed(job_id, fence, end)


def bury(store: Store, job_id: str) -> None:
    assert store.bury(job_id, start(store, job_id), FAILURE, "permanent")


def pages(turn: Callable[[str | None], Page[Job]]) -> Iterator[Page[Job]]:
    """Turn pages until the last."""
    after = None
    while True:
        page = turn(after)
        yield page
        if page.next is None:
            return
        after = page.next


# -- reading


def test_a_job_is_read_by_its_id(store: Store, client: Client) -> None:
    enqueue(store, "a", owner="acme")

    job = client.get("a")

    assert (job.id, job.task, job.owner, job.queue) == ("a", "sync", "acme", "high")
    assert job.message


def test_an_unknown_job_is_named_with_why(client: Client) -> None:
    with pytest.raises(JobNotFound, match=r"'nope'.*never recorded.*retention") as told:
        client.get("nope")

    assert told.value.job_id == "nope"


def test_every_job_is_listed_once_newest_first(store: Store, client: Client) -> None:
    for n in range(250):
        enqueue(store, f"job {n:03}")

    found = list(pages(lambda after: client.list(after=after)))

    assert [len(page.items) for page in found if page.items] == [50] * 5
    ids = [job.id for page in found for job in page.items]
    assert sorted(ids) == sorted(f"job {n:03}" for n in range(250))
    moments = [job.created_at for page in found for job in page.items]
    assert moments == sorted(moments, reverse=True)
    assert all(job.message is None for page in found for job in page.items)


def test_no_job_comes_twice_while_others_are_added(
    store: Store, client: Client
) -> None:
    for n in range(120):
        enqueue(store, f"job {n:03}")
    ids: list[str] = []
    added = 0
    for page in pages(lambda after: client.list(after=after, limit=50)):
        ids += [job.id for job in page.items]
        for _ in range(30):
            enqueue(store, f"new {added:03}")
            added += 1

    assert len(ids) == len(set(ids))
    assert {f"job {n:03}" for n in range(120)} <= set(ids)


def test_no_job_is_missed_while_others_end(store: Store, client: Client) -> None:
    for n in range(60):
        enqueue(store, f"job {n:03}")
    ids: list[str] = []
    for page in pages(lambda after: client.list(after=after, limit=20)):
        ids += [job.id for job in page.items]
        for job in page.items[:5]:
            succeed(store, job.id)

    assert sorted(ids) == [f"job {n:03}" for n in range(60)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"task": "sync"}, {"a", "b", "c"}),
        ({"queue": "low"}, {"d"}),
        ({"owner": "acme"}, {"b", "d"}),
        ({"owner": "acme", "task": "sync"}, {"b"}),
        ({"state": State.SUCCEEDED}, {"c"}),
        ({"state": "SUCCEEDED", "task": "sync"}, {"c"}),
        ({"state": "SUCCEEDED", "task": "mail"}, set()),
        ({"state": "QUEUED", "queue": "high", "owner": "acme"}, {"b"}),
        ({"owner": "nobody"}, set()),
    ],
)
def test_a_list_can_be_narrowed(
    store: Store, client: Client, given: dict[str, Any], expected: set[str]
) -> None:
    enqueue(store, "a")
    enqueue(store, "b", owner="acme")
    enqueue(store, "c")
    enqueue(store, "d", task="mail", owner="acme")
    succeed(store, "c")

    found = [
        job.id
        for page in pages(lambda after: client.list(**given, after=after))
        for job in page.items
    ]

    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("after", ["nonsense", "", "????", "WzFd", "e30"])
def test_a_place_that_no_page_gave_is_refused(
    store: Store, client: Client, after: str
) -> None:
    enqueue(store, "a")

    with pytest.raises(JobkitError, match=r"no place in a list.*`next`"):
        client.list(after=after)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_page_without_room_is_refused(client: Client, limit: int) -> None:
    with pytest.raises(JobkitError, match="limit="):
        client.list(limit=limit)


def test_a_state_that_is_none_is_refused_with_those_there_are(client: Client) -> None:
    with pytest.raises(JobkitError, match=r"no state 'RUNNIG'.*'RUNNING'"):
        client.list(state="RUNNIG")


def test_counts_have_every_state(store: Store, client: Client) -> None:
    for job_id in "abcd":
        enqueue(store, job_id)
    succeed(store, "a")
    bury(store, "b")
    client.cancel("c")

    counts = client.counts()

    assert set(counts) == set(State)
    assert {state: n for state, n in counts.items() if n} == {
        State.SUCCEEDED: 1,
        State.DEAD: 1,
        State.CANCELLED: 1,
        State.QUEUED: 1,
    }


# -- history


def test_the_history_tells_what_happened_in_order(store: Store, client: Client) -> None:
    enqueue(store, "a")
    bury(store, "a")
    client.replay("a", actor="ana", reason="fixed")
    fence = start(store, "a")
    client.pause("a", actor="ana")
    store.interrupt("a", fence, "pause")
    client.resume("a", actor="bob")
    succeed(store, "a")

    events = client.history("a")

    assert [(event.name, event.state) for event in events] == [
        ("queued", "QUEUED"),
        ("started", "RUNNING"),
        ("dead", "DEAD"),
        ("replayed", "QUEUED"),
        ("started", "RUNNING"),
        ("asked", "RUNNING"),
        ("paused", "PAUSED"),
        ("resumed", "QUEUED"),
        ("started", "RUNNING"),
        ("succeeded", "SUCCEEDED"),
    ]
    assert [event.detail for event in events if event.name == "replayed"] == [
        "resume by ana: fixed"
    ]
    moments = [event.at for event in events]
    assert moments == sorted(moments)
    assert events[-1].progress
    assert events[-1].progress.percent == 100.0


def test_the_history_goes_on_after_an_event(store: Store, client: Client) -> None:
    enqueue(store, "a")
    first = client.history("a")
    succeed(store, "a")

    rest = client.history("a", after=first[-1].id)

    assert [event.name for event in rest] == ["started", "succeeded"]
    assert not client.history("a", after=rest[-1].id)


def test_the_last_200_events_are_kept(store: Store, client: Client) -> None:
    enqueue(store, "a")
    for _ in range(110):
        fence = start(store, "a")
        store.interrupt("a", fence, "drain", "shutdown")

    events = client.history("a")

    assert len(events) == 200
    assert events[-1].name == "interrupted"


# -- watching


class Watcher:
    """Somebody who watches a job in a thread."""

    def __init__(self, client: Client, job_id: str) -> None:
        self.events: list[Event] = []
        self.thread = threading.Thread(target=self._watch, args=(client, job_id))
        self.thread.start()
        wait_until(lambda: self.events, "the watcher knows how the job stands")

    def _watch(self, client: Client, job_id: str) -> None:
        for event in client.watch(job_id):
            self.events.append(event)

    def end(self) -> list[str]:
        """Wait for the end of the watch; what was seen."""
        self.thread.join(timeout=10)
        assert not self.thread.is_alive()
        return [event.name for event in self.events]


def test_a_watch_begins_with_now_and_goes_on_to_the_end(
    store: Store, client: Client
) -> None:
    enqueue(store, "a")
    watcher = Watcher(client, "a")
    fence = start(store, "a")
    for n in (1, 2):
        store.save("a", fence, n, Snapshot(n, "", Progress(current=n, ok=n)), 30)
    assert store.succeed("a", fence, Snapshot(3, "", Progress(current=3, ok=3)))

    assert watcher.end() == ["now", "started", "progressed", "progressed", "succeeded"]
    now, started, first, second, ended = watcher.events
    assert (now.state, now.progress) == (State.QUEUED, Progress())
    assert started.state is State.RUNNING
    assert [e.progress.current for e in (first, second, ended) if e.progress] == [
        1,
        2,
        3,
    ]
    assert ended.state is State.SUCCEEDED


def test_a_watch_of_a_job_that_has_ended_is_short(store: Store, client: Client) -> None:
    enqueue(store, "a")
    succeed(store, "a")

    (event,) = client.watch("a")

    assert (event.name, event.state) == ("now", State.SUCCEEDED)
    assert event.progress
    assert event.progress.percent == 100.0


@pytest.mark.parametrize("end", ["dead", "cancelled"])
def test_a_watch_ends_with_every_ending(store: Store, client: Client, end: str) -> None:
    enqueue(store, "a")
    watcher = Watcher(client, "a")
    if end == "dead":
        bury(store, "a")
    else:
        client.cancel("a", reason="no", actor="ana")

    assert watcher.end()[-1] == end


def test_a_watch_outlives_retries_and_pauses(store: Store, client: Client) -> None:
    enqueue(store, "a")
    watcher = Watcher(client, "a")
    store.retry("a", start(store, "a"), FAILURE, 0.0)
    store.claim_due(10, 10)
    client.pause("a")
    client.resume("a")
    succeed(store, "a")

    assert watcher.end() == [
        *("now", "started", "retrying", "queued", "paused", "resumed"),
        *("started", "succeeded"),
    ]


def test_two_may_watch_one_job(store: Store, client: Client) -> None:
    enqueue(store, "a")
    watchers = [Watcher(client, "a") for _ in range(2)]
    succeed(store, "a")

    assert [watcher.end() for watcher in watchers] == [
        ["now", "started", "succeeded"]
    ] * 2


def test_a_watch_of_an_unknown_job_is_refused(client: Client) -> None:
    with pytest.raises(JobNotFound):
        next(client.watch("nope"))


def test_a_watch_notices_an_end_that_nobody_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jobkit.client.IDLE", 0.01)
    store = MemoryStore()
    enqueue(store, "a")
    events = Client(store).watch("a")
    assert next(events).name == "now"
    store._jobs["a"].fields["state"] = "SUCCEEDED"

    assert not list(events)


# -- acting


def test_a_waiting_job_is_cancelled_at_once(store: Store) -> None:
    told: list[tuple[str, str]] = []
    client = Client(store, cancelled=lambda *what: told.append(what))
    enqueue(store, "a")

    assert client.cancel("a", reason="wrong shop", actor="ana")

    job = client.get("a")
    assert (job.state, job.reason) == (State.CANCELLED, "wrong shop")
    assert told == [("a", "wrong shop")]
    assert client.history("a")[-1].detail == "ana: wrong shop"


def test_a_running_job_is_asked_to_stop(store: Store) -> None:
    told: list[tuple[str, str]] = []
    client = Client(store, cancelled=lambda *what: told.append(what))
    enqueue(store, "a")
    start(store, "a")

    assert client.cancel("a", reason="no", actor="ana")

    job = client.get("a")
    assert job.state is State.RUNNING
    assert job.request
    assert (job.request.kind, job.request.actor, job.request.reason) == (
        *("cancel", "ana", "no"),
    )
    assert told == []


def test_an_ended_job_can_neither_be_cancelled_nor_paused(
    store: Store, client: Client
) -> None:
    enqueue(store, "a")
    succeed(store, "a")

    assert not client.cancel("a")
    assert not client.pause("a")
    assert client.get("a").state is State.SUCCEEDED


def test_a_paused_job_waits_until_it_is_resumed(store: Store, client: Client) -> None:
    enqueue(store, "a")

    assert client.pause("a", reason="holidays", actor="ana")
    assert client.get("a").state is State.PAUSED
    assert store.begin("a", "t", WORKER, 30).outcome == "paused"

    client.resume("a", actor="bob")
    assert client.get("a").state is State.QUEUED
    assert [due.id for due in store.claim_due(10, 10)] == ["a"]


def test_what_is_not_paused_cannot_be_resumed(store: Store, client: Client) -> None:
    enqueue(store, "a")
    succeed(store, "a")

    with pytest.raises(NotAllowed, match="'a' is SUCCEEDED and not paused") as told:
        client.resume("a")

    assert told.value.state == "SUCCEEDED"


@pytest.mark.parametrize("mode", ["resume", "restart"])
def test_a_dead_job_runs_again_with_fresh_budgets(
    store: Store, client: Client, mode: Any
) -> None:
    enqueue(store, "a")
    fence = start(store, "a")
    store.save("a", fence, 1, Snapshot(7, "saved", Progress(current=7, ok=7)), 30)
    store.bury("a", fence, FAILURE, "permanent")

    assert client.replay("a", mode, reason="fixed", actor="ana") == "a"
    assert client.replay("a", mode) == "a"  # two clicks, one replay

    job = client.get("a")
    assert (job.state, job.attempts, job.replays) == (State.QUEUED, 0, 1)
    assert job.checkpoint == ("saved" if mode == "resume" else "")
    assert [due.id for due in store.claim_due(10, 10)] == ["a"]


@pytest.mark.parametrize("act", ["replay", "discard"])
def test_only_the_dead_are_replayed_or_discarded(
    store: Store, client: Client, act: str
) -> None:
    enqueue(store, "a")

    with pytest.raises(NotAllowed, match="'a' is QUEUED and not dead") as told:
        getattr(client, act)("a")

    assert told.value.state == "QUEUED"
    assert client.get("a").state is State.QUEUED


def test_a_dead_job_is_given_up(store: Store, client: Client) -> None:
    enqueue(store, "a")
    bury(store, "a")

    client.discard("a", reason="too old", actor="ana")

    job = client.get("a")
    assert (job.state, job.reason) == (State.CANCELLED, "too old")
    assert client.history("a")[-1].name == "discarded"


def test_a_mistyped_mode_is_refused_with_those_there_are(
    store: Store, client: Client
) -> None:
    enqueue(store, "a")
    bury(store, "a")
    mode: Any = "resum"

    with pytest.raises(JobkitError, match="resume, restart, failed_items, not 'resum'"):
        client.replay("a", mode)

    assert client.get("a").state is State.DEAD


@pytest.mark.parametrize("act", ["cancel", "pause", "resume", "replay", "discard"])
def test_nothing_is_done_to_an_unknown_job(client: Client, act: str) -> None:
    with pytest.raises(JobNotFound, match="'nope'"):
        getattr(client, act)("nope")


def test_a_url_is_enough_for_reading(valkey: ValkeyServer) -> None:
    prefix = f"test-{uuid.uuid4().hex}"
    store = RedisStore(valkey.url, prefix, 2)
    enqueue(store, "a")

    client = Client(valkey.url, prefix=prefix, partitions=2)

    assert client.get("a").task == "sync"
    assert [job.id for job in client.list().items] == ["a"]
    client.store.close()
    store.close()


def test_a_hundred_calls_make_one_replay(store: Store, client: Client) -> None:
    enqueue(store, "a")
    bury(store, "a")

    with ThreadPoolExecutor(10) as threads:
        ids = set(threads.map(lambda _: client.replay("a"), range(100)))

    assert ids == {"a"}
    assert client.get("a").replays == 1
    assert [e.name for e in client.history("a")].count("replayed") == 1
