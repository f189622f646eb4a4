from __future__ import annotations

import threading

from celery import Celery

from jobkit import Client, ProgressTask, SkipItem, SkipPolicy, State
from tests.guide.conftest import Run


def test_a_bad_item_is_filed_and_the_others_are_handled(
    app: Celery, jobs: Client, run: Run
) -> None:
    """``each`` calls a handler with every item; those that fail are filed.

    The job ends as PARTIAL, and its ledger has the items with their errors.
    """
    imported: list[str] = []

    def handle(name: str) -> None:
        if name == "quince":
            raise LookupError(f"nobody knows the {name}")
        if name == "stone":
            raise SkipItem("no fruit")
        imported.append(name)

    @app.task(
        base=ProgressTask, bind=True, name="shop.fruit", stages=["import"], shared=False
    )
    def fruit(self: ProgressTask) -> None:
        with self.stage("import") as stage:
            stage.each(["apple", "quince", "stone", "pear"], handle)

    job = run(fruit)

    assert imported == ["apple", "pear"]
    assert job.state is State.PARTIAL
    seen = job.progress
    assert (seen.current, seen.ok, seen.failed, seen.skipped) == (4, 2, 1, 1)
    (row,) = jobs.failures(job.id).items
    assert (row.item, row.error) == ("quince", "LookupError")
    assert row.message == "nobody knows the quince"


def test_too_many_bad_items_are_a_bad_job(app: Celery, run: Run) -> None:
    """A ``SkipPolicy`` says how many may fail; one more, and the job is dead."""

    def handle(number: int) -> None:
        raise ValueError(number)

    @app.task(
        base=ProgressTask,
        bind=True,
        name="shop.numbers",
        stages=["import"],
        skip_policy=SkipPolicy(max_failures=10),
        shared=False,
    )
    def numbers(self: ProgressTask) -> None:
        with self.stage("import") as stage:
            stage.each(range(1_000), handle)

    job = run(numbers)

    assert (job.state, job.reason) == (State.DEAD, "too_many_failures")
    assert (job.progress.current, job.open_failures) == (11, 11)


def test_items_that_wait_for_a_service_are_handled_by_threads(
    app: Celery, jobs: Client, run: Run
) -> None:
    """``threads`` handle several items at a time; they are counted in their order.

    ``item_key`` is what a service needs that does a thing once for each key: it is
    the same in every retry, and in a replay of the items that failed.
    """
    together = threading.Barrier(3)
    asked: list[str] = []

    @app.task(
        base=ProgressTask, bind=True, name="shop.pay", stages=["pay"], shared=False
    )
    def pay(self: ProgressTask) -> None:
        def handle(order: int) -> None:
            together.wait(10)  # three at a time, or none
            asked.append(self.job.item_key(order))
            if order == 4:
                raise ValueError("the card has expired")

        with self.stage("pay") as stage:
            stage.each(range(1, 7), handle, threads=3)

    job = run(pay)

    assert sorted(asked) == [f"{job.id}:{order}" for order in range(1, 7)]
    assert job.state is State.PARTIAL
    assert (job.progress.current, job.progress.ok, job.progress.failed) == (6, 5, 1)
    assert [row.item for row in jobs.failures(job.id).items] == [4]
