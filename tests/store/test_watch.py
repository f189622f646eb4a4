"""How a job is watched."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from jobkit.job import Event
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import TICKS_KEPT
from tests.store.lives import (
    LEASE,
    dead,
    enqueued,
    failure,
    running,
    snapshot,
    started,
)

IDLE = 0.05


def until_idle(events: Iterator[Event | None]) -> list[Event]:
    """What there is to see now."""
    seen = []
    while event := next(events):
        seen.append(event)
    return seen


def test_only_what_comes_is_seen(store: Store) -> None:
    run = running(store)
    store.save("job", run.fence, 1, snapshot(1), LEASE)
    events = store.watch("job", IDLE)
    assert next(events) is None

    store.save("job", run.fence, 2, snapshot(2), LEASE)
    event = next(events)
    assert event
    assert (event.name, event.state) == ("progressed", State.RUNNING)
    assert event.progress == snapshot(2).progress
    assert next(events) is None


def test_a_watch_begins_when_it_is_made(store: Store) -> None:
    run = running(store)
    events = store.watch("job", IDLE)
    store.succeed("job", run.fence, snapshot(1))
    assert [event.name for event in until_idle(events)] == ["succeeded"]


def test_a_whole_run_is_seen(store: Store) -> None:
    enqueued(store)
    events = store.watch("job", IDLE)
    run = started(store)
    seen = until_idle(events)
    store.save("job", run.fence, 1, snapshot(1), LEASE)
    store.ask("job", "cancel", "ada", "")
    seen += until_idle(events)
    store.interrupt("job", run.fence, "cancel")
    seen += until_idle(events)

    names = [event.name for event in seen]
    assert sorted(names) == ["asked", "cancelled", "progressed", "started"]
    assert (names[0], names[-1]) == ("started", "cancelled")


def test_the_end_is_seen_after_the_progress_before_it(store: Store) -> None:
    run = running(store)
    events = store.watch("job", IDLE)
    for seq in range(1, 6):
        store.save("job", run.fence, seq, snapshot(seq), LEASE)
    store.succeed("job", run.fence, snapshot(6))

    names = [event.name for event in until_idle(events)]
    assert names == ["progressed"] * 5 + ["succeeded"]


def test_a_job_may_be_watched_before_it_is_recorded(store: Store) -> None:
    events = store.watch("job", IDLE)
    assert next(events) is None
    enqueued(store)
    assert [event.name for event in until_idle(events)] == ["queued"]


def test_a_replayed_job_is_watched_on(store: Store) -> None:
    dead(store)
    events = store.watch("job", IDLE)
    store.replay("job", "resume")
    run = started(store, token="second")
    seen = until_idle(events)
    store.save("job", run.fence, 1, snapshot(9), LEASE)
    seen += until_idle(events)
    assert [event.name for event in seen] == ["replayed", "started", "progressed"]


def test_who_falls_behind_still_sees_the_newest_progress(store: Store) -> None:
    run = running(store)
    events = store.watch("job", IDLE)
    for seq in range(1, 100):
        store.save("job", run.fence, seq, snapshot(seq), LEASE)

    seen = [event.progress for event in until_idle(events)]
    assert seen[-1] == snapshot(99).progress
    assert len(seen) == TICKS_KEPT


def test_a_waiting_watcher_is_woken(store: Store) -> None:
    run = running(store)
    events = store.watch("job", 20)
    with ThreadPoolExecutor(1) as threads:
        woken = threads.submit(next, events)
        store.retry("job", run.fence, failure(), 5)
        event = woken.result(10)
    assert event
    assert event.name == "retrying"


def test_watchers_do_not_share_what_they_see(store: Store) -> None:
    run = running(store)
    watches = [store.watch("job", IDLE) for _ in range(3)]
    store.save("job", run.fence, 1, snapshot(1), LEASE)
    assert [len(until_idle(events)) for events in watches] == [1, 1, 1]


def test_other_jobs_are_not_seen(store: Store) -> None:
    running(store)
    events = store.watch("job", IDLE)
    running(store, "other")
    assert next(events) is None
