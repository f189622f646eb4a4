"""One execution of a task by Celery: its run, and what is written of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from celery import Task
from celery._state import _task_stack  # type: ignore[attr-defined]
from celery.exceptions import Ignore
from celery.signals import task_success

from jobkit import clock, ends, signals
from jobkit.errors import (
    LeaseLost,
    StoreError,
    StoreUnavailable,
)
from jobkit.job import Message, NewJob, Progress
from jobkit.results import forget_progress, meta, mirror
from jobkit.retry import RetryPolicy
from jobkit.run import Run
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.slots import Claim
from jobkit.store.values import REPLACED, Failure, InterruptKind, Result

if TYPE_CHECKING:
    from jobkit.kit import JobKit

logger = logging.getLogger(__name__)

T = TypeVar("T")

BACKEND_REST = 30.0
"""Seconds without progress to a backend that did not take it: the body waits for it."""

REPLACE_GRACE = 10.0
"""Seconds within which a replacement is published before it is taken for lost."""


@dataclass(slots=True)
class Resend:
    """What ``self.retry`` asked for: the next message and how long to wait."""

    message: Message
    delay: float


@dataclass(slots=True, eq=False)
class Execution:
    """A run, with what Celery and the task's policy have to say about its end."""

    kit: JobKit
    task: Any
    request: Any
    run: Run
    store: Store
    policy: RetryPolicy
    local: bool
    entered: bool = False
    through: bool = False
    retrying: bool = False
    replacing: bool = False
    resend: Resend | None = None
    given_up: BaseException | None = None
    stored: bool = False
    shown: bool = False
    failure: Failure | None = None
    reason: str = ""
    claims: tuple[Claim, ...] = ()
    mirrored: float = 0.0
    arguments: tuple[Any, Any] | None = None
    untold: bool = False
    done: State | None = None

    @property
    def id(self) -> str:
        """The job's id."""
        return self.run.job.id

    @property
    def alone(self) -> bool:
        """Whether no result of the job can be in the backend but this run's.

        So it is for the first run, until another one may begin: when this one has
        lost its lease, or waits for a retry.
        """
        run = self.run
        first = run.lease.fence == 1 and not (self.local or self.shown)
        return first and not (run.ended or run.lease.lost)

    # -- while it runs --------------------------------------------------------

    def progressed(self, progress: Progress) -> None:
        """Pass progress on: to receivers, and now and then to the backend."""
        signals.job_progressed.send(
            sender=self.task.name, job_id=self.id, progress=progress
        )
        every = self.kit.settings.mirror_interval
        now = clock.monotonic()
        if every and now - self.mirrored >= every:
            shown = meta(progress, self.run.saved.floor)
            taken = mirror(self.task, self.request, "PROGRESS", shown)
            self.mirrored = clock.monotonic() + (0.0 if taken else BACKEND_REST)

    def replaced_by(self, new: NewJob, delay: float | None = None) -> bool:
        """Hand the job's id over to another task; False if it is not ours.

        With a ``delay`` its message is published by a worker after that time.
        """
        run = self.run
        due = delay or REPLACE_GRACE
        state = run.insist(
            lambda: self.store.replace(self.id, run.lease.fence, new, due)
        )
        self.end()
        return state is State.QUEUED

    def cede(self) -> None:
        """Free the id for the last of the tasks that are to replace this one.

        They may be through before this run has ended.
        """
        run = self.run
        if not run.insist(lambda: self.store.cede(self.id, run.lease.fence)):
            self.gone()

    def hand_on(self, write: Callable[[], T]) -> T:
        """Make the write that enqueues another job from within this run.

        When the body is through, it is a callback: there is nobody who would try
        again, and Celery gives a chord up whose body cannot be enqueued at once.

        Raises:
            StoreUnavailable: At once in the body, which may see to it; else when the
                store stayed out of reach for as long as the lease held.
        """
        if self.local or self.run.ended or not self.through:
            return write()
        try:
            return self.run.insist(write)
        except LeaseLost as lost:
            # Celery knows nothing of interruptions where it calls callbacks.
            raise StoreUnavailable(f"Nothing was enqueued: {lost}.") from lost

    def confirm(self) -> None:
        """Make sure that an error is the owner's before Celery hears of it."""
        run, lease = self.run, self.run.lease
        if self.local:
            return
        kept = run.insist(lambda: self.store.renew(self.id, lease.fence, lease.seconds))
        if not kept.owner or lease.lost:
            raise LeaseLost("at an error")

    # -- its end ----------------------------------------------------------------

    def interrupt(self, kind: InterruptKind, reason: str = "") -> State:
        """Give the job back without an error; Celery has to be told by the caller."""
        run = self.run
        state = run.insist(
            lambda: self.store.interrupt(self.id, run.lease.fence, kind, reason)
        )
        self.end(state)
        if state is None:
            self.gone()
        self.stopped(state)
        return state

    def retry(self, failure: Failure, delay: float, message: str | None) -> None:
        """Let the job wait for its next try; raises Ignore if it has to stop."""
        run = self.run
        wait = 0.0 if self.local else delay
        state = run.insist(
            lambda: self.store.retry(self.id, run.lease.fence, failure, wait, message)
        )
        self.end()
        if state is None:
            self.gone()
        if state is not State.RETRYING:
            self.stopped(state)
            raise Ignore(f"{state} instead of a retry")

    def succeed(self, reason: str = "") -> None:
        """SUCCEEDED or PARTIAL, or what the store says."""
        # Another task goes on with its id: that one's end is the job's.
        over = reason != REPLACED
        tell = over and ends.heard(State.SUCCEEDED, State.PARTIAL)
        done = self.done or self._succeed(reason, tell=tell)
        self.end()
        if done is None:
            self.gone()
        if tell:
            ends.tell(self.store, self.id, done)

    def _succeed(
        self, reason: str = "", *, tell: bool, result: Result | None = None
    ) -> State | None:
        run, snapshot = self.run, self.run.final()
        return run.insist(
            lambda: self.store.succeed(
                *(self.id, run.lease.fence, snapshot, reason),
                tell=tell,
                result=result,
            )
        )

    def may_end_at(self, options: Mapping[str, Any]) -> bool:
        """Whether the store can end the job and write its result to that server.

        Not where something comes after the result: a chord has to count it, and a
        hook of the user's would not be called again if this process died before it.
        """
        run, kit = self.run, self.kit
        over = self.through and not (run.ended or self.resend)
        last = not (self.request.chord or _is_called_after(self.task))
        return over and last and kit.ends_with_results and self.store.is_at(options)

    def succeed_with(self, result: Result) -> bool:
        """End well, and store the result in the same step; False if the store may not.

        A run that has lost its job stores none: the next one will.
        """
        tell = ends.heard(State.SUCCEEDED, State.PARTIAL)
        try:
            self.done = self._succeed(tell=tell, result=result)
        except LeaseLost:
            with suppress(Ignore):  # Celery takes it for an error here
                self.gone()
        except StoreError as error:
            self.kit.ends_with_results = False
            logger.warning(
                "Results are stored apart from the ends of jobs, which costs a round "
                "trip each: jobkit_store_url may not write to the result backend: %s",
                error,
            )
            return False
        return True

    def bury(self, failure: Failure, reason: str) -> None:
        """DEAD, with the error that it ended with."""
        run = self.run
        tell = ends.heard(State.DEAD)
        done = run.insist(
            lambda: self.store.bury(
                self.id, run.lease.fence, failure, reason, tell=tell
            )
        )
        self.end()
        if not done:
            self.gone()
        ends.tell(self.store, self.id, State.DEAD)

    # -- and after it -----------------------------------------------------------

    def release(self) -> None:
        """Let the keeper forget the lease."""
        if not self.local:
            self.kit.keeper.release(self.run.lease)

    def stopped(self, state: State) -> None:
        """Tell Celery and receivers of a stop that is no error."""
        if state is State.CANCELLED:
            asked = self.run.lease.request
            reason = asked.reason if asked else ""
            if not self.local:
                self._tell_cancelled(reason)
            ends.tell(self.store, self.id, State.CANCELLED)
        else:
            forget_progress(self.task, self.request)

    def _tell_cancelled(self, reason: str) -> None:
        try:
            self.task.backend.mark_as_revoked(
                self.id, reason or "cancelled", request=self.request
            )
        except Exception as error:  # noqa: BLE001 - any backend, any error
            self.untold = True  # a worker's round tells it
            logger.warning("Celery hears later that job %s ended: %r", self.id, error)
        else:
            self.celery_knows()

    def celery_knows(self) -> None:
        """Note that Celery was told of the end."""
        if not (self.local or self.untold):
            with suppress(StoreError):  # then it is told once more
                self.store.told(self.id)

    def end(self, state: State | None = None) -> None:
        """The run is over, whatever became of the job: give its slots back."""
        self.run.ended = True
        if self.claims:
            # A run that goes on at once elsewhere keeps its slots for that.
            keep, fence = state is State.QUEUED, self.run.lease.fence
            self.kit.turns.give_back(self.id, fence, keep=keep)
            self.claims = ()

    def gone(self) -> NoReturn:
        """Leave the job to its next owner."""
        self.end()
        self.untold = True
        logger.warning(
            "Job %s: the lease of fence %s is lost, another run owns the job",
            *(self.id, self.run.lease.fence),
        )
        raise Ignore("the lease is lost")


def _is_called_after(task: Any) -> bool:
    """Whether Celery calls what is the user's after it has stored a result."""
    own = type(task)
    hooks = own.on_success, own.after_return
    heard = len(task_success.receivers or ()) > 1  # one is ours
    return hooks != (Task.on_success, Task.after_return) or heard


def current() -> Execution | None:
    """The execution that this thread is in, of whichever task."""
    task: Any = _task_stack.top  # what Celery's current_task looks at each time
    return None if task is None else of(task.request)


def of(request: Any) -> Execution | None:
    """The execution that belongs to a request."""
    execution: Execution | None = request.__dict__.get("jobkit_execution")
    return execution


def leave(request: Any) -> None:
    """Part a request from its execution, which is over.

    They know each other, and a worker of many short jobs should not need the
    garbage collector for each.
    """
    execution = request.__dict__.pop("jobkit_execution", None)
    if execution is not None:
        execution.run.listener = execution.run.enter = None
