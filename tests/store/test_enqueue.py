"""How jobs enter a store."""

from dataclasses import replace

import pytest

from jobkit.clock import from_milliseconds
from jobkit.job import NewJob
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import REPLACED
from tests.store.clocks import Clock
from tests.store.lives import (
    HINT,
    LEASE,
    enqueued,
    kept,
    message,
    names,
    new_job,
    running,
    snapshot,
    started,
)


def test_a_new_job_is_queued(store: Store, clock: Clock) -> None:
    assert store.enqueue(new_job(owner="ada"), "token", HINT)

    job = kept(store)
    assert (job.id, job.task, job.state) == ("job", "shop.sync", State.QUEUED)
    assert (job.queue, job.priority, job.dead_letter_queue) == ("normal", 4, "dead")
    assert (job.owner, job.stages, job.crash_limit) == ("ada", ("count", "import"), 3)
    assert job.created_at == job.updated_at == from_milliseconds(clock.now)
    assert job.message == message()
    assert (job.fence, job.attempts, job.starts, job.position) == (0, 0, 0, 0)
    assert (job.worker, job.reason, job.checkpoint, job.budgets) == ("", "", "", "")
    assert (job.error, job.request, job.started_at, job.finished_at) == (None,) * 4
    assert names(store) == ["queued"]


def test_its_message_is_taken_for_lost_after_the_hint(
    store: Store, clock: Clock
) -> None:
    store.enqueue(new_job(), "token", 300)
    assert kept(store).due_at == from_milliseconds(clock.now + 300_000)


def test_a_job_with_a_delay_is_scheduled(store: Store, clock: Clock) -> None:
    store.enqueue(new_job(delay=90), "token", HINT)

    job = kept(store)
    assert job.state is State.SCHEDULED
    assert job.due_at == from_milliseconds(clock.now + 90_000)
    assert names(store) == ["scheduled"]


@pytest.mark.parametrize("delay", [0.0, -5.0, None])
def test_a_delay_that_is_over_is_none(store: Store, delay: float | None) -> None:
    store.enqueue(new_job(delay=delay), "token", HINT)
    assert kept(store).state is State.QUEUED


def test_a_taken_id_stays_as_it_is(store: Store, clock: Clock) -> None:
    store.enqueue(new_job(), "token", HINT)
    before = kept(store)
    clock.advance(1)

    assert not store.enqueue(new_job(task="shop.other", delay=9), "other", HINT)
    assert kept(store) == before
    assert names(store) == ["queued"]


def test_the_same_call_sent_again_is_answered_like_the_first(store: Store) -> None:
    assert store.enqueue(new_job(), "token", HINT)
    before = kept(store)

    assert store.enqueue(new_job(), "token", HINT)
    assert kept(store) == before
    assert names(store) == ["queued"]


def test_a_job_may_have_nothing_but_a_name(store: Store) -> None:
    text = message("shop.plain").encode()
    store.enqueue(NewJob("job", "shop.plain", text), "token", HINT)

    job = kept(store)
    assert (job.queue, job.priority, job.owner, job.stages) == ("", None, "", ())


def test_any_text_is_kept(store: Store) -> None:
    name = "Müller: {a}\n🎉 'q' \\"
    job_id = f"id {name}"
    store.enqueue(new_job(job_id, task=name, queue=name, owner=name), "token", HINT)

    job = kept(store, job_id)
    assert (job.task, job.queue, job.owner) == (name, name, name)
    assert [job.id for job in store.list(owner=name).items] == [job_id]


def test_the_id_of_a_replaced_job_is_free_and_its_fence_goes_on(
    store: Store, clock: Clock
) -> None:
    run = running(store)
    assert store.succeed("job", run.fence, snapshot(3), REPLACED)
    clock.advance(1)

    assert store.enqueue(new_job(task="shop.other", queue="high"), "other", HINT)
    job = kept(store)
    assert (job.task, job.state, job.fence) == ("shop.other", State.QUEUED, 1)
    assert (job.position, job.checkpoint, job.starts) == (0, "", 0)
    assert job.created_at == from_milliseconds(clock.now)
    assert names(store) == ["queued"]
    assert started(store).fence == 2
    assert not store.renew("job", run.fence, LEASE).owner
    assert store.list(task="shop.sync").items == ()


def test_a_person_who_writes_the_same_reason_frees_no_id(store: Store) -> None:
    enqueued(store)
    store.ask("job", "pause", "ada", REPLACED)
    assert not store.enqueue(new_job(task="shop.other"), "other", HINT)
    store.ask("job", "cancel", "ada", REPLACED)
    assert not store.enqueue(new_job(task="shop.other"), "other", HINT)


def test_the_id_of_a_job_that_has_ended_may_be_used_again(store: Store) -> None:
    anew = replace(new_job(), again=True)
    running(store)
    assert not store.enqueue(anew, "other", HINT)
    store.succeed("job", 1, snapshot(3))

    assert not store.enqueue(new_job(), "other", HINT)
    assert store.enqueue(anew, "again", HINT)

    job = kept(store)
    assert (job.state, job.fence, job.starts, job.position) == ("QUEUED", 1, 0, 0)
    assert names(store) == ["queued"]
    assert store.list(state=State.SUCCEEDED).items == ()
    assert not store.succeed("job", 1, snapshot(9))
