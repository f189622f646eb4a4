"""How a run writes down where it is."""

from dataclasses import replace

from jobkit.clock import from_milliseconds
from jobkit.job import StopRequest
from jobkit.store.base import Store
from jobkit.store.values import Kept
from tests.store.clocks import Clock
from tests.store.lives import LEASE, kept, names, running, snapshot


def test_a_save_is_kept(store: Store, clock: Clock) -> None:
    run = running(store)
    clock.advance(2)

    assert store.save("job", run.fence, 1, snapshot(3), 40) == Kept(owner=True)
    job = kept(store)
    assert (job.position, job.checkpoint) == (3, "cursor 3")
    assert job.progress == snapshot(3).progress
    assert job.lease_until == from_milliseconds(clock.now + 40_000)
    assert job.updated_at == from_milliseconds(clock.now)


def test_a_save_that_comes_late_changes_nothing(store: Store, clock: Clock) -> None:
    run = running(store)
    store.save("job", run.fence, 2, snapshot(20), LEASE)
    before = kept(store)
    clock.advance(1)

    for seq in (1, 2):
        assert store.save("job", run.fence, seq, snapshot(30), LEASE).owner
    assert kept(store) == before


def test_the_position_never_goes_back(store: Store) -> None:
    run = running(store)
    store.save("job", run.fence, 1, snapshot(9), LEASE)
    store.save("job", run.fence, 2, snapshot(4), LEASE)

    job = kept(store)
    assert (job.position, job.checkpoint) == (9, "cursor 4")


def test_the_next_run_counts_its_saves_from_one(store: Store) -> None:
    run = running(store)
    store.save("job", run.fence, 50, snapshot(1), LEASE)
    store.interrupt("job", run.fence, "drain")
    start = store.begin("job", "second", "w2", LEASE)
    assert start.job

    store.save("job", start.job.fence, 1, snapshot(2), LEASE)
    assert kept(store).checkpoint == "cursor 2"


def test_the_owner_hears_what_is_asked_also_when_it_is_late(store: Store) -> None:
    run = running(store)
    store.ask("job", "cancel", "ada", "wrong shop")
    asked = Kept(owner=True, request=StopRequest("cancel", "ada", "wrong shop"))

    assert store.save("job", run.fence, 1, snapshot(1), LEASE) == asked
    assert store.save("job", run.fence, 1, snapshot(1), LEASE) == asked


def test_progress_is_no_entry_of_the_history(store: Store) -> None:
    run = running(store)
    for seq in range(1, 60):
        store.save("job", run.fence, seq, snapshot(seq), LEASE)
    assert names(store) == ["queued", "started"]


def test_a_checkpoint_may_be_of_any_text(store: Store) -> None:
    run = running(store)
    text = '{"naïve\x00": "🎉\r\n"}'
    store.save("job", run.fence, 1, replace(snapshot(1), checkpoint=text), LEASE)
    assert kept(store).checkpoint == text
