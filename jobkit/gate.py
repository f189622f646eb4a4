"""The gate before the user's code: a run begins, or the message is left alone."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
import uuid
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from celery import states
from celery._state import _task_stack  # type: ignore[attr-defined]
from celery.exceptions import Ignore, Reject

from jobkit import clock, endings, signals
from jobkit.dead_letters import bring_back, death_in
from jobkit.errors import LeaseLost, SchemaError, SettingsError, StoreError
from jobkit.execution import Execution
from jobkit.job import Job, Message
from jobkit.lease import Lease
from jobkit.publishing import ETA, GENERATION, body_of, from_request, without_death
from jobkit.recording import adopt
from jobkit.results import mirror
from jobkit.retry import Budgets
from jobkit.run import Run
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.memory import MemoryStore
from jobkit.store.values import Start

if TYPE_CHECKING:
    from jobkit.task import JobTask

logger = logging.getLogger(__name__)

FOREVER = 1e9
"""Seconds that a run in its caller's own process has: nobody else can take it."""

LINKS = uuid.UUID("0b0a7c39-6c0e-5d52-9d0a-1f8f6f0a2c11")
"""The namespace of the ids of links (UUID version 5)."""

PATIENCE = 0.5
"""Seconds between two tries to reach the store."""


class Gate:
    """The way of one request into the user's code.

    Eager and direct calls pass it too, with a store in this process.
    """

    def __init__(self, task: JobTask) -> None:
        self._task = task
        self._kit = task.kit
        self._request: Any = task.request
        self._request.id = self._request.id or str(uuid.uuid4())
        self._id: str = self._request.id
        self._local = bool(self._request.is_eager or self._request.called_directly)
        self._store: Store = self._choose_store()
        self._death = "" if self._local else death_in(self._request.headers)
        self._sent_at = clock.monotonic()
        self._lease = task.lease_seconds or self._kit.settings.lease_seconds

    def enter(self) -> Execution:
        """Begin the run.

        Raises:
            Ignore: The record says that there is nothing to run now.
            Reject: The store stays out of reach, or refuses; the broker keeps the
                message.
        """
        if not self._local and self._kit.drain.is_set():
            self._leave_to_others()
        start = self._begin()
        if start.job is None:
            self._refuse(start)
        current = self._execute(start.job)
        self._mark(current)
        if start.job.message:  # newer than the one that was delivered
            args, kwargs, _ = body_of(start.job.message)
            current.arguments = args, kwargs
            self._request.args, self._request.kwargs = args, kwargs
        if current.run.misfit:
            current.run.migrate(getattr(self._task, "migrate", _cannot))
        misfit = current.run.misfit
        if misfit:
            with suppress(LeaseLost):  # then the next owner finds the same
                current.interrupt("pause", misfit)
            current.run.ended = True
            current.release()
            raise Ignore(misfit)
        if not self._local:
            self._admit(current)
            if self._task.tells_started:
                told = {"pid": os.getpid(), "hostname": self._request.hostname}
                mirror(self._task, self._request, states.STARTED, told)
        signals.job_started.send(sender=self._task.name, job_id=self._id, job=start.job)
        return current

    def _admit(self, current: Execution) -> None:
        """Take the slots that the task's limits want, or let the job wait for them.

        Raises:
            Ignore: It waits in the store.
            SettingsError: An argument of the job is not fit for a limit.
        """
        try:
            claims = self._task.claims(self._request.args, self._request.kwargs)
        except SettingsError as error:
            endings.failed(current, error)
            raise
        if not claims:
            return
        lease, turns, sent_at = current.run.lease, self._kit.turns, clock.monotonic()
        with suppress(LeaseLost):  # then the next owner is judged
            standing = current.run.insist(
                lambda: turns.take(self._id, lease.fence, claims, lease.seconds)
            )
            if standing == "held":
                current.claims = claims
                lease.hold_slots(sent_at)
                return
            keys = ", ".join(claim.key for claim in claims)
            if current.interrupt("block", keys) is not State.BLOCKED:
                turns.give_back(self._id, 0)  # it was cancelled or paused meanwhile
        current.run.ended = True
        current.release()
        raise Ignore("it waits for a limit")

    def _leave_to_others(self) -> NoReturn:
        """Have the job published again at once, for a worker that stays."""
        try:
            if self._death:
                self._come_back()
            self._adopt()
            self._store.published(self._id, 0, ok=False)
        except StoreError as error:
            raise Reject(error, requeue=True) from error
        raise Ignore("the worker is shutting down")

    def _mark(self, current: Execution) -> None:
        request = self._request
        headers = request.headers
        # A copy of a request takes what it does not know for a header, but only
        # where headers are None.
        if headers is None:
            request.headers = {}
        elif isinstance(headers, dict):
            request.eta = headers.get(ETA, request.eta)
            kept = without_death(headers)
            request.headers = {k: v for k, v in kept.items() if k != ETA}
        job = current.run.job
        if job.replays:
            # Celery counts in the message, which is the one of before the replay.
            request.retries = Budgets.decode(job.budgets).own
        if not self._local:
            self._name_links(job)
        request.jobkit_execution = current

    def _name_links(self, job: Job) -> None:
        """Give the tasks that are enqueued after this one the same ids in each run.

        A run that could not store its result goes through its end again.
        """
        links = self._request.callbacks
        if not links:
            return
        tasks, life = self._kit.app.tasks, f"{job.created_at.timestamp()}:{job.replays}"
        for place, link in enumerate(links):
            # Of a chain or group Celery knows them; one with a unique key is one.
            is_one = getattr(tasks.get(link.get("task")), "uniqueness", None)
            if not (link.get("subtask_type") or is_one):
                made = uuid.uuid5(LINKS, f"{self._id}:{job.task}:{life}:{place}")
                link.setdefault("options", {}).setdefault("task_id", str(made))

    def _choose_store(self) -> Store:
        if self._request.called_directly:
            return MemoryStore()  # nobody asks for it again
        return self._kit.local if self._local else self._kit.store

    def _begin(self) -> Start:
        token = os.urandom(16).hex()
        worker = f"{self._request.hostname or socket.gethostname()}/{os.getpid()}"
        deadline = clock.monotonic() + self._lease / 3
        while True:
            try:
                return self._try_to_begin(token, worker)
            except SchemaError as error:
                # Its hint comes again, and a newer worker may take it.
                logger.error("Job %s is not started: %s", self._id, error)  # noqa: TRY400
                raise Ignore(str(error)) from error
            except StoreError as error:
                if clock.monotonic() > deadline:
                    # Back to the broker: nobody else may know of this message.
                    raise Reject(error, requeue=True) from error
                logger.warning("Job %s cannot begin yet: %s", self._id, error)
                time.sleep(PATIENCE)

    def _try_to_begin(self, token: str, worker: str) -> Start:
        if self._death:
            self._come_back()
        self._sent_at = clock.monotonic()
        begin = partial(self._store.begin, self._id, token, worker, self._lease)
        task = "" if self._local else self._task.name
        generation = (self._request.headers or {}).get(GENERATION, "")
        start = begin(task=task, generation=generation)
        # An eager run that has ended is over for everybody, and its id is free.
        free = ("unknown", "finished") if self._local else ("unknown",)
        if start.outcome in free:
            self._adopt()
        elif start.outcome == "not_due" and self._local:
            self._store.claim_due(sys.maxsize, self._lease)
        else:
            return start
        return begin(task=task)

    def _come_back(self) -> None:
        """Replay a job whose dead letter somebody moved back to a queue."""
        if bring_back(self._store, self._id, self._death) is False:
            logger.info("Job %s is not started: a stale dead letter", self._id)
            raise Ignore("a stale dead letter")
        self._death = ""

    def _adopt(self) -> None:
        """Record a job whose message was published without jobkit's knowing."""
        task = self._task
        if self._local:
            message = Message(task.name, b"", "application/json", "utf-8")
        else:
            message = from_request(task.app, task, self._request)
        adopt(self._store, task, self._id, message, again=self._local)

    def _refuse(self, start: Start) -> NoReturn:
        if start.outcome == "cancelled":
            self._task.backend.mark_as_revoked(
                self._id, "cancelled", request=self._request
            )
            with suppress(StoreError):  # then it is told once more
                self._store.told(self._id)
        if start.outcome in ("cancelled", "paused") and self._may_wait():
            self._kit.turns.give_back(self._id, 0)
        logger.info("Job %s is not started: %s", self._id, start.outcome)
        raise Ignore(f"not started: {start.outcome}")

    def _may_wait(self) -> bool:
        """Whether the job may have a place in the line of a limit."""
        with suppress(SettingsError):
            request = self._request
            return not self._local and bool(
                self._task.claims(request.args, request.kwargs)
            )
        return False

    def _execute(self, job: Job) -> Execution:
        task, settings = self._task, self._kit.settings
        interval = task.checkpoint_interval or settings.checkpoint_interval
        seconds = FOREVER if self._local else self._lease
        lease = Lease(
            self._store, job.id, job.fence, seconds, interval, sent_at=self._sent_at
        )
        every = task.checkpoint_every or settings.checkpoint_every
        run = Run(
            *(job, lease, task.plan),
            checkpoint_every=every,
            skipping=task.skipping,
        )
        current = Execution(
            *(self._kit, task, self._request, run),
            *(self._store, task.policy, self._local),
        )
        run.listener = current.progressed
        run.enter = partial(_enter, task, self._request)
        if not self._local:
            lease.slice = self._kit.slice_in(job.queue)
            self._kit.keeper.keep(lease)
        return current


def _cannot(_: object) -> None:
    """A task without stages has none to fit."""


def _enter(task: JobTask, request: Any) -> None:
    """Make a thread that works for a task see its request, as the task's own does."""
    _task_stack.push(task)
    task.request_stack.push(request)
