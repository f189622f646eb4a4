"""Signals of an end, told once at least: whoever hears of it may die of it."""

from dataclasses import replace

import pytest

from jobkit import State
from tests.waiting import wait_until
from tests.worker.fleet import Fleet
from tests.worker.promises import backend_writes_here

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]


def heard(fleet: Fleet, job_id: str) -> list[str]:
    """The events that receivers were told of a job."""
    return [entry.item for entry in fleet.journal.entries(f"told-{job_id}")]


@pytest.mark.parametrize(
    ("task", "args", "state"),
    [("walk", [3], State.SUCCEEDED), ("stumble", [3, [2], "permanent"], State.DEAD)],
)
def test_an_end_whose_worker_is_killed_right_after_it_is_still_told(
    fleet: Fleet, task: str, args: list[object], state: State
) -> None:
    telling = replace(fleet.setup, app="tests.worker.telling")
    first = fleet.worker("a").start(telling)
    result = fleet.send(task, *args)
    wait_until(lambda: not first.running, "it was killed while it told the end")
    assert fleet.jobs.get(result.id).state is state
    assert len(heard(fleet, result.id)) == 1

    fleet.worker("b").start(telling)
    wait_until(lambda: len(heard(fleet, result.id)) > 1, "another one tells it")

    once, again = heard(fleet, result.id)
    assert once == again
    assert fleet.jobs.get(result.id).starts == 1


@backend_writes_here
def test_a_cancel_by_a_process_without_receivers_is_told_by_a_worker(
    fleet: Fleet,
) -> None:
    result = fleet.send("walk", 3)
    assert fleet.jobs.cancel(result.id)
    telling = replace(fleet.setup, app="tests.worker.telling")
    fleet.worker("a").start(telling)

    wait_until(lambda: heard(fleet, result.id), "the worker tells it")
