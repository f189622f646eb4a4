"""What is still to be done about a death: a copy for the broker, and a last word."""

from dataclasses import replace

import pytest

from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.redis import RedisStore
from jobkit.store.values import Death, Note, Retention
from tests.store.clocks import Clock
from tests.store.conftest import RedisFactory, StoreFactory
from tests.store.lives import (
    HINT,
    LEASE,
    dead,
    enqueued,
    failure,
    kept,
    new_job,
    running,
    snapshot,
    started,
)

GRACE = 10.0
NOTES: tuple[Note, ...] = ("uncopied", "unannounced")
both_notes = pytest.mark.parametrize("note", NOTES)


def claimed(store: Store, note: Note, age: float = 0) -> list[Death]:
    return list(store.claim_notes(note, age, GRACE))


@both_notes
def test_a_death_is_claimed_until_somebody_says_that_it_is_done(
    store: Store, clock: Clock, note: Note
) -> None:
    dead(store)
    (death,) = claimed(store, note)
    assert death == Death("job", f"1.{clock.now}")
    assert claimed(store, note) == []

    clock.advance(GRACE)
    assert claimed(store, note) == [death]
    store.noted(note, death)
    store.noted(note, death)
    clock.advance(GRACE)
    assert claimed(store, note) == []
    assert kept(store).state is State.DEAD


@both_notes
def test_of_a_later_death_nothing_is_noted(
    store: Store, clock: Clock, note: Note
) -> None:
    dead(store)
    (first,) = claimed(store, note)
    store.replay("job", "resume")
    store.noted(note, first)
    run = started(store, token="second")
    clock.advance(1)
    store.bury("job", run.fence, failure(), "permanent")
    store.noted(note, first)

    assert claimed(store, note) == [Death("job", f"2.{clock.now}")]


@both_notes
def test_nothing_is_to_be_done_about_a_job_that_is_not_dead(
    store: Store, clock: Clock, note: Note
) -> None:
    run = running(store, "succeeded")
    store.succeed("succeeded", run.fence, snapshot(1))
    dead(store, "discarded")
    store.discard("discarded")
    dead(store, "replayed")
    store.replay("replayed", "resume")
    enqueued(store, "cancelled")
    store.ask("cancelled", "cancel", "", "")
    clock.advance(1)
    assert claimed(store, note) == []


def test_only_a_queue_that_is_named_gets_a_copy(store: Store) -> None:
    store.enqueue(replace(new_job(), dead_letter_queue=""), "token", HINT)
    run = started(store)
    store.bury("job", run.fence, failure(), "permanent")

    assert kept(store).dead_letter_queue == "normal.dead"
    assert claimed(store, "uncopied") == []
    assert len(claimed(store, "unannounced")) == 1


def test_a_death_of_poison_is_one_too(store: Store, clock: Clock) -> None:
    running(store, crash_limit=1)
    clock.advance(LEASE)
    store.rescue()
    assert [death.id for death in claimed(store, "uncopied")] == ["job"]


def test_a_death_is_announced_at_its_time(store: Store, clock: Clock) -> None:
    dead(store)
    clock.advance(59.999)
    assert claimed(store, "unannounced", age=60) == []
    clock.advance(0.001)
    assert len(claimed(store, "unannounced", age=60)) == 1
    clock.advance(GRACE - 0.001)
    assert claimed(store, "unannounced", age=60) == []
    clock.advance(0.001)
    assert len(claimed(store, "unannounced", age=60)) == 1


def test_a_record_outlives_the_copies_of_its_deaths(
    make_store: StoreFactory, clock: Clock
) -> None:
    store = make_store(Retention(succeeded=5, dead=60))
    for job_id in ("copied", "not copied"):
        dead(store, job_id)
        if job_id == "copied":
            assert len(claimed(store, "uncopied")) == 1
        store.replay(job_id, "resume")
        run = started(store, job_id, token="second")
        store.succeed(job_id, run.fence, snapshot(6))

    clock.advance(5)
    assert store.prune() == 1
    assert store.get("not copied") is None
    clock.advance(54.999)
    assert store.prune() == 0
    clock.advance(0.001)
    assert store.prune() == 1


@pytest.mark.parametrize("make_store", ["memory", "redis"], indirect=True)
def test_the_oldest_come_first(store: Store, clock: Clock) -> None:
    for job_id in ("c", "a", "b"):
        dead(store, job_id)
        clock.advance(1)
    found = store.claim_notes("uncopied", 0, GRACE, 2)
    assert [death.id for death in found] == ["c", "a"]


@both_notes
def test_a_note_without_its_record_is_dropped(
    make_redis_store: RedisFactory, note: Note
) -> None:
    store: RedisStore = make_redis_store()
    dead(store)
    store._client.delete(store.keys.job("job"))
    assert claimed(store, note) == []
    assert not store._client.exists(f"{store.keys.tag_of('job')}:{note}")


def test_a_replay_that_names_its_death_means_no_other(
    store: Store, clock: Clock
) -> None:
    dead(store)
    (death,) = claimed(store, "uncopied")
    again = store.replay("job", "resume", death="1.7")
    assert again == ("refused", State.DEAD)
    before = kept(store)
    assert before.replays == 0

    assert store.replay("job", "resume", death=death.name) == ("done", State.QUEUED)
    assert store.replay("job", "resume", death=death.name) == ("refused", State.QUEUED)
    run = started(store, token="second")
    clock.advance(1)
    store.bury("job", run.fence, failure(), "permanent")
    assert store.replay("job", "resume", death=death.name) == ("refused", State.DEAD)
    assert kept(store).replays == 1
