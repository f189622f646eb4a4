"""A guard against one fault of one kombu release, which ends whole workers.

When Redis goes away under a stream of short tasks, kombu 5.7.0 asks a connection
that was collected already for its host: the AttributeError is none of the
errors that a worker reconnects after, so it exits.
"""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Any

from kombu.transport import redis

logger = logging.getLogger(__name__)

transport: Any = redis  # its stubs do not have all of it

FAULTY = ("5.7.0",)


def install() -> bool:
    """Make the fault look like the lost connection that it is; only where it is.

    Returns whether this kombu needed it.
    """
    channel, release = transport.Channel, version("kombu")
    if release not in FAULTY or hasattr(channel._connparams, "guards"):  # noqa: SLF001
        return False
    original = channel._connparams  # noqa: SLF001 - the faulty method itself

    def _connparams(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.connection is None or self.connection.client is None:
            raise transport.redis.exceptions.ConnectionError("the connection is closed")
        return original(self, *args, **kwargs)

    _connparams.guards = original  # type: ignore[attr-defined]
    channel._connparams = _connparams  # noqa: SLF001
    logger.debug("Guarding kombu %s against a collected connection", release)
    return True
