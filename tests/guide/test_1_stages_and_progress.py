from __future__ import annotations

from typing import Any

from celery import Celery

from jobkit import Progress, ProgressTask, Stage, State
from jobkit.signals import job_progressed
from tests.guide.conftest import Run


def test_a_task_tells_its_stages_and_shows_how_far_it_is(app: Celery, run: Run) -> None:
    """A task declares its stages, and each weighs its share of the whole.

    Inside a stage, ``iterate`` counts the items. The percentage is of the whole
    job, there is none while a total is not known, and it never goes down.
    """
    shown: list[float | None] = []

    def show(progress: Progress, **_: Any) -> None:
        if progress.percent not in shown:
            shown.append(progress.percent)

    @app.task(
        base=ProgressTask,
        bind=True,
        name="shop.sync",
        stages=["count", Stage("import", weight=8), "reconcile"],
        checkpoint_every=1,  # show every item; the default is once a second
        shared=False,
    )
    def sync(self: ProgressTask) -> None:
        with self.stage("count", total=1) as stage:
            stage.advance(message="4 orders")
        with self.stage("import", total=4) as stage:
            for order in stage.iterate(["a", "b", "c", "d"]):
                stage.message(f"order {order}")
        with self.stage("reconcile"):
            pass

    job_progressed.connect(show, sender="shop.sync")
    job = run(sync)

    assert shown == [0.0, 10.0, 30.0, 50.0, 70.0, 90.0, 100.0]
    assert job.state is State.SUCCEEDED
    assert job.progress.percent == 100.0
    assert (job.progress.stage, job.progress.stage_count) == ("reconcile", 3)
