"""What the guide needs: an app without any server, and a place to run its jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.signals import before_task_publish

from jobkit import Client, Job, JobKit
from jobkit.store.memory import MemoryStore

Run = Callable[..., Job]


@pytest.fixture
def app() -> Iterator[Celery]:
    """A Celery app; its broker and its store are in this process."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    kit = JobKit(app, store=MemoryStore())
    yield app
    before_task_publish.disconnect(kit._sent_by_name)
    app.close()


@pytest.fixture
def jobs(app: Celery) -> Client:
    """The client of the jobs that ``run`` runs; in a project it is ``kit.jobs``."""
    return Client(app.jobkit.local)  # type: ignore[attr-defined]


@pytest.fixture
def run(jobs: Client) -> Run:
    """Runs a job here and now, until it has ended or waits; its record.

    In a project a worker does it. Called with the job's id it goes on with it.
    """

    def run(task: Any, *args: Any, job_id: str | None = None) -> Job:
        return jobs.get(task.apply(args, task_id=job_id).id)

    return run
