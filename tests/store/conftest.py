"""The stores that the suite runs over, and the clock that all of them obey."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis

from jobkit.store.base import Store
from jobkit.store.memory import MemoryStore
from jobkit.store.values import Retention
from tests.servers import ValkeyServer
from tests.store.clocks import Clock, ClockedRedisStore
from tests.waiting import free_port, wait_until

STORES = ("memory", "redis", "redis-3", "cluster")

StoreFactory = Callable[..., Store]
RedisFactory = Callable[..., ClockedRedisStore]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The URL of a cluster of one node: it refuses scripts that leave their slot."""
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with (
        ValkeyServer(options=options) as server,
        redis.Redis(port=server.port, decode_responses=True) as client,
    ):
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        wait_until(
            lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok",
            "the cluster has all its slots",
        )
        yield f"redis+cluster://127.0.0.1:{server.port}"


@pytest.fixture
def make_redis_store(
    request: pytest.FixtureRequest, clock: Clock
) -> Iterator[RedisFactory]:
    with ExitStack() as stack:

        def make(
            partitions: int = 1, retention: Retention | None = None, url: str = ""
        ) -> ClockedRedisStore:
            url = url or request.getfixturevalue("valkey").url
            prefix = f"test-{uuid.uuid4().hex[:12]}"
            store = ClockedRedisStore(url, clock, prefix, partitions, retention)
            stack.callback(store.close)
            return store

        yield make


@pytest.fixture(params=STORES)
def make_store(request: pytest.FixtureRequest, clock: Clock) -> StoreFactory:
    if request.param == "memory":
        return lambda retention=None: MemoryStore(retention, now=clock)
    make: RedisFactory = request.getfixturevalue("make_redis_store")
    if request.param == "cluster":
        url = request.getfixturevalue("cluster")
        return lambda retention=None: make(3, retention, url)
    partitions = 3 if request.param == "redis-3" else 1
    return lambda retention=None: make(partitions, retention)


@pytest.fixture
def store(make_store: StoreFactory) -> Store:
    return make_store()
