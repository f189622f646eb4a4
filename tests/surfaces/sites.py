"""Web pages of jobs on a real server, and readers of their events."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import httpx
import uvicorn

from tests.waiting import free_port, wait_until


@dataclass(frozen=True)
class Site:
    """A running server: where it is, and how to talk to it."""

    url: str
    http: httpx.Client

    def events(self, job_id: str, last: str = "", query: str = "") -> Events:
        """Open a stream; the first event is read by ``next``."""
        return Events(self.url, f"/jobs/{job_id}/events{query}", last)


@contextmanager
def served(app: Any, port: int | None = None) -> Iterator[Site]:
    """Serve an app with uvicorn, in a thread."""
    port = port or free_port()
    config = uvicorn.Config(
        app,
        port=port,
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=1,
        backlog=4096,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, "uvicorn is up")
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=10) as http:
            yield Site(url, http)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def hub_threads() -> list[threading.Thread]:
    """The threads that follow the store for readers in this process."""
    return [one for one in threading.enumerate() if one.name == "jobkit-web-hub"]


class Events:
    """A browser's EventSource, as far as a test needs one."""

    def __init__(self, url: str, path: str, last: str = "") -> None:
        self._client = httpx.Client(base_url=url, timeout=20)
        headers = {"Last-Event-ID": last} if last else {}
        request = self._client.build_request("GET", path, headers=headers)
        self.response = self._client.send(request, stream=True)
        self.status = self.response.status_code
        self.comments = 0
        self.last = last
        self._lines = self.response.iter_lines()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.response.close()
        self._client.close()

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        kind, data = "message", ""
        for line in self._lines:
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                self.comments += 1
            elif name == "id":
                self.last = value
            elif name == "event":
                kind = value
            elif name == "data":
                data = value
            elif not line and data:
                yield kind, json.loads(data)
                kind, data = "message", ""

    def next(self) -> dict[str, Any]:
        """The next document."""
        return next(iter(self))[1]

    def wait_for(self, event: str) -> dict[str, Any]:
        """The document of the next event of that name."""
        return next(told for _, told in self if told["event"] == event)


def raw(url: str, request: bytes) -> bytes:
    """Send bytes as they are; the answer up to the end of the connection."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(request)
        connection.settimeout(10)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer
