"""Messages of long jobs are acknowledged while they run: the lease holds the job.

A message that stays unacknowledged for the length of a long job comes again:
after Redis's visibility timeout beside the run that goes on, and after
RabbitMQ's consumer timeout by the end of the worker's channel.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from celery.worker import state

from jobkit import clock
from jobkit.states import State
from jobkit.store.base import Store

logger = logging.getLogger(__name__)


class Acknowledger:
    """Acknowledges jobs that have run for ``after`` seconds and hold their lease.

    ``kind`` is the class of the requests that are jobs. ``look`` asks the store and
    belongs into a thread; ``acknowledge`` talks to the broker and belongs into the
    worker's own loop.
    """

    def __init__(self, store: Store, after: float, kind: type[Any]) -> None:
        self._store = store
        self._after = after
        self._kind = kind
        self._leased: frozenset[str] = frozenset()

    def look(self) -> None:
        """Find out which of the long jobs hold their lease here."""
        self._leased = frozenset(
            request.id for request in self._long() if self._is_leased(request)
        )

    def acknowledge(self) -> int:
        """Acknowledge them; how many messages it were."""
        leased = self._leased
        ready = [request for request in self._long() if request.id in leased]
        for request in ready:
            logger.info("Job %s holds its lease: message acknowledged", request.id)
            request.acknowledge()
        return len(ready)

    def _long(self) -> Iterator[Any]:
        begun_by = clock.wall() - self._after
        requests: tuple[Any, ...] = tuple(state.active_requests)
        for request in requests:
            is_open = isinstance(request, self._kind) and not request.acknowledged
            if is_open and request.time_start and request.time_start <= begun_by:
                yield request

    def _is_leased(self, request: Any) -> bool:
        job = self._store.get(request.id)
        if job is None or job.state is not State.RUNNING:
            return False
        return job.worker == f"{request.hostname}/{request.worker_pid}"
