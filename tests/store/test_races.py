"""What two sides do to a job at the same moment: one of them wins, and it shows."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jobkit.states import State
from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.lives import LEASE, kept, names, running, snapshot, started

RACES = 1_000
ENDS = {"succeeded", "cancelled", "dead"}


def at_once(pool: ThreadPoolExecutor, *acts: Callable[[], object]) -> list[Any]:
    """Do all of it at the same moment, give or take what the seed says."""
    gate = threading.Barrier(len(acts))

    def act(call: Callable[[], object], late: float) -> Any:
        gate.wait()
        time.sleep(late)
        return call()

    late = random.sample((0, 0, 1e-4, 3e-4), len(acts))
    return list(pool.map(act, acts, late))


def test_a_cancel_and_an_end_make_one_terminal_state(store: Store) -> None:
    ends: Counter[State] = Counter()
    with ThreadPoolExecutor(2) as pool:
        for number in range(RACES):
            job_id = f"job {number}"
            run = running(store, job_id)
            (outcome, _), ended = at_once(
                pool,
                lambda: store.ask(job_id, "cancel", "ann", "wrong"),  # noqa: B023
                lambda: store.succeed(job_id, run.fence, snapshot(3)),  # noqa: B023
            )
            job = kept(store, job_id)
            ends[job.state] += 1
            assert ended, outcome
            assert len(ENDS & set(names(store, job_id))) == 1
            assert store.ask(job_id, "cancel", "ann", "late")[1] is job.state
            assert kept(store, job_id) == job
    assert ends == {State.SUCCEEDED: RACES}


def test_a_cancel_and_an_interruption_make_one_terminal_state(store: Store) -> None:
    with ThreadPoolExecutor(2) as pool:
        for number in range(RACES // 4):
            job_id = f"job {number}"
            run = running(store, job_id)
            at_once(
                pool,
                lambda: store.ask(job_id, "cancel", "ann", "wrong"),  # noqa: B023
                lambda: store.interrupt(job_id, run.fence, "drain"),  # noqa: B023
            )
            assert kept(store, job_id).state is State.CANCELLED
            assert names(store, job_id).count("cancelled") == 1


@pytest.mark.parametrize(
    "races", [RACES // 4, pytest.param(10 * RACES, marks=pytest.mark.long)]
)
def test_a_rescue_and_an_end_leave_one_owner(
    store: Store, clock: Clock, races: int
) -> None:
    with ThreadPoolExecutor(2) as pool:
        for number in range(races):
            job_id = f"job {number}"
            run = running(store, job_id)
            clock.advance(LEASE)
            _, ended = at_once(
                pool,
                store.rescue,
                lambda: store.succeed(job_id, run.fence, snapshot(3)),  # noqa: B023
            )
            job = kept(store, job_id)
            assert job.state is (State.SUCCEEDED if ended else State.QUEUED)
            assert ("succeeded" in names(store, job_id)) is bool(ended)
            if not ended:
                assert started(store, job_id, "next").fence == run.fence + 1
