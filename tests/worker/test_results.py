"""Results that the backend did not take at once are none that failed."""

import pytest
from celery import chord

from jobkit import State
from tests.servers import ValkeyServer
from tests.worker.fickle import FickleBackend
from tests.worker.fleet import Fleet, FleetFactory


def fickle(make_fleet: FleetFactory, valkey: ValkeyServer) -> Fleet:
    kind = f"{FickleBackend.__module__}.{FickleBackend.__name__}"
    url = f"{kind}+{valkey.database_url(1)}"
    return make_fleet(result_backend=url)


def test_nobody_hears_of_a_failure_when_only_the_result_was_not_taken(
    make_fleet: FleetFactory, valkey: ValkeyServer
) -> None:
    fleet = fickle(make_fleet, valkey)
    fleet.start("a")

    task, blame = fleet.task("add"), fleet.task("blame").s()
    result = task.apply_async((1, 2), link_error=blame)

    assert result.get(timeout=30) == 3
    assert fleet.wait_for(result.id).attempts == 0
    blamed = [e for e in fleet.journal.entries() if e.item.startswith("blame")]
    assert not blamed


@pytest.mark.long
def test_a_chord_waits_for_results_that_were_not_taken(
    make_fleet: FleetFactory, valkey: ValkeyServer
) -> None:
    fleet = fickle(make_fleet, valkey)
    fleet.start("a", concurrency=2)
    add, total = fleet.task("add"), fleet.task("total")

    result = chord([add.s(1, 2), add.s(3, 4)])(total.s())

    assert result.get(timeout=40) == 10
    assert fleet.wait_for(result.id).state is State.SUCCEEDED
