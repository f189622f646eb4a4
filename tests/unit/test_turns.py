"""Whose turn it is: those who are let go are published, and nobody is forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typing_extensions import override

from jobkit.dispatcher import GRACE, Dispatcher
from jobkit.errors import StoreUnavailable
from jobkit.job import Message
from jobkit.states import State
from jobkit.store.memory import MemoryStore
from jobkit.store.slots import Claim
from jobkit.store.values import Due
from jobkit.turns import Turns
from tests.unit.runs import new_job

SPAN, HINT, LEASE = 10.0, 300.0, 30.0
SHOP = (Claim("shop", 1),)


class Now:
    """The store's milliseconds, moved by hand."""

    def __init__(self) -> None:
        self.milliseconds = 1_000_000

    def __call__(self) -> int:
        return self.milliseconds


class Shop:
    """A store with a broker, and jobs that all want the same slot."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.published: list[str] = []
        self.turns = Turns(
            store, Dispatcher(store, self.publish, HINT, (ConnectionError,)), SPAN
        )
        self.broker_is_down = False

    def publish(self, message: Message) -> None:
        if self.broker_is_down:
            raise ConnectionError("no route to the broker")
        self.published.append(message.headers["id"])

    def enqueue(self, job_id: str) -> bool:
        message = Message("t", b"", "", "", {"id": job_id}).encode()
        job = replace(new_job(), id=job_id, message=message, blocked=True)
        assert self.store.enqueue(job, job_id, HINT)
        return self.turns.line_up(job_id, SHOP, HINT)

    def run(self, job_id: str) -> int:
        start = self.store.begin(job_id, f"{job_id} begins", "w/1", LEASE)
        assert start.job
        fence = start.job.fence
        if self.turns.take(job_id, fence, SHOP, LEASE) != "held":
            self.store.interrupt(job_id, fence, "block")
        return fence

    def state(self, job_id: str) -> State:
        job = self.store.get(job_id)
        assert job
        return job.state


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def shop(now: Now) -> Shop:
    return Shop(MemoryStore(now=now))


def test_the_next_is_published_by_who_makes_room(shop: Shop) -> None:
    assert [shop.enqueue(job) for job in "abc"] == [True, False, False]
    fence = shop.run("a")
    shop.turns.give_back("a", fence)
    assert shop.published == ["b"]
    assert [shop.state(job) for job in "bc"] == [State.QUEUED, State.BLOCKED]


def test_those_who_do_not_wait_any_more_are_passed(shop: Shop) -> None:
    for job in "abcd":
        shop.enqueue(job)
    fence = shop.run("a")
    shop.store.ask("b", "cancel", "", "")
    shop.store.ask("c", "pause", "", "")
    shop.turns.give_back("a", fence)
    assert shop.published == ["d"]


def test_one_that_is_let_go_while_it_is_judged_is_not_forgotten(
    shop: Shop, now: Now
) -> None:
    store = shop.store
    for job in "ab":
        shop.enqueue(job)
    fence = shop.run("a")
    store.unblock("b", HINT)  # as if nobody had known that it has to wait
    start = store.begin("b", "token", "w/2", LEASE)
    assert start.job
    assert shop.turns.take("b", start.job.fence, SHOP, LEASE) == "waiting"
    shop.turns.give_back("a", fence)  # lets b go, which is RUNNING still
    assert shop.published == []
    store.interrupt("b", start.job.fence, "block")
    now.milliseconds += 500
    assert shop.turns.round(0, lambda _: True) == 1
    assert shop.published == ["b"]


def test_what_a_broker_does_not_take_is_due_after_the_grace(
    shop: Shop, now: Now
) -> None:
    for job in "ab":
        shop.enqueue(job)
    shop.broker_is_down = True
    shop.turns.give_back("a", shop.run("a"))
    assert shop.published == []
    now.milliseconds += int(GRACE * 1000)
    assert [due.id for due in shop.store.claim_due(10, GRACE)] == ["b"]


def test_a_round_waits_for_a_rate_and_stops_when_told(shop: Shop, now: Now) -> None:
    calls = (Claim("calls", 10, 1.0),)
    for job in "abcd":
        shop.store.acquire(job, 0, calls, LEASE, SPAN)
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        now.milliseconds += round(seconds * 1000)
        return len(waits) == 2

    shop.turns.round(60, wait)
    assert waits == [0.1, 0.1]


def test_a_job_that_is_not_recorded_gives_its_place_back(shop: Shop) -> None:
    shop.store.acquire("stranger", 0, SHOP, LEASE, SPAN)
    assert not shop.enqueue("a")
    shop.turns.give_back("stranger", 0)
    assert shop.published == ["a"]


def test_a_store_out_of_reach_breaks_no_end(now: Now) -> None:
    class Away(MemoryStore):
        @override
        def release(self, *_: object, **__: object) -> list[str]:
            raise StoreUnavailable("away")

        @override
        def unblock(self, *_: object) -> tuple[State, Due | None]:
            raise StoreUnavailable("away")

    shop = Shop(Away(now=now))
    shop.turns.give_back("a", 1)
    shop.store.acquire("a", 0, SHOP, LEASE, SPAN)
    now.milliseconds += 500
    assert shop.turns.round(0, lambda _: True) == 1
    assert shop.published == []
