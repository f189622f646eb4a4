"""Jobs whose owner is gone are due again, or dead as poison."""

from __future__ import annotations

import logging
from collections.abc import Callable

from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import Released

logger = logging.getLogger(__name__)

BATCH = 100


class Rescue:
    """Takes jobs from owners whose lease has ended; judges by nothing else.

    ``released`` is called with each job that lost its owner.
    """

    def __init__(self, store: Store, released: Callable[[Released], None]) -> None:
        self._store = store
        self._released = released

    def round(self) -> int:
        """Rescue all that can be; how many jobs it were."""
        count = 0
        while jobs := self._store.rescue(BATCH):
            for job in jobs:
                self._tell(job)
            count += len(jobs)
        return count

    def _tell(self, job: Released) -> None:
        if job.state is State.DEAD:
            logger.error("Job %s (%s) is dead: poison", job.id, job.task)
        else:
            logger.warning(
                "Job %s (%s) lost its owner and is %s", job.id, job.task, job.state
            )
        self._released(job)
