from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from jobkit import JobTask, State


@pytest.fixture
def mail(app: Celery) -> Any:
    @app.task(base=JobTask, name="shop.mail", shared=False)
    def mail(address: str) -> None:
        pass

    return mail


def test_a_job_can_be_enqueued_once_only(mail: Any) -> None:
    """An ``idempotency_key`` makes the job's id: a second call gets the same job."""
    first = mail.apply_async(("ana@shop",), idempotency_key="welcome ana", owner="acme")
    again = mail.apply_async(("ana@shop",), idempotency_key="welcome ana", owner="acme")

    assert first.id == again.id
    assert (first.existing, again.existing) == (False, True)
    assert first.job().owner == "acme"


def test_what_happens_to_a_job_can_be_watched(mail: Any) -> None:
    """``watch`` tells first how a job stands, and then each thing that happens.

    It ends with the job. ``history`` has the same afterwards.
    """
    result = mail.delay("ana@shop")
    events = result.watch()
    assert (next(events).name, result.job().state) == ("now", State.QUEUED)

    result.cancel(reason="she left", actor="bob")

    assert [(event.name, event.detail) for event in events] == [
        ("cancelled", "bob: she left")
    ]
    history = mail.kit.jobs.history(result.id)
    assert [event.name for event in history] == ["queued", "cancelled"]
