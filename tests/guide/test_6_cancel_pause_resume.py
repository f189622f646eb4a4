from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from jobkit import Client, ProgressTask, State
from tests.guide.conftest import Run

Click = Callable[[str], object]


class Shelves:
    """A task whose operator clicks on something after the third shelf."""

    def __init__(self, app: Celery) -> None:
        self.counted: list[int] = []
        self.click: Click = lambda _: None
        self.task: Any = app.task(
            base=ProgressTask,
            bind=True,
            name="shop.count",
            stages=["shelves"],
            checkpoint_every=1,
            shared=False,
        )(self.body())

    def body(self) -> Callable[[ProgressTask], None]:
        def count(task: ProgressTask) -> None:
            with task.stage("shelves") as stage:
                for shelf in stage.iterate(range(6)):
                    self.counted.append(shelf)
                    if shelf == 2:
                        self.click(task.job.id)

        return count


@pytest.fixture
def shelves(app: Celery) -> Shelves:
    return Shelves(app)


def test_a_job_that_is_cancelled_stops_between_two_items(
    jobs: Client, run: Run, shelves: Shelves
) -> None:
    """``cancel`` ends a waiting job at once, and a running one after its item."""
    shelves.click = lambda job_id: jobs.cancel(job_id, reason="wrong shop", actor="ana")

    job = run(shelves.task)

    assert shelves.counted == [0, 1, 2]
    assert (job.state, job.reason) == (State.CANCELLED, "wrong shop")


def test_a_job_that_is_paused_goes_on_when_it_is_resumed(
    jobs: Client, run: Run, shelves: Shelves
) -> None:
    """``pause`` stops a job after its item, and ``resume`` lets it go on from there.

    A pause is no error: it uses up no attempt.
    """
    shelves.click = lambda job_id: jobs.pause(job_id, reason="lunch", actor="ana")

    paused = run(shelves.task)
    assert (paused.state, paused.progress.current) == (State.PAUSED, 3)

    jobs.resume(paused.id, actor="ana")
    job = run(shelves.task, job_id=paused.id)

    assert shelves.counted == [0, 1, 2, 3, 4, 5]
    assert (job.state, job.attempts, job.interruptions) == (State.SUCCEEDED, 0, 1)
