"""What is noted of a message that was published, or was not."""

import pytest

from jobkit.clock import from_milliseconds
from jobkit.states import State
from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.lives import enqueued, kept, new_job, running


def due_in(store: Store, clock: Clock) -> float:
    due = kept(store).due_at
    assert due
    return (due - from_milliseconds(clock.now)).total_seconds()


def test_a_published_message_is_a_hint_for_a_while(store: Store, clock: Clock) -> None:
    enqueued(store)
    clock.advance(2)

    store.published("job", 300)
    assert due_in(store, clock) == 300
    assert kept(store).published_at == from_milliseconds(clock.now)
    assert kept(store).updated_at == from_milliseconds(clock.now)


def test_each_hint_counts_twice_the_one_before(store: Store, clock: Clock) -> None:
    enqueued(store)
    waits = []
    for _ in range(9):
        store.published("job", 300)
        waits.append(due_in(store, clock))
    assert waits == [300, 600, 1200, 2400, 4800, 9600, 19_200, 21_600, 21_600]


def test_a_thousand_hints_wait_no_longer(store: Store, clock: Clock) -> None:
    enqueued(store)
    for _ in range(1100):
        store.published("job", 300)
    assert due_in(store, clock) == 21_600


def test_a_run_makes_hints_short_again(store: Store, clock: Clock) -> None:
    enqueued(store)
    store.published("job", 300)
    store.published("job", 300)
    start = store.begin("job", "first", "w1", 30)
    assert start.job
    store.interrupt("job", start.job.fence, "drain")

    store.published("job", 300)
    assert due_in(store, clock) == 300


def test_a_message_that_could_not_be_published_is_due_at_once(
    store: Store, clock: Clock
) -> None:
    enqueued(store)
    clock.advance(2)
    store.published("job", 300, ok=False)
    assert due_in(store, clock) == 0
    assert kept(store).updated_at == from_milliseconds(clock.now)
    assert kept(store).published_at is None
    assert [due.hints for due in store.claim_due(10, 60)] == [0]


@pytest.mark.parametrize("ok", [True, False])
def test_a_job_that_waits_for_its_time_is_left_alone(store: Store, ok: bool) -> None:
    store.enqueue(new_job(delay=60), "token", 300)
    before = kept(store)
    store.published("job", 300, ok=ok)
    assert kept(store) == before
    assert before.state is State.SCHEDULED


def test_a_running_job_is_left_alone(store: Store) -> None:
    running(store)
    before = kept(store)
    store.published("job", 300)
    assert kept(store) == before


def test_an_unknown_job_is_no_error(store: Store) -> None:
    store.published("nobody", 300)
    assert store.get("nobody") is None
