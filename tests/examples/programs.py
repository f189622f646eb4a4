"""The programs of an example, run as its README says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import httpx

from tests import guardian
from tests.waiting import free_port, wait_until
from tests.worker.fleet import QUIET, TOP


class Program:
    """A Python module that runs in a process group of its own until it is ended."""

    def __init__(
        self, module: str, *arguments: str, log: Path, environment: Mapping[str, str]
    ) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._environment = environment
        self._log = log
        self._skip = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What it has written since it was started last."""
        written = self._log.read_bytes() if self._log.exists() else b""
        return written[self._skip :].decode(errors="replace")

    @property
    def pid(self) -> int:
        """Its first process."""
        assert self._process
        return self._process.pid

    def start(self, ready: str) -> Self:
        """Start it, and wait until it says that it is ready."""
        self._skip = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=TOP,
                env={**os.environ, **self._environment, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process = self._process
        guardian.protect(process)

        def up() -> bool:
            assert process.poll() is None, f"It ended:\n{self.log}"
            return ready in self.log

        wait_until(up, f"{' '.join(self._command[2:])} is ready", 60)
        return self

    def kill(self) -> None:
        """Kill all of its processes, as ``kill -9`` does."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            guardian.release(self._process)
            self._process = None


class Example:
    """An example with its own Valkey, database and port."""

    def __init__(self, folder: Path, server: str, **environment: str) -> None:
        self.database = folder / "shop.sqlite3"
        self.folder = folder
        self.environment = {
            "SHOP_SERVER": server,
            "SHOP_DATABASE": str(self.database),
            **environment,
        }
        self.port = free_port()
        self.http = httpx.Client(base_url=self.url, timeout=20, trust_env=False)
        self._programs: list[Program] = []

    @property
    def child_environment(self) -> dict[str, str]:
        """The environment of its programs."""
        return {**os.environ, **self.environment}

    @property
    def url(self) -> str:
        """Where its site is."""
        return f"http://127.0.0.1:{self.port}"

    def worker(self, app: str, name: str = "w") -> Program:
        """Start a worker."""
        options = (*QUIET, "-n", f"{name}@test", "--concurrency", "1", "-l", "INFO")
        return self.program("celery", "-A", app, "worker", *options, ready=" ready.")

    def site(self, app: str) -> Program:
        """Start the site."""
        options = ("--port", str(self.port), "--timeout-graceful-shutdown", "1")
        return self.program("uvicorn", app, *options, ready="Uvicorn running on")

    def program(self, module: str, *arguments: str, ready: str) -> Program:
        """Start a module of Python's, and wait until it is ready."""
        program = Program(
            module,
            *arguments,
            log=self.folder / f"{module}-{len(self._programs)}.log",
            environment=self.environment,
        )
        self._programs.append(program)
        return program.start(ready)

    def close(self) -> None:
        """End all programs, and show what they have written."""
        self.http.close()
        for program in self._programs:
            program.kill()
            print(program.log)  # noqa: T201 - pytest shows it when a test has failed
