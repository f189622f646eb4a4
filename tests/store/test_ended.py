"""How many jobs ended in each of the last minutes."""

from jobkit.states import State
from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.lives import dead, enqueued, running, snapshot


def ends(store: Store, span: float = 60, spans: int = 3) -> dict[str, list[int]]:
    """The counts of the states that have any."""
    told = store.ended(span, spans)
    assert [*told] == [state for state in State if state.finished]
    return {str(state): [*row] for state, row in told.items() if any(row)}


def succeed(store: Store, job_id: str) -> None:
    run = running(store, job_id)
    store.succeed(job_id, run.fence, snapshot(1))


def test_an_empty_store_tells_of_no_end(store: Store) -> None:
    told = store.ended(60, 3)

    assert {tuple(row) for row in told.values()} == {(0, 0, 0)}


def test_ends_are_counted_by_minute_and_state(store: Store, clock: Clock) -> None:
    for job_id in "abc":
        succeed(store, job_id)
    clock.advance(60)
    dead(store, "d")
    enqueued(store, "e")
    store.ask("e", "cancel", "", "")
    enqueued(store, "waits")
    running(store, "runs")
    clock.advance(59.999)
    succeed(store, "f")

    assert ends(store) == {
        "SUCCEEDED": [1, 3, 0],
        "DEAD": [1, 0, 0],
        "CANCELLED": [1, 0, 0],
    }
    clock.advance(0.001)
    assert ends(store)["SUCCEEDED"] == [1, 0, 3]
    assert ends(store)["DEAD"] == [0, 1, 0]


def test_what_ended_before_is_not_counted(store: Store, clock: Clock) -> None:
    succeed(store, "old")
    clock.advance(20)
    succeed(store, "new")

    assert ends(store, span=5, spans=4) == {"SUCCEEDED": [1, 0, 0, 0]}


def test_a_replayed_job_has_not_ended(store: Store, clock: Clock) -> None:
    dead(store, "again")
    clock.advance(1)
    assert ends(store) == {"DEAD": [1, 0, 0]}

    store.replay("again", "resume")

    assert ends(store) == {}
