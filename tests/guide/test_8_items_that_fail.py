from __future__ import annotations

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
