"""What a worker took ahead is begun in the order of its queues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from kombu.asynchronous.semaphore import LaxBoundedSemaphore

from jobkit.lookahead import Shelf
from jobkit.order import Order
from tests.unit.runs import stop_the_clock

ORDER = Order((("critical", 8), ("low", 1)), strict=True)


@dataclass(frozen=True)
class Request:
    """What a shelf knows of a request."""

    queue: str
    number: int = 0


class Pool:
    """Processes that run requests until a test ends them."""

    def __init__(self, processes: int, order: Order = ORDER) -> None:
        self.semaphore = LaxBoundedSemaphore(processes)
        self.begun: list[Any] = []
        self.idle = 0
        self.come: list[Request] = []
        self.shelf = Shelf(
            order,
            ["critical", "low"],
            lambda request: str(request.queue),
            self.semaphore.acquire,
            self.semaphore.release,
            self.begun.append,
            self._be_idle,
        )

    def _be_idle(self) -> None:
        self.idle += 1
        while self.come:
            self.shelf.put(self.come.pop(0))

    def end(self) -> None:
        """A process is free."""
        self.semaphore.release()


def test_a_request_begins_at_once_when_there_is_room() -> None:
    pool = Pool(2)

    pool.shelf.put(Request("low", 1))
    pool.shelf.put(Request("low", 2))

    assert pool.begun == [Request("low", 1), Request("low", 2)]
    assert len(pool.shelf) == 0


def test_the_most_urgent_begins_when_a_process_is_free() -> None:
    pool = Pool(1)
    for number in range(3):
        pool.shelf.put(Request("low", number))
    pool.shelf.put(Request("critical"))
    pool.shelf.put(Request("elsewhere"))
    assert pool.begun == [Request("low", 0)]

    for _ in range(5):
        pool.end()

    assert [(r.queue, r.number) for r in pool.begun[1:]] == [
        ("critical", 0),
        ("low", 1),
        ("low", 2),
        ("elsewhere", 0),
    ]
    assert pool.semaphore.value == 1


def test_each_free_process_begins_one_request() -> None:
    pool = Pool(2)
    for number in range(6):
        pool.shelf.put(Request("low", number))

    pool.end()
    pool.end()

    assert [request.number for request in pool.begun] == [0, 1, 2, 3]
    assert len(pool.shelf) == 2


def test_what_is_given_up_is_not_begun() -> None:
    pool = Pool(1)
    for number in range(4):
        pool.shelf.put(Request("low", number))

    given = pool.shelf.give_up(lambda request: request.number != 2)
    pool.end()
    pool.end()

    assert [request.number for request in given] == [1, 3]
    assert [request.number for request in pool.begun] == [0, 2]


def test_a_free_process_is_told_when_nothing_waits_any_more() -> None:
    pool = Pool(1)
    for number in range(3):
        pool.shelf.put(Request("low", number))
    pool.shelf.give_up(lambda _: True)
    pool.come = [Request("low", 7), Request("critical", 8)]

    pool.end()

    # Both have come before one begins.
    assert pool.idle == 1
    assert [request.number for request in pool.begun] == [0, 8]


def test_a_shelf_that_was_cleared_works_on() -> None:
    pool = Pool(1)
    for number in range(3):
        pool.shelf.put(Request("low", number))

    pool.shelf.clear()
    pool.semaphore.clear()
    pool.shelf.put(Request("low", 9))

    assert [request.number for request in pool.begun] == [0, 9]


def test_a_shelf_that_was_cleared_leaves_the_process_free() -> None:
    pool = Pool(1)
    for number in range(2):
        pool.shelf.put(Request("low", number))
    pool.shelf.clear()

    pool.end()
    pool.shelf.put(Request("low", 9))

    assert [request.number for request in pool.begun] == [0, 9]


def test_it_stands_still_when_something_waits_and_nothing_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time = stop_the_clock(monkeypatch)
    pool = Pool(1)
    pool.shelf.put(Request("low"))
    time.advance(9)
    assert not pool.shelf.stands_still(2)

    pool.shelf.put(Request("low"))
    assert not pool.shelf.stands_still(2)
    time.advance(2)
    assert pool.shelf.stands_still(2)

    pool.shelf.put(Request("low"))
    pool.end()
    assert not pool.shelf.stands_still(2)


def test_full_shelves_give_each_queue_its_share() -> None:
    pool = Pool(1, Order((("critical", 4), ("low", 1))))
    for number in range(100):
        for queue in ("low", "critical"):
            pool.shelf.put(Request(queue, number))

    for _ in range(50):
        pool.end()

    # The first had begun before there was a choice, and counts.
    assert [request.queue for request in pool.begun].count("low") == 10
