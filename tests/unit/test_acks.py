"""Which messages are acknowledged for their age."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state

from jobkit import clock
from jobkit.acks import LOOKED_AHEAD, Acknowledger
from jobkit.dispatcher import Dispatcher
from jobkit.errors import LimitError, SchemaError
from jobkit.settings import Settings
from jobkit.store.memory import MemoryStore
from tests.unit.runs import ID, new_job


class Request(SimpleNamespace):
    """What an acknowledger knows of a request."""

    __eq__ = object.__eq__

    __hash__ = object.__hash__  # type: ignore[assignment]
    acknowledged = False
    time_start: float | None = None

    def acknowledge(self) -> None:
        self.acknowledged = True


def long(**values: Any) -> bool:
    """Whether a request of this worker is old enough."""
    request = Request(**values)
    state.reserved_requests.add(request)
    try:
        found = list(Acknowledger(MemoryStore(), Settings(), Request)._long())
    finally:
        state.reserved_requests.discard(request)
    return request in found


@pytest.mark.parametrize(("age", "is_long"), [(9, False), (11, True)])
def test_a_job_that_waits_is_acknowledged_in_time(age: float, *, is_long: bool) -> None:
    assert long(received_at=clock.wall() - age) is is_long


@pytest.mark.parametrize(
    ("age", "is_long"), [(LOOKED_AHEAD - 9, False), (LOOKED_AHEAD - 1e-6, True)]
)
def test_one_that_was_taken_ahead_waits_for_its_turn(
    age: float, *, is_long: bool
) -> None:
    received = clock.wall() - age - (1 if is_long else 0)

    # So that no queue that is seldom served is taken to this worker bit by bit.
    assert long(received_at=received, shelved_at=1.0) is is_long


def test_one_that_runs_is_acknowledged_in_time_however_it_came() -> None:
    now = clock.wall()

    assert long(received_at=now - 11, time_start=now - 11, shelved_at=1.0)
    assert not long(received_at=now - 99, time_start=now - 9, shelved_at=1.0)


def test_a_message_that_came_since_the_look_waits_for_the_next() -> None:
    store = MemoryStore()
    store.enqueue(new_job(), "token", 0)  # it is due, though its message is here
    acks = Acknowledger(store, Settings(), Request)
    first, second = (Request(id=ID, received_at=clock.wall() - 11) for _ in "ab")
    state.reserved_requests.add(first)
    try:
        acks.look()
        # Only now it is published once more, and due again after its long hint.
        dispatched: list[Any] = []
        Dispatcher(store, dispatched.append, 300, ()).round()
        state.reserved_requests.add(second)
        acks.acknowledge()
        assert (first.acknowledged, second.acknowledged) == (True, False)
        acks.look()
        acks.acknowledge()
    finally:
        state.reserved_requests -= {first, second}

    assert second.acknowledged
    assert len(dispatched) == 1
    assert 25 < (store.next_due() or 0) <= Settings().lease_seconds


@pytest.mark.parametrize("error", [LimitError("over 1 MiB"), SchemaError("newer")])
def test_one_that_cannot_wait_in_the_store_keeps_no_other_from_it(
    error: Exception,
) -> None:
    def refuse() -> None:
        raise error

    store = MemoryStore()
    store.enqueue(new_job(), "token", 0)
    acks = Acknowledger(store, Settings(), Request)
    good, bad = (
        Request(id=name, received_at=clock.wall() - 11, adopt=refuse)
        for name in (ID, "stranger")
    )
    state.reserved_requests |= {good, bad}
    try:
        acks.look()
        acks.acknowledge()
    finally:
        state.reserved_requests -= {good, bad}

    assert (good.acknowledged, bad.acknowledged) == (True, False)
