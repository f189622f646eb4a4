"""How a run lets another job take its id."""

from jobkit.states import State
from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.lives import (
    HINT,
    LEASE,
    failure,
    kept,
    names,
    new_job,
    running,
    snapshot,
    started,
)


def test_a_ceded_id_is_free_while_the_run_lasts(store: Store, clock: Clock) -> None:
    run = running(store)
    assert store.cede("job", run.fence)
    assert store.renew("job", run.fence, LEASE).owner

    assert store.enqueue(new_job(task="shop.other"), "other", HINT)
    job = kept(store)
    assert (job.task, job.state, job.fence) == ("shop.other", State.QUEUED, run.fence)
    assert not store.succeed("job", run.fence, snapshot(3))
    clock.advance(2 * LEASE)
    assert store.rescue() == []
    assert started(store, token="second").fence == run.fence + 1
    assert names(store) == ["queued", "started"]


def test_a_run_that_ceded_its_id_may_still_fail(store: Store) -> None:
    run = running(store)
    store.cede("job", run.fence)
    assert store.retry("job", run.fence, failure(), 0) is State.RETRYING
    store.claim_due(10, 60)
    started(store, token="second")

    assert not store.enqueue(new_job(task="shop.other"), "other", HINT)


def test_a_rescued_job_has_ceded_nothing(store: Store, clock: Clock) -> None:
    run = running(store)
    store.cede("job", run.fence)
    clock.advance(2 * LEASE)
    store.rescue()

    assert not store.enqueue(new_job(task="shop.other"), "other", HINT)
    started(store, token="second")
    assert not store.enqueue(new_job(task="shop.other"), "other", HINT)


def test_a_stale_owner_cedes_nothing(store: Store) -> None:
    stale = running(store)
    store.interrupt("job", stale.fence, "drain")
    started(store, token="second")

    assert not store.cede("job", stale.fence)
    assert not store.enqueue(new_job(task="shop.other"), "other", HINT)


def test_told_again_it_is_ceded_once(store: Store) -> None:
    run = running(store)
    assert store.cede("job", run.fence)
    assert store.cede("job", run.fence)
    assert kept(store).state is State.RUNNING
