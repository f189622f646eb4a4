"""Waiting for a fact, never for a time."""

import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.2
PORTS = range(20_000, 32_768)


def wait_until(
    predicate: Callable[[], T],
    description: str,
    timeout: float = 30.0,
    pause: float | None = None,
) -> T:
    """Call ``predicate`` until it is true, and return what it said.

    ``pause`` (seconds) is the time between two calls; without it, it grows.

    Raises:
        AssertionError: It was not within ``timeout`` seconds; the message has
            the description and the last value.
    """
    end = time.monotonic() + timeout
    wait = pause or FIRST_PAUSE
    while not (value := predicate()):
        if time.monotonic() >= end:
            raise AssertionError(
                f"Waited {timeout:g} s in vain until {description}; last: {value!r}",
            )
        time.sleep(wait)
        wait = pause or min(wait * 1.5, LONGEST_PAUSE)
    return value


def free_port() -> int:
    """A port of the loopback interface that nobody uses now.

    From below the range that the kernel takes the ports of outgoing connections
    from: one of those could sit on it while its server restarts.
    """
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
