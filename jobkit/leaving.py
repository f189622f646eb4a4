"""What becomes of the jobs in a worker's hands when it shuts down."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from celery.worker import state

from jobkit.checkpoint import Checkpoint
from jobkit.errors import JobkitError
from jobkit.job import Job
from jobkit.states import State
from jobkit.store.base import Store

logger = logging.getLogger(__name__)

LAST_FETCH = 1.2
"""Seconds by which the last BRPOP of a leaving worker, one second long, is over."""

DEAF_AFTER = 3.0
"""Seconds after which a job that has not stopped is named; before most grace ends."""


class Leaving:
    """Hands over what was not begun, and names the jobs that do not stop.

    Nobody can say which ending of the worker is the last, so jobs are named while
    it still waits for them. ``kind`` is the class of the requests that are jobs.
    """

    def __init__(self, open_store: Callable[[], Store], kind: type[Any]) -> None:
        self._open_store = open_store
        self._kind = kind
        self._held: dict[str, Any] = {}

    def note(self) -> None:
        """Take down what the worker holds; a cold shutdown lets go of it next."""
        for request in tuple(state.requests.values()):
            if isinstance(request, self._kind):
                self._held[request.id] = request

    def watch(self) -> None:
        """See to the jobs that were noted, now that the worker shuts down."""
        if not self._held:
            return
        store = self._open_store()
        try:
            self._hand_over(store)
            # A message that its last fetch took is not read any more.
            time.sleep(LAST_FETCH)
            self.note()
            self._hand_over(store)
            time.sleep(DEAF_AFTER - LAST_FETCH)
            for request in tuple(self._held.values()):
                self._name_if_deaf(store, request)
        finally:
            store.close()

    def _hand_over(self, store: Store) -> None:
        """Have those that wait for a worker published at once: for another one."""
        try:
            for job_id in tuple(self._held):
                store.published(job_id, 0, ok=False)
        except JobkitError as trouble:
            logger.warning("Jobs go back when this worker has ended: %s", trouble)

    def _name_if_deaf(self, store: Store, request: Any) -> None:
        try:
            job = store.get(request.id)
            saved = _last_saved(job) if job and _runs_here(job, request) else ""
        except JobkitError as trouble:
            here = request in state.active_requests
            saved = f"not known, {trouble}" if here else ""
        if saved:
            logger.warning(
                "Job %s has not stopped for the shutdown within %.0f s. If this worker "
                "ends first, another one goes on from its last checkpoint: %s",
                *(request.id, DEAF_AFTER, saved),
            )


def _runs_here(job: Job, request: Any) -> bool:
    worker, _, _ = job.worker.rpartition("/")
    return job.state is State.RUNNING and worker == request.hostname


def _last_saved(job: Job) -> str:
    stages = Checkpoint.decode(job.checkpoint).stages
    if not stages:
        return "none"
    name, saved = list(stages.items())[-1]
    return f"stage {name!r}, cursor {saved.cursor}, {saved.current} items"
