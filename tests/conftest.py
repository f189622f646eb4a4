"""The servers that tests share, and how Hypothesis runs here."""

import os
from collections.abc import Iterator

import hypothesis
import pytest
import redis

from tests.servers import (
    RABBIT_MISSING,
    RabbitServer,
    ValkeyServer,
    rabbit_available,
)

hypothesis.settings.register_profile(
    "shared",
    deadline=None,  # a busy machine is no bug
    print_blob=True,
)
hypothesis.settings.load_profile("shared")


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """One server for the whole test process; keys of other tests are in it."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def empty_valkey(valkey: ValkeyServer) -> ValkeyServer:
    """The shared server with all its databases emptied."""
    with redis.Redis(port=valkey.port) as client:
        client.flushall()
    return valkey


@pytest.fixture
def valkey_server() -> Iterator[ValkeyServer]:
    """A server for one test, which may kill it: it keeps its data on disk."""
    with ValkeyServer(append_only=True) as server:
        yield server


@pytest.fixture(scope="session")
def rabbit() -> Iterator[RabbitServer]:
    """One RabbitMQ for the whole session; give each test a virtual host or queues."""
    need_rabbit()
    with RabbitServer() as server:
        yield server


@pytest.fixture
def rabbit_server() -> Iterator[RabbitServer]:
    """A RabbitMQ for one test, which may kill it: it keeps its data on disk."""
    need_rabbit()
    with RabbitServer() as server:
        yield server


def need_rabbit() -> None:
    """Skip the test without RabbitMQ, or fail it where everything must be there."""
    if rabbit_available():
        return
    if os.environ.get("CI"):
        pytest.fail(RABBIT_MISSING)
    pytest.skip(RABBIT_MISSING)
