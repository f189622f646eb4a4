from __future__ import annotations

from celery import Celery

from jobkit import ProgressTask, Transient
from tests.guide.conftest import Run


def test_a_step_runs_once_in_the_life_of_a_job(app: Celery, run: Run) -> None:
    """``step`` calls a function and saves its value with the job.

    When the job runs again, after an error or on another machine, the function
    is not called: the saved value comes back, with its type.
    """
    charged: list[str] = []

    def charge(customer: str) -> tuple[str, int]:
        charged.append(customer)
        return ("receipt", 17)

    @app.task(
        base=ProgressTask,
        bind=True,
        name="shop.order",
        stages=["charge", "ship"],
        shared=False,
    )
    def order(self: ProgressTask, customer: str) -> None:
        receipt = self.step("charge", charge, customer)
        assert receipt == ("receipt", 17)
        with self.stage("ship"):
            if self.job.attempt < 3:
                raise Transient("no van today")

    job = run(order, "ana")

    assert (job.state, job.starts) == ("SUCCEEDED", 3)
    assert charged == ["ana"]
