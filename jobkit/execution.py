"""One execution of a task by Celery, and how its run ends."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from celery import current_task, states
from celery.exceptions import Ignore, Reject, Retry

from jobkit import clock, ends, signals
from jobkit.errors import (
    Cancelled,
    DependencyDown,
    Interrupted,
    LeaseLost,
    Paused,
    SettingsError,
    StoreError,
    StoreUnavailable,
    TooManyFailures,
    Yielded,
)
from jobkit.job import ErrorInfo, Message, NewJob, Progress
from jobkit.results import forget_progress, hand_over, meta, mirror
from jobkit.retry import Budgets, Decision, RetryPolicy, decide
from jobkit.run import Run
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.slots import Claim
from jobkit.store.values import REPLACED, Failure, InterruptKind
from jobkit.verdicts import Verdict, classify

if TYPE_CHECKING:
    from jobkit.kit import JobKit

logger = logging.getLogger(__name__)

T = TypeVar("T")

REPLACE_GRACE = 10.0
"""Seconds within which a replacement is published before it is taken for lost."""

REFUSED = (SettingsError, TypeError)
"""What Celery meets at a callback that cannot be enqueued, now or later: arguments
that are missing or not kept, or settings that are wrong."""

RESULT_AGAIN = 5.0
"""Seconds until a job whose result was not stored goes through its end again."""

DRAIN_NOTICE = 0.5
"""Seconds by which the news of a shutdown may come after its signal."""


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
    failure: Failure | None = None
    reason: str = ""
    claims: tuple[Claim, ...] = ()
    mirrored: float = 0.0
    arguments: tuple[Any, Any] | None = None

    @property
    def id(self) -> str:
        """The job's id."""
        return self.run.job.id

    # -- while it runs --------------------------------------------------------

    def progressed(self, progress: Progress) -> None:
        """Pass progress on: to receivers, and now and then to the backend."""
        signals.job_progressed.send(
            sender=self.task.name, job_id=self.id, progress=progress
        )
        every = self.kit.settings.mirror_interval
        now = clock.monotonic()
        if every and now - self.mirrored >= every:
            self.mirrored = now
            shown = meta(progress, self.run.saved.floor)
            mirror(self.task, self.request, "PROGRESS", shown)

    def replaced_by(self, new: NewJob, delay: float | None = None) -> bool:
        """Hand the job's id over to another task; False if it is not ours.

        With a ``delay`` its message is published by a worker after that time.
        """
        run = self.run
        due = delay or REPLACE_GRACE
        state = run.insist(
            lambda: self.store.replace(self.id, run.lease.fence, new, due)
        )
        self._end()
        return state is State.QUEUED

    def cede(self) -> None:
        """Free the id for the last of the tasks that are to replace this one.

        They may be through before this run has ended.
        """
        run = self.run
        if not run.insist(lambda: self.store.cede(self.id, run.lease.fence)):
            self._lost()

    # -- how the body ended -----------------------------------------------------

    def ended_by(self, error: BaseException) -> None:
        """Do what an exception from the body calls for.

        Raises what Celery has to see instead of it, if anything.
        """
        try:
            self._end_by(error)
        except LeaseLost:  # the store was out of reach for too long
            self._lost()

    def _end_by(self, error: BaseException) -> None:
        match self.run.left(error):
            case Interrupted() as stop:
                self.interrupted(stop)
            case Ignore():
                self.ignored()
            case Reject():
                self.rejected(error)
            case Retry():
                self.retried(error)
            case MemoryError() as fault:
                self.out_of_memory(fault)
            case Exception() as fault:
                self.failed(fault)
            case _:
                self.exiting()

    def returned(self) -> None:
        """The body returned: well, unless it had to stop and did not.

        Code that catches everything swallows an interruption; and a run that
        lost its lease may not send callbacks. A cancel that comes now is late.
        """
        lost = LeaseLost("at the end") if self.run.lease.lost else None
        stop = lost or self.run.stopped
        if stop and not self.run.ended:
            self.ended_by(stop)
        self.through = True

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

    def interrupted(self, stop: Interrupted) -> NoReturn:
        """The run stopped at an item boundary."""
        if isinstance(stop, LeaseLost):
            self._lost()
        kind: InterruptKind = "drain"
        if isinstance(stop, Cancelled):
            kind = "cancel"
        elif isinstance(stop, Paused):
            kind = "pause"
        elif isinstance(stop, Yielded):
            kind = "slice"
        self.interrupt(kind)
        raise Ignore(f"{type(stop).__name__}: {stop}")

    def interrupt(self, kind: InterruptKind, reason: str = "") -> State:
        """Give the job back without an error; Celery has to be told by the caller."""
        run = self.run
        state = run.insist(
            lambda: self.store.interrupt(self.id, run.lease.fence, kind, reason)
        )
        self._end(state)
        if state is None:
            self._lost()
        self._stopped(state)
        return state

    def exiting(self) -> None:
        """The process is being ended: hand the job over if its worker shuts down."""
        deadline = clock.monotonic() + DRAIN_NOTICE
        while not self.kit.drain.is_set() and clock.monotonic() < deadline:
            time.sleep(DRAIN_NOTICE / 10)
        if self.kit.drain.is_set() and not self.run.ended:
            with suppress(LeaseLost, Ignore):  # the process ends all the same
                self.run.save()
                self.interrupt("drain")

    def failed(self, error: Exception) -> None:
        """An error: wait and try again (raises Retry), or let it stand."""
        if self.local and self.run.ended:  # it is its replacement's
            return
        decision = self._decide(error)
        failure = _failure(error, decision)
        if not decision.retry:
            self._confirm()
            self.failure, self.reason = failure, _why(error, decision)
            return
        if decision.rate_limited and self.claims:
            self._slow_down(error)
        self._retry(failure, decision.delay, None)
        signals.job_retrying.send(
            sender=self.task.name, job_id=self.id, error=error, delay=decision.delay
        )
        when: Any = decision.delay
        raise Retry(exc=error, when=when, sig=self._eager_again())

    def _slow_down(self, error: Exception) -> None:
        """Let nobody else start under the same rates before the service wants it."""
        verdict, wait = classify(error, self.policy.verdicts)
        if verdict is Verdict.rate_limited and wait:
            claims = self.claims
            self.run.insist(lambda: self.store.slow_down(claims, wait))

    def retried(self, retry: Any) -> None:
        """The task asked for a retry itself, by ``self.retry`` or by raising Retry."""
        self.resent(retry.exc or retry)
        if self.local and retry.sig is None:
            retry.sig = self._eager_again()

    def resent(self, error: Any) -> None:
        """Let the job wait for the retry that ``self.retry`` asked for."""
        used = Budgets.decode(self.run.job.budgets)
        budgets = replace(used, own=used.own + bool(self.resend)).encode()
        info = _info(error, "retry") if isinstance(error, BaseException) else None
        failure = Failure(
            info or ErrorInfo("Retry", str(error), verdict="retry"), budgets
        )
        resend = self.resend
        delay = resend.delay if resend else float(self.task.default_retry_delay)
        message = resend.message.encode() if resend else None
        self._retry(failure, delay, message)
        signals.job_retrying.send(
            sender=self.task.name, job_id=self.id, error=error, delay=delay
        )

    def ignored(self) -> None:
        """The task raised Ignore: it is done, or another one goes on with its id."""
        if not self.run.ended:
            self.succeed(REPLACED if self.replacing else "ignored")

    def rejected(self, reject: Any) -> None:
        """The task raised Reject: the broker has the message, or it is dead."""
        if self.run.ended:
            return
        if reject.requeue:
            self.interrupt("requeue", "rejected")
        else:
            self.failure = Failure(_info(reject, "permanent"), self.run.job.budgets)
            self.reason = "rejected"
            self.bury()

    def out_of_memory(self, error: MemoryError) -> None:
        """The task ran out of memory: a crash that the process survived."""
        if self.local:
            self.failed(error)
            return
        info = _info(error, "infrastructure")
        run = self.run
        released = run.insist(lambda: self.store.crash(self.id, run.job.worker, info))
        self._end(released.state if released else None)
        if released is None:
            self._lost()
        if released.state is State.DEAD:
            ends.tell(self.store, self.id, State.DEAD)
            raise RuntimeError(f"poison: out of memory ({error})") from error
        self._stopped(released.state)
        raise Ignore("out of memory") from error

    # -- how Celery's part ended ------------------------------------------------

    def settle(self, state: str | None, retval: Any) -> None:
        """End the job after Celery has sent callbacks and stored the result."""
        try:
            if self.run.ended:
                self._celery_knows()
                return
            if not self.entered:
                self._left_before(state, retval)
            self._hand_over(state, retval)
            again = self.resend or (self.local and isinstance(retval, Retry))
            if state == states.SUCCESS and again:
                self.resent(Retry("retry without throw"))
            elif state == states.SUCCESS and (self.stored or self.local):
                self.succeed()
            elif state == states.SUCCESS:
                self._not_through(sys.exception())
            elif state == states.FAILURE or (self.local and self.failure):
                # Eager errors that propagate leave Celery without a state.
                self.bury(retval)
        except (LeaseLost, Ignore) as stop:
            logger.warning("Job %s could not be ended here: %s", self.id, stop)
        finally:
            self.release()

    def _hand_over(self, state: str | None, retval: Any) -> None:
        recovered = not self.local and self.run.job.recoveries > 0
        if recovered and state in (states.SUCCESS, states.FAILURE):
            hand_over(self.task, self.request, state, retval)

    def _left_before(self, state: str | None, retval: Any) -> None:
        """Celery's part ended before the body began: in a ``before_start``."""
        if state == states.IGNORED:
            self.ignored()
        elif state == states.REJECTED:
            self.rejected(retval)
        elif state == states.RETRY:
            self.retried(retval)

    def _not_through(self, error: BaseException | None) -> None:
        """The backend did not take the result: go through the checkpoint again.

        Unless it is a callback that was refused, as it would be each time.
        """
        if isinstance(error, REFUSED):
            self.bury(error)
            return
        self._keep_from_celery()
        info = ErrorInfo(
            "ResultNotStored", "The result backend did not take the result."
        )
        failure = Failure(info, self.run.job.budgets, attempt=False)
        self._retry(failure, RESULT_AGAIN, None)

    def _keep_from_celery(self) -> None:
        # Celery takes this for a failure of the task, which it is about to tell to
        # whoever waits for it: a chord would count it, and be over.
        request = self.request
        request.chord = request.chain = request.errbacks = None
        request.ignore_result = True

    def _celery_knows(self) -> None:
        if not self.local:
            with suppress(StoreError):  # then it is told once more
                self.store.told(self.id)

    def succeed(self, reason: str = "") -> None:
        """SUCCEEDED or PARTIAL, or what the store says."""
        run = self.run
        snapshot = run.final()
        # Another task goes on with its id: that one's end is the job's.
        over = reason != REPLACED
        tell = over and ends.heard(State.SUCCEEDED, State.PARTIAL)
        done = run.insist(
            lambda: self.store.succeed(
                self.id, run.lease.fence, snapshot, reason, tell=tell
            )
        )
        self._end()
        if done is None:
            self._lost()
        if over:
            ends.tell(self.store, self.id, done)

    def bury(self, error: Any = None) -> None:
        """DEAD, with the error that the body ended with, or that came after it."""
        run = self.run
        failure = self.failure or Failure(
            _info(error, "permanent")
            if isinstance(error, BaseException)
            else ErrorInfo("Error", str(error), verdict="permanent"),
            run.job.budgets,
        )
        reason = self.reason or "failed_after_body"
        tell = ends.heard(State.DEAD)
        done = run.insist(
            lambda: self.store.bury(
                self.id, run.lease.fence, failure, reason, tell=tell
            )
        )
        self._end()
        if not done:
            self._lost()
        ends.tell(self.store, self.id, State.DEAD)

    def release(self) -> None:
        """Let the keeper forget the lease."""
        if not self.local:
            self.kit.keeper.release(self.run.lease)

    # -- inside -----------------------------------------------------------------

    def _confirm(self) -> None:
        """Make sure that an error is the owner's before Celery hears of it."""
        run, lease = self.run, self.run.lease
        if self.local:
            return
        kept = run.insist(lambda: self.store.renew(self.id, lease.fence, lease.seconds))
        if not kept.owner or lease.lost:
            raise LeaseLost("at an error")

    def _decide(self, error: Exception) -> Decision:
        budgets = Budgets.decode(self.run.job.budgets)
        policy = RetryPolicy.of("never") if self._final(error) else self.policy
        position = self.run.saved.position
        if isinstance(error, DependencyDown):
            position -= error.streak
        return decide(error, policy, budgets, position)

    def _final(self, error: Exception) -> bool:
        # A direct call has nobody who would try again; and what self.retry
        # raises when its own retries are used up is final, whatever it is.
        # Eager errors that are to propagate come out as they are.
        return (
            self.request.called_directly
            or error is self.given_up
            or (self.request.is_eager and self.task.app.conf.task_eager_propagates)
        )

    def _retry(self, failure: Failure, delay: float, message: str | None) -> None:
        run = self.run
        wait = 0.0 if self.local else delay
        state = run.insist(
            lambda: self.store.retry(self.id, run.lease.fence, failure, wait, message)
        )
        self._end()
        if state is None:
            self._lost()
        if state is not State.RETRYING:
            self._stopped(state)
            raise Ignore(f"{state} instead of a retry")

    def _eager_again(self) -> Any:
        # Celery's eager mode calls the signature in a retry at once.
        if not self.request.is_eager:
            return None
        return self.task.signature_from_request(self.request)

    def _stopped(self, state: State) -> None:
        if state is State.CANCELLED:
            asked = self.run.lease.request
            reason = asked.reason if asked else ""
            if not self.local:
                self.task.backend.mark_as_revoked(
                    self.id, reason or "cancelled", request=self.request
                )
                self._celery_knows()
            ends.tell(self.store, self.id, State.CANCELLED)
        else:
            forget_progress(self.task, self.request)

    def _end(self, state: State | None = None) -> None:
        self.run.ended = True
        if self.claims:
            # A run that goes on at once elsewhere keeps its slots for that.
            keep, fence = state is State.QUEUED, self.run.lease.fence
            self.kit.turns.give_back(self.id, fence, keep=keep)
            self.claims = ()

    def _lost(self) -> NoReturn:
        self._end()
        logger.warning(
            "Job %s: the lease of fence %s is lost, another run owns the job",
            *(self.id, self.run.lease.fence),
        )
        raise Ignore("the lease is lost")


def current() -> Execution | None:
    """The execution that this thread is in, of whichever task."""
    task: Any = current_task
    return of(task.request) if task else None


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


def _failure(error: Exception, decision: Decision) -> Failure:
    return Failure(
        error=_info(error, decision.verdict.value),
        budgets=decision.budgets.encode(),
        attempt=decision.attempt,
        rate_limited=decision.rate_limited,
    )


def _why(error: Exception, decision: Decision) -> str:
    if isinstance(error, TooManyFailures | DependencyDown):
        return error.reason
    return decision.reason


def _info(error: BaseException, verdict: str) -> ErrorInfo:
    return ErrorInfo(
        type=type(error).__qualname__,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        verdict=verdict,
    )
