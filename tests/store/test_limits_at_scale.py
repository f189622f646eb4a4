"""That a release costs the same however many wait, and what a job that waits takes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from jobkit.store.redis import RedisStore
from jobkit.store.slots import Claim
from tests.servers import ValkeyServer
from tests.store.limits import LEASE, SPAN
from tests.store.lives import HINT, new_job

BYTES = 1_000
"""What the place of a job in a line takes at the most, beside its record."""


def claims(n: int, shops: int) -> tuple[Claim, ...]:
    return (Claim(f"shop:{n % shops}", 1),)


def fill(store: RedisStore, jobs: int, shops: int) -> None:
    """Let the first job of each shop run, and the others wait."""
    for n in range(jobs):
        store.acquire(f"{n:036}", int(n < shops), claims(n, shops), 3600, SPAN)


def commands(client: Any, act: Callable[[], object]) -> int:
    """How many commands of Redis an act takes, those of its script too."""
    before = client.info("commandstats")
    act()
    after = client.info("commandstats")
    return sum(
        values["calls"] - before.get(name, {"calls": 0})["calls"]
        for name, values in after.items()
        if name != "cmdstat_info"
    )


def a_cycle(store: RedisStore, shops: int) -> list[Callable[[], object]]:
    first, second = f"{0:036}", f"{shops:036}"
    return [
        lambda: store.release(first, 1, SPAN),
        lambda: store.acquire(second, 1, claims(shops, shops), LEASE, SPAN),
        lambda: store.grant(100, SPAN),
        lambda: store.renew_slots(second, 1, LEASE),
    ]


def costs(server: ValkeyServer, jobs: int, shops: int) -> list[int]:
    """The commands of each verb, when so many jobs wait for so many shops."""
    store = RedisStore(server.url, f"with-{jobs}-{shops}")
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        store.grant(100, SPAN)
        store.renew_slots("x", 1, LEASE)
        store.release("x", 1, SPAN)
        fill(store, jobs, shops)
        store.confirm([f"{n:036}" for n in range(jobs)])
        found = [commands(client, act) for act in a_cycle(store, shops)]
    store.close()
    return found


def check(server: ValkeyServer, jobs: int, shops: int) -> None:
    few = costs(server, 6, 2)
    assert costs(server, jobs, shops) == few
    assert max(few) < 60


def test_a_release_costs_the_same_whether_few_or_many_wait(
    valkey_server: ValkeyServer,
) -> None:
    check(valkey_server, 600, 20)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_release_costs_the_same_when_50_000_wait_for_1_000_shops(
    valkey_server: ValkeyServer,
) -> None:
    check(valkey_server, 50_000, 1_000)


def test_what_a_job_that_waits_takes_of_the_stores_memory(
    valkey_server: ValkeyServer,
) -> None:
    jobs, shops = 2_000, 40
    store = RedisStore(valkey_server.url)
    with redis.Redis.from_url(valkey_server.url, decode_responses=True) as client:
        before = client.info("memory")["used_memory"]
        fill(store, jobs, shops)
        places = (client.info("memory")["used_memory"] - before) / jobs
        job = replace(new_job(), message="", blocked=True)
        for n in range(jobs):
            store.enqueue(replace(job, id=f"{n:036}"), "token", HINT)
        whole = (client.info("memory")["used_memory"] - before) / jobs
    store.close()
    print(f"{places:.0f} bytes a place, {whole:.0f} with a record without a message")  # noqa: T201
    assert places < BYTES
