"""The ledger of failed items: written with the checkpoint, read page by page."""

from dataclasses import replace

import pytest

from jobkit.clock import from_milliseconds
from jobkit.job import FailedItem, ItemFailure, NewJob
from jobkit.states import State
from jobkit.store import memory_records, scripts
from jobkit.store.base import Store
from jobkit.store.values import REPLACED, Snapshot
from tests.store.clocks import Clock
from tests.store.conftest import StoreFactory
from tests.store.lives import (
    HINT,
    LEASE,
    failure,
    kept,
    last_event,
    message,
    new_job,
    running,
    snapshot,
    started,
)


def failed(*keys: str, stage: str = "import", attempts: int = 1) -> Snapshot:
    """A snapshot with items that failed since the one before."""
    items = tuple(
        FailedItem(stage, key, "ValueError", f"no {key}", attempts, f'"{key}"')
        for key in keys
    )
    return replace(snapshot(5), failed=items)


def rows(store: Store) -> tuple[ItemFailure, ...]:
    return store.failures("job", limit=1_000).items


def test_failed_items_are_filed_with_the_checkpoint(store: Store, clock: Clock) -> None:
    run = running(store)
    store.save("job", run.fence, 1, failed("a", "b\nb"), LEASE)

    first, second = rows(store)
    assert (first.stage, first.key, first.error) == ("import", "a", "ValueError")
    assert (first.message, first.attempts, first.item) == ("no a", 1, "a")
    assert first.first_at == first.last_at == from_milliseconds(clock.now)
    assert (first.open, second.key) == (True, "b\nb")
    assert kept(store).open_failures == 2


def test_an_item_that_fails_again_stays_one_row(store: Store, clock: Clock) -> None:
    run = running(store)
    store.save("job", run.fence, 1, failed("a", "b"), LEASE)
    begun = clock.now
    clock.advance(5)
    store.save("job", run.fence, 2, failed("a", attempts=4), LEASE)

    again, other = rows(store)
    assert (again.key, again.attempts, other.key) == ("a", 4, "b")
    assert again.first_at == from_milliseconds(begun)
    assert again.last_at == from_milliseconds(clock.now)
    assert kept(store).open_failures == 2


def test_the_same_key_in_two_stages_is_two_rows(store: Store) -> None:
    run = running(store)
    store.save("job", run.fence, 1, failed("a"), LEASE)
    store.save("job", run.fence, 2, failed("a", stage="export"), LEASE)
    assert [row.stage for row in rows(store)] == ["import", "export"]


def test_a_late_save_and_a_stale_owner_file_nothing(store: Store) -> None:
    run = running(store)
    store.save("job", run.fence, 2, failed("a"), LEASE)
    store.save("job", run.fence, 1, failed("late"), LEASE)
    store.interrupt("job", run.fence, "drain")
    started(store, token="second")
    store.save("job", run.fence, 9, failed("stale"), LEASE)
    assert [row.key for row in rows(store)] == ["a"]


def test_it_is_read_page_by_page_in_its_order(store: Store) -> None:
    run = running(store)
    keys = [f"item {number}" for number in range(25)]
    store.save("job", run.fence, 1, failed(*keys), LEASE)

    found, after, pages = [], None, 0
    while pages == 0 or after is not None:
        page = store.failures("job", after, 10)
        found += [row.key for row in page.items]
        after, pages = page.next, pages + 1
    assert (found, pages) == (keys, 3)


def test_a_job_with_open_rows_ends_as_partial(store: Store) -> None:
    run = running(store)
    store.save("job", run.fence, 1, failed("a"), LEASE)

    assert store.succeed("job", run.fence, snapshot(6)) is State.PARTIAL
    assert store.succeed("job", run.fence, snapshot(6)) is State.PARTIAL
    job = kept(store)
    assert (job.state, job.open_failures) == (State.PARTIAL, 1)
    assert (last_event(store).name, last_event(store).state) == ("partial", job.state)
    assert store.list(state=State.PARTIAL).items[0].id == "job"


def test_without_any_it_succeeds(store: Store) -> None:
    run = running(store)
    assert store.succeed("job", run.fence, snapshot(6)) is State.SUCCEEDED


def test_a_job_that_is_replaced_has_not_ended_as_partial(store: Store) -> None:
    run = running(store)
    store.save("job", run.fence, 1, failed("a"), LEASE)
    assert store.succeed("job", run.fence, snapshot(6), REPLACED) is State.SUCCEEDED


def test_the_ledger_lives_as_long_as_its_job(store: Store, clock: Clock) -> None:
    run = running(store)
    store.save("job", run.fence, 1, failed("a"), LEASE)
    store.succeed("job", run.fence, snapshot(6))
    clock.advance(store.retention.partial - 0.001)
    assert (store.prune(), len(rows(store))) == (0, 1)
    clock.advance(0.001)
    assert (store.prune(), rows(store)) == (1, ())


@pytest.mark.parametrize(("mode", "left"), [("resume", 1), ("restart", 0)])
def test_only_a_restart_forgets_it(store: Store, mode: str, left: int) -> None:
    run = running(store, crash_limit=1)
    store.save("job", run.fence, 1, failed("a"), LEASE)
    store.bury("job", run.fence, failure(), "too_many_failures")
    store.replay("job", mode)  # type: ignore[arg-type]
    assert (len(rows(store)), kept(store).open_failures) == (left, left)


def test_a_replacement_begins_with_an_empty_one(store: Store) -> None:
    run = running(store)
    store.save("job", run.fence, 1, failed("a"), LEASE)
    store.replace("job", run.fence, new_job(task="shop.other"), HINT)
    assert (rows(store), kept(store).open_failures) == ((), 0)


@pytest.mark.parametrize("make_store", ["memory", "redis"], indirect=True)
def test_items_beyond_its_limit_are_only_counted(
    monkeypatch: pytest.MonkeyPatch, make_store: StoreFactory
) -> None:
    monkeypatch.setattr(memory_records, "LEDGER_KEPT", 3)
    monkeypatch.setattr(scripts, "LEDGER_KEPT", 3)
    store = make_store()
    run = running(store)
    store.save("job", run.fence, 1, failed("a", "b", "c", "d"), LEASE)
    store.save("job", run.fence, 2, failed("b", "e", attempts=2), LEASE)
    assert [(row.key, row.attempts) for row in rows(store)] == [
        *(("a", 1), ("b", 2), ("c", 1)),
    ]
    assert kept(store).open_failures == 3

    store.succeed("job", run.fence, snapshot(6))
    text = message().encode()
    new = NewJob(store.partner("job"), "shop.sync", text, replay_of="job")
    store.replay_items(new, "")
    child = started(store, new.id)
    resolved = tuple(f"import\n{key}" for key in "abc")
    store.save(child.id, child.fence, 1, replace(snapshot(1), resolved=resolved), LEASE)
    job = kept(store)
    assert (job.open_failures, job.state) == (0, State.PARTIAL)


def test_an_unknown_job_has_none(store: Store) -> None:
    assert store.failures("nobody").items == ()
