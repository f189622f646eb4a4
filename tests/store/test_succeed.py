"""How a run ends well."""

from dataclasses import replace
from typing import Any

from jobkit.clock import from_milliseconds
from jobkit.job import FailedItem, Unique
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import Retention
from tests.store.clocks import Clock, ClockedRedisStore
from tests.store.conftest import RedisFactory
from tests.store.lives import (
    HINT,
    LEASE,
    failure,
    kept,
    last_event,
    names,
    new_job,
    running,
    snapshot,
    started,
)


def test_a_run_that_did_all_is_over(store: Store, clock: Clock) -> None:
    run = running(store)
    clock.advance(4)
    assert store.succeed("job", run.fence, snapshot(8))

    job = kept(store)
    assert (job.state, job.position, job.checkpoint) == ("SUCCEEDED", 8, "cursor 8")
    assert job.finished_at == job.updated_at == from_milliseconds(clock.now)
    assert (job.lease_until, job.due_at) == (None, None)
    event = last_event(store)
    assert (event.name, event.state) == ("succeeded", State.SUCCEEDED)
    assert event.progress == snapshot(8).progress


def test_told_again_it_is_over_once(store: Store, clock: Clock) -> None:
    run = running(store)
    store.succeed("job", run.fence, snapshot(8))
    before = kept(store)
    clock.advance(1)

    assert store.succeed("job", run.fence, snapshot(9))
    assert kept(store) == before
    assert names(store).count("succeeded") == 1


def test_work_that_is_done_can_no_more_be_cancelled(store: Store) -> None:
    run = running(store)
    store.ask("job", "cancel", "ada", "")
    assert store.succeed("job", run.fence, snapshot(1))
    assert kept(store).state is State.SUCCEEDED
    assert kept(store).request is None


def test_a_stale_owner_does_not_end_it(store: Store) -> None:
    stale = running(store)
    store.interrupt("job", stale.fence, "drain")
    assert not store.succeed("job", stale.fence, snapshot(1))

    run = started(store, token="second")
    assert store.succeed("job", run.fence, snapshot(2))
    assert not store.succeed("job", stale.fence, snapshot(3))
    assert kept(store).checkpoint == "cursor 2"


def test_an_expired_lease_that_nobody_took_is_no_obstacle(
    store: Store, clock: Clock
) -> None:
    run = running(store)
    clock.advance(LEASE * 10)
    assert store.succeed("job", run.fence, snapshot(1))


def test_the_reason_is_kept(store: Store) -> None:
    run = running(store)
    store.succeed("job", run.fence, snapshot(1), "nothing to do")
    assert kept(store).reason == last_event(store).detail == "nothing to do"


def test_a_position_never_goes_back(store: Store) -> None:
    run = running(store)
    store.save("job", run.fence, 1, snapshot(8), LEASE)
    store.succeed("job", run.fence, snapshot(3))
    assert kept(store).position == 8


def test_it_leaves_behind_what_a_bad_end_does(make_redis_store: RedisFactory) -> None:
    """Its script says in its own words what the prelude says for other ends."""
    alike = Retention(succeeded=50, partial=50, cancelled=50, dead=50)
    well, badly = make_redis_store(retention=alike), make_redis_store(retention=alike)
    item = replace(snapshot(2), failed=(FailedItem("import", "b", "E", "no"),))
    for store in (well, badly):
        job = replace(new_job(), dead_letter_queue="", unique=Unique("key"))
        assert store.enqueue(job, "enqueue", HINT)
        run = started(store)
        store.save("job", run.fence, 1, item, LEASE)
        assert store.counts()[State.RUNNING] == 1
    assert well.succeed("job", 1, snapshot(4), tell=True) is State.PARTIAL
    assert badly.bury("job", 1, failure(), "permanent", tell=True)

    assert _left(well, "PARTIAL") == _left(badly, "DEAD")


def _left(store: ClockedRedisStore, state: str) -> dict[str, Any]:
    """All keys, when they expire, and the members of indexes."""
    tag, client = store.keys.tag(0), store._client
    left = {}
    for key in client.scan_iter(f"{tag}:*"):
        name = key.removeprefix(f"{tag}:").replace(state, "ENDED")
        indexed = client.type(key) == "zset" and not name.startswith("failure")
        members = client.zrange(key, 0, -1, withscores=True) if indexed else []
        left[name] = client.pexpiretime(key), members
    # Dead letters have one more; ticks of progress go by the server's own clock.
    return {
        name: found
        for name, found in left.items()
        if name not in ("unannounced", "ticks:job")
    }
