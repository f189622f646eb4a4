"""jobkit inside a Celery worker: its rounds, its shutdown, its lost children."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import billiard
import click
from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]
from billiard.exceptions import Terminated, WorkerLostError
from celery import bootsteps
from celery.app.task import Context
from celery.exceptions import TimeLimitExceeded
from celery.signals import task_unknown, worker_shutting_down
from celery.worker.request import Request
from celery.worker.state import task_ready

from jobkit import clock, collector, ends, guard, signals
from jobkit.acks import Acknowledger
from jobkit.dead_letters import bring_back, death_in
from jobkit.errors import JobkitError, SettingsError
from jobkit.job import ErrorInfo
from jobkit.leaving import Leaving
from jobkit.publishing import from_request
from jobkit.recording import adopt
from jobkit.results import show_pending
from jobkit.rounds import Rounds, announce
from jobkit.states import State
from jobkit.store.values import Failure

if TYPE_CHECKING:
    from jobkit.kit import JobKit

logger = logging.getLogger(__name__)

PRUNE_EVERY = 60.0
ACK_EVERY = 1.0
TELL_EVERY = 5.0
COLLECT_EVERY = 1.0
LOST_EVERY = 1.0
"""Celery looks for lost children every 5 seconds, when it missed the end of one."""

LOOK_EVERY = 0.05
"""Seconds between two looks whether the worker shuts down."""

_Request: Any = Request  # its stubs lack what it says of revoked and cancelled


class JobStep(bootsteps.StartStopStep):
    """The worker's part: publishes what is due, rescues what lost its owner.

    Every worker does it; the store sees to it that nothing is done twice.
    """

    requires = ("celery.worker.components:Pool", "celery.worker.components:Timer")

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self.kit: JobKit = parent.app.jobkit
        self._stop = threading.Event()
        self._leaving = Leaving(self.kit.open_store, JobRequest)
        self._threads: list[threading.Thread] = []
        self._timers: list[Any] = []
        self._rounds: Rounds | None = None

    def create(self, parent: Any) -> Any:
        """Check the settings before anything starts, and hear of the shutdown."""
        _checked(self.kit)
        guard.install()
        self.kit.drain.begin(forks=_forks(parent))
        worker_shutting_down.connect(self._drain, weak=False)
        task_unknown.connect(self._unknown, weak=False)
        _before(parent, "wait_for_soft_shutdown", self._drain)
        return None

    def start(self, parent: Any) -> None:
        """Start the rounds."""
        settings = self.kit.settings
        self._rounds = rounds = Rounds(self.kit)
        store, every = rounds.store, settings.dispatch_interval
        self._go("jobkit-dispatcher", every, rounds.dispatch, rounds.disconnect)
        acks = Acknowledger(store, settings, JobRequest)
        hand_over = partial(rounds.hand_over, every, self._stop.wait)
        self._go("jobkit-limits", every, hand_over, rounds.part)
        self._go("jobkit-rescue", every, rounds.rescue, lambda: None)
        self._go("jobkit-untold", TELL_EVERY, rounds.tell, lambda: None)
        self._go("jobkit-acks", ACK_EVERY, acks.look, lambda: None)
        self._timers = [
            parent.timer.call_repeatedly(ACK_EVERY, acks.acknowledge),
            parent.timer.call_repeatedly(LOST_EVERY, parent.pool.maintain_pool),
        ]
        if collector.is_wanted(self.kit):
            work = collector.Collector(self.kit, rounds.collected)
            work.prepare()
            self._go("jobkit-collector", COLLECT_EVERY, work.round, work.close)
        self._go("jobkit-prune", PRUNE_EVERY, rounds.prune, store.close)
        # Not joined: it sees to what the pool waits for after this step has ended.
        threading.Thread(
            target=self._see_off, name="jobkit-leaving", daemon=True
        ).start()

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        """End the rounds."""
        for timer in self._timers:
            timer.cancel()
        self._drain()
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=5)
        worker_shutting_down.disconnect(self._drain)
        task_unknown.disconnect(self._unknown)

    terminate = stop

    def info(self, obj: Any) -> dict[str, Any]:  # type: ignore[override]
        """What ``celery inspect stats`` tells of it, and ``celery jobs doctor``.

        ``done`` counts the jobs that this worker has rescued, published, let go
        under a limit, told Celery the end of, and pruned, and the dead letters that
        it has copied, collected and announced.
        """
        return {
            "jobkit": {
                "prefetch_multiplier": obj.prefetch_multiplier,
                "systemd": "INVOCATION_ID" in os.environ,
                "remap_sigterm": os.environ.get("REMAP_SIGTERM", ""),
                "done": dict(self._rounds.done) if self._rounds else {},
            }
        }

    def _drain(self, **_: Any) -> None:
        # A signal's handler: a second signal may interrupt it, and not return before
        # the last job has stopped. So nothing here takes a lock, as an event's set does.
        self._leaving.note()
        self.kit.drain.set()  # last: whoever sees it looks at what was noted

    def _see_off(self) -> None:
        while not (self._stop.is_set() or self.kit.drain.is_set()):
            time.sleep(LOOK_EVERY)
        self._stop.set()
        self._leaving.watch()

    def _unknown(self, sender: Any, name: str, id: str, **_: Any) -> None:  # noqa: A002
        """Pause a job whose task this worker does not have: Celery drops its message."""
        try:
            job = self.kit.store.get(id)
            if job is None or job.state is not State.QUEUED:
                return
            self.kit.store.ask(
                *(id, "pause", sender.hostname),
                f"not_registered: there is no task {name!r} in this worker. Deploy it "
                "and resume the job, or cancel it.",
            )
            show_pending(self.kit.app, id)
        except JobkitError as trouble:
            # It is published again when its hint is due.
            logger.warning("Job %s of task %r is not paused: %s", id, name, trouble)

    def _go(
        self, name: str, every: float, work: Callable[[], Any], close: Callable[[], Any]
    ) -> None:
        def rounds() -> None:
            while not self._stop.wait(every):
                try:
                    work()
                except JobkitError as error:
                    logger.warning("%s: %s", name, error)
                except Exception:
                    logger.exception("%s goes on after an error", name)
            close()

        thread = threading.Thread(target=rounds, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)


class JobRequest(_Request):  # type: ignore[misc]
    """A job's request in the worker's main process, which sees its child die."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.received_at = clock.wall()

    @property
    def _kit(self) -> JobKit:
        kit: JobKit = self._app.jobkit
        return kit

    def adopt(self) -> None:
        """Record a job whose message was published without jobkit's knowing.

        A dead letter that was moved back replays its job.
        """
        kit, death = self._kit, death_in(self.request_dict)
        if death and bring_back(kit.store, self.id, death) is not None:
            return
        args, kwargs, embed = self._payload
        told = {**self.request_dict, **(embed or {})}
        request = Context(told, args=args, kwargs=kwargs, called_directly=False)
        message = from_request(self._app, self.task, request)
        adopt(self._kit.store, self.task, self.id, message)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """A lost child is a crash of the job, not yet a failure of the task."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        stopped = self._already_cancelled or self._already_revoked
        if isinstance(error, Terminated):
            # A cold shutdown cancels requests, it does not revoke tasks.
            ending = self._let_go if self._already_cancelled else self._terminated
            self._tell(partial(ending, error))
        elif (
            _is_lost(error)
            and not stopped
            and self._tell(partial(self._crashed, error))
        ):
            task_ready(self)
            self.acknowledge()
            return None
        failed = super().on_failure(exc_info, *args, **kwargs)
        if _is_lost(error):
            self._celery_knows()
        return failed

    def reject(self, requeue: bool = False) -> Any:  # noqa: FBT001, FBT002 - Celery's
        """Of an acknowledged message the broker has nothing to put back."""
        if requeue and self.acknowledged:
            with suppress(JobkitError):  # then it comes when it is due
                self._kit.store.published(self.id, 0, ok=False)
        return super().reject(requeue)

    def on_timeout(self, soft: Any, timeout: float) -> Any:
        """A hard time limit ends the job as its task: for good."""
        over = partial(self._timed_out, TimeLimitExceeded(timeout))
        if not soft and self._tell(over):
            # The record does not know: it is rescued, and runs again.
            task_ready(self)
            self.acknowledge()
            return None
        return super().on_timeout(soft, timeout)

    def maybe_expire(self) -> Any:
        """Whether the job has expired: one that has begun is past that.

        Any later message of it is a copy, or the hint of another run.
        """
        try:
            job = self._kit.store.get(self.id)
        except JobkitError as trouble:
            logger.warning("Whether job %s expires is not known: %s", self.id, trouble)
            return False
        return super().maybe_expire() if job is None or not job.starts else False

    def _announce_revoked(self, reason: str, *args: Any, **kwargs: Any) -> Any:
        """A task that was revoked or has expired is a job that was cancelled."""
        self._tell(partial(self._revoked, reason))
        announced = super()._announce_revoked(reason, *args, **kwargs)
        self._celery_knows()
        return announced

    def _celery_knows(self) -> None:
        with suppress(JobkitError):  # then it is told once more
            self._kit.store.told(self.id)

    def _tell(self, ending: Callable[[], bool]) -> bool:
        """Tell the store; whether the job goes on, so that Celery need not know."""
        try:
            return ending()
        except JobkitError as trouble:
            # Its lease ends, and the rescue sees to it.
            logger.warning("The end of job %s is not recorded: %s", self.id, trouble)
            return True

    @property
    def _worker(self) -> str:
        """What the run's ``worker`` is, as far as it is known here."""
        return (
            f"{self.hostname}/{self.worker_pid}" if self.worker_pid else self.hostname
        )

    def _crashed(self, error: BaseException) -> bool:
        info = ErrorInfo(type(error).__name__, str(error), verdict="infrastructure")
        released = self._kit.store.crash(self.id, self._worker, info)
        if released is None:
            return True
        self._free()
        if released.state is State.DEAD:
            ends.tell(self._kit.store, self.id, State.DEAD)
        elif released.state is State.CANCELLED:
            announce(self._kit, released)
        else:
            signals.job_recovered.send(sender=released.task, job_id=self.id)
        return released.state is not State.DEAD

    def _revoked(self, reason: str) -> bool:
        self._kit.store.ask(self.id, "cancel", "celery", reason)
        return False

    def _terminated(self, error: BaseException) -> bool:
        self._revoked("terminated")
        # Its child is gone, so nobody else would carry it out.
        info = ErrorInfo("Terminated", str(error), verdict="infrastructure")
        if self._kit.store.crash(self.id, self._worker, info):
            self._free()
        return False

    def _let_go(self, _: BaseException) -> bool:
        """Celery took its process away: the broker is gone, or the worker stops."""
        store = self._kit.store
        job = store.get(self.id)
        if job is not None and job.state is State.QUEUED:
            store.published(self.id, 0, ok=False, fence=job.fence)
        elif job is not None and job.worker == self._worker:
            store.interrupt(self.id, job.fence, "drain")
            self._free()
        return True

    def _free(self) -> None:
        """Free the slots of a run that is over; if it goes on, they are its next run's."""
        store, span = self._kit.store, self._kit.settings.lease_seconds
        job = store.get(self.id)
        if job is not None and job.state is not State.RUNNING:
            keep = job.state is State.QUEUED
            store.release(self.id, job.fence, span, keep=keep)

    def _timed_out(self, error: BaseException) -> bool:
        # The fence is the child's; what it does meanwhile wins or is refused.
        store = self._kit.store
        job = store.get(self.id)
        if job is not None and job.worker == self._worker:
            info = ErrorInfo(type(error).__name__, str(error), verdict="time_limit")
            failure, heard = Failure(info, job.budgets), ends.heard(State.DEAD)
            if store.bury(self.id, job.fence, failure, "time_limit", tell=heard):
                self._free()
                ends.tell(store, self.id, State.DEAD)
        return False


def _is_lost(error: BaseException) -> bool:
    return isinstance(error, (WorkerLostError, SystemExit, KeyboardInterrupt))


def _forks(worker: Any) -> bool:
    """Whether the children of this worker's pool are forks of it."""
    # The setting is new in Celery 5.7, and leaves the project's own choice alone.
    setting = getattr(worker, "pool_start_method", "fork")
    return setting == "fork" and billiard.get_start_method() == "fork"


def _checked(kit: JobKit) -> None:
    try:
        kit.check()
    except SettingsError as error:
        if click.get_current_context(silent=True) is None:
            raise
        raise click.ClickException(str(error)) from error


def _before(worker: Any, name: str, call: Callable[[], None]) -> None:
    """Call something first when a method of this worker is called.

    The signal of a soft or cold shutdown comes after its tasks were cancelled;
    this method of the worker is the first thing that such a shutdown calls.
    """
    original = getattr(worker, name, None)
    if original is None:
        return

    def both(*args: Any, **kwargs: Any) -> Any:
        call()
        return original(*args, **kwargs)

    setattr(worker, name, both)
