"""A message that the broker gave up is filed, or its job goes on."""

from dataclasses import replace

import pytest

from jobkit.clock import from_milliseconds
from jobkit.errors import SchemaError
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import Dropped, Released
from tests.store.clocks import Clock
from tests.store.lives import (
    CRASHED,
    DROPPED,
    HINT,
    LEASE,
    dead,
    enqueued,
    kept,
    last_event,
    message,
    names,
    new_job,
    rewrite,
    running,
    snapshot,
    started,
)

FOREIGN = replace(DROPPED, foreign=True)
LATER = replace(DROPPED, token="work:rejected:12:01", reason="expired")


def test_a_message_without_a_record_becomes_a_dead_job(
    store: Store, clock: Clock
) -> None:
    assert store.collect(new_job(), DROPPED) == ("filed", State.DEAD)

    job = kept(store)
    assert (job.state, job.reason, job.error) == (State.DEAD, "rejected", CRASHED)
    assert (job.task, job.queue, job.priority) == ("shop.sync", "normal", 4)
    assert (job.message, job.dead_letter_queue) == (message(), "dead")
    assert (job.stages, job.crash_limit) == (("count", "import"), 3)
    assert (job.fence, job.starts, job.replays) == (0, 0, 0)
    now = from_milliseconds(clock.now)
    assert job.created_at == job.updated_at == job.finished_at == now
    assert last_event(store).detail == "rejected"
    assert names(store) == ["dead"]
    assert [one.id for one in store.list(state=State.DEAD).items] == ["job"]
    assert [one.id for one in store.list(task="shop.sync").items] == ["job"]
    assert store.claim_due(10, 10) == []


@pytest.mark.parametrize("dropped", [DROPPED, FOREIGN])
def test_told_twice_it_is_filed_once(
    store: Store, clock: Clock, dropped: Dropped
) -> None:
    store.collect(new_job(), dropped)
    before = kept(store)
    clock.advance(1)
    assert store.collect(new_job(), dropped) == ("known", State.DEAD)
    assert kept(store) == before
    assert names(store) == ["dead"]


def test_celery_is_told_only_where_that_makes_sense(store: Store) -> None:
    store.collect(new_job("told"), replace(FOREIGN, tell=True))
    store.collect(new_job("not told"), DROPPED)
    assert store.untold(0) == [Released("told", "shop.sync", State.DEAD)]


def test_it_goes_after_its_retention(store: Store, clock: Clock) -> None:
    store.collect(new_job(), DROPPED)
    clock.advance(store.retention.dead - 1)
    assert store.prune() == 0
    clock.advance(1)
    assert store.prune() == 1


def test_a_job_of_ours_runs_when_it_is_replayed(store: Store) -> None:
    store.collect(new_job(), DROPPED)
    store.replay("job", "resume")
    (due,) = store.claim_due(10, 10)
    store.published("job", HINT, hints=due.hints, fence=due.fence)
    assert started(store).fence == 1


def test_a_foreign_message_is_handed_back_and_forgotten(store: Store) -> None:
    store.collect(new_job(), FOREIGN)
    assert store.replay("job", "resume") == ("done", State.QUEUED)
    (due,) = store.claim_due(10, 10)
    store.published("job", HINT, ok=False, hints=due.hints, fence=due.fence)
    assert kept(store).state is State.QUEUED

    store.published("job", HINT, hints=due.hints, fence=due.fence)
    assert store.get("job") is None
    assert sum(store.counts().values()) == 0
    assert store.next_due() is None


def test_a_job_that_a_foreign_message_has_become_is_left_to_its_run(
    store: Store,
) -> None:
    store.collect(new_job(), FOREIGN)
    store.replay("job", "resume")
    assert store.begin("job", "token", "w", 30).job
    assert store.collect(new_job(), replace(LATER, foreign=True)) == (
        *("known", State.RUNNING),
    )
    assert kept(store).state is State.RUNNING


def test_a_foreign_message_that_is_given_up_again_is_dead_again(
    store: Store, clock: Clock
) -> None:
    store.collect(new_job(), FOREIGN)
    store.replay("job", "resume")
    clock.advance(1)
    changed = replace(new_job(queue="other"), message=message("shop.changed").encode())
    assert store.collect(changed, replace(LATER, foreign=True)) == ("filed", State.DEAD)

    job = kept(store)
    assert (job.state, job.reason, job.queue) == (State.DEAD, "expired", "other")
    assert job.message == message("shop.changed")
    assert (job.replays, job.due_at) == (1, None)
    assert store.claim_due(10, 10) == []


def test_the_hint_of_a_waiting_job_is_published_again(
    store: Store, clock: Clock
) -> None:
    enqueued(store)
    store.published("job", HINT)
    clock.advance(1)
    assert store.collect(new_job(), DROPPED) == ("queued", State.QUEUED)

    assert [due.id for due in store.claim_due(10, 10)] == ["job"]
    assert last_event(store).name == "dropped"
    assert (last_event(store).state, last_event(store).detail) == ("QUEUED", "rejected")
    assert store.collect(new_job(), DROPPED) == ("known", State.QUEUED)
    assert store.claim_due(10, 10) == []


def test_a_hint_that_is_given_up_again_and_again_comes_ever_later(
    store: Store, clock: Clock
) -> None:
    enqueued(store)
    waits = []
    for number in range(5):
        store.published("job", HINT)
        store.collect(new_job(), replace(DROPPED, token=str(number)))
        waits.append(store.next_due())
        clock.advance(waits[-1] or 0)
    assert waits == [0, 1, 3, 7, 15]


@pytest.mark.parametrize("state", ["RUNNING", "SUCCEEDED", "PAUSED", "DEAD"])
def test_any_other_record_needs_no_message(store: Store, state: str) -> None:
    if state == "DEAD":
        dead(store)
    else:
        fence = running(store).fence
        if state == "SUCCEEDED":
            store.succeed("job", fence, snapshot(1))
        elif state == "PAUSED":
            store.interrupt("job", fence, "pause", "why")
    before = kept(store)
    assert before.state == state

    assert store.collect(new_job(), DROPPED) == ("known", State(state))
    assert store.collect(new_job(), FOREIGN) == ("known", State(state))
    assert kept(store) == before
    if state == "RUNNING":
        assert store.renew("job", before.fence, LEASE).owner


def test_a_newer_record_is_left_alone(store: Store) -> None:
    enqueued(store)
    rewrite(store, "job", schema="99")
    with pytest.raises(SchemaError):
        store.collect(new_job(), DROPPED)


def test_a_run_makes_a_foreign_message_one_of_ours(store: Store) -> None:
    store.collect(new_job(), FOREIGN)
    store.replay("job", "resume")
    run = store.begin("job", "token", "w", 30).job
    assert run
    store.interrupt("job", run.fence, "drain")
    assert store.collect(new_job(), replace(LATER, foreign=True)) == (
        *("queued", State.QUEUED),
    )
