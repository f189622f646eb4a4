"""A bad item is not a bad job: it is filed, and the others are handled."""

import os
import signal

import pytest

from jobkit import State
from jobkit.checkpoint import Checkpoint
from tests.worker.fleet import Fleet, FleetFactory
from tests.worker.promises import CLASSIC, REDIS, backend_writes_here

pytestmark = backend_writes_here

SHORT, LONG = 5_000, 50_000
AT_LENGTH = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("items", "broker"),
    [
        pytest.param(SHORT, REDIS, id="redis"),
        pytest.param(SHORT, CLASSIC, marks=pytest.mark.long, id="rabbitmq"),
        pytest.param(LONG, REDIS, marks=AT_LENGTH, id="redis at length"),
        pytest.param(LONG, CLASSIC, marks=AT_LENGTH, id="rabbitmq at length"),
    ],
    indirect=["broker"],
)
def test_37_failed_items_are_filed_once_though_the_worker_is_killed_twice(
    make_fleet: FleetFactory, items: int
) -> None:
    bad = list(range(20, items, items // 37))[:37]
    fleet = make_fleet(jobkit_checkpoint_every=100)
    fleet.start("a", concurrency=2)
    result = fleet.send("sift", items, bad, 0.0002)
    for fence in (1, 2):
        count = items // 5
        victim = fleet.journal.wait_for(result.id, fence=fence, count=count)
        os.kill(victim.pid, signal.SIGKILL)
    job = fleet.wait_for(result.id, timeout=120)

    rows = fleet.jobs.failures(result.id, limit=100).items
    assert [row.item for row in rows] == bad
    assert [row.key for row in rows] == list(map(str, bad))
    assert {row.message for row in rows} == {f"no order {item}" for item in bad}
    assert {(row.error, row.stage, row.open) for row in rows} == {
        ("LookupError", "import", True)
    }
    assert (job.state, job.recoveries, job.attempts) == (State.PARTIAL, 2, 0)
    counted = Checkpoint.decode(job.checkpoint).stage("import")
    assert (counted.current, counted.skipped) == (items, 0)
    assert (counted.ok, counted.failed, job.open_failures) == (items - 37, 37, 37)
    assert set(fleet.journal.items(result.id)) == set(range(1, items + 1)) - set(bad)
    assert fleet.ends(result.id) == [State.PARTIAL]
    assert result.get(timeout=10) == items


def test_one_failure_more_than_allowed_ends_the_job(fleet: Fleet) -> None:
    fleet.start("a")

    result = fleet.send("sift", 3_000, list(range(2, 3_000, 2)), 0)
    job = fleet.wait_for(result.id)

    assert (job.state, job.reason) == (State.DEAD, "too_many_failures")
    assert (job.open_failures, job.attempts) == (101, 1)
    assert job.error
    assert job.error.message.startswith("101 of 202 items of stage 'import' failed")
    assert fleet.journal.items(result.id) == list(range(1, 203, 2))


def test_a_job_whose_dependency_is_down_waits_instead_of_failing_items(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_retry_policy={"base": 0.1, "transient": 2})
    fleet.start("a")

    result = fleet.send("sift", 500, list(range(101, 501)), 0)
    job = fleet.wait_for(result.id)

    assert (job.state, job.reason) == (State.DEAD, "dependency_down")
    assert job.attempts == 3
    assert job.open_failures == 20 + 2
