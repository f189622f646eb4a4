"""How dead jobs are taken out of a store, and put back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobkit.clock import from_milliseconds
from jobkit.job import FailedItem, Job
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import Letter
from tests.store.clocks import Clock
from tests.store.conftest import StoreFactory
from tests.store.lives import (
    LEASE,
    dead,
    failure,
    kept,
    names,
    running,
    snapshot,
    started,
)

DAY = 86_400


@pytest.fixture
def letter(make_store: StoreFactory, clock: Clock) -> Letter:
    """A dead job with failed items, taken out of another store."""
    store = make_store()
    run = running(store)
    clock.advance(20)  # it lived for that long
    bad = tuple(FailedItem("import", str(n), "KeyError", "no", 2, "7") for n in (9, 4))
    store.save("job", run.fence, 1, replace(snapshot(5), failed=bad), LEASE)
    store.bury("job", run.fence, failure(), "permanent")
    letter = store.take_out("job")
    assert letter
    return letter


def test_a_job_comes_back_as_it_was(store: Store, letter: Letter) -> None:
    assert store.restore(letter, "token")

    again = store.take_out("job")
    assert again
    assert again.kept == letter.kept
    assert again.failures == letter.failures
    told = [(event.name, event.at, event.progress) for event in again.events]
    assert told[:-1] == [(e.name, e.at, e.progress) for e in letter.events]
    assert names(store) == ["queued", "started", "dead", "restored"]
    assert kept(store) == Job.from_fields(letter.kept)
    assert [row.key for row in store.failures("job").items] == ["9", "4"]


def test_it_is_listed_among_the_dead_by_when_it_died(
    store: Store, letter: Letter, clock: Clock
) -> None:
    dead(store, "later")
    clock.advance(10)
    dead(store, "last")
    store.restore(letter, "token")

    assert [job.id for job in store.list(state=State.DEAD).items] == [
        *("last", "later", "job")
    ]
    since = from_milliseconds(int(letter.fields["finished_at"]))
    found = store.list(state=State.DEAD, since=since, until=since).items
    assert {job.id for job in found} == {"job", "later"}
    assert [job.id for job in store.list(task="shop.sync").items][-1] == "job"
    assert store.counts()[State.DEAD] == 3


def test_it_can_be_replayed(store: Store, letter: Letter) -> None:
    store.restore(letter, "token")
    store.replay("job", "resume")

    run = started(store, token="second")
    assert (run.fence, run.checkpoint) == (2, "cursor 5")
    (due,) = [store.get("job")]
    assert due
    assert due.message == kept(store).message


def test_an_id_that_is_there_is_left_alone(store: Store, letter: Letter) -> None:
    running(store)
    before = kept(store)

    assert not store.restore(letter, "token")

    assert kept(store) == before
    assert names(store) == ["queued", "started"]


def test_sent_again_it_has_happened_once(store: Store, letter: Letter) -> None:
    assert store.restore(letter, "token")
    assert store.restore(letter, "token")
    assert not store.restore(letter, "another")
    assert names(store).count("restored") == 1


def test_it_stays_as_long_as_one_that_dies_now(
    store: Store, letter: Letter, clock: Clock
) -> None:
    clock.advance(50 * DAY)
    store.restore(letter, "token")
    clock.advance(29 * DAY)
    assert store.prune() == 0
    clock.advance(2 * DAY)
    assert store.prune() == 1
    assert store.get("job") is None


def test_an_unknown_job_is_none(store: Store) -> None:
    assert store.take_out("nobody") is None
