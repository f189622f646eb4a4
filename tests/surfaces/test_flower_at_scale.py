"""The pages of jobs with very many jobs in the store."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobkit.states import State
from tests.servers import ValkeyServer
from tests.store.lives import HINT, failure, new_job, snapshot
from tests.surfaces.flowers import LOGIN, USER, Flower
from tests.worker.fleet import Fleet

JOBS = 100_000
ALLOWED = 0.1
"""Seconds."""

QUEUES = ("critical", "high", "normal", "low")


@pytest.fixture(scope="module")
def crowded(fleet: Fleet, valkey: ValkeyServer) -> Fleet:
    _ = valkey
    store = fleet.store
    for number in range(JOBS):
        job = new_job(f"job-{number:06}", f"task {number % 7}", QUEUES[number % 4])
        store.enqueue(replace(job, owner=f"owner {number % 1000}"), "token", HINT)
        if number % 5 == 0:
            run = store.begin(job.id, "token", "w1/1", 3600).job
            assert run
            store.save(job.id, run.fence, 1, snapshot(5), 3600)
            if number % 10 == 0:
                store.bury(job.id, run.fence, failure(), "permanent")
    assert store.counts()[State.DEAD] == JOBS // 10
    return fleet


@pytest.fixture(scope="module")
def flower(
    crowded: Fleet, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Flower]:
    log: Path = tmp_path_factory.mktemp("flower") / "flower.log"
    with Flower(crowded.setup, log, LOGIN).running() as shared:
        shared.http.auth = USER
        yield shared


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "query",
    [
        "jobs?",
        "jobs?state=QUEUED&",
        "jobs?state=DEAD&queue=low&",
        "jobs?task=task 3&queue=high&",
        "jobs?owner=owner 77&",
        "jobs?owner=nobody&",
        "jobs?state=RUNNING&owner=nobody&",
        "jobs?text=job-000001&",
        "jobs?text=99999&",
        "jobs?text=nowhere&",
        "dead-letters?",
    ],
)
def test_a_request_takes_less_than_a_tenth_of_a_second(
    flower: Flower, query: str
) -> None:
    took = []
    for limit in range(40, 60):  # another question each time
        answer = flower.get(f"/jobs/api/{query}limit={limit}")
        assert answer.status_code == 200
        took.append(answer.elapsed.total_seconds())

    print(f"{query} median {statistics.median(took) * 1000:.1f} ms")  # noqa: T201
    assert statistics.median(took) < ALLOWED


@pytest.mark.long
@pytest.mark.timeout(600)
def test_deep_pages_and_the_backlog_are_as_quick(
    flower: Flower, crowded: Fleet
) -> None:
    after, took = None, []
    for _ in range(200):
        query = {"limit": "200", **({"after": after} if after else {})}
        answer = flower.get("/jobs/api/jobs", params=query)
        took.append(answer.elapsed.total_seconds())
        after = answer.json()["next"]
    assert after is not None
    assert statistics.median(took) < ALLOWED
    took.clear()
    for _ in range(5):
        rows = {(row.queue, row.state): row.jobs for row in crowded.jobs.backlog()}
        assert rows["critical", State.QUEUED] == JOBS // 4 * 4 // 5
        answer = flower.get("/metrics")
        took.append(answer.elapsed.total_seconds())
    assert statistics.median(took) < ALLOWED


@pytest.mark.long
@pytest.mark.timeout(600)
def test_charts_are_drawn_as_quickly(flower: Flower) -> None:
    took = []
    for _ in range(20):
        flower.post("/jobs/nobody/cancel")  # so that they are drawn anew
        answer = flower.get("/jobs/api/charts")
        assert len(answer.json()["charts"]) == 2
        took.append(answer.elapsed.total_seconds())

    print(f"charts median {statistics.median(took) * 1000:.1f} ms")  # noqa: T201
    assert statistics.median(took) < ALLOWED
