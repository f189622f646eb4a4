"""How a job over the failed items of another one is made, and resolves them."""

from dataclasses import replace

import pytest

from jobkit.clock import from_milliseconds
from jobkit.errors import JobNotFound, SchemaError
from jobkit.job import SCHEMA, FailedItem, Job, NewJob
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import Letter
from tests.store.clocks import Clock
from tests.store.lives import (
    DROPPED,
    LEASE,
    failure,
    kept,
    last_event,
    message,
    names,
    rewrite,
    running,
    snapshot,
    started,
)

ITEMS = tuple(FailedItem("import", key, "ValueError", "no") for key in "abc")
PLACE = "where it begins"


def partial(store: Store) -> Job:
    """A job that ended with three open rows."""
    run = running(store)
    store.save("job", run.fence, 1, replace(snapshot(5), failed=ITEMS), LEASE)
    assert store.succeed("job", run.fence, snapshot(6)) is State.PARTIAL
    return kept(store)


def child(store: Store) -> NewJob:
    text = message("shop.again").encode()
    return NewJob(store.partner("job"), "shop.sync", text, replay_of="job")


def replayed(store: Store) -> Job:
    """The run of a replay of such a job."""
    partial(store)
    outcome, child_id = store.replay_items(child(store), PLACE, "ann", "mended")
    assert outcome == "done"
    return started(store, child_id)


def resolves(store: Store, run: Job, *keys: str, seq: int = 1) -> None:
    rows = tuple(f"import\n{key}" for key in keys)
    taken = replace(snapshot(seq), resolved=rows)
    assert store.save(run.id, run.fence, seq, taken, LEASE).owner


def is_open(store: Store) -> list[str]:
    return [row.key for row in store.failures("job").items if row.open]


def test_the_new_job_is_like_the_old_one_and_due_at_once(
    store: Store, clock: Clock
) -> None:
    parent = partial(store)
    clock.advance(5)

    outcome, child_id = store.replay_items(child(store), PLACE, "ann", "mended")

    job = kept(store, child_id)
    assert (outcome, job.state, job.replay_of) == ("done", State.QUEUED, "job")
    same = ("task", "queue", "priority", "dead_letter_queue", "owner", "stages")
    assert [getattr(job, name) for name in same] == [
        getattr(parent, name) for name in same
    ]
    assert (job.checkpoint, job.message) == (PLACE, message("shop.again"))
    assert job.created_at == job.due_at == from_milliseconds(clock.now)
    (due,) = store.claim_due(10, 60)
    assert due.id == child_id
    assert {found.id for found in store.list(task="shop.sync").items} == {
        *("job", child_id),
    }
    assert (kept(store).state, kept(store).replays) == (State.PARTIAL, 1)
    assert last_event(store).name == "replayed"
    assert last_event(store).detail == "failed_items by ann: mended"


def test_asked_again_it_is_the_same_until_that_has_ended(store: Store) -> None:
    run = replayed(store)
    assert store.replay_items(child(store), PLACE) == ("done", run.id)

    store.bury(run.id, run.fence, failure(), "permanent")
    outcome, other = store.replay_items(child(store), PLACE)
    assert (outcome, kept(store).replays) == ("done", 2)
    assert other != run.id


def test_the_same_call_made_twice_is_one_replay(store: Store) -> None:
    partial(store)
    new = child(store)
    first = store.replay_items(new, PLACE)
    run = started(store, new.id)
    store.succeed(new.id, run.fence, snapshot(1))
    assert store.replay_items(new, PLACE) == first
    assert kept(store).replays == 1


def test_rows_are_resolved_with_the_checkpoint(store: Store) -> None:
    run = replayed(store)
    resolves(store, run, "a", "b")
    assert is_open(store) == ["c"]
    assert (kept(store).open_failures, kept(store).state) == (1, State.PARTIAL)

    resolves(store, run, "b", "x", seq=2)
    assert kept(store).open_failures == 1


def test_the_last_one_makes_the_old_job_succeed(store: Store, clock: Clock) -> None:
    run = replayed(store)
    clock.advance(60)
    resolves(store, run, "a", "b", "c")

    job = kept(store)
    assert (job.state, job.reason) == (State.SUCCEEDED, "failures_resolved")
    assert job.finished_at == from_milliseconds(clock.now)
    assert names(store)[-1] == "resolved"
    assert [end.id for end in store.claim_notes("unheard", 0, 10)] == ["job"]
    assert last_event(store).detail == run.id
    assert store.list(state=State.PARTIAL).items == ()
    assert [found.id for found in store.list(state=State.SUCCEEDED).items] == ["job"]
    store.succeed(run.id, run.fence, snapshot(3))
    clock.advance(store.retention.succeeded)
    assert store.prune() == 2


def test_a_replay_of_a_replay_resolves_the_rows_of_all(store: Store) -> None:
    run = replayed(store)
    resolves(store, run, "a", "b")
    left = replace(snapshot(2), failed=ITEMS[2:])
    store.save(run.id, run.fence, 2, left, LEASE)
    assert store.succeed(run.id, run.fence, snapshot(3)) is State.PARTIAL
    text = message("shop.again").encode()
    new = NewJob(store.partner(run.id), "shop.sync", text, replay_of=run.id)
    store.replay_items(new, PLACE)
    again = started(store, new.id)

    assert (again.replay_of, again.replay_root) == (run.id, "job")
    assert (run.replay_root, kept(store).replay_root) == ("job", "")
    resolves(store, again, "c")

    assert [kept(store, one).state for one in ("job", run.id)] == [State.SUCCEEDED] * 2
    assert is_open(store) == []


def test_a_stale_owner_resolves_nothing(store: Store) -> None:
    run = replayed(store)
    store.interrupt(run.id, run.fence, "drain")
    started(store, run.id, token="second")
    taken = replace(snapshot(1), resolved=("import\na",))
    assert not store.save(run.id, run.fence, 1, taken, LEASE).owner
    assert is_open(store) == ["a", "b", "c"]


def test_the_job_that_it_replays_stays_for_it(store: Store, clock: Clock) -> None:
    run = replayed(store)
    clock.advance(store.retention.partial)
    assert store.prune() == 0
    resolves(store, run, "a")
    assert store.succeed(run.id, run.fence, snapshot(3)) is State.SUCCEEDED


def test_only_a_partial_job_has_items_to_replay(store: Store) -> None:
    run = running(store)
    assert store.replay_items(child(store), PLACE) == ("refused", "RUNNING")
    store.save("job", run.fence, 1, replace(snapshot(5), failed=ITEMS), LEASE)
    store.bury("job", run.fence, failure(), "too_many_failures")
    assert store.replay_items(child(store), PLACE) == ("refused", "DEAD")


def test_an_unknown_job_is_an_error(store: Store) -> None:
    with pytest.raises(JobNotFound):
        store.replay_items(child(store), PLACE)


def test_a_record_of_a_newer_jobkit_is_refused(store: Store) -> None:
    partial(store)
    rewrite(store, "job", schema=str(SCHEMA + 1))
    with pytest.raises(SchemaError):
        store.replay_items(child(store), PLACE)


@pytest.mark.parametrize("way", ["filed", "restored"])
def test_a_job_of_few_fields_is_replayed_as_any(store: Store, way: str) -> None:
    new = NewJob("job", "shop.sync", message().encode())
    if way == "filed":
        assert store.collect(new, DROPPED)[0] == "filed"
    else:
        fields = {"id": "job", "task": "shop.sync", "state": "DEAD"}
        fields |= {"created_at": "1", "updated_at": "1", "finished_at": "1"}
        fields |= {"message": message().encode(), "fence": "1", "schema": "1"}
        assert store.restore(Letter(fields), "token")
    store.replay("job", "resume")
    run = started(store)
    store.save("job", run.fence, 1, replace(snapshot(5), failed=ITEMS), LEASE)
    assert store.succeed("job", run.fence, snapshot(6)) is State.PARTIAL

    outcome, child_id = store.replay_items(child(store), PLACE)

    job = kept(store, child_id)
    assert (outcome, job.state, job.queue) == ("done", State.QUEUED, "")
    assert (job.owner, job.priority, job.stages, job.crash_limit) == ("", None, (), 3)
