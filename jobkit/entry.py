"""How a job enters: its message is caught, recorded, and published."""

from __future__ import annotations

import logging
import struct
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.utils.time import maybe_make_aware
from kombu.exceptions import EncodeError

from jobkit import clock, execution, results, signals
from jobkit.errors import DuplicateJob, StoreError, StoreUnavailable
from jobkit.execution import Execution, Resend
from jobkit.job import Message, NewJob, Unique
from jobkit.publishing import ETA, GENERATION, Publish, broker_errors
from jobkit.recording import record, unique_of
from jobkit.states import State
from jobkit.store.slots import Claim
from jobkit.store.values import DUPLICATE, Entered

if TYPE_CHECKING:
    from jobkit.task import JobTask

logger = logging.getLogger(__name__)

KEYS = uuid.UUID("6f0b4a1e-4f0c-5a63-9d3e-3d5b4a6c1c57")
"""The namespace in which an idempotency key becomes a job's id (UUID version 5)."""

UNCONFIRMED = 30.0
"""Seconds after which a job with a key is published, if its producer died before.

Nobody else gets the key meanwhile. Without one it is published when its hint is due.
"""

UNFIT = (TypeError, ValueError, EncodeError, struct.error)
"""What a message is refused with that cannot be written down as a broker's are."""

NOT_PUBLISHED = "not published"
"""How the reason of a record begins whose message was refused."""

ENDING = 0.5
"""Seconds by which a record may end after the result that its caller waited for."""

ENTERING: ContextVar[str] = ContextVar("jobkit_entering", default="")
"""The id of the job whose message this context is about to publish."""


def asked(
    task: JobTask, args: Any, kwargs: Any, serializer: str | None, *, known: bool
) -> Unique | None:
    """The unique key that a call asks for.

    An id that is ``known`` already may be waited for, as those of chains and chords
    are: a duplicate gets a record under it that has ended.
    """
    unique = unique_of(task, args, kwargs, serializer)
    if unique and known and not is_strict(task):
        return replace(unique, on_held="cancel")
    return unique


def is_strict(task: JobTask) -> bool:
    """Whether a duplicate raises: not where Celery calls back after a task.

    It would take that for a failure of the task, which has succeeded.
    """
    current = execution.current()
    calls_back = current is not None and current.through
    rule = task.uniqueness
    return rule is not None and rule.on_duplicate == "raise" and not calls_back


class Entry:
    """What becomes of the message of one ``apply_async``."""

    def __init__(
        self,
        task: JobTask,
        job_id: str,
        owner: str,
        delay: float | None,
        producer: Any,
        unique: Unique | None,
        *,
        once: bool,
    ) -> None:
        self.there = job_id
        self.existing = False
        self._unique = unique
        self.claims: tuple[Claim, ...] = ()
        self._once = once
        self._task = task
        self._has_key = once or unique is not None
        self._id = job_id
        self._owner = owner
        self._delay = delay
        self._producer = producer

    def decide(self, message: Message, publish: Publish) -> None:
        """Record and publish; or hand it to the run that it comes from."""
        current = execution.current()
        if current is None or not self._comes_from(current):
            self._enqueue(message, publish)
        elif current.retrying:
            current.resend = Resend(message, self._delay or 0.0)
        else:
            new = self._task.new_job(self._id, message)
            if current.replaced_by(new, self._delay) and not self._delay:
                self._publish(publish)

    def _comes_from(self, current: Execution) -> bool:
        at_its_end = current.local or current.run.ended
        return current.id == self._id and not at_its_end

    def _enqueue(self, message: Message, publish: Publish) -> None:
        job = self._task.new_job(self._id, message, self._owner, self._delay)
        # As in Celery, an id may be used again; an idempotency key may not.
        again = not self._once and may_repeat()
        blocked = bool(self.claims) and not self._delay
        job = replace(job, again=again, unique=self._unique, blocked=blocked)
        entered = self._record(job)
        if not entered and self._came_to_nothing(entered.id):
            entered = self._record(replace(job, again=True))
        if not entered:
            self.existing, self.there = True, entered.id
            self._yield_to(entered.id)
            return
        signals.job_queued.send(sender=job.task, job_id=job.id, delay=self._delay)
        if not self._delay and (not blocked or self._is_let_go()):
            self._publish(publish)

    def _is_let_go(self) -> bool:
        """Whether its limits let the job go now; else it waits in the store."""
        turns, current = self._task.kit.turns, execution.current()

        def line_up() -> bool:
            return turns.line_up(self._id, self.claims, self._first_hint)

        return current.hand_on(line_up) if current else line_up()

    def _record(self, job: NewJob) -> Entered:
        store, token = self._task.kit.store, uuid.uuid4().hex
        enter = partial(record, store, self._task, job, token, self._first_hint)
        deadline = clock.monotonic() + ENDING
        current = execution.current()
        while not (entered := current.hand_on(enter) if current else enter()):
            over = clock.monotonic() > deadline or entered.id != job.id
            if over or not (job.again and results.is_there(self._task, job.id)):
                break
            time.sleep(ENDING / 20)
        return entered

    def _came_to_nothing(self, there: str) -> bool:
        """Whether an earlier call with the same key raised as no broker took it."""
        if not self._once or there != self._id:
            return False
        job = self._task.kit.store.get(there)
        return job is not None and (
            job.state is State.CANCELLED and job.reason.startswith(NOT_PUBLISHED)
        )

    def _yield_to(self, there: str) -> None:
        """Nothing is published: the job is there, or another one has its key."""
        logger.info("Job %s is there already: nothing is enqueued", there)
        if there == self._id or self._unique is None:
            return
        if self._unique.on_held == "cancel":
            # It is recorded as cancelled. If this does not tell, a worker will.
            with suppress(Exception):
                self._task.kit.tell_cancelled(self._id, DUPLICATE + there)
        elif is_strict(self._task):
            raise DuplicateJob(f"A job of {self._task.name!r}", there)

    @property
    def _first_hint(self) -> float:
        hint = self._task.kit.settings.hint_seconds
        return min(hint, UNCONFIRMED) if self._has_key else hint

    def _publish(self, publish: Publish) -> None:
        kit = self._task.kit
        try:
            publish()
        except broker_errors(self._producer.connection) as error:
            logger.warning(
                "Job %s is recorded, but not published yet: %s", self._id, error
            )
            try:
                kit.store.published(self._id, 0, ok=False)
            except StoreUnavailable:
                logger.warning("Job %s is published when its hint is due", self._id)
            return
        except UNFIT as error:
            # No broker would ever take it, and the caller is told so.
            with suppress(Exception):
                kit.jobs.cancel(self._id, reason=f"{NOT_PUBLISHED}: {error}")
            raise
        if self._has_key:
            # If this is not told, a second message comes, and does no harm.
            with suppress(StoreError):
                hint = kit.settings.hint_seconds
                kit.store.published(self._id, hint, hints=0, fence=0)


def may_repeat() -> bool:
    """Whether what is enqueued now may give a finished job's id a second life.

    Not from a run that is not its job's first: the one before it may have
    enqueued the same already, its links and children with ids of their own.
    """
    current = execution.current()
    if current is None:
        return True
    job = current.run.job
    before = (job.attempts, job.recoveries, job.interruptions, job.rate_limited)
    return not any(before) and not current.run.lease.lost


def with_eta(
    app: Celery, headers: Mapping[str, Any] | None, delay: float | None
) -> dict[str, Any]:
    """The headers, with the time that a delayed job will tell as its ``eta``."""
    ours = (ETA, GENERATION)
    kept = {name: value for name, value in (headers or {}).items() if name not in ours}
    if delay:
        kept[ETA] = (app.now() + timedelta(seconds=delay)).isoformat()
    return kept


def delay_of(app: Celery, countdown: float | None, eta: Any) -> float | None:
    """Seconds to wait, or None."""
    delay = 0.0
    if countdown:
        delay = float(countdown)
    elif eta:
        moment = clock.parse(eta) if isinstance(eta, str) else eta
        delay = clock.seconds_until(maybe_make_aware(moment, app.timezone))
    # The store knows milliseconds; less is now.
    return delay if delay >= 0.001 else None  # noqa: PLR2004
