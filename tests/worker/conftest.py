"""Fleets of workers for tests, and the check that follows each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.servers import ValkeyServer
from tests.worker.fleet import Fleet, FleetFactory, new_name, opened, show_logs
from tests.worker.invariants import check
from tests.worker.promises import CLASSIC, QUORUM, REDIS
from tests.worker.setup import QUORUM_CONF, Broker, Setup

STANDING: list[Fleet] = []
"""The fleets that stay for a whole module."""

STANDING_CONF = {
    "jobkit_dispatch_interval": 0.1,
    "jobkit_retry_policy": {"base": 0.1, "unknown": 2},
}


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Broker:
    """Redis, or what a test is parametrised with."""
    kind = getattr(request, "param", REDIS)
    if kind in {CLASSIC, QUORUM}:
        url = str(request.getfixturevalue("rabbit").url)
        return Broker(url, QUORUM_CONF if kind == QUORUM else {})
    valkey: ValkeyServer = request.getfixturevalue("valkey")
    return Broker(valkey.database_url(0))


@pytest.fixture
def make_fleet(
    broker: Broker, valkey: ValkeyServer, tmp_path: Path
) -> Iterator[FleetFactory]:
    """Makes fleets of a test's own, whose workers it may kill."""
    with ExitStack() as stack:

        def make(store: str = "", broker: Broker = broker, **conf: Any) -> Fleet:
            setup = Setup(
                broker=broker.url,
                backend=valkey.database_url(1),
                store=store or valkey.database_url(2),
                name=new_name(),
                journal=str(tmp_path / "journal"),
                conf={**broker.conf, **conf},
            )
            fleet = stack.enter_context(opened(setup, tmp_path))
            stack.callback(check, fleet)
            stack.callback(show_logs, fleet)
            return fleet

        yield make


@pytest.fixture
def fleet(make_fleet: FleetFactory) -> Fleet:
    """A fleet of the test's own."""
    return make_fleet()


@pytest.fixture(scope="module")
def standing_fleet(
    valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """A fleet with one worker, ``w``, for all tests of a module: nobody kills it."""
    folder = tmp_path_factory.mktemp("standing")
    setup = Setup(
        broker=valkey.database_url(0),
        backend=valkey.database_url(1),
        store=valkey.database_url(2),
        name=new_name(),
        journal=str(folder / "journal"),
        conf=STANDING_CONF,
    )
    with opened(setup, folder) as fleet:
        fleet.start("w", concurrency=2)
        STANDING.append(fleet)
        yield fleet
        STANDING.remove(fleet)


@pytest.fixture(autouse=True)
def _standing_fleets_are_sound() -> Iterator[None]:
    places = {
        fleet: {name: worker.log_size for name, worker in fleet.workers.items()}
        for fleet in STANDING
    }
    yield
    for fleet in STANDING:
        show_logs(fleet, places.get(fleet, {}))
        check(fleet)
