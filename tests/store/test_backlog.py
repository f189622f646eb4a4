"""How many jobs of each queue wait, run, or are dead, and for how long."""

from dataclasses import replace

from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.redis import RedisStore
from jobkit.store.values import Backlog
from tests.store.clocks import Clock
from tests.store.lives import HINT, dead, enqueued, new_job, running, snapshot


def test_an_empty_store_has_no_backlog(store: Store) -> None:
    assert store.backlog() == []


def test_jobs_are_counted_by_queue_and_state(store: Store, clock: Clock) -> None:
    for number in range(3):
        store.enqueue(new_job(f"urgent {number}", queue="urgent"), "token", HINT)
        clock.advance(10)
    enqueued(store, "normal")
    dead(store, "dead")
    run = running(store, "over")
    store.succeed("over", run.fence, snapshot(1))
    store.enqueue(replace(new_job("nowhere", delay=60), queue=""), "token", HINT)
    clock.advance(5)

    assert store.backlog() == [
        Backlog("", State.SCHEDULED, 1, 5.0),
        Backlog("normal", State.DEAD, 1, 5.0),
        Backlog("normal", State.QUEUED, 1, 5.0),
        Backlog("urgent", State.QUEUED, 3, 35.0),
    ]


def test_beyond_the_depth_queues_at_both_ends_are_counted_whole(
    store: Store, clock: Clock
) -> None:
    for number in range(12):
        name = "old" if number < 6 else "new"
        store.enqueue(new_job(f"{name} {number}", queue=name), "token", HINT)
        clock.advance(1)

    found = {row.queue: row for row in store.backlog(depth=2)}

    assert (found["old"].jobs, found["new"].jobs) == (6, 6)
    assert found["old"].oldest == 12.0
    if not isinstance(store, RedisStore):
        assert found["new"].oldest == 6.0
