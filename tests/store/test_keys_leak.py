"""That nothing stays in the server that belongs to no job."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from jobkit.job import FailedItem, Unique
from jobkit.store.slots import Claim
from jobkit.store.values import REPLACED, Letter
from tests.store.clocks import Clock, ClockedRedisStore
from tests.store.conftest import RedisFactory
from tests.store.lives import (
    CRASHED,
    DROPPED,
    HINT,
    LEASE,
    dead,
    enqueued,
    failure,
    new_job,
    running,
    snapshot,
    started,
)

ROW = "open\n1\n1\n" + FailedItem("import", "7", "ValueError", "no").encode()


@pytest.fixture(params=[1, 3], ids=["one partition", "three partitions"])
def store(
    request: pytest.FixtureRequest, make_redis_store: RedisFactory
) -> ClockedRedisStore:
    return make_redis_store(request.param)


def keys(store: ClockedRedisStore) -> Iterator[tuple[str, str, str]]:
    """All keys of a store, with their kind and the rest of their name."""
    tags = f"{{{store.keys.prefix}:"
    for key in store._client.scan_iter(match=f"{tags}*", count=1000):
        kind, _, rest = key.split("}:", 1)[1].partition(":")
        yield key, kind, rest


def leaks(store: ClockedRedisStore) -> list[str]:
    """Keys without an end, and entries of indexes without a job."""
    client: Any = store._client
    found = []
    for key, kind, job_id in keys(store):
        if kind == "unique":
            holder = store.get(client.get(key))
            mortal = client.pttl(key) > 0
            if holder is None or (holder.state.finished and not mortal):
                found.append(key)
        elif kind in {"job", "events", "ticks", "failures", "failure_order"}:
            job = store.get(job_id)
            mortal = client.pttl(key) > 0
            # Progress is for those who watch now: each entry gives it a new end.
            due = kind == "ticks" or (job is not None and job.state.finished)
            if job is None or mortal != due:
                found.append(key)
        else:
            members = client.zrange(key, 0, -1)
            found += [f"{key} {member}" for member in members if not store.get(member)]
    return found


def fields_of(store: ClockedRedisStore, job_id: str) -> Mapping[str, str]:
    letter = store.take_out(job_id)
    assert letter
    return letter.fields


def be_unique(store: ClockedRedisStore, clock: Clock) -> None:
    """With keys until the end, until the beginning, and for a time."""
    for until in ("finish", "start", 3 * 86_400.0):
        job_id = store.partner("shop:1")
        job = replace(new_job(job_id), unique=Unique("shop:1", until))
        assert store.enqueue(job, "token", HINT)
        run = started(store, job_id)
        assert leaks(store) == []
        store.succeed(job_id, run.fence, snapshot(1))
        assert leaks(store) == []
    clock.advance(2 * 86_400)
    store.prune()
    assert len(store.list().items) == 1
    clock.advance(86_400)


def end_well(store: ClockedRedisStore, clock: Clock) -> None:
    """With a unique key; without one; with failed items."""
    be_unique(store, clock)
    run = running(store, "succeeded")
    store.save("succeeded", run.fence, 1, snapshot(1), LEASE)
    store.succeed("succeeded", run.fence, snapshot(2))
    run = running(store, "partial")
    item = FailedItem("import", "7", "ValueError", "no")
    store.save("partial", run.fence, 1, replace(snapshot(1), failed=(item,)), LEASE)
    store.succeed("partial", run.fence, snapshot(2))


def be_given_up(store: ClockedRedisStore) -> None:
    """By the broker."""
    store.collect(new_job("collected"), DROPPED)
    store.collect(new_job("handed back"), replace(DROPPED, foreign=True))
    store.replay("handed back", "resume")
    store.published("handed back", HINT)


def give_up_and_put_back(store: ClockedRedisStore) -> None:
    """In a bulk, and from an export."""
    dead(store, "given up")
    store.bulk(["given up"], "discard", "B")

    letter = Letter({**fields_of(store, "dead"), "id": "restored"}, (), (ROW,))
    store.restore(letter, "token")


def live(store: ClockedRedisStore, clock: Clock) -> None:
    """Lead jobs through lives of all kinds; all of them end."""
    end_well(store, clock)

    store.enqueue(new_job("cancelled", owner="ada", delay=60), "token", HINT)
    store.ask("cancelled", "cancel", "ada", "")

    dead(store, "dead")

    dead(store, "discarded")
    store.discard("discarded")

    give_up_and_put_back(store)

    dead(store, "replayed")
    store.replay("replayed", "restart")
    run = started(store, "replayed", token="second")
    store.save("replayed", run.fence, 1, snapshot(1), LEASE)
    run = running(store, "replaced")
    store.replace("replaced", run.fence, new_job(task="other", queue="high"), 5)

    run = running(store, "handed on")
    store.save("handed on", run.fence, 1, snapshot(1), LEASE)
    store.succeed("handed on", run.fence, snapshot(1), REPLACED)
    store.enqueue(new_job("handed on", task="next", owner="bob"), "next", HINT)

    running(store, "poison", crash_limit=1)
    assert leaks(store) == []
    clock.advance(LEASE)
    store.rescue()

    enqueued(store, "crashed", crash_limit=1)
    store.crash("crashed", "w9", CRASHED)

    be_given_up(store)

    run = running(store, "paused")
    store.retry("paused", run.fence, failure(), 5)
    store.ask("paused", "pause", "", "")
    assert leaks(store) == []
    for job_id in ("paused", "replaced", "replayed", "handed on"):
        store.ask(job_id, "cancel", "", "")


def test_limits_leave_nothing_when_nobody_uses_them(
    store: ClockedRedisStore, clock: Clock
) -> None:
    shop, calls = Claim("shop", 1), Claim("calls", 1, 60.0)
    for n in range(5):
        store.acquire(f"j{n}", 0, (shop, calls), LEASE, LEASE)
    store.acquire("j0", 1, (shop, calls), LEASE, LEASE)
    store.release("j0", 1, LEASE)
    for n in range(1, 5):
        store.release(f"j{n}", 0, LEASE)
    store.acquire("dead", 1, (shop,), LEASE, LEASE)
    clock.advance(LEASE)
    store.grant(10, LEASE)
    store.set_limit("shop", 2)
    store.set_limit("shop", None)

    client: Any = store._client
    names = client.scan_iter(match=f"{store.keys.limits}:*", count=1000)
    immortal = {name for name in names if client.pttl(name) == -1}
    assert immortal == {f"{store.keys.limits}:numbers"}


def test_every_key_belongs_to_a_living_job_or_has_an_end(
    store: ClockedRedisStore, clock: Clock
) -> None:
    live(store, clock)
    assert leaks(store) == []
    assert sum(store.counts().values()) == 15
    kinds = {kind for _, kind, _ in keys(store)}
    assert {"leases", "due"}.isdisjoint(kinds)


def test_nothing_is_left_when_all_are_pruned(
    store: ClockedRedisStore, clock: Clock
) -> None:
    live(store, clock)
    clock.advance(store.retention.dead)
    assert store.prune() == 15
    assert list(keys(store)) == []
