"""What Flower is told now and then: numbers for Prometheus, and who is how far."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from jobkit.client import Client
from jobkit.errors import JobkitError
from jobkit.flower.reading import Reader
from jobkit.showing import in_words
from jobkit.states import State
from jobkit.store.values import BACKLOG_STATES, Backlog

logger = logging.getLogger(__name__)

EVERY = 3.0
"""Seconds between two looks at the store, whoever looks at Flower."""

FEW, SELDOM = 10_000, 5
"""With more jobs than a few, counting their queues takes the store a while (24 ms for
100,000, measured): it is done at every fifth look."""

NAMED = 200
"""Running jobs whose progress Flower's own pages of tasks show: the latest."""


class Numbers(Collector):
    """The last known numbers, as metrics; it asks nobody.

    Queues and states are its only labels: anybody may read Flower's metrics.
    """

    def __init__(self) -> None:
        self.up = False
        self.counts: Mapping[State, int] = {}
        self.backlog: Sequence[Backlog] = ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metrics now; of a store that is away, only that it is."""
        up = GaugeMetricFamily("jobkit_store_up", "Whether the job store answers")
        up.add_metric([], float(self.up))
        yield up
        if not self.up:
            return
        jobs = GaugeMetricFamily("jobkit_jobs", "Jobs in a state", labels=["state"])
        for state, count in self.counts.items():
            jobs.add_metric([str(state)], count)
        yield jobs
        of_queues = GaugeMetricFamily(
            "jobkit_queue_jobs",
            "Jobs of a queue that are not over, or are dead letters",
            labels=["queue", "state"],
        )
        oldest = GaugeMetricFamily(
            "jobkit_oldest_waiting_seconds",
            "How long the oldest job waits for a worker",
            labels=["queue"],
        )
        for row in self.backlog:
            of_queues.add_metric([row.queue, str(row.state)], row.jobs)
            if row.state is State.QUEUED:
                oldest.add_metric([row.queue], row.oldest)
        yield from (of_queues, oldest)


class Watcher:
    """Looks at the store every few seconds, beside Flower's loop."""

    def __init__(self, client: Callable[[], Client], reader: Reader) -> None:
        self.numbers = Numbers()
        self.progress: Mapping[str, str] = {}
        self._looks = 0
        self._client = client
        self._reader = reader

    async def look(self) -> None:
        """Look once; a store that is away is noted, and no more."""
        try:
            answer = await self._reader.ask("watcher", self._read)
        except JobkitError as error:
            logger.debug("No numbers of jobs: %s", error)
            self.numbers.up = False
            return
        self.numbers.up = not answer.down
        self.numbers.counts, self.numbers.backlog, self.progress = answer.value

    def _read(self) -> tuple[Mapping[State, int], Sequence[Backlog], Mapping[str, str]]:
        client = self._client()
        running = client.list(state=State.RUNNING, limit=NAMED)
        progress = {job.id: in_words(job) for job in running.items}
        counts, backlog = client.counts(), self.numbers.backlog
        many = sum(counts[state] for state in BACKLOG_STATES) > FEW
        if not many or self._looks % SELDOM == 0:
            backlog = client.backlog()
        self._looks += 1
        return counts, backlog, progress

    def tell(self, theirs: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
        """A ``format_task`` that adds a job's progress to what the user's own does."""

        def format_task(task: Any) -> Any:
            if theirs is not None:
                task = theirs(task)
            words = self.progress.get(getattr(task, "uuid", ""))
            if words:
                task.job_progress = words
                task._fields = (*task._fields, "job_progress")
            return task

        return format_task
