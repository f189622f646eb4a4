"""How dead letters get another run."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from jobkit.clock import from_milliseconds
from jobkit.errors import JobNotFound, SchemaError
from jobkit.job import Progress
from jobkit.states import State
from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.lives import (
    CRASHED,
    LEASE,
    dead,
    enqueued,
    failure,
    kept,
    last_event,
    names,
    rewrite,
    running,
    snapshot,
    started,
)


def test_it_goes_on_from_its_checkpoint_with_fresh_budgets(
    store: Store, clock: Clock
) -> None:
    dead(store)
    clock.advance(3)
    assert store.replay("job", "resume", "ada", "fixed") == ("done", State.QUEUED)

    job = kept(store)
    assert (job.attempts, job.rate_limited, job.budgets) == (0, 0, "")
    assert (job.reason, job.finished_at, job.replays) == ("", None, 1)
    assert job.due_at == job.updated_at == from_milliseconds(clock.now)
    assert (job.position, job.checkpoint) == (5, "cursor 5")
    event = last_event(store)
    assert (event.name, event.state) == ("replayed", State.QUEUED)
    assert event.detail == "resume by ada: fixed"
    run = started(store, token="second")
    assert (run.fence, run.checkpoint) == (2, "cursor 5")


def test_a_restart_forgets_the_checkpoint(store: Store) -> None:
    dead(store)
    store.replay("job", "restart")

    job = kept(store)
    assert (job.position, job.checkpoint, job.progress) == (0, "", Progress())
    assert last_event(store).detail == "restart"


def test_poison_may_crash_again_as_often(store: Store) -> None:
    running(store, crash_limit=1)
    store.crash("job", "w1/7", CRASHED)
    store.replay("job", "resume")
    assert kept(store).crashes_without_progress == 0


def test_after_a_restart_old_progress_is_none(store: Store) -> None:
    dead(store)
    store.replay("job", "restart")
    run = started(store, token="second")
    store.save("job", run.fence, 1, snapshot(2), LEASE)
    store.crash("job", "w1/7", CRASHED)

    job = kept(store)
    assert (job.position, job.crashes_without_progress) == (2, 0)


def test_two_clicks_make_one_replay(store: Store) -> None:
    dead(store)
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda _: store.replay("job", "resume"), range(2)))
    assert answers == [("done", State.QUEUED)] * 2
    assert (kept(store).replays, names(store).count("replayed")) == (1, 1)

    started(store, token="second")
    assert store.replay("job", "restart") == ("done", State.RUNNING)
    assert kept(store).replays == 1


def test_a_job_that_died_again_is_replayed_again(store: Store) -> None:
    dead(store)
    store.replay("job", "resume")
    run = started(store, token="second")
    store.bury("job", run.fence, failure(), "permanent")
    assert store.replay("job", "resume") == ("done", State.QUEUED)
    assert kept(store).replays == 2


def test_a_replayed_job_does_not_expire(store: Store, clock: Clock) -> None:
    dead(store)
    store.replay("job", "resume")
    clock.advance(365 * 86_400)
    assert store.prune() == 0
    assert kept(store).state is State.QUEUED


def test_only_a_dead_job_is_replayed(store: Store) -> None:
    enqueued(store)
    assert store.replay("job", "resume") == ("refused", State.QUEUED)
    run = started(store)
    assert store.replay("job", "resume") == ("refused", State.RUNNING)
    store.succeed("job", run.fence, snapshot(1))
    before = kept(store)
    assert store.replay("job", "resume") == ("refused", State.SUCCEEDED)
    assert kept(store) == before


def test_a_replay_that_succeeded_is_over(store: Store) -> None:
    dead(store)
    store.replay("job", "resume")
    run = started(store, token="second")
    store.succeed("job", run.fence, snapshot(9))
    assert store.replay("job", "resume") == ("refused", State.SUCCEEDED)


def test_an_unknown_job_is_an_error(store: Store) -> None:
    with pytest.raises(JobNotFound, match="'nobody'"):
        store.replay("nobody", "resume")
    with pytest.raises(JobNotFound, match="'nobody'"):
        store.discard("nobody")


def test_a_record_of_a_newer_jobkit_is_refused(store: Store) -> None:
    dead(store)
    rewrite(store, "job", schema="2")
    with pytest.raises(SchemaError, match="upgrade"):
        store.replay("job", "resume")
    with pytest.raises(SchemaError, match="upgrade"):
        store.discard("job")
