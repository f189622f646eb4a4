"""How jobs are taken whose time has come, and when the next one's will."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from jobkit.clock import from_milliseconds
from jobkit.states import State
from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.lives import (
    HINT,
    enqueued,
    failure,
    kept,
    message,
    names,
    new_job,
    running,
    started,
)


def test_a_scheduled_job_is_queued_when_its_time_has_come(
    store: Store, clock: Clock
) -> None:
    store.enqueue(new_job(delay=60), "token", HINT)
    clock.advance(59.999)
    assert store.claim_due(10, 20) == []

    clock.advance(0.001)
    (due,) = store.claim_due(10, 20)
    assert (due.id, due.message, due.hints) == ("job", message().encode(), 0)
    job = kept(store)
    assert (job.state, job.due_at) == (
        State.QUEUED,
        from_milliseconds(clock.now + 20_000),
    )
    assert job.updated_at == from_milliseconds(clock.now)
    assert names(store) == ["scheduled", "queued"]


def test_a_retrying_job_is_queued_when_its_delay_has_passed(
    store: Store, clock: Clock
) -> None:
    run = running(store)
    store.retry("job", run.fence, failure(), 5, message("shop.again").encode())
    clock.advance(5)

    (due,) = store.claim_due(10, 20)
    assert due.message == message("shop.again").encode()
    assert started(store, token="second").fence == 2


def test_a_lost_hint_is_published_again(store: Store, clock: Clock) -> None:
    enqueued(store)
    store.published("job", 300)
    clock.advance(300)

    assert [due.hints for due in store.claim_due(10, 20)] == [1]
    clock.advance(19.999)
    assert store.claim_due(10, 20) == []
    store.published("job", 300)
    clock.advance(600)
    assert [due.hints for due in store.claim_due(10, 20)] == [2]
    assert kept(store).updated_at == from_milliseconds(clock.now)
    assert names(store) == ["queued"]


def test_without_a_word_of_the_publisher_it_is_due_after_the_grace(
    store: Store, clock: Clock
) -> None:
    store.enqueue(new_job(delay=1), "token", HINT)
    clock.advance(1)
    assert len(store.claim_due(10, 20)) == 1
    assert store.claim_due(10, 20) == []

    clock.advance(20)
    assert len(store.claim_due(10, 20)) == 1


def test_a_job_is_claimed_by_one(store: Store, clock: Clock) -> None:
    ids = {f"job {number}" for number in range(20)}
    for job_id in ids:
        store.enqueue(new_job(job_id, delay=1), "token", HINT)
    clock.advance(1)

    with ThreadPoolExecutor(4) as threads:
        claims = list(threads.map(lambda _: store.claim_due(3, 60), range(12)))
    claimed = [due.id for claim in claims for due in claim]
    assert sorted(claimed) == sorted(ids)


def test_all_are_claimed_a_few_at_a_time(store: Store, clock: Clock) -> None:
    for number in range(9):
        store.enqueue(new_job(f"job {number}", delay=1), "token", HINT)
    clock.advance(1)

    claimed = []
    while due := store.claim_due(2, 60):
        claimed += [job.id for job in due]
    assert sorted(claimed) == [f"job {number}" for number in range(9)]


@pytest.mark.parametrize("make_store", ["memory", "redis"], indirect=True)
def test_the_earliest_come_first(store: Store, clock: Clock) -> None:
    for delay in (3, 1, 2):
        store.enqueue(new_job(f"after {delay}", delay=delay), "token", HINT)
    clock.advance(10)
    assert [due.id for due in store.claim_due(2, 60)] == ["after 1", "after 2"]


def test_running_paused_and_ended_jobs_are_never_due(
    store: Store, clock: Clock
) -> None:
    running(store, "running")
    enqueued(store, "paused")
    store.ask("paused", "pause", "", "")
    enqueued(store, "cancelled")
    store.ask("cancelled", "cancel", "", "")
    clock.advance(10**6)
    assert store.next_due() is None
    assert store.claim_due(10, 60) == []


def test_the_next_due_time_is_told_in_seconds(store: Store, clock: Clock) -> None:
    assert store.next_due() is None
    store.enqueue(new_job("later", delay=90), "token", HINT)
    store.enqueue(new_job("sooner", delay=7.5), "token", HINT)
    assert store.next_due() == 7.5

    clock.advance(8)
    assert store.next_due() == -0.5
    store.claim_due(10, 60)
    assert store.next_due() == 60
