"""Which ends no receiver of signals has heard of."""

from collections.abc import Callable

import pytest

from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.redis import RedisStore
from jobkit.store.values import Death
from tests.store.clocks import Clock
from tests.store.conftest import RedisFactory
from tests.store.lives import (
    CRASHED,
    DROPPED,
    LEASE,
    enqueued,
    failure,
    kept,
    new_job,
    running,
    snapshot,
    started,
)

GRACE = 10.0
End = Callable[[Store, Clock], object]


def succeeded(store: Store, _: Clock) -> None:
    run = running(store)
    store.succeed("job", run.fence, snapshot(1), tell=True)


def buried(store: Store, _: Clock) -> None:
    run = running(store)
    store.bury("job", run.fence, failure(), "permanent", tell=True)


def cancelled_by_its_owner(store: Store, _: Clock) -> None:
    run = running(store)
    store.interrupt("job", run.fence, "cancel")


def cancelled_while_it_waited(store: Store, _: Clock) -> None:
    enqueued(store)
    store.ask("job", "cancel", "ada", "")


def poisoned(store: Store, clock: Clock) -> None:
    running(store, crash_limit=1)
    clock.advance(LEASE)
    store.rescue()


def given_up_by_the_broker(store: Store, _: Clock) -> None:
    store.collect(new_job(), DROPPED)


def claimed(store: Store, age: float = 0) -> list[Death]:
    return list(store.claim_notes("unheard", age, GRACE))


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (succeeded, State.SUCCEEDED),
        (buried, State.DEAD),
        (cancelled_by_its_owner, State.CANCELLED),
        (cancelled_while_it_waited, State.CANCELLED),
        (poisoned, State.DEAD),
        (given_up_by_the_broker, State.DEAD),
    ],
)
def test_an_end_is_claimed_until_somebody_says_that_it_was_heard(
    store: Store, clock: Clock, end: End, state: State
) -> None:
    end(store, clock)
    (unheard,) = claimed(store)
    job = kept(store)
    assert (job.state, unheard.id) == (state, "job")
    assert unheard.name == f"{job.fence}.{clock.now}"
    assert claimed(store) == []

    clock.advance(GRACE)
    assert claimed(store) == [unheard]
    store.noted("unheard", unheard)
    clock.advance(GRACE)
    assert claimed(store) == []
    assert kept(store).state is state


def test_an_end_of_which_nobody_wants_to_hear_leaves_no_note(store: Store) -> None:
    run = running(store, "succeeded")
    store.succeed("succeeded", run.fence, snapshot(1))
    run = running(store, "buried")
    store.bury("buried", run.fence, failure(), "permanent")
    assert claimed(store) == []


def test_a_young_end_is_left_to_the_process_that_came_to_it(
    store: Store, clock: Clock
) -> None:
    succeeded(store, clock)
    clock.advance(9.999)
    assert claimed(store, age=10) == []
    clock.advance(0.001)
    assert len(claimed(store, age=10)) == 1


def test_of_a_later_end_nothing_is_noted(store: Store, clock: Clock) -> None:
    buried(store, clock)
    (first,) = claimed(store)
    store.replay("job", "resume")
    clock.advance(GRACE)
    assert claimed(store) == []

    run = started(store, token="second")
    store.succeed("job", run.fence, snapshot(1), tell=True)
    store.noted("unheard", first)
    assert claimed(store) == [Death("job", f"2.{clock.now}")]


def test_a_repeated_ending_leaves_one_note(store: Store, clock: Clock) -> None:
    succeeded(store, clock)
    (unheard,) = claimed(store)
    store.noted("unheard", unheard)

    assert store.succeed("job", 1, snapshot(1), tell=True) is State.SUCCEEDED
    clock.advance(GRACE)
    assert claimed(store) == []


def test_a_discarded_death_is_no_longer_told(store: Store, clock: Clock) -> None:
    buried(store, clock)
    clock.advance(1)
    store.discard("job")
    clock.advance(GRACE)
    assert claimed(store) == []


def test_a_pruned_job_is_not_claimed(store: Store, clock: Clock) -> None:
    succeeded(store, clock)
    clock.advance(store.retention.succeeded)
    assert store.prune() == 1
    assert claimed(store) == []


def test_a_crash_that_ends_nothing_leaves_no_note(store: Store) -> None:
    running(store)
    store.crash("job", "w1", CRASHED)
    assert claimed(store) == []


def test_a_note_without_its_record_is_dropped(
    make_redis_store: RedisFactory, clock: Clock
) -> None:
    store: RedisStore = make_redis_store()
    succeeded(store, clock)
    store._client.delete(store.keys.job("job"))
    assert claimed(store) == []
    assert not store._client.exists(f"{store.keys.tag_of('job')}:unheard")
