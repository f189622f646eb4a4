"""How many dead letters are found and moved at once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from jobkit.clock import from_milliseconds
from jobkit.errors import SettingsError
from jobkit.job import ErrorInfo
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import Failure
from tests.store.clocks import Clock
from tests.store.lives import (
    HINT,
    LEASE,
    dead,
    failure,
    kept,
    last_event,
    names,
    new_job,
    rewrite,
    running,
    started,
)


def bury(store: Store, job_id: str, error: str, task: str = "shop.sync") -> None:
    """A job that died of an error of that name."""
    store.enqueue(new_job(job_id, task), "token", HINT)
    run = started(store, job_id)
    info = ErrorInfo(error, f'it says "type":"Trap{job_id}"', "Traceback", "unknown")
    assert store.bury(job_id, run.fence, Failure(info), "permanent")


def found(store: Store, limit: int = 2, **wanted: Any) -> list[str]:
    """The ids on all pages, sorted."""
    return sorted(job_id for job_id, _ in walked(store, limit, **wanted))


def walked(store: Store, limit: int, **wanted: Any) -> Iterator[tuple[str, str]]:
    page = store.ids(limit=limit, **wanted)
    yield from page.items
    while page.next is not None:
        page = store.ids(limit=limit, after=page.next, **wanted)
        assert len(page.items) <= limit
        yield from page.items


# -- finding


def test_ids_come_with_their_tasks(store: Store) -> None:
    bury(store, "a", "KeyError", task="x")
    bury(store, "b", "KeyError", task="y")
    running(store, "c")

    assert sorted(walked(store, 1, state="DEAD")) == [("a", "x"), ("b", "y")]


def test_pages_of_ids_have_each_job_once(store: Store, clock: Clock) -> None:
    ids = [f"job {n:02}" for n in range(20)]
    for job_id in ids:
        bury(store, job_id, "KeyError")
        clock.advance(1)

    for limit in (1, 3, 50):
        assert found(store, limit, state="DEAD") == ids


def test_they_are_found_by_the_class_of_their_error(store: Store) -> None:
    bury(store, "a", "KeyError")
    bury(store, "b", "ValueError")
    bury(store, "c", 'odd"Name')
    bury(store, "d", "Größe")
    running(store, "e")

    assert found(store, state="DEAD", error="KeyError") == ["a"]
    assert found(store, error="ValueError") == ["b"]
    assert found(store, error='odd"Name') == ["c"]
    assert found(store, error="Größe") == ["d"]
    for other in ("Key", "Trapa", "Error", "keyerror"):
        assert found(store, error=other) == []
    (job,) = store.list(error="KeyError").items
    assert job.id == "a"


def test_a_poisoned_job_is_found_by_its_error(store: Store) -> None:
    running(store, "a", crash_limit=1)
    store.crash("a", "w1/7", ErrorInfo("WorkerLost", "killed", "", "infrastructure"))

    assert found(store, state="DEAD", error="WorkerLost") == ["a"]


def test_they_are_found_by_the_time_they_died(store: Store, clock: Clock) -> None:
    died = {}
    for job_id in "abcde":
        dead(store, job_id)
        died[job_id] = from_milliseconds(clock.now)
        clock.advance(10)
    moment = timedelta(milliseconds=1)

    def between(**span: Any) -> list[str]:
        listed = [job.id for job in store.list(state=State.DEAD, **span).items]
        assert sorted(listed) == found(store, state=State.DEAD, **span)
        return sorted(listed)

    assert between(since=died["c"]) == ["c", "d", "e"]
    assert between(since=died["c"] + moment) == ["d", "e"]
    assert between(until=died["c"]) == ["a", "b", "c"]
    assert between(until=died["c"] - moment) == ["a", "b"]
    assert between(since=died["b"], until=died["d"]) == ["b", "c", "d"]
    assert between(since=died["d"], until=died["b"]) == []


def test_they_are_found_by_their_dead_letter_queue(store: Store) -> None:
    dead(store, "a")

    assert found(store, dead_letter_queue="dead") == ["a"]
    assert found(store, dead_letter_queue="other") == []


def test_a_moment_without_a_zone_is_refused(store: Store, clock: Clock) -> None:
    naive = from_milliseconds(clock.now).replace(tzinfo=None)
    with pytest.raises(SettingsError, match=r"since=2100.* has no time zone"):
        store.list(since=naive)


def test_a_filter_that_there_is_not_is_refused(store: Store) -> None:
    with pytest.raises(TypeError, match="tsk"):
        store.ids(tsk="x")  # type: ignore[call-arg]


# -- moving


def test_a_page_is_replayed_as_each_of_it_alone(store: Store, clock: Clock) -> None:
    ids = [f"job {n}" for n in range(7)]
    for job_id in [*ids, "alone"]:
        dead(store, job_id)
    clock.advance(5)
    store.replay("alone", "resume")

    assert sorted(store.bulk(ids, "resume", "B", "ada", "fixed")) == ids

    for job_id in ids:
        job = kept(store, job_id)
        assert (job.state, job.attempts, job.replays) == (State.QUEUED, 0, 1)
        assert (job.position, job.checkpoint) == (5, "cursor 5")
        assert job.due_at == kept(store, "alone").due_at
        assert last_event(store, job_id).detail == "resume in bulk B by ada: fixed"
        assert names(store, job_id) == names(store, "alone")
    assert len(store.claim_due(100, 10)) == 8


def test_a_page_is_restarted(store: Store) -> None:
    dead(store)
    assert store.bulk(["job"], "restart", "B") == ["job"]
    assert (kept(store).position, kept(store).checkpoint) == (0, "")


def test_a_page_is_discarded(store: Store) -> None:
    dead(store)
    assert store.bulk(["job"], "discard", "B", "ada", "too old") == ["job"]

    job = kept(store)
    assert (job.state, job.reason) == (State.CANCELLED, "too old")
    assert last_event(store).detail == "discard in bulk B by ada: too old"
    assert store.untold(0) == []
    assert store.bulk(["job"], "discard", "B", "ada", "too old") == ["job"]


def test_what_is_not_dead_is_left_alone(store: Store) -> None:
    running(store, "running")
    dead(store, "replayed")
    store.replay("replayed", "resume")
    before = [kept(store, job_id) for job_id in ("running", "replayed")]

    assert store.bulk(["running", "replayed", "nobody"], "resume", "B") == []

    assert [kept(store, job_id) for job_id in ("running", "replayed")] == before


def test_sent_again_it_answers_the_same_and_moves_nothing(store: Store) -> None:
    dead(store)
    first = store.bulk(["job"], "resume", "B")
    before = kept(store)

    assert store.bulk(["job"], "resume", "B") == first == ["job"]
    assert kept(store) == before


def test_a_job_that_dies_again_is_not_moved_again_by_the_same_bulk(
    store: Store,
) -> None:
    dead(store)
    store.bulk(["job"], "resume", "B")
    run = started(store, token="second")
    store.bury("job", run.fence, failure(), "permanent")

    store.bulk(["job"], "resume", "B")
    assert (kept(store).state, kept(store).replays) == (State.DEAD, 1)

    assert store.bulk(["job"], "resume", "C") == ["job"]
    assert (kept(store).state, kept(store).replays) == (State.QUEUED, 2)


def test_a_record_of_a_newer_jobkit_is_left_alone(store: Store) -> None:
    dead(store, "old")
    dead(store, "new")
    rewrite(store, "new", schema="2")

    assert store.bulk(["new", "old"], "resume", "B") == ["old"]


def test_a_replayed_page_does_not_expire(store: Store, clock: Clock) -> None:
    dead(store)
    store.bulk(["job"], "resume", "B")
    clock.advance(365 * 86_400)
    assert store.prune() == 0
    run = started(store, token="late")
    assert store.renew("job", run.fence, LEASE).owner
