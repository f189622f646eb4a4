"""Which jobs ended without a word to Celery."""

from collections.abc import Callable

import pytest

from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import Released
from tests.store.clocks import Clock
from tests.store.conftest import RedisFactory
from tests.store.lives import (
    CRASHED,
    HINT,
    LEASE,
    dead,
    enqueued,
    failure,
    kept,
    new_job,
    running,
    snapshot,
    started,
)

End = Callable[[Store, Clock], object]


def asked_while_queued(store: Store, _: Clock) -> None:
    enqueued(store)
    store.ask("job", "cancel", "ada", "")


def asked_while_paused(store: Store, _: Clock) -> None:
    enqueued(store)
    store.ask("job", "pause", "ada", "")
    store.ask("job", "cancel", "ada", "")


def cancelled_by_its_owner(store: Store, _: Clock) -> None:
    run = running(store)
    store.interrupt("job", run.fence, "cancel")


def cancelled_instead_of_a_drain(store: Store, _: Clock) -> None:
    run = running(store)
    store.ask("job", "cancel", "ada", "")
    store.interrupt("job", run.fence, "drain")


def cancelled_instead_of_a_retry(store: Store, _: Clock) -> None:
    run = running(store)
    store.ask("job", "cancel", "ada", "")
    store.retry("job", run.fence, failure(), 5)


def cancelled_instead_of_a_replacement(store: Store, _: Clock) -> None:
    run = running(store)
    store.ask("job", "cancel", "ada", "")
    store.replace("job", run.fence, new_job(), 5)


def cancelled_after_a_crash(store: Store, _: Clock) -> None:
    running(store)
    store.ask("job", "cancel", "ada", "")
    store.crash("job", "w1", CRASHED)


def cancelled_by_the_rescue(store: Store, clock: Clock) -> None:
    running(store)
    store.ask("job", "cancel", "ada", "")
    clock.advance(LEASE)
    store.rescue()


def poisoned_by_a_crash(store: Store, _: Clock) -> None:
    running(store, crash_limit=1)
    store.crash("job", "w1", CRASHED)


def poisoned_before_it_began(store: Store, _: Clock) -> None:
    enqueued(store, crash_limit=1)
    store.crash("job", "w1", CRASHED)


def poisoned_by_the_rescue(store: Store, clock: Clock) -> None:
    running(store, crash_limit=1)
    clock.advance(LEASE)
    store.rescue()


CANCELS = [
    asked_while_queued,
    asked_while_paused,
    cancelled_by_its_owner,
    cancelled_instead_of_a_drain,
    cancelled_instead_of_a_retry,
    cancelled_instead_of_a_replacement,
    cancelled_after_a_crash,
    cancelled_by_the_rescue,
]
DEATHS = [poisoned_by_a_crash, poisoned_before_it_began, poisoned_by_the_rescue]


@pytest.mark.parametrize("end", [*CANCELS, *DEATHS])
def test_an_end_that_nobody_told_is_listed_until_somebody_does(
    store: Store, clock: Clock, end: End
) -> None:
    end(store, clock)
    state = State.CANCELLED if end in CANCELS else State.DEAD
    assert store.untold(0) == [Released("job", "shop.sync", state)]
    before = kept(store)
    assert before.state is state

    store.told("job")
    assert store.untold(0) == []
    assert kept(store) == before
    store.told("job")
    assert store.untold(0) == []


def test_what_celery_knows_or_still_waits_for_is_not_listed(
    store: Store, clock: Clock
) -> None:
    dead(store, "buried")
    dead(store, "discarded")
    store.discard("discarded")
    run = running(store, "succeeded")
    store.succeed("succeeded", run.fence, snapshot(1))
    running(store, "recovered")
    store.crash("recovered", "w1", CRASHED)
    running(store, "paused")
    store.interrupt("paused", 1, "pause", "why")
    store.enqueue(new_job("later", delay=60), "token", HINT)
    running(store, "running")
    clock.advance(1)
    assert store.untold(0) == []


def test_an_untold_death_stays_untold_when_it_is_discarded(
    store: Store, clock: Clock
) -> None:
    poisoned_by_a_crash(store, clock)
    store.discard("job")
    assert store.untold(0) == [Released("job", "shop.sync", State.CANCELLED)]


def test_a_young_end_is_left_to_whoever_is_about_to_tell(
    store: Store, clock: Clock
) -> None:
    poisoned_by_a_crash(store, clock)
    clock.advance(59.999)
    assert store.untold(60) == []
    clock.advance(0.001)
    assert [job.id for job in store.untold(60)] == ["job"]


def test_a_replay_takes_the_end_back(store: Store, clock: Clock) -> None:
    poisoned_by_a_crash(store, clock)
    store.replay("job", "resume")
    assert store.untold(0) == []

    run = started(store, token="second")
    store.bury("job", run.fence, failure(), "permanent")
    assert store.untold(0) == []


def test_a_pruned_job_is_not_listed(store: Store, clock: Clock) -> None:
    poisoned_by_a_crash(store, clock)
    clock.advance(store.retention.dead)
    assert store.prune() == 1
    assert store.untold(0) == []


@pytest.mark.parametrize("make_store", ["memory", "redis"], indirect=True)
def test_the_longest_untold_come_first(store: Store, clock: Clock) -> None:
    for job_id in ("c", "a", "b"):
        enqueued(store, job_id)
        store.ask(job_id, "cancel", "", "")
        clock.advance(1)
    assert [job.id for job in store.untold(2)] == ["c", "a"]
    assert [job.id for job in store.untold(0, 2)] == ["b", "a"]


def test_an_unknown_job_is_no_error(store: Store) -> None:
    store.told("nobody")
    assert store.get("nobody") is None


@pytest.mark.parametrize("gone", ["record", "end"])
def test_a_note_without_its_end_is_dropped(
    make_redis_store: RedisFactory, clock: Clock, gone: str
) -> None:
    store = make_redis_store()
    poisoned_by_the_rescue(store, clock)
    assert kept(store).reason == "poison"
    if gone == "record":
        store._client.delete(store.keys.job("job"))
    else:
        store._client.hset(store.keys.job("job"), "state", "QUEUED")

    assert store.untold(0) == []
    assert not store._client.exists(f"{store.keys.tag_of('job')}:untold")


@pytest.mark.parametrize("make_store", ["memory", "redis"], indirect=True)
def test_those_of_which_nobody_can_tell_keep_no_other_waiting(
    store: Store, clock: Clock
) -> None:
    for job_id in ("a", "b", "c"):
        enqueued(store, job_id)
        store.ask(job_id, "cancel", "", "")
    clock.advance(10)
    assert [job.id for job in store.untold(10, 2)] == ["a", "b"]

    assert [job.id for job in store.untold(10, 2)] == ["c"]
    assert store.untold(10) == []
    clock.advance(10)
    assert [job.id for job in store.untold(10)] == ["a", "b", "c"]
