from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from jobkit import DuplicateJob, JobTask, State


@pytest.fixture
def sync(app: Celery) -> Any:
    @app.task(base=JobTask, name="shop.sync", shared=False, unique_on=["shop"])
    def sync(shop: str, days: int = 1) -> None:
        pass

    return sync


def test_of_jobs_that_agree_in_some_arguments_there_is_one(sync: Any) -> None:
    """``unique_on`` names the arguments; the job that is there comes back."""
    first = sync.delay("berlin")
    second = sync.delay("berlin", days=7)
    other = sync.delay("lisbon")

    assert (second.id, second.existing) == (first.id, True)
    assert not other.existing


def test_its_end_frees_the_key_and_nothing_else_does(sync: Any) -> None:
    """Waiting, retries, pauses and crashes keep it; so there is no lock to clean up."""
    first = sync.delay("berlin")
    sync.kit.jobs.pause(first.id)
    assert sync.delay("berlin").existing

    first.cancel()
    assert not sync.delay("berlin").existing


def test_a_duplicate_may_be_an_error(app: Celery) -> None:
    """``on_duplicate="raise"``; the error has the id of the job that is there."""

    @app.task(
        base=JobTask, name="close", shared=False, unique_on="*", on_duplicate="raise"
    )
    def close(month: str) -> None:
        pass

    task: Any = close
    first = task.delay("2026-11")
    with pytest.raises(DuplicateJob) as error:
        task.delay("2026-11")
    assert error.value.job_id == first.id


def test_the_newest_arguments_may_win(app: Celery) -> None:
    """``on_duplicate="replace_queued"``: as long as the job has not begun."""

    @app.task(
        base=JobTask,
        name="reindex",
        shared=False,
        unique_on=["page"],
        on_duplicate="replace_queued",
    )
    def reindex(page: int, revision: int) -> None:
        pass

    task: Any = reindex
    first = task.apply_async((7, 1), countdown=30)
    assert task.delay(7, 2).id == first.id
    job = first.job()
    assert (job.state, job.message.headers["argsrepr"]) == (State.SCHEDULED, "(7, 2)")
