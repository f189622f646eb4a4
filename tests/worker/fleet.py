"""Real workers, and all that they share with the test that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, cast

from celery.signals import before_task_publish

from jobkit import Client, Job, JobKit, JobResult, State
from jobkit.publishing import Publisher
from jobkit.store.redis import RedisStore
from tests import guardian
from tests.waiting import wait_until
from tests.worker.journal import Journal
from tests.worker.setup import VARIABLE, Setup, make_app

TOP = Path(__file__).parents[2]

QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")


class Worker:
    """A ``celery worker`` in a process group of its own."""

    def __init__(
        self, name: str, setup: Setup, log: Path, options: Iterable[str]
    ) -> None:
        self.name = name
        self._log = log
        self._setup = setup
        self._options = tuple(options)
        self._process: subprocess.Popen[bytes] | None = None
        self._skip = 0

    @property
    def pid(self) -> int:
        """The main process."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether its main process is there, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has written since it was started last."""
        return self.log_from(self._skip)

    def log_from(self, place: int) -> str:
        """What it has written from a place in its log on."""
        if not self._log.exists():
            return ""
        return self._log.read_bytes()[place:].decode(errors="replace")

    @property
    def log_size(self) -> int:
        """The place where its log ends now."""
        return self._log.stat().st_size if self._log.exists() else 0

    def launch(self, setup: Setup | None = None) -> Self:
        """Start it without waiting; with another setup if one is given."""
        self._setup = setup or self._setup
        self._skip = self.log_size
        # A pool that is killed leaves its temporary folder behind.
        temporary = {"TMPDIR": str(self._log.parent)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=TOP,
                env={**os.environ, **temporary, VARIABLE: self._setup.encode()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        guardian.protect(self._process)
        return self

    def ready(self) -> Self:
        """Wait until it consumes."""
        wait_until(self._is_ready, f"worker {self.name} is ready", 60)
        return self

    def start(self, setup: Setup | None = None) -> Self:
        """Start it, and wait until it consumes."""
        return self.launch(setup).ready()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to its main process, as a supervisor does."""
        os.kill(self.pid, number)

    def send_signal_to_all(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        os.killpg(self.pid, number)

    def kill(self) -> float:
        """Kill all of its processes; the moment at which it was done."""
        process = self._running()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        self._forget(process)
        return killed_at

    def stop(self) -> int:
        """Ask it to end (SIGTERM), and wait; its exit code."""
        self.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, timeout: float = 30.0) -> int:
        """Wait until it has ended by itself; its exit code."""
        process = self._running()
        wait_until(lambda: process.poll() is not None, f"{self.name} ends", timeout)
        return self._forget(process)

    def close(self) -> None:
        """End it in whichever way is left."""
        if self._process is not None:
            self.kill()

    def _forget(self, process: subprocess.Popen[bytes]) -> int:
        code = process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        guardian.release(process)
        self._process = None
        return code

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"Worker {self.name} does not run.")
        return self._process

    def _is_ready(self) -> bool:
        if (code := self._running().poll()) is not None:
            raise RuntimeError(
                f"Worker {self.name} ended with {code} while it started:\n{self.log}"
            )
        return " ready." in self.log

    def _command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "celery", "-A", self._setup.app, "worker"),
            *("-n", f"{self.name}@test", "-l", "INFO"),
            *QUIET,
            *self._options,
        ]


class Fleet:
    """Workers with a producer's app, a client, a store and a journal.

    The jobs and the queue have a name of their own, so that fleets may share
    servers.
    """

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.setup = setup
        self.app = make_app(setup)
        self.journal = Journal(Path(setup.journal))
        self.workers: dict[str, Worker] = {}
        self.folder = folder

    @property
    def kit(self) -> JobKit:
        """The producer's JobKit."""
        return cast("Any", self.app).jobkit  # type: ignore[no-any-return]

    @property
    def jobs(self) -> Client:
        """The producer's client."""
        return self.kit.jobs

    @property
    def store(self) -> RedisStore:
        """The producer's store."""
        return cast("RedisStore", self.kit.store)

    def worker(self, name: str, *options: str, concurrency: int = 1) -> Worker:
        """A worker that is not started yet; ``options`` are those of its command."""
        log = self.folder / f"{name}.log"
        options = (*options, "-c", str(concurrency))
        self.workers[name] = Worker(name, self.setup, log, options)
        return self.workers[name]

    def start(self, *names: str, concurrency: int = 1) -> list[Worker]:
        """Start workers, and wait until all of them consume."""
        workers = [self.worker(name, concurrency=concurrency) for name in names]
        for worker in workers:
            worker.launch()
        return [worker.ready() for worker in workers]

    def owner(self, job_id: str) -> Worker:
        """The worker that runs a job now."""
        job = wait_until(
            lambda: (job := self.jobs.get(job_id)).state is State.RUNNING and job,
            f"job {job_id} runs",
        )
        assert job
        return self.workers[job.worker.partition("@")[0]]

    def send(self, task: str, *args: Any, **options: Any) -> JobResult:
        """Enqueue a job; ``options`` are those of ``apply_async``."""
        return self.task(task).apply_async(args, **options)  # type: ignore[no-any-return]

    def task(self, name: str) -> Any:
        """One of the tasks, by the part of its name behind ``t.``."""
        return self.app.tasks[f"t.{name}"]

    def wait_for(self, job_id: str, *states: State, timeout: float = 30.0) -> Job:
        """Wait until a job is in one of the states (default: finished)."""

        def there() -> Job | None:
            job = self.store.get(job_id)
            if job is None:
                return None
            done = job.state in states if states else job.state.finished
            return job if done else None

        wanted = " or ".join(states) or "finished"
        job = wait_until(there, f"job {job_id} is {wanted}", timeout)
        assert job
        return job

    def shown(self, job_id: str) -> str:
        """The state that Celery's result backend shows."""
        return str(self.app.AsyncResult(job_id).state)

    def ends(self, job_id: str) -> list[State]:
        """The terminal states that a job's history shows."""
        events = self.jobs.history(job_id)
        return [event.state for event in events if event.state.finished]

    @contextmanager
    def publisher(self) -> Iterator[Publisher]:
        """A publisher of kept messages."""
        publisher = Publisher(self.app)
        try:
            yield publisher
        finally:
            publisher.close()

    def close(self) -> None:
        """End all workers, and give all connections back."""
        for worker in self.workers.values():
            worker.close()
        before_task_publish.disconnect(self.kit._sent_by_name)
        self.store.close()
        backend: Any = self.app.backend
        backend.result_consumer.stop()
        # A result that outlives its fleet (a failed test's) would connect again.
        backend.result_consumer.cancel_for = lambda _: None
        backend.client.connection_pool.disconnect()
        self.app.close()


FleetFactory = Callable[..., Fleet]


@contextmanager
def opened(setup: Setup, folder: Path) -> Iterator[Fleet]:
    """A fleet that is closed whatever happens."""
    fleet = Fleet(setup, folder)
    try:
        yield fleet
    finally:
        fleet.close()


def show_logs(fleet: Fleet, places: Mapping[str, int] | None = None) -> None:
    """Print the logs, from some places on; pytest shows it when a test has failed."""
    for name, worker in fleet.workers.items():
        log = worker.log_from((places or {}).get(name, 0))
        print(f"--- worker {name}", log, sep="\n")  # noqa: T201


def new_name() -> str:
    """A name for a fleet that no other has."""
    return f"fleet-{uuid.uuid4().hex[:10]}"
