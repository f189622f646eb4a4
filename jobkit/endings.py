"""How a run ends: what an exception, a return or Celery's own part calls for."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn

from celery import states
from celery.exceptions import Ignore, Reject, Retry

from jobkit import clock, ends, signals
from jobkit.errors import (
    Cancelled,
    DependencyDown,
    Interrupted,
    LeaseLost,
    Paused,
    SettingsError,
    TooManyFailures,
    Transient,
    Yielded,
)
from jobkit.execution import Execution
from jobkit.job import ErrorInfo
from jobkit.results import forget_progress, hand_over
from jobkit.retry import Budgets, Decision, RetryPolicy, decide
from jobkit.states import State
from jobkit.store.values import REPLACED, Failure, InterruptKind
from jobkit.verdicts import Verdict, Verdicts, classify

logger = logging.getLogger(__name__)

REFUSED = (SettingsError, TypeError)
"""What Celery meets at a callback that cannot be enqueued, now or later: arguments
that are missing or not kept, or settings that are wrong."""

OWN = (Interrupted, Ignore, Reject, Retry, SystemExit, KeyboardInterrupt)
"""What says by itself how a run ends."""

EXITS = (SystemExit, KeyboardInterrupt, GeneratorExit)
"""What comes when the process is being ended, beside gevent's GreenletExit."""

DRAIN_NOTICE = 0.5
"""Seconds by which the news of a shutdown may come after its signal."""


def ended_by(current: Execution, error: BaseException) -> None:
    """Do what an exception from the body calls for.

    Raises what Celery has to see instead of it, if anything.
    """
    try:
        _end_by(current, error)
    except LeaseLost:  # the store was out of reach for too long
        current.gone()


def _end_by(current: Execution, error: BaseException) -> None:
    match _cause(current, current.run.left(error)):
        case Interrupted() as stop:
            _interrupted(current, stop)
        case Ignore():
            ignored(current)
        case Reject():
            _rejected(current, error)
        case Retry():
            _retried(current, error)
        case MemoryError() as fault:
            _out_of_memory(current, fault)
        case Exception() as fault:
            failed(current, fault)
        case odd:
            _ended_oddly(current, odd)


def _cause(current: Execution, error: BaseException) -> BaseException:
    """The interruption, if user code made something else of it.

    As a TaskGroup of asyncio does, or ``except BaseException`` that raises anew.
    """
    stopped = None if current.run.ended else current.run.stopped
    return error if isinstance(error, OWN) else stopped or error


def returned(current: Execution) -> None:
    """The body returned: well, unless it had to stop and did not.

    Code that catches everything swallows an interruption; and a run that
    lost its lease may not send callbacks. A cancel that comes now is late.
    """
    lost = LeaseLost("at the end") if current.run.lease.lost else None
    stop = lost or current.run.stopped
    if stop and not current.run.ended:
        ended_by(current, stop)
    current.through = True


def _interrupted(current: Execution, stop: Interrupted) -> NoReturn:
    """The run stopped at an item boundary."""
    if isinstance(stop, LeaseLost):
        current.gone()
    kind: InterruptKind = "drain"
    if isinstance(stop, Cancelled):
        kind = "cancel"
    elif isinstance(stop, Paused):
        kind = "pause"
    elif isinstance(stop, Yielded):
        kind = "slice"
    current.interrupt(kind)
    raise Ignore(f"{type(stop).__name__}: {stop}")


def _exiting(current: Execution) -> None:
    """The process is being ended: hand the job over if its worker shuts down."""
    deadline = clock.monotonic() + DRAIN_NOTICE
    while not current.kit.drain.is_set() and clock.monotonic() < deadline:
        time.sleep(DRAIN_NOTICE / 10)
    if current.kit.drain.is_set() and not current.run.ended:
        with suppress(LeaseLost, Ignore):  # the process ends all the same
            current.run.save()
            current.interrupt("drain")


def failed(current: Execution, error: Exception) -> None:
    """An error: wait and try again (raises Retry), or let it stand."""
    if current.local and current.run.ended:  # it is its replacement's
        return
    decision = _decide(current, error)
    failure = _failure(error, decision)
    if not decision.retry:
        current.confirm()
        current.failure, current.reason = failure, _why(current, error, decision)
        return
    if decision.rate_limited and current.claims:
        _slow_down(current, error)
    current.retry(failure, decision.delay, None)
    signals.job_retrying.send(
        sender=current.task.name, job_id=current.id, error=error, delay=decision.delay
    )
    when: Any = decision.delay
    raise Retry(exc=error, when=when, sig=_eager_again(current))


def _ended_oddly(current: Execution, error: BaseException) -> None:
    """The body ended with what is no Exception.

    Celery takes asyncio's CancelledError for no error; out of an eager call or a direct
    one it has to come as it is, as those of a test's framework.
    """
    if isinstance(error, EXITS) or type(error).__name__ == "GreenletExit":
        _exiting(current)
    elif not current.local:
        fault = RuntimeError(f"The body ended with {error!r}.")
        fault.__cause__ = error
        failed(current, fault)
        raise fault


def _slow_down(current: Execution, error: Exception) -> None:
    """Let nobody else start under the same rates before the service wants it."""
    verdict, wait = classify(error, current.policy.verdicts)
    if verdict is Verdict.rate_limited and wait:
        claims = current.claims
        current.run.insist(lambda: current.store.slow_down(claims, wait))


def _retried(current: Execution, retry: Any) -> None:
    """The task asked for a retry itself, by ``self.retry`` or by raising Retry."""
    _resent(current, retry.exc or retry)
    if current.local and retry.sig is None:
        retry.sig = _eager_again(current)


def _resent(current: Execution, error: Any) -> None:
    """Let the job wait for the retry that ``self.retry`` asked for."""
    used = Budgets.decode(current.run.job.budgets)
    budgets = replace(used, own=used.own + bool(current.resend)).encode()
    info = _info(error, "retry") if isinstance(error, BaseException) else None
    failure = Failure(info or ErrorInfo("Retry", str(error), verdict="retry"), budgets)
    resend = current.resend
    delay = resend.delay if resend else float(current.task.default_retry_delay)
    message = resend.message.encode() if resend else None
    current.retry(failure, delay, message)
    signals.job_retrying.send(
        sender=current.task.name, job_id=current.id, error=error, delay=delay
    )


def ignored(current: Execution) -> None:
    """The task raised Ignore: it is done, or another one goes on with its id."""
    if not current.run.ended:
        current.succeed(REPLACED if current.replacing else "ignored")
        if current.mirrored and not current.replacing:
            forget_progress(current.task, current.request)


def _rejected(current: Execution, reject: Any) -> None:
    """The task raised Reject: the broker has the message, or it is dead."""
    if current.run.ended:
        return
    if reject.requeue:
        current.interrupt("requeue", "rejected")
    else:
        failure = Failure(_info(reject, "permanent"), current.run.job.budgets)
        current.bury(failure, "rejected")


def _out_of_memory(current: Execution, error: MemoryError) -> None:
    """The task ran out of memory: a crash that the process survived."""
    if current.local:
        failed(current, error)
        return
    info = _info(error, "infrastructure")
    run = current.run
    released = run.insist(lambda: current.store.crash(current.id, run.job.worker, info))
    current.end(released.state if released else None)
    if released is None:
        current.gone()
    if released.state is State.DEAD:
        ends.tell(current.store, current.id, State.DEAD)
        raise RuntimeError(f"poison: out of memory ({error})") from error
    current.stopped(released.state)
    raise Ignore("out of memory") from error


def _decide(current: Execution, error: Exception) -> Decision:
    budgets = Budgets.decode(current.run.job.budgets)
    policy = _policy(current, error)
    position = current.run.saved.position
    if isinstance(error, DependencyDown):
        position -= error.streak
    return decide(error, policy, budgets, position)


def _policy(current: Execution, error: Exception) -> RetryPolicy:
    if _final(current, error):
        return RetryPolicy.of("never")
    if _does_not_fit(error):
        verdicts: Verdicts = {TypeError: Verdict.permanent, **current.policy.verdicts}
        return replace(current.policy, verdicts=verdicts)
    return current.policy


def _does_not_fit(error: Exception) -> bool:
    """Whether the message's arguments are not those that the task takes.

    Such an error comes from the call of the body, and not from inside of it.
    """
    trace = error.__traceback__
    return isinstance(error, TypeError) and trace is not None and trace.tb_next is None


def _final(current: Execution, error: Exception) -> bool:
    # A direct call has nobody who would try again; and what self.retry
    # raises when its own retries are used up is final, whatever it is.
    # Eager errors that are to propagate come out as they are.
    return (
        current.request.called_directly
        or error is current.given_up
        or (current.request.is_eager and current.task.app.conf.task_eager_propagates)
    )


def _eager_again(current: Execution) -> Any:
    # Celery's eager mode calls the signature in a retry at once.
    if not current.request.is_eager:
        return None
    return current.task.signature_from_request(current.request)


# -- how Celery's part ended ----------------------------------------------------


def settle(current: Execution, state: str | None, retval: Any) -> None:
    """End the job after Celery has sent callbacks and stored the result."""
    try:
        if current.run.ended:
            current.celery_knows()
            return
        if not current.entered:
            _left_before(current, state, retval)
        _hand_over(current, state, retval)
        again = current.resend or (current.local and isinstance(retval, Retry))
        if state == states.SUCCESS and again:
            _resent(current, Retry("retry without throw"))
        elif state == states.SUCCESS and _is_stored(current):
            current.succeed()
        elif state == states.SUCCESS:
            _not_stored(current, sys.exception())
        elif state == states.FAILURE or _failed_in_hook(current):
            _bury(current, retval)
    except (LeaseLost, Ignore) as stop:
        _keep_from_celery(current)
        logger.warning("Job %s could not be ended here: %s", current.id, stop)
    finally:
        current.release()


def _failed_in_hook(current: Execution) -> bool:
    """Whether a failure left Celery without a state, when all was told.

    So does one in eager mode that propagates, and an error in ``on_failure``.
    """
    if not current.failure:
        return False
    return current.local or _passed(current.task.on_failure, sys.exception())


def _hand_over(current: Execution, state: str | None, retval: Any) -> None:
    recovered = not current.local and current.run.job.recoveries > 0
    if recovered and state in (states.SUCCESS, states.FAILURE):
        hand_over(current.task, current.request, state, retval)


def _left_before(current: Execution, state: str | None, retval: Any) -> None:
    """Celery's part ended before the body began: in a ``before_start``."""
    if state == states.IGNORED:
        ignored(current)
    elif state == states.REJECTED:
        _rejected(current, retval)
    elif state == states.RETRY:
        _retried(current, retval)
    elif state == states.FAILURE:
        current.reason = current.reason or "failed_before_body"


def _is_stored(current: Execution) -> bool:
    if current.done and not current.stored:
        _keep_from_celery(current)  # an error came between its end and its signal
    return current.stored or current.local or current.done is not None


def _not_stored(current: Execution, error: BaseException | None) -> None:
    """Celery could not store the result, or not enqueue what comes after the task.

    The job goes through its end again, from its checkpoint, with the patience of all
    its retries together. An error that would be the same each time is final; and one
    in ``on_success`` comes when all is stored.
    """
    if _is_from(current.task.on_success, error):
        current.succeed()
        return
    known = error or RuntimeError("Celery did not store the result.")
    # It is no error of the task's: neither its verdicts count, nor a budget but this.
    whole = current.policy.total
    patient = replace(current.policy, transient=whole, never=False, verdicts={})
    used = Budgets.decode(current.run.job.budgets)
    tries = Budgets(transient=used.total, total=used.total)
    decision = decide(Transient(), patient, tries, 0)
    if isinstance(error, REFUSED) or not decision.retry:
        _bury(current, known)
        return
    _keep_from_celery(current)
    after = replace(used, total=decision.budgets.total).encode()
    info = _info(known, decision.verdict.value)
    failure = Failure(info, after, attempt=False)
    current.retry(failure, decision.delay, None)


def _is_from(hook: Any, error: BaseException | None) -> bool:
    """Whether an error that Celery let through came out of its call of a hook."""
    trace = error.__traceback__ if error else None
    called = trace.tb_next if trace else None
    return called is not None and called.tb_frame.f_code is getattr(
        hook, "__code__", None
    )


def _passed(hook: Any, error: BaseException | None) -> bool:
    """Whether an error came out of a hook, or of what it called."""
    code, trace = getattr(hook, "__code__", None), getattr(error, "__traceback__", None)
    while trace is not None and trace.tb_frame.f_code is not code:
        trace = trace.tb_next
    return trace is not None


def _bury(current: Execution, error: Any) -> None:
    """DEAD, with the error that the body ended with, or that came after it."""
    failure = current.failure or Failure(
        _info(error, "permanent")
        if isinstance(error, BaseException)
        else ErrorInfo("Error", str(error), verdict="permanent"),
        current.run.job.budgets,
    )
    current.bury(failure, current.reason or "failed_after_body")


def _keep_from_celery(current: Execution) -> None:
    # Celery takes this for a failure of the task, which it is about to tell to
    # whoever waits for it: a chord would count it, and be over.
    request = current.request
    request.chord = request.chain = request.errbacks = None
    request.ignore_result = True


def _failure(error: Exception, decision: Decision) -> Failure:
    return Failure(
        error=_info(error, decision.verdict.value),
        budgets=decision.budgets.encode(),
        attempt=decision.attempt,
        rate_limited=decision.rate_limited,
    )


def _why(current: Execution, error: Exception, decision: Decision) -> str:
    if error is current.given_up:
        return "retries_exhausted"
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
