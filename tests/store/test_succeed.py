"""How a run ends well."""

from jobkit.clock import from_milliseconds
from jobkit.states import State
from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.lives import LEASE, kept, last_event, names, running, snapshot, started


def test_a_run_that_did_all_is_over(store: Store, clock: Clock) -> None:
    run = running(store)
    clock.advance(4)
    assert store.succeed("job", run.fence, snapshot(8))

    job = kept(store)
    assert (job.state, job.position, job.checkpoint) == ("SUCCEEDED", 8, "cursor 8")
    assert job.finished_at == job.updated_at == from_milliseconds(clock.now)
    assert (job.lease_until, job.due_at) == (None, None)
    event = last_event(store)
    assert (event.name, event.state) == ("succeeded", State.SUCCEEDED)
    assert event.progress == snapshot(8).progress


def test_told_again_it_is_over_once(store: Store, clock: Clock) -> None:
    run = running(store)
    store.succeed("job", run.fence, snapshot(8))
    before = kept(store)
    clock.advance(1)

    assert store.succeed("job", run.fence, snapshot(9))
    assert kept(store) == before
    assert names(store).count("succeeded") == 1


def test_work_that_is_done_can_no_more_be_cancelled(store: Store) -> None:
    run = running(store)
    store.ask("job", "cancel", "ada", "")
    assert store.succeed("job", run.fence, snapshot(1))
    assert kept(store).state is State.SUCCEEDED
    assert kept(store).request is None


def test_a_stale_owner_does_not_end_it(store: Store) -> None:
    stale = running(store)
    store.interrupt("job", stale.fence, "drain")
    assert not store.succeed("job", stale.fence, snapshot(1))

    run = started(store, token="second")
    assert store.succeed("job", run.fence, snapshot(2))
    assert not store.succeed("job", stale.fence, snapshot(3))
    assert kept(store).checkpoint == "cursor 2"


def test_an_expired_lease_that_nobody_took_is_no_obstacle(
    store: Store, clock: Clock
) -> None:
    run = running(store)
    clock.advance(LEASE * 10)
    assert store.succeed("job", run.fence, snapshot(1))


def test_the_reason_is_kept(store: Store) -> None:
    run = running(store)
    store.succeed("job", run.fence, snapshot(1), "nothing to do")
    assert kept(store).reason == last_event(store).detail == "nothing to do"
