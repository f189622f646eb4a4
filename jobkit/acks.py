"""Messages of long jobs are acknowledged while they run: the lease holds the job.

A message that stays unacknowledged for the length of a long job comes again:
after Redis's visibility timeout beside the run that goes on, and after
RabbitMQ's consumer timeout by the end of the worker's channel. So does one that
waits behind a long job in the same worker: its record holds it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any

from celery.worker import state

from jobkit import clock
from jobkit.errors import StoreUnavailable
from jobkit.settings import Settings
from jobkit.states import State
from jobkit.store.base import Store

logger = logging.getLogger(__name__)

LOOKED_AHEAD = 300.0
"""Seconds that a message may wait unacknowledged which a worker took ahead to keep
to the order of its queues: long before RabbitMQ's consumer timeout."""

BATCH = 100
"""Messages in one look: a worker may have taken any number ahead."""


class Acknowledger:
    """Acknowledges jobs that have run, or waited here, for ``after`` seconds.

    Those that run must hold their lease. Those that wait are recorded, and due
    ``lease`` seconds after this worker is gone; when they have waited for ``hint``
    seconds, they are published again all the same, for a worker that has time.
    ``kind`` is the class of the requests that are jobs. ``look`` asks the store
    and belongs into a thread; ``acknowledge`` talks to the broker and belongs
    into the worker's own loop.
    """

    def __init__(self, store: Store, settings: Settings, kind: type[Any]) -> None:
        self._store = store
        self._after = settings.ack_after
        self._lease = settings.lease_seconds
        self._hint = settings.hint_seconds
        self._kind = kind
        self._held: frozenset[Any] = frozenset()

    def look(self) -> None:
        """Find out which of the jobs are held by a lease or by their record."""
        # Requests and no ids: another message of the same job may have come since,
        # whose job is due after all that was noted of the first.
        self._held = frozenset(
            request for request in islice(self._long(), BATCH) if self._judge(request)
        )

    def acknowledge(self) -> int:
        """Acknowledge them; how many messages it were."""
        held = self._held
        ready = [r for r in self._long() if r in held and not r.acknowledged]
        for request in ready:
            how = "holds its lease" if request.time_start else "waits in the store"
            logger.info("Job %s %s: message acknowledged", request.id, how)
            request.acknowledge()
        return len(ready)

    def _long(self) -> Iterator[Any]:
        """Jobs that have to be acknowledged, or kept as they wait."""
        now = clock.wall()
        requests = {*state.active_requests, *state.reserved_requests}
        for request in requests:
            if not isinstance(request, self._kind):
                continue
            age = now - (request.time_start or request.received_at)
            waits = not request.time_start and age < self._hint
            if age >= self._limit(request) and (waits or not request.acknowledged):
                yield request

    def _limit(self, request: Any) -> float:
        ahead = hasattr(request, "shelved_at") and not request.time_start
        return max(self._after, LOOKED_AHEAD) if ahead else self._after

    def _judge(self, request: Any) -> bool:
        try:
            return self._is_held(request)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - the others are acknowledged
            logger.warning("Job %s cannot wait in the store: %s", request.id, error)
            return False

    def _is_held(self, request: Any) -> bool:
        job = self._store.get(request.id)
        if request.time_start:
            mine = f"{request.hostname}/{request.worker_pid}"
            return job is not None and (job.state, job.worker) == (State.RUNNING, mine)
        # A dead one is waited for by its dead letter, which somebody moved back.
        if job is None or job.state is State.DEAD:
            request.adopt()
        # Of a job that is not queued, or is due, this takes no note.
        fence = job.fence if job else 0
        self._store.published(request.id, self._lease, ok=False, fence=fence)
        return True
