"""How a job that has not begun gets the arguments of a newer one."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from jobkit.job import Message, Unique
from jobkit.states import State
from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.lives import (
    HINT,
    LEASE,
    failure,
    kept,
    last_event,
    message,
    names,
    new_job,
)

KEY = "shop.sync:1"
NEWER = message("shop.newer")


@pytest.fixture
def job_id(store: Store) -> str:
    """A QUEUED job with the key."""
    job_id = store.partner(KEY)
    job = replace(new_job(job_id), unique=Unique(KEY))
    assert store.enqueue(job, "token", HINT)
    return job_id


def test_a_queued_job_gets_the_message_and_keeps_its_place(
    store: Store, clock: Clock, job_id: str
) -> None:
    due_at = kept(store, job_id).due_at
    clock.advance(1)
    assert store.amend(job_id, "m1", KEY, NEWER.encode()) == "ok"

    job = kept(store, job_id)
    assert (job.message, job.generation, job.state) == (NEWER, "m1", State.QUEUED)
    assert job.due_at == due_at
    clock.advance(HINT)
    assert [due.message for due in store.claim_due(9, 10)] == [NEWER.encode()]
    assert names(store, job_id) == ["queued", "amended"]


def test_the_same_word_sent_again_changes_nothing(
    store: Store, clock: Clock, job_id: str
) -> None:
    store.amend(job_id, "m1", KEY, NEWER.encode())
    before = kept(store, job_id)
    clock.advance(1)

    assert store.amend(job_id, "m1", KEY, NEWER.encode()) == "ok"
    assert kept(store, job_id) == before


def begun_by(store: Store, job_id: str, generation: str) -> Message | None:
    """The message that a run gets whose own is of a generation."""
    start = store.begin(job_id, "t", "w1/7", LEASE, "shop.sync", generation)
    assert start.job
    again = store.begin(job_id, "t", "w1/7", LEASE, "shop.sync", generation)
    assert again == start
    return start.job.message


@pytest.mark.parametrize("generation", ["", "m1"])
def test_an_old_message_begins_the_job_and_is_told_the_newest(
    store: Store, job_id: str, generation: str
) -> None:
    store.amend(job_id, "m1", KEY, message("shop.new").encode())
    store.amend(job_id, "m2", KEY, NEWER.encode())
    assert begun_by(store, job_id, generation) == NEWER


def test_the_newest_message_is_told_nothing(store: Store, job_id: str) -> None:
    store.amend(job_id, "m1", KEY, NEWER.encode())
    assert begun_by(store, job_id, "m1") is None


def test_a_message_is_told_nothing_of_a_job_that_has_one(
    store: Store, job_id: str
) -> None:
    assert begun_by(store, job_id, "") is None


def test_an_old_message_is_told_the_newest_in_a_later_run_too(
    store: Store, job_id: str
) -> None:
    store.amend(job_id, "m1", KEY, NEWER.encode())
    assert begun_by(store, job_id, "m1") is None
    store.retry(job_id, 1, failure(), 0)
    store.claim_due(9, 10)
    assert begun_by(store, job_id, "") == NEWER


def test_of_a_begin_and_an_amendment_at_once_the_run_gets_what_is_kept(
    store: Store,
) -> None:
    with ThreadPoolExecutor(2) as pool:
        for number in range(100):
            key = f"race {number}"
            job_id = store.partner(key)
            job = replace(new_job(job_id), unique=Unique(key))
            store.enqueue(job, "token", HINT)
            amending = pool.submit(store.amend, job_id, "m1", key, NEWER.encode())
            beginning = pool.submit(begun_by, store, job_id, "")
            amended = amending.result()
            assert beginning.result() == (NEWER if amended == "ok" else None)


def test_a_job_for_later_keeps_its_time(store: Store, clock: Clock) -> None:
    job_id = store.partner(KEY)
    job = replace(new_job(job_id, delay=90), unique=Unique(KEY))
    store.enqueue(job, "token", HINT)
    due_at = kept(store, job_id).due_at
    clock.advance(1)

    assert store.amend(job_id, "m1", KEY, NEWER.encode()) == "ok"
    job_now = kept(store, job_id)
    assert (job_now.state, job_now.due_at) == (State.SCHEDULED, due_at)
    assert last_event(store, job_id).state is State.SCHEDULED


def test_a_paused_job_is_not_published(store: Store, job_id: str) -> None:
    store.ask(job_id, "pause", "", "")
    assert store.amend(job_id, "m1", KEY, NEWER.encode()) == "ok"
    assert kept(store, job_id).message == NEWER
    assert store.claim_due(9, 10) == []


def test_a_job_that_has_begun_is_left_alone(store: Store, job_id: str) -> None:
    run = store.begin(job_id, "t", "w1/7", LEASE).job
    assert run
    before = kept(store, job_id)
    assert store.amend(job_id, "m1", KEY, NEWER.encode()) == "begun"
    assert kept(store, job_id) == before
    store.interrupt(job_id, run.fence, "drain")
    assert store.amend(job_id, "m1", KEY, NEWER.encode()) == "begun"


def test_a_job_without_the_key_is_left_alone(store: Store, job_id: str) -> None:
    before = kept(store, job_id)
    assert store.amend(job_id, "m1", "another", NEWER.encode()) == "gone"
    assert kept(store, job_id) == before
    assert store.amend(store.partner(KEY), "m1", KEY, NEWER.encode()) == "gone"
    store.ask(job_id, "cancel", "", "")
    assert store.amend(job_id, "m1", KEY, NEWER.encode()) == "gone"
