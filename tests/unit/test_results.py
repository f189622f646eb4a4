"""Old readers of the result backend see a job's progress in their own words."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context

from jobkit import JobKit, Progress, ProgressTask, clock
from jobkit.backend import _Blind
from jobkit.job import Job, Message
from jobkit.results import (
    announce_cancelled,
    announce_dead,
    forget_progress,
    meta,
    mirror,
)
from jobkit.store.memory import MemoryStore
from jobkit.views import seen_as
from tests.unit.conftest import NOWHERE, MakeApp

HALF = Progress(
    current=5,
    total=10,
    percent=50.0,
    rate=2.0,
    eta_seconds=2.5,
    message="page 1",
    stage="import",
    stage_index=1,
    stage_count=3,
    ok=4,
    failed=1,
)


@pytest.fixture
def app(make_app: MakeApp) -> Celery:
    app = make_app(broker_url="memory://", result_backend="cache+memory://")
    JobKit(app, store=MemoryStore())
    return app


@pytest.fixture
def task(app: Celery) -> Any:
    @app.task(base=ProgressTask, name="sync", shared=False)
    def sync() -> None:
        pass

    return sync


def test_progress_has_the_keys_of_celery_progress_and_ours() -> None:
    assert meta(HALF) == {
        "pending": False,
        "current": 5,
        "total": 10,
        "percent": 50.0,
        "description": "page 1",
        "message": "page 1",
        "stage": "import",
        "stage_index": 1,
        "stage_count": 3,
        "rate": 2.0,
        "eta_seconds": 2.5,
        "ok": 4,
        "failed": 1,
        "skipped": 0,
    }


def test_a_bar_that_needs_numbers_gets_numbers() -> None:
    unknown = meta(Progress(current=7, stage="import"))

    assert (unknown["current"], unknown["total"], unknown["percent"]) == (7, 7, 0)
    assert unknown["description"] == "import"
    assert meta(Progress())["description"] == ""


def request(**fields: Any) -> Any:
    return Context({"id": "j", "called_directly": False, **fields})


def test_progress_is_shown_and_forgotten_again(app: Celery, task: Any) -> None:
    mirror(task, request(), "PROGRESS", meta(HALF))
    result: Any = app.AsyncResult("j")
    assert (result.state, result.info["percent"]) == ("PROGRESS", 50.0)

    forget_progress(task, request())

    assert app.AsyncResult("j").state == "PENDING"


@pytest.mark.parametrize(
    "fields", [{"is_eager": True}, {"called_directly": True}, {"ignore_result": True}]
)
def test_nobody_is_told_of_a_run_that_has_no_result(
    app: Celery, task: Any, fields: dict[str, Any]
) -> None:
    mirror(task, request(**fields), "PROGRESS", meta(HALF))

    assert app.AsyncResult("j").state == "PENDING"


def test_a_backend_that_refuses_is_only_logged(
    app: Celery, task: Any, caplog: pytest.LogCaptureFixture
) -> None:
    mirror(task, request(), "PROGRESS", {"no": object()})

    assert "Result backend did not take PROGRESS" in caplog.text
    assert app.AsyncResult("j").state == "PENDING"


def test_an_end_outside_of_a_run_is_told(app: Celery, task: Any) -> None:
    job: Job = task.delay().job()

    announce_cancelled(app, job, "")
    result: Any = app.AsyncResult(job.id)
    assert result.state == "REVOKED"

    other: Job = task.delay().job()
    announce_dead(app, other, RuntimeError("poison"))
    result = app.AsyncResult(other.id)
    assert (result.state, str(result.result)) == ("FAILURE", "poison")


def test_a_record_without_its_message_tells_nobody(app: Celery, task: Any) -> None:
    job_id = task.delay().id
    listed = app.jobkit.jobs.list().items[0]  # type: ignore[attr-defined]
    assert isinstance(listed, Job)
    assert not isinstance(listed.message, Message)

    announce_cancelled(app, listed, "no")
    announce_dead(app, listed, RuntimeError("no"))

    assert app.AsyncResult(job_id).state == "PENDING"


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's
def test_a_backend_that_is_away_is_not_waited_for(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(result_backend=NOWHERE)
    JobKit(app, store=MemoryStore())

    @app.task(base=ProgressTask, bind=True, name="t", shared=False)
    def task(_: Any) -> None:
        pass

    task.backend = seen_as(_Blind, app.backend)  # as a first run has it
    began = clock.monotonic()
    assert mirror(task, request(), "PROGRESS") is False

    assert "Connection refused" in caplog.text
    assert clock.monotonic() - began < 2  # Celery's own twenty tries take 20 s


@pytest.mark.parametrize("own", [True, False])
def test_a_class_says_by_itself_whether_it_is_started(
    app: Celery, *, own: bool
) -> None:
    class Told(ProgressTask):
        name = "told"
        track_started = True

        def run(self) -> None:
            pass

    class Child(Told):
        name = "child"
        track_started = own

    for kind in (Told, Child, Told, Child):
        kind.bind(app)

    assert (Told.tells_started, Child.tells_started) == (True, own)
    assert (Told.track_started, Child.track_started) == (False, False)
