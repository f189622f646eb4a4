"""Real Flowers, and the requests that browsers and others send them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests import guardian
from tests.waiting import free_port, wait_until
from tests.worker.fleet import TOP
from tests.worker.setup import VARIABLE, Setup

USER = ("ada", "secret")
LOGIN = "--basic-auth=ada:secret"


class Flower:
    """A ``celery -A ... flower`` for a fleet's app, and a client of it.

    ``prefix`` is its url_prefix; ``python`` runs it in another environment, and
    ``app`` is one of its own.
    """

    def __init__(
        self,
        setup: Setup,
        log: Path,
        *options: str,
        prefix: str = "",
        python: str = sys.executable,
        app: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._setup = setup
        self._log = log
        self._options = [*options, *([f"--url-prefix={prefix}"] if prefix else [])]
        self._python = python
        self._app = app or setup.app
        self._environment = dict(environment or {})
        self._port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.root = f"http://127.0.0.1:{self._port}"
        self.http = httpx.Client(
            base_url=f"{self.root}/{prefix}".rstrip("/"), timeout=20, trust_env=False
        )

    @property
    def log(self) -> str:
        """What it has written."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Ask for a page or a document."""
        return self.http.get(path, **options)

    def json(self, path: str, **parameters: str) -> Any:
        """A document that must be there."""
        answer = self.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, content: Any = None, **options: Any) -> httpx.Response:
        """Send a command, as a page of this Flower does."""
        options = {"headers": {"Origin": self.root}, **options}
        return self.http.post(path, json=content, **options)

    @contextmanager
    def running(self, command: Sequence[str] = ("flower",)) -> Iterator[Flower]:
        """Start it, wait until it answers, and end it."""
        options = [f"--port={self._port}", "--address=127.0.0.1", *self._options]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [
                    *(self._python, "-m", "celery", "-A", self._app),
                    *(*command, *options),
                ],
                cwd=TOP,
                env={
                    **os.environ,
                    "PYTHONPATH": str(TOP),
                    VARIABLE: self._setup.encode(),
                    **self._environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        guardian.protect(process)
        self.process = process
        try:
            wait_until(lambda: self._up(process), "Flower answers")
            yield self
        finally:
            process.kill()
            process.wait()
            guardian.release(process)
            self.http.close()

    def _up(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, f"Flower ended:\n{self.log}"
        if "Visit me" not in self.log:  # it listens just before
            return False
        try:
            return self.get("/healthcheck").status_code == 200
        except httpx.HTTPError:
            return False
