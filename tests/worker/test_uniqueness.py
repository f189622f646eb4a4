"""One job at a time for each shop, whatever happens to it on the way."""

import time
import uuid
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError, TaskRevokedError

from jobkit import DuplicateJob, Permanent, State
from tests.waiting import wait_until
from tests.worker import crowd, dying_producer, stranger
from tests.worker.fleet import Fleet, FleetFactory
from tests.worker.promises import (
    backend_writes_here,
    on_all_brokers_at_length,
    on_all_brokers_in_the_long_form,
)
from tests.worker.test_entering import waiting_messages

pytestmark = backend_writes_here

PRODUCERS = 100

SOONEST = 30.0
"""Seconds until the message of a dead producer is published in its stead."""

SOON = 8
"""Seconds: a worker would tell Celery of an end later, if nobody else had."""


@pytest.fixture
def shop() -> str:
    """A shop that no other test syncs."""
    return uuid.uuid4().hex[:8]


def done(fleet: Fleet, job_id: str) -> list[str]:
    """What the runs of a job have brought to their end."""
    items = [entry.item for entry in fleet.journal.entries(job_id)]
    return [item for item in items if not item.isdecimal()]


@on_all_brokers_at_length
def test_of_a_hundred_producers_at_once_one_enqueues(fleet: Fleet) -> None:
    told = crowd.enqueue(fleet.setup, "t.sole", "berlin", producers=PRODUCERS)

    assert len(told) == PRODUCERS
    assert len({job_id for job_id, _ in told}) == 1
    assert sum(existing for _, existing in told) == PRODUCERS - 1
    assert waiting_messages(fleet) == 1
    fleet.start("a")
    job = fleet.wait_for(told[0][0])
    assert (job.state, job.starts) == (State.SUCCEEDED, 1)
    assert done(fleet, job.id) == ["berlin-1"]
    assert [found.id for found in fleet.jobs.list().items] == [job.id]


def test_a_killed_job_keeps_its_key_until_its_end(fleet: Fleet) -> None:
    (worker,) = fleet.start("a")
    first = fleet.send("sole", "berlin", 60)
    fleet.journal.wait_for(first.id, count=20)

    worker.kill()
    assert fleet.send("sole", "berlin").id == first.id
    worker.start()
    fleet.wait_for(first.id, State.QUEUED, State.RUNNING)
    assert fleet.send("sole", "berlin").existing
    job = fleet.wait_for(first.id)

    assert (job.state, job.recoveries) == (State.SUCCEEDED, 1)
    assert done(fleet, first.id) == ["berlin-60"]
    second = fleet.send("sole", "berlin")
    assert (second.existing, second.get(timeout=20)) == (False, "berlin-1")


def test_a_producer_that_died_before_its_message_holds_nobody_up(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_hint_seconds=1)
    code = dying_producer.enqueue(fleet.setup, "orphan", "t.sole", "berlin")
    assert code == dying_producer.CODE
    second = fleet.send("sole", "berlin")
    assert (second.id, second.existing) == ("orphan", True)

    fleet.start("a")

    assert second.get(timeout=20) == "berlin-1"
    fleet.wait_for("orphan")
    assert not fleet.send("sole", "berlin").existing


def due_after(fleet: Fleet, job_id: str) -> float:
    """Seconds from a job's record until its message is taken for lost."""
    job = fleet.jobs.get(job_id)
    assert job.due_at
    return (job.due_at - job.created_at).total_seconds()


@pytest.mark.parametrize("task", ["t.sole", "t.sole_limited"])
def test_a_key_whose_producer_died_is_repaired_within_half_a_minute(
    make_fleet: FleetFactory, task: str
) -> None:
    fleet = make_fleet(jobkit_hint_seconds=300)
    code = dying_producer.enqueue(fleet.setup, "orphan", task, "berlin", late=True)
    assert code == dying_producer.CODE
    assert due_after(fleet, "orphan") <= SOONEST + 1

    there = fleet.send(task.removeprefix("t."), "paris")
    assert 300 <= due_after(fleet, there.id) <= 300 + 1


@pytest.mark.long
def test_a_key_whose_producer_died_is_free_within_half_a_minute(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_hint_seconds=300)
    fleet.start("a")
    dying_producer.enqueue(fleet.setup, "orphan", "t.sole", "berlin")
    since = time.monotonic()
    job = fleet.wait_for("orphan", timeout=2 * SOONEST)
    assert (job.state, job.starts) == (State.SUCCEEDED, 1)
    assert time.monotonic() - since <= SOONEST + 5


@on_all_brokers_in_the_long_form
def test_the_newest_arguments_win_until_it_begins(fleet: Fleet) -> None:
    first = fleet.send("newest", "berlin", 1)
    for items in (2, 30):
        assert fleet.send("newest", "berlin", items).id == first.id
    # Its place in the queue is that of its first message.
    assert waiting_messages(fleet) == 1
    fleet.start("a")

    fleet.journal.wait_for(first.id, count=5)
    late = fleet.send("newest", "berlin", 3)

    assert (late.id, late.get(timeout=20)) == (first.id, "berlin-30")
    job = fleet.wait_for(first.id)
    assert job.starts == 1
    assert done(fleet, first.id) == ["berlin-30", "after-30"]


def test_the_newest_arguments_win_in_messages_of_any_kind(
    make_fleet: FleetFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("C_FORCE_ROOT", "1")  # Celery's, for pickle
    kinds = ["json", "pickle"]
    fleet = make_fleet(task_serializer="pickle", accept_content=kinds)
    first = fleet.send("newest", "berlin", 1)
    assert fleet.send("newest", "berlin", 2, "retry").id == first.id
    fleet.start("a")

    job = fleet.wait_for(first.id)
    assert (job.state, job.starts) == (State.SUCCEEDED, 2)
    assert done(fleet, job.id)[0] == "berlin-2"


# -- on a fleet that stands


def test_a_job_that_retries_keeps_its_key(standing_fleet: Fleet, shop: str) -> None:
    fleet = standing_fleet
    first = fleet.send("sole", shop, 1, "retry")
    fleet.wait_for(first.id, State.RETRYING)

    second = fleet.send("sole", shop)
    assert (second.id, second.get(timeout=20)) == (first.id, f"{shop}-1")
    job = fleet.wait_for(first.id)
    assert (job.state, job.starts) == (State.SUCCEEDED, 2)
    assert not fleet.send("sole", shop).existing


def test_a_cancelled_job_frees_its_key(standing_fleet: Fleet, shop: str) -> None:
    fleet = standing_fleet
    first = fleet.send("sole", shop, 1000)
    fleet.journal.wait_for(first.id)

    first.cancel()
    assert fleet.wait_for(first.id).state is State.CANCELLED
    second = fleet.send("sole", shop)
    assert (second.existing, second.get(timeout=20)) == (False, f"{shop}-1")


def test_a_revoked_job_frees_its_key(standing_fleet: Fleet, shop: str) -> None:
    fleet = standing_fleet
    first = fleet.send("sole", shop, countdown=1)
    fleet.app.control.revoke(first.id)

    assert fleet.wait_for(first.id).state is State.CANCELLED
    assert not fleet.send("sole", shop).existing


def test_a_dead_job_frees_its_key_and_is_replayed_when_it_is_free(
    standing_fleet: Fleet, shop: str
) -> None:
    fleet = standing_fleet
    first = fleet.send("sole", shop, 1, "permanent")
    assert fleet.wait_for(first.id).state is State.DEAD
    second = fleet.send("sole", shop, 50)
    assert not second.existing

    with pytest.raises(DuplicateJob, match=second.id):
        fleet.jobs.replay(first.id)
    fleet.wait_for(second.id)
    fleet.jobs.replay(first.id)
    assert fleet.send("sole", shop).id == first.id
    assert fleet.wait_for(first.id).replays == 1


def test_until_the_start_one_runs_and_one_waits(
    standing_fleet: Fleet, shop: str
) -> None:
    fleet = standing_fleet
    running = fleet.send("next_up", shop, 50)
    fleet.journal.wait_for(running.id)
    waiting = fleet.send("next_up", shop, countdown=0.3)

    assert not waiting.existing
    assert fleet.send("next_up", shop).id == waiting.id
    assert running.get(timeout=20) == f"{shop}-50"
    assert waiting.get(timeout=20) == f"{shop}-1"


def test_a_copy_by_name_neither_runs_nor_frees_the_key(
    standing_fleet: Fleet, shop: str
) -> None:
    fleet = standing_fleet
    first = fleet.send("sole", shop, 100)
    ours = fleet.app.send_task("t.sole", (shop,)).id
    theirs = stranger.send(fleet.setup, "t.sole", shop)

    for copy in (ours, theirs):
        job = fleet.wait_for(copy)
        assert (job.state, job.reason) == (State.CANCELLED, f"duplicate of {first.id}")
        wait_until(lambda: fleet.shown(copy) == "REVOKED", "Celery knows")  # noqa: B023
        assert fleet.send("sole", shop).id == first.id
        assert not fleet.journal.entries(copy)
    assert first.get(timeout=20) == f"{shop}-100"


def test_a_unique_job_that_a_stranger_sends_holds_its_key(
    standing_fleet: Fleet, shop: str
) -> None:
    fleet = standing_fleet
    theirs = stranger.send(fleet.setup, "t.sole", shop, 50)
    fleet.journal.wait_for(theirs)
    assert fleet.send("sole", shop).id == theirs


def test_a_chord_with_a_duplicate_fails_and_does_not_hang(
    standing_fleet: Fleet, shop: str
) -> None:
    fleet = standing_fleet
    sole, total = fleet.task("sole"), fleet.task("total")
    first = fleet.send("sole", shop, 50)

    result = chord([fleet.task("add").s(1, 2), sole.si(shop)])(total.s())
    with pytest.raises((ChordError, TaskRevokedError), match="duplicate of"):
        result.get(timeout=SOON)
    assert first.get(timeout=20) == f"{shop}-50"


@pytest.mark.parametrize("task", ["sole", "raising"])
def test_a_chain_that_meets_a_duplicate_ends_there(
    standing_fleet: Fleet, shop: str, task: str
) -> None:
    fleet = standing_fleet
    sole, add = fleet.task(task), fleet.task("add")
    first = fleet.send(task, shop, 50)
    fleet.journal.wait_for(first.id)

    result = chain(add.si(1, 2), sole.si(shop), add.si(3, 4))()
    with pytest.raises(TaskRevokedError, match="duplicate of"):
        result.get(timeout=SOON)
    assert result.parent.parent.get(timeout=20) == 3
    assert fleet.store.get(result.id) is None
    assert first.get(timeout=20) == f"{shop}-50"


def test_a_duplicate_in_a_group_shows_as_revoked(
    standing_fleet: Fleet, shop: str
) -> None:
    sole = standing_fleet.task("sole")
    results: Any = group(sole.si(shop, 20), sole.si(shop, 20))()
    first, second = results.get(timeout=20, propagate=False)
    assert first == f"{shop}-20"
    assert str(second) == f"duplicate of {results[0].id}"


# -- run_or_delay


def test_run_or_delay_returns_what_a_short_job_returns(
    standing_fleet: Fleet, shop: str
) -> None:
    sole = standing_fleet.task("sole")
    assert sole.run_or_delay(shop, items=5, wait=20) == f"{shop}-5"


def test_run_or_delay_returns_the_handle_of_a_long_one(
    standing_fleet: Fleet, shop: str
) -> None:
    result = standing_fleet.task("sole").run_or_delay(shop, 40, wait=0.3)
    assert result.job().state in {State.QUEUED, State.RUNNING}
    assert result.get(timeout=20) == f"{shop}-40"


def test_run_or_delay_raises_what_the_job_ended_with(
    standing_fleet: Fleet, shop: str
) -> None:
    with pytest.raises(Permanent, match="no such order"):
        standing_fleet.task("sole").run_or_delay(shop, 1, "permanent", wait=20)
