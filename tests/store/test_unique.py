"""One job at a time has a unique key, whatever becomes of it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from jobkit.clock import from_milliseconds
from jobkit.errors import DuplicateJob, SettingsError
from jobkit.job import FailedItem, Unique
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import REPLACED
from tests.store.clocks import Clock
from tests.store.conftest import RedisFactory
from tests.store.lives import (
    CRASHED,
    HINT,
    LEASE,
    enqueued,
    failure,
    kept,
    names,
    new_job,
    rewrite,
    snapshot,
    started,
)

KEY = "shop.sync:1"
UNTIL_ITS_END = Unique(KEY)


def take(store: Store, unique: Unique = UNTIL_ITS_END, token: str = "token") -> str:
    """Enqueue a job with the key; the id of the job that is there."""
    job = replace(new_job(store.partner(KEY)), unique=unique)
    return store.enqueue(job, token, HINT).id


def is_free(store: Store) -> bool:
    """Whether the key may be taken; it is afterwards."""
    job = replace(new_job(store.partner(KEY)), unique=UNTIL_ITS_END)
    return bool(store.enqueue(job, "token", HINT))


def run(store: Store, job_id: str) -> int:
    """Begin a job's next run; its fence."""
    return started(store, job_id, token=f"of {kept(store, job_id).fence}").fence


def test_the_first_job_has_the_key_and_the_second_is_told_of_it(store: Store) -> None:
    first = take(store)
    assert kept(store, first).unique_key == KEY

    second = replace(new_job(store.partner(KEY)), unique=UNTIL_ITS_END)
    answer = store.enqueue(second, "other", HINT)

    assert not answer
    assert answer.id == first
    assert store.get(second.id) is None
    assert store.counts()[State.QUEUED] == 1


def test_another_key_is_another_matter(store: Store) -> None:
    take(store)
    other = replace(new_job(store.partner("2")), unique=Unique("2"))
    assert store.enqueue(other, "token", HINT)
    assert enqueued(store, "without").unique_key == ""


def test_the_same_call_sent_again_is_answered_like_the_first(store: Store) -> None:
    job = replace(new_job(store.partner(KEY)), unique=UNTIL_ITS_END)
    first = store.enqueue(job, "token", HINT)
    assert store.enqueue(job, "token", HINT) == first
    assert first


def test_of_many_at_once_one_gets_it(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda n: take(store, token=str(n)), range(100)))
    assert len(set(ids)) == 1
    assert store.counts()[State.QUEUED] == 1


def succeed(store: Store, job_id: str) -> None:
    store.succeed(job_id, run(store, job_id), snapshot(1))


def partial(store: Store, job_id: str) -> None:
    fence = run(store, job_id)
    item = FailedItem("import", "7", "ValueError", "no")
    store.save(job_id, fence, 1, replace(snapshot(1), failed=(item,)), LEASE)
    store.succeed(job_id, fence, snapshot(1))


def bury(store: Store, job_id: str) -> None:
    store.bury(job_id, run(store, job_id), failure(), "permanent")


def cancel(store: Store, job_id: str) -> None:
    store.ask(job_id, "cancel", "", "")


def cancel_while_it_runs(store: Store, job_id: str) -> None:
    fence = run(store, job_id)
    store.ask(job_id, "cancel", "", "")
    store.interrupt(job_id, fence, "cancel")


def cancel_while_it_is_paused(store: Store, job_id: str) -> None:
    store.ask(job_id, "pause", "", "")
    store.ask(job_id, "cancel", "", "")


def poison(store: Store, job_id: str) -> None:
    for _ in range(3):
        run(store, job_id)
        store.crash(job_id, "w1", CRASHED)


def become_another_task(store: Store, job_id: str) -> None:
    store.replace(job_id, run(store, job_id), new_job(job_id, "shop.other"), 5)


def succeed_replaced(store: Store, job_id: str) -> None:
    store.succeed(job_id, run(store, job_id), snapshot(1), REPLACED)


ENDS = [
    *(succeed, partial, bury, cancel, cancel_while_it_runs, poison),
    *(cancel_while_it_is_paused, become_another_task, succeed_replaced),
]


@pytest.mark.parametrize("end", ENDS, ids=[end.__name__ for end in ENDS])
def test_every_end_frees_it(store: Store, end: Callable[[Store, str], None]) -> None:
    end(store, take(store))
    assert is_free(store)
    assert not is_free(store)


def wait_to_retry(store: Store, job_id: str) -> None:
    store.retry(job_id, run(store, job_id), failure(), 60)


def drain(store: Store, job_id: str) -> None:
    store.interrupt(job_id, run(store, job_id), "drain")


def pause(store: Store, job_id: str) -> None:
    store.ask(job_id, "pause", "", "")


def crash(store: Store, job_id: str) -> None:
    run(store, job_id)
    store.crash(job_id, "w1", CRASHED)


def lose_the_lease(store: Store, job_id: str) -> None:
    run(store, job_id)
    store.rescue()


STAYS = [wait_to_retry, drain, pause, crash, lose_the_lease, run]


@pytest.mark.parametrize("wait", STAYS, ids=[wait.__name__ for wait in STAYS])
def test_a_job_that_goes_on_keeps_it(
    store: Store, clock: Clock, wait: Callable[[Store, str], object]
) -> None:
    job_id = take(store)
    wait(store, job_id)
    clock.advance(LEASE)
    store.rescue()
    assert take(store) == job_id


def test_a_late_end_of_an_earlier_job_frees_nothing(store: Store, clock: Clock) -> None:
    early = take(store, Unique(KEY, 60))
    fence = run(store, early)
    clock.advance(60)
    late = take(store)
    assert late != early

    assert store.bury(early, fence, failure(), "permanent")
    assert take(store) == late


def test_until_the_start_one_runs_and_one_waits(store: Store) -> None:
    until_its_start = Unique(KEY, "start")
    running = take(store, until_its_start)
    assert take(store, until_its_start) == running
    fence = run(store, running)

    waiting = take(store, until_its_start)
    assert waiting != running
    assert take(store, until_its_start) == waiting
    store.interrupt(running, fence, "drain")
    store.succeed(running, run(store, running), snapshot(1))
    assert take(store, until_its_start) == waiting


def test_a_run_that_was_judged_and_not_started_has_it_again(store: Store) -> None:
    until_its_start = Unique(KEY, "start")
    judged = take(store, until_its_start)
    blocked = store.interrupt(judged, run(store, judged), "block", "full")

    assert blocked is State.BLOCKED
    assert take(store, until_its_start) == judged


def test_for_some_seconds_it_is_taken_ended_or_not(store: Store, clock: Clock) -> None:
    for_a_minute = Unique(KEY, 60)
    first = take(store, for_a_minute)
    succeed(store, first)
    clock.advance(59.999)
    assert take(store, for_a_minute) == first

    clock.advance(0.001)
    second = take(store, for_a_minute)
    assert second != first
    run(store, second)
    clock.advance(60)
    assert take(store, for_a_minute) not in {first, second}


def test_its_own_id_is_not_free_before_its_seconds_are_over(
    store: Store, clock: Clock
) -> None:
    job = replace(new_job(store.partner(KEY)), unique=Unique(KEY, 60), again=True)
    store.enqueue(job, "token", HINT)
    succeed(store, job.id)
    assert not store.enqueue(job, "other", HINT)
    clock.advance(60)
    assert store.enqueue(job, "other", HINT)


@pytest.mark.parametrize("end", [bury, cancel])
def test_a_dead_or_cancelled_job_does_not_keep_it_for_its_seconds(
    store: Store, end: Callable[[Store, str], None]
) -> None:
    end(store, take(store, Unique(KEY, 60)))
    assert is_free(store)


def test_a_record_stays_as_long_as_it_has_the_key(store: Store, clock: Clock) -> None:
    week = 7 * 86_400
    job_id = take(store, Unique(KEY, week))
    succeed(store, job_id)
    clock.advance(week - 1)
    store.prune()
    assert take(store) == job_id

    clock.advance(1)
    assert store.prune() == 1
    assert is_free(store)


def test_a_duplicate_that_is_waited_for_is_recorded_as_cancelled(
    store: Store, clock: Clock
) -> None:
    first = take(store)
    second = replace(
        new_job(store.partner(KEY)), unique=Unique(KEY, "finish", "cancel")
    )
    answer = store.enqueue(second, "other", HINT)

    assert (bool(answer), answer.id) == (False, first)
    job = kept(store, second.id)
    assert (job.state, job.reason) == (State.CANCELLED, f"duplicate of {first}")
    assert (job.unique_key, job.due_at) == (KEY, None)
    assert job.finished_at == from_milliseconds(clock.now)
    assert names(store, second.id) == ["queued", "cancelled"]
    assert [released.id for released in store.untold(0)] == [second.id]
    assert store.enqueue(second, "other", HINT) == answer
    assert take(store) == first
    succeed(store, first)
    assert is_free(store)


def test_a_key_whose_job_is_gone_or_over_points_to_nothing(
    make_redis_store: RedisFactory,
) -> None:
    store = make_redis_store()
    rewrite(store, take(store), state="SUCCEEDED")  # by a jobkit without unique keys
    second = take(store)
    assert take(store) == second

    store._client.delete(store.keys.job(second))
    assert is_free(store)


def test_a_taken_id_is_told_before_a_taken_key(store: Store) -> None:
    first = take(store)
    again = replace(new_job(first), unique=UNTIL_ITS_END)
    answer = store.enqueue(again, "other", HINT)
    assert (bool(answer), answer.id) == (False, first)


def test_an_ended_job_of_that_id_stays_when_the_key_is_taken(store: Store) -> None:
    mine = store.partner(KEY)
    ended = replace(new_job(mine), again=True)
    store.enqueue(ended, "token", HINT)
    succeed(store, mine)
    before = kept(store, mine)
    first = take(store)

    assert (
        store.enqueue(replace(ended, unique=UNTIL_ITS_END), "other", HINT).id == first
    )
    assert kept(store, mine) == before
    succeed(store, first)
    assert store.enqueue(replace(ended, unique=UNTIL_ITS_END), "other", HINT)
    assert take(store) == mine


def test_a_replay_takes_it_again(store: Store) -> None:
    job_id = take(store)
    bury(store, job_id)
    assert store.replay(job_id, "resume") == ("done", State.QUEUED)
    assert take(store) == job_id
    succeed(store, job_id)
    assert is_free(store)


def test_a_replay_is_refused_while_another_job_has_it(store: Store) -> None:
    job_id = take(store)
    bury(store, job_id)
    before = kept(store, job_id)
    other = take(store)

    with pytest.raises(DuplicateJob, match=other) as refused:
        store.replay(job_id, "resume")
    assert refused.value.job_id == other
    assert kept(store, job_id) == before
    cancel(store, other)
    assert store.replay(job_id, "restart") == ("done", State.QUEUED)


def test_a_job_over_failed_items_takes_it_like_the_first(store: Store) -> None:
    parent = take(store)
    partial(store, parent)
    child = replace(new_job(store.partner(parent)), replay_of=parent)
    other = take(store)
    with pytest.raises(DuplicateJob, match=other):
        store.replay_items(child, "")
    succeed(store, other)

    assert store.replay_items(child, "") == ("done", child.id)
    assert kept(store, child.id).unique_key == KEY
    assert take(store) == child.id
    succeed(store, child.id)
    assert is_free(store)


def test_a_run_that_becomes_a_unique_job_takes_its_key(store: Store) -> None:
    job_id = store.partner(KEY)
    enqueued(store, job_id)
    new = replace(new_job(job_id, "shop.other"), unique=UNTIL_ITS_END)
    assert store.replace(job_id, run(store, job_id), new, 5) is State.QUEUED
    assert take(store) == job_id


def test_a_run_that_becomes_a_duplicate_is_cancelled(store: Store) -> None:
    job_id = store.partner(KEY)
    enqueued(store, job_id)
    first, fence = take(store), run(store, job_id)
    new = replace(new_job(job_id, "shop.other"), unique=UNTIL_ITS_END)

    for _ in range(2):
        assert store.replace(job_id, fence, new, 5) is State.CANCELLED
    assert kept(store, job_id).reason == f"duplicate of {first}"
    assert [released.id for released in store.untold(0)] == [job_id]
    assert take(store) == first


def test_an_id_of_another_partition_is_refused(make_redis_store: RedisFactory) -> None:
    store = make_redis_store(3)
    far = next(
        i for i in map(str, range(99)) if store.keys.tag_of(i) != store.keys.tag_of(KEY)
    )
    with pytest.raises(SettingsError, match="jobkit_partitions = 3"):
        store.enqueue(replace(new_job(far), unique=UNTIL_ITS_END), "token", HINT)
    assert store.get(far) is None
