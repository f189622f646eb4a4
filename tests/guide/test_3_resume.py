from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery import Celery

from jobkit import Client, ProgressTask, Stage, State
from tests.guide.conftest import Run

LINES = [f"line {n}" for n in range(10)]


def test_a_job_goes_on_where_it_was(app: Celery, run: Run) -> None:
    """After an error the next run skips what is done.

    An item is done when the next one is asked for; the one that failed is tried
    again, and no other one is repeated.
    """
    written: list[str] = []

    @app.task(
        base=ProgressTask, bind=True, name="shop.load", stages=["load"], shared=False
    )
    def load(self: ProgressTask) -> None:
        with self.stage("load") as stage:
            for line in stage.iterate(LINES):
                if line == "line 6" and self.job.attempt == 1:
                    raise ConnectionError("the database went away")
                written.append(line)

    job = run(load)

    assert written == LINES
    assert (job.state, job.starts, job.attempts) == ("SUCCEEDED", 2, 1)


def test_a_cursor_says_where_to_go_on(app: Celery, run: Run) -> None:
    """A source that is called with a cursor reads nothing twice.

    It gets None at first, and later the cursor of the last item that was done:
    what ``cursor=`` made of it. It returns the items after that one.
    """
    asked: list[int | None] = []

    def orders_after(last: int | None) -> Iterator[int]:
        asked.append(last)
        yield from (n for n in range(100, 110) if last is None or n > last)

    @app.task(
        base=ProgressTask, bind=True, name="shop.sync", stages=["import"], shared=False
    )
    def sync(self: ProgressTask) -> None:
        with self.stage("import", total=10) as stage:
            for order in stage.iterate(orders_after, cursor=lambda order: order):
                if order == 104 and self.job.attempt == 1:
                    raise TimeoutError

    job = run(sync)

    assert asked == [None, 103]
    assert job.progress.current == 10


def test_a_deploy_may_give_a_stage_another_name(
    app: Celery, jobs: Client, run: Run
) -> None:
    """``Stage(new, was=old)`` goes on with what was saved under the old name.

    Where stages are removed or reordered, ``migrate`` of the task's class says how
    to go on. Without either the job is paused, until there is code that fits.
    """
    packed: list[int] = []

    def task(stage: str | Stage) -> Any:
        @app.task(
            base=ProgressTask,
            bind=True,
            name=f"shop.pack_{stage!r}",
            stages=[stage],
            checkpoint_every=1,
            shared=False,
        )
        def pack(self: ProgressTask) -> None:
            with self.stage(self.plan.names[0]) as parcels:
                for parcel in parcels.iterate(range(6)):
                    packed.append(parcel)
                    if parcel == 2 and self.job.fence == 1:
                        jobs.pause(self.job.id)

        return pack

    job = run(task("pack"))
    assert job.state is State.PAUSED

    jobs.resume(job.id)
    job = run(task("ship"), job_id=job.id)
    assert job.state is State.PAUSED
    assert job.reason.startswith("incompatible: the saved stages ['pack']")

    jobs.resume(job.id)
    job = run(task(Stage("ship", was="pack")), job_id=job.id)
    assert packed == [0, 1, 2, 3, 4, 5]
    assert (job.state, job.progress.stage) == (State.SUCCEEDED, "ship")
