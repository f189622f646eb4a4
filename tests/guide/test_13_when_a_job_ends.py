from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from jobkit import JobTask
from jobkit.signals import job_cancelled, job_succeeded


@pytest.fixture
def report(app: Celery) -> Any:
    @app.task(base=JobTask, name="shop.report", shared=False)
    def report() -> None:
        pass

    return report


@pytest.fixture
def mail(app: Celery) -> Any:
    @app.task(base=JobTask, name="shop.mail", shared=False)
    def mail(job_id: str) -> None:
        pass

    return mail


def test_an_end_is_told_with_an_id_to_know_it_by(report: Any) -> None:
    """``jobkit.signals`` are Celery's own kind; the sender is the task's name.

    An end may be told twice, when a process dies while it tells it: with one
    ``event_id``.
    """
    told: list[tuple[str, str]] = []

    @job_succeeded.connect(sender="shop.report")
    def note(job_id: str, event_id: str, **_: Any) -> None:
        told.append((job_id, event_id))

    report.apply(task_id="march")

    ((job_id, event_id),) = told
    assert job_id == "march"
    assert event_id.startswith("march:")


def test_what_has_to_be_done_at_an_end_is_a_job_with_its_id(
    app: Celery, report: Any, mail: Any
) -> None:
    """So it is done once, is not lost, and no worker waits for it."""
    events: list[str] = []

    @job_cancelled.connect(sender="shop.report")
    def enqueue(job_id: str, event_id: str, **_: Any) -> None:
        mail.apply_async((job_id,), idempotency_key=event_id)
        events.append(event_id)

    result = report.delay()
    result.cancel(reason="wrong month", actor="ada")
    job_cancelled.send(  # as a worker does when it does not know that it was told
        sender="shop.report", job_id=result.id, event_id=events[0], reason="wrong month"
    )

    jobs = app.jobkit.jobs  # type: ignore[attr-defined]
    assert (len(events), len(jobs.list(task="shop.mail").items)) == (2, 1)
