"""Scripts of a server, sent past what a client does beside sending them."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import redis

PAUSE = 0.05
"""Seconds before a command is sent again."""


class Direct:
    """Calls scripts as a client of redis-py does, at two thirds of its cost.

    The client's pool looks at each use whether a connection is still good, and
    counts it; here a connection that turns out to be closed is opened again, and the
    command is sent a second time, which each script expects. A connection belongs to
    one call at a time.
    """

    def __init__(self, client: Any) -> None:
        self._pool = client.connection_pool
        self.options: Mapping[str, Any] = self._pool.connection_kwargs
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        # Both ends of a deque may be used by threads without a lock.
        self._free: deque[Any] = deque()

    def evalsha(self, sha: str, keys: int, *arguments: str | bytes | int) -> Any:
        """Call a script; errors are those of the client's method of this name."""
        if self._pid != os.getpid():
            self._forget()  # after a fork: the connections are the parent's
        try:
            connection = self._free.pop()
        except IndexError:
            connection = self._pool.make_connection()
        command = "EVALSHA", sha, keys, *arguments
        try:
            return _ask(connection, command)
        except (redis.ConnectionError, redis.TimeoutError, OSError):
            time.sleep(PAUSE)
            return _ask(connection, command)
        finally:
            self._free.append(connection)

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._free:
            self._free.pop().disconnect()


def _ask(connection: Any, command: tuple[str | bytes | int, ...]) -> Any:
    try:
        connection.send_command(*command)
        return connection.read_response()
    except redis.ResponseError:
        raise  # a whole answer
    except BaseException:
        # What is left of the answer must not be taken for the next one's.
        connection.disconnect()
        raise
