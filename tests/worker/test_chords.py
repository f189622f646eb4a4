"""Chords count every member once, whatever happened to it on the way."""

import os
import signal
from typing import Any

import pytest
from celery import chord

from jobkit import State
from tests.servers import ValkeyServer
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, FleetFactory


def test_a_chord_gets_all_results_though_members_are_killed(fleet: Fleet) -> None:
    fleet.start("a", concurrency=2)
    member, total = fleet.task("member"), fleet.task("total")

    result = chord([member.s(n, victims=[3, 7]) for n in range(10)])(total.s())

    assert result.get(timeout=40) == sum(range(10))
    # A member is counted before its own record says that it is over.
    members = fleet.jobs.list(task="t.member").items
    jobs = [fleet.wait_for(job.id) for job in members]
    assert [job.state for job in jobs] == [State.SUCCEEDED] * 10
    assert sum(job.recoveries for job in jobs) >= 2
    assert sum(job.attempts for job in jobs) == 0
    for job in jobs:
        entries = fleet.journal.entries(job.id)
        assert len(entries) == 1 + (entries[0].item in ("3", "7"))
    totals = [e for e in fleet.journal.entries() if e.item.startswith("total")]
    assert [(e.job, e.item) for e in totals] == [(result.id, "total-10")]


def test_a_chord_with_a_dead_member_fails_and_tells(fleet: Fleet) -> None:
    fleet.start("a", concurrency=2)
    add, doom = fleet.task("add"), fleet.task("doom")
    body = fleet.task("total").s().on_error(fleet.task("blame").s())

    result = chord([add.s(1, 2), doom.s(), add.s(3, 4)])(body)
    wait_until(
        lambda: any(e.item.startswith("blame") for e in fleet.journal.entries()),
        "the errback ran",
    )

    assert fleet.shown(result.id) == "FAILURE"
    assert not [e for e in fleet.journal.entries() if e.item.startswith("total")]


def test_a_chord_with_a_cancelled_member_fails_as_one_with_a_revoked_task(
    fleet: Fleet,
) -> None:
    fleet.start("a", concurrency=2)
    add, walk = fleet.task("add"), fleet.task("walk")
    body = fleet.task("total").s().on_error(fleet.task("blame").s())

    result = chord([add.s(1, 2), walk.s(1000), add.s(3, 4)])(body)
    (running,) = fleet.jobs.list(task="t.walk").items
    fleet.journal.wait_for(running.id, count=10)
    assert fleet.jobs.cancel(running.id, reason="wrong shop")
    wait_until(
        lambda: any(e.item.startswith("blame") for e in fleet.journal.entries()),
        "the errback ran",
    )

    assert fleet.shown(running.id) == "REVOKED"
    assert fleet.shown(result.id) == "FAILURE"
    assert not [e for e in fleet.journal.entries() if e.item.startswith("total")]


def test_the_body_of_a_chord_waits_for_the_store(
    valkey_server: ValkeyServer, make_fleet: FleetFactory
) -> None:
    fleet = make_fleet(
        valkey_server.url, jobkit_lease_seconds=9, jobkit_store_timeout=0.3
    )
    (worker,) = fleet.start("a", concurrency=2)
    result: Any = chord([fleet.task("add").s(1, 2), fleet.task("walk").s(150)])(
        fleet.task("total").s()
    )
    last = result.parent.results[1].id
    fleet.journal.wait_for(last, count=130)
    assert fleet.wait_for(result.parent.results[0].id).state is State.SUCCEEDED

    valkey_server.kill()
    fleet.journal.wait_for(last, count=150)
    noticed = worker.log_size
    wait_until(
        lambda: "goes on without saving" in worker.log_from(noticed),
        "the end of the last member has met the outage",
    )
    valkey_server.start()

    assert result.get(timeout=20) == 153
    assert fleet.journal.items(last) == list(range(1, 151))
    assert fleet.wait_for(last).attempts == 0
    totals = [e for e in fleet.journal.entries() if e.item.startswith("total")]
    assert [(e.job, e.item) for e in totals] == [(result.id, "total-2")]


@pytest.mark.long
def test_a_chord_goes_on_whose_last_member_is_killed_while_it_hands_over(
    valkey_server: ValkeyServer, make_fleet: FleetFactory
) -> None:
    fleet = make_fleet(
        valkey_server.url, jobkit_lease_seconds=9, jobkit_store_timeout=0.3
    )
    (worker,) = fleet.start("a", concurrency=2)
    add, walk, total = (fleet.task(name) for name in ("add", "walk", "total"))
    result: Any = chord([add.s(1, 2), walk.s(150)])(total.s())
    last = result.parent.results[1].id
    entry = fleet.journal.wait_for(last, count=130)

    # The body cannot be recorded, so its member is killed between claim and body.
    valkey_server.kill()
    fleet.journal.wait_for(last, count=150)
    wait_until(
        lambda: worker.log_from(0).count("goes on without saving") >= 3,
        "the member has come to its end",
    )
    os.kill(entry.pid, signal.SIGKILL)
    valkey_server.start()

    assert result.get(timeout=60) == 153
    totals = [e for e in fleet.journal.entries() if e.item.startswith("total")]
    assert len(totals) == 1
