"""What is noted of a message that was published, or was not."""

import pytest

from jobkit.clock import from_milliseconds
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import Due
from tests.store.clocks import Clock
from tests.store.lives import enqueued, failure, kept, new_job, running, started


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
    store.published("job", 0, ok=False)
    assert due_in(store, clock) == 0
    assert kept(store).updated_at == from_milliseconds(clock.now)
    assert kept(store).published_at is None
    assert [due.hints for due in store.claim_due(10, 60)] == [0]


def test_a_message_that_waits_in_a_worker_is_due_later_and_not_counted(
    store: Store, clock: Clock
) -> None:
    enqueued(store)
    for _ in range(3):
        store.published("job", 30, ok=False, fence=0)
        assert due_in(store, clock) == 30
    clock.advance(30)
    store.published("job", 30, ok=False, fence=0)
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


def claimed(store: Store) -> Due:
    """A QUEUED job whose message somebody publishes now."""
    enqueued(store)
    store.published("job", 0, ok=False)
    (due,) = store.claim_due(10, 60)
    return due


def tell(store: Store, due: Due, *, ok: bool = True) -> None:
    store.published("job", 300, ok=ok, hints=due.hints, fence=due.fence)


def test_a_claim_is_told_of_with_what_it_said(store: Store, clock: Clock) -> None:
    due = claimed(store)
    assert (due.hints, due.fence) == (0, 0)
    tell(store, due)
    assert due_in(store, clock) == 300


def test_told_of_again_a_claim_counts_once(store: Store, clock: Clock) -> None:
    due = claimed(store)
    tell(store, due)
    before = kept(store)
    clock.advance(1)
    tell(store, due)
    assert kept(store) == before


@pytest.mark.parametrize("ok", [True, False])
def test_a_word_that_comes_after_a_run_changes_nothing(
    store: Store, clock: Clock, ok: bool
) -> None:
    due = claimed(store)
    run = started(store)
    store.retry("job", run.fence, failure(), 5)
    clock.advance(5)
    (again,) = store.claim_due(10, 60)
    assert (again.hints, again.fence) == (0, 1)
    before = kept(store)

    tell(store, due, ok=ok)
    assert kept(store) == before
    tell(store, again)
    assert due_in(store, clock) == 300


def test_a_word_that_comes_when_the_job_is_due_again_changes_nothing(
    store: Store,
) -> None:
    due = claimed(store)
    store.ask("job", "pause", "", "")
    store.resume("job")
    before = kept(store)

    tell(store, due)
    assert kept(store) == before
    assert [due.id for due in store.claim_due(10, 60)] == ["job"]


def test_a_word_that_comes_after_another_publishers_changes_nothing(
    store: Store, clock: Clock
) -> None:
    due = claimed(store)
    clock.advance(60)
    (again,) = store.claim_due(10, 60)
    tell(store, again)
    before = kept(store)

    tell(store, due, ok=False)
    assert kept(store) == before


def test_hints_and_fence_are_compared_each_for_itself(store: Store) -> None:
    claimed(store)
    before = kept(store)
    store.published("job", 300, hints=1)
    store.published("job", 300, fence=1)
    assert kept(store) == before
