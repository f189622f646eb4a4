"""How jobs are found and counted."""

from dataclasses import replace
from itertools import product

import pytest

from jobkit.errors import StoreError
from jobkit.states import State
from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.lives import (
    HINT,
    dead,
    enqueued,
    kept,
    message,
    new_job,
    running,
    snapshot,
    started,
)


def all_ids(store: Store, limit: int, **wanted: str) -> list[str]:
    """The ids of all pages."""
    page = store.list(limit=limit, **wanted)  # type: ignore[arg-type]
    ids = [job.id for job in page.items]
    while page.next is not None:
        page = store.list(limit=limit, after=page.next, **wanted)  # type: ignore[arg-type]
        assert len(page.items) <= limit
        ids += [job.id for job in page.items]
    return ids


def test_an_empty_store_has_one_empty_page(store: Store) -> None:
    page = store.list()
    assert (page.items, page.next) == ((), None)


def test_the_newest_come_first(store: Store, clock: Clock) -> None:
    for number in range(7):
        enqueued(store, f"job {number}")
        clock.advance(1)
    expected = [f"job {number}" for number in reversed(range(7))]
    assert all_ids(store, 50) == expected
    assert all_ids(store, 3) == expected
    assert all_ids(store, 1) == expected


def test_listed_jobs_are_whole_but_for_their_message(store: Store) -> None:
    job = dead(store)
    assert job.message == message()
    assert store.list().items == (replace(job, message=None),)


def test_in_a_state_the_last_to_enter_it_comes_first(
    store: Store, clock: Clock
) -> None:
    for number in range(3):
        enqueued(store, f"job {number}")
        clock.advance(1)
    for number in (1, 2, 0):
        started(store, f"job {number}")
        clock.advance(1)
    assert all_ids(store, 2, state="RUNNING") == ["job 0", "job 2", "job 1"]
    assert all_ids(store, 2, state="QUEUED") == []


def test_jobs_match_all_that_is_given(store: Store, clock: Clock) -> None:
    kinds = product("ab", "ab", "ab", [False, True], range(2))
    jobs = []
    for number, (task, queue, owner, starts, moments) in enumerate(kinds):
        jobs.append(new_job(f"job {number}", task, queue, owner))
        store.enqueue(jobs[-1], "token", HINT)
        if starts:
            started(store, jobs[-1].id)
        clock.advance(moments)

    records = [kept(store, job.id) for job in jobs]
    names = ("state", "task", "queue", "owner")
    for values in product((None, "RUNNING"), (None, "a"), (None, "a"), (None, "b")):
        wanted = {
            name: value for name, value in zip(names, values, strict=True) if value
        }
        assert sorted(all_ids(store, 3, **wanted)) == sorted(
            job.id
            for job in records
            if all(getattr(job, name) == value for name, value in wanted.items())
        )


def test_jobs_of_one_moment_are_each_listed_once(store: Store) -> None:
    ids = [f"job {number}" for number in range(25)]
    for job_id in ids:
        enqueued(store, job_id)
    assert all_ids(store, 4) == sorted(ids, reverse=True)


def test_no_page_repeats_or_loses_a_job_while_others_come(
    store: Store, clock: Clock
) -> None:
    ids = [f"job {number:02}" for number in range(20)]
    for job_id in ids:
        enqueued(store, job_id)
        clock.advance(1)

    found: list[str] = []
    after = None
    while True:
        page = store.list(after=after, limit=3)
        found += [job.id for job in page.items]
        after = page.next
        if after is None:
            break
        enqueued(store, f"later {len(found)}")
        clock.advance(1)
    assert found == ids[::-1]


def test_pages_go_on_after_a_job_that_has_left_its_state(
    store: Store, clock: Clock
) -> None:
    for number in range(6):
        enqueued(store, f"job {number}")
        clock.advance(0 if number % 2 else 1)

    first = store.list(state=State.QUEUED, limit=2)
    assert [job.id for job in first.items] == ["job 5", "job 4"]
    started(store, "job 4")
    assert first.next
    second = store.list(state=State.QUEUED, limit=10, after=first.next)
    assert [job.id for job in second.items] == ["job 3", "job 2", "job 1", "job 0"]


@pytest.mark.parametrize("after", ["", "nowhere", "12", "e30", "W10=", "bnVsbA=="])
def test_a_place_that_is_none_is_refused(store: Store, after: str) -> None:
    enqueued(store)
    with pytest.raises(StoreError, match="is no place in a list: pass the `next`"):
        store.list(after=after)


def test_every_state_is_counted(store: Store) -> None:
    assert store.counts() == dict.fromkeys(State, 0)
    dead(store, "dead")
    enqueued(store, "queued")
    enqueued(store, "queued too")
    running(store, "running")
    run = running(store, "succeeded")
    store.succeed("succeeded", run.fence, snapshot(1))

    counts = store.counts()
    assert {state: count for state, count in counts.items() if count} == {
        State.DEAD: 1,
        State.QUEUED: 2,
        State.RUNNING: 1,
        State.SUCCEEDED: 1,
    }


def test_an_unknown_job_is_none(store: Store) -> None:
    assert store.get("nobody") is None
