"""Messages of jobs, delivered as a child of a worker does, without a worker."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.app.trace import build_tracer

from jobkit import Job, JobKit
from jobkit.dispatcher import Dispatcher
from jobkit.job import Message
from jobkit.publishing import to_context

HOST = "w1@here"


def kit_of(app: Any) -> JobKit:
    kit: JobKit = app.jobkit
    return kit


def deliver(app: Celery, message: Message | None) -> None:
    """Run a message as a child of a worker does."""
    assert message
    request: Any = to_context(message)
    embed = {name: getattr(request, name) for name in ("callbacks", "chord", "chain")}
    where = {
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "priority": message.properties.get("priority"),
    }
    sent = {
        **message.headers,
        **message.properties,
        **embed,
        "errbacks": request.errbacks,
        "hostname": HOST,
        "delivery_info": where,
    }
    task = app.tasks[message.task]
    trace = build_tracer(task.name, task, app=app)
    trace(request.id, request.args, request.kwargs, sent)
    assert not kit_of(app).keeper._leases or request.id in running


running: set[str] = set()
"""Jobs in whose bodies a test is: their leases are kept."""


def run(app: Celery, job_id: str) -> Job:
    """Deliver the kept message of a job; the record after it."""
    deliver(app, record(app, job_id).message)
    return record(app, job_id)


def record(app: Celery, job_id: str) -> Job:
    return kit_of(app).jobs.get(job_id)


def state_of(app: Celery, job_id: str) -> str:
    """What readers of the result backend see."""
    return str(app.AsyncResult(job_id).state)


def again(app: Celery) -> int:
    """Run all that is due now, as the dispatcher and a worker do."""
    dispatcher = Dispatcher(
        kit_of(app).store, lambda message: deliver(app, message), 300.0, ()
    )
    return dispatcher.round()


def names(app: Celery, job_id: str) -> list[str]:
    return [event.name for event in kit_of(app).jobs.history(job_id)]
