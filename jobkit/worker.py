"""jobkit inside a Celery worker: its rounds, its shutdown, its lost children."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]
from billiard.exceptions import Terminated, WorkerLostError
from celery import bootsteps
from celery.exceptions import TimeLimitExceeded
from celery.signals import worker_shutting_down
from celery.worker.request import Request
from celery.worker.state import task_ready
from kombu.exceptions import OperationalError

from jobkit import results, signals
from jobkit.dispatcher import Dispatcher
from jobkit.errors import JobkitError, SettingsError
from jobkit.job import ErrorInfo
from jobkit.publishing import Publisher
from jobkit.rescue import Rescue
from jobkit.states import State
from jobkit.store.base import Released

if TYPE_CHECKING:
    from jobkit.kit import JobKit

logger = logging.getLogger(__name__)

PRUNE_EVERY = 60.0

_Request: Any = Request  # its stubs lack what it says of revoked and cancelled


class JobStep(bootsteps.StartStopStep):
    """The worker's part: publishes what is due, rescues what lost its owner.

    Every worker does it; the store sees to it that nothing is done twice.
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self.kit: JobKit = parent.app.jobkit
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def create(self, parent: Any) -> Any:
        """Check the settings before anything starts, and hear of the shutdown."""
        _checked(self.kit)
        self.kit.drain.clear()
        worker_shutting_down.connect(self._drain, weak=False)
        _before(parent, "wait_for_soft_shutdown", self._drain)
        return None

    def start(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Start the rounds."""
        settings = self.kit.settings
        publisher = Publisher(self.kit.app)
        store = self.kit.open_store()
        dispatcher = Dispatcher(
            store, publisher.publish, settings.hint_seconds, (OperationalError,)
        )
        rescue = Rescue(store, self._released)
        every = settings.dispatch_interval
        self._go("jobkit-dispatcher", every, dispatcher.round, publisher.close)
        self._go("jobkit-rescue", every, rescue.round, lambda: None)
        self._go("jobkit-prune", PRUNE_EVERY, store.prune, store.close)

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        """End the rounds."""
        self._drain()
        for thread in self._threads:
            thread.join(timeout=5)
        worker_shutting_down.disconnect(self._drain)

    terminate = stop

    def _drain(self, **_: Any) -> None:
        self.kit.drain.set()
        self._stop.set()

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

    def _released(self, released: Released) -> None:
        announce(self.kit, released)


def announce(kit: JobKit, released: Released) -> None:
    """Tell Celery and receivers what became of a job that lost its owner."""
    job = kit.store.get(released.id)
    if job is None:
        return
    if released.state is State.DEAD:
        error = WorkerLostError(job.error.message if job.error else job.reason)
        results.announce_dead(kit.app, job, error)
        signals.job_dead.send(
            sender=job.task, job_id=job.id, reason=job.reason, error=job.error
        )
    elif released.state is State.CANCELLED:
        results.announce_cancelled(kit.app, job, job.reason)
        signals.job_cancelled.send(sender=job.task, job_id=job.id, reason=job.reason)
    else:
        signals.job_recovered.send(sender=job.task, job_id=job.id)


class JobRequest(_Request):  # type: ignore[misc]
    """A job's request in the worker's main process, which sees its child die."""

    @property
    def _kit(self) -> JobKit:
        kit: JobKit = self._app.jobkit
        return kit

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """A lost child is a crash of the job, not yet a failure of the task."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        stopped = self._already_cancelled or self._already_revoked
        if isinstance(error, Terminated):
            self._tell("cancel", error)
        elif _is_lost(error) and not stopped and self._tell("crash", error):
            task_ready(self)
            self.acknowledge()
            return None
        return super().on_failure(exc_info, *args, **kwargs)

    def on_timeout(self, soft: Any, timeout: float) -> Any:
        """A hard time limit ends the job as its task: for good."""
        if not soft:
            self._tell("time_limit", TimeLimitExceeded(timeout))
        return super().on_timeout(soft, timeout)

    def _announce_revoked(self, *args: Any, **kwargs: Any) -> Any:
        self._tell("cancel", None)
        return super()._announce_revoked(*args, **kwargs)

    def _tell(self, what: str, error: BaseException | None) -> bool:
        """Tell the store; whether the job goes on, so that Celery need not know."""
        try:
            return self._told(what, error)
        except JobkitError as trouble:
            # Its lease ends, and the rescue sees to it.
            logger.warning("Job %s: %s is not recorded: %s", self.id, what, trouble)
            return what == "crash"

    def _told(self, what: str, error: BaseException | None) -> bool:
        store = self._kit.store
        worker = self.hostname
        if self.worker_pid:
            worker = f"{worker}/{self.worker_pid}"
        info = ErrorInfo(
            type(error).__name__ if error else "Revoked",
            str(error or "revoked"),
            verdict="time_limit" if what == "time_limit" else "infrastructure",
        )
        if what == "cancel":
            _, state = store.ask(self.id, "cancel", "celery", "revoked")
            if state is State.RUNNING and isinstance(error, Terminated):
                store.crash(self.id, worker, info)
            return False
        released = store.crash(self.id, worker, info)
        if released is None:
            return True
        if released.state is State.DEAD:
            signals.job_dead.send(
                sender=released.task, job_id=self.id, reason="poison", error=info
            )
            return False
        if released.state is State.CANCELLED:
            announce(self._kit, released)
        else:
            signals.job_recovered.send(sender=released.task, job_id=self.id)
        return True


def _is_lost(error: BaseException) -> bool:
    return isinstance(error, (WorkerLostError, SystemExit, KeyboardInterrupt))


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
