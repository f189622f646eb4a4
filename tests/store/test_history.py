"""What is told of a job's past."""

from itertools import pairwise

from jobkit.clock import from_milliseconds
from jobkit.states import MOVES, State
from jobkit.store.base import Store
from jobkit.store.values import EVENTS_KEPT
from tests.store.clocks import Clock
from tests.store.lives import dead, enqueued, names, running, snapshot, started


def test_a_life_is_told_from_its_beginning(store: Store, clock: Clock) -> None:
    dead(store)
    clock.advance(1)
    store.replay("job", "resume")
    clock.advance(1)
    run = started(store, token="second")
    store.succeed("job", run.fence, snapshot(9))

    history = store.history("job")
    assert [event.name for event in history] == [
        "queued",
        "started",
        "dead",
        "replayed",
        "started",
        "succeeded",
    ]
    states = [event.state for event in history]
    assert all(after in MOVES[before] for before, after in pairwise(states))
    assert states[-1] is State.SUCCEEDED
    assert history[-1].at == from_milliseconds(clock.now)
    assert history[-1].progress == snapshot(9).progress
    assert [event.progress for event in history[:2]] == [None, None]


def test_it_is_read_on_after_any_event(store: Store) -> None:
    dead(store)
    history = store.history("job")
    for number, event in enumerate(history):
        assert store.history("job", after=event.id) == history[number + 1 :]


def test_the_oldest_entries_go_first(store: Store) -> None:
    enqueued(store)
    for number in range(EVENTS_KEPT // 2):
        run = started(store, token=str(number))
        store.interrupt("job", run.fence, "drain", reason=str(number))

    history = store.history("job")
    assert len(history) == EVENTS_KEPT
    assert (history[0].name, history[1].detail) == ("started", "0")
    assert history[-1].detail == str(EVENTS_KEPT // 2 - 1)


def test_other_jobs_are_not_mixed_in(store: Store) -> None:
    running(store, "one")
    enqueued(store, "two")
    assert (names(store, "one"), names(store, "two")) == (
        ["queued", "started"],
        ["queued"],
    )


def test_an_unknown_job_has_none(store: Store) -> None:
    assert store.history("nobody") == []
