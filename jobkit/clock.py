"""The only place that reads the time of this machine.

Leases, due times and everything else that two processes must agree on use the
store's own time instead; see ``jobkit.store``.
"""

import time
from datetime import UTC, datetime


def wall() -> float:
    """Seconds since the epoch, for people and for the in-memory store."""
    return time.time()


def monotonic() -> float:
    """Seconds that never jump, for measuring how long something took."""
    return time.monotonic()


def from_milliseconds(value: int) -> datetime:
    """Turn the store's milliseconds since the epoch into a moment in UTC."""
    return datetime.fromtimestamp(value / 1000, UTC)


def milliseconds(moment: datetime) -> int:
    """Turn a moment into the store's milliseconds since the epoch."""
    return round(moment.timestamp() * 1000)


def parse(text: str) -> datetime:
    """Read a moment in ISO 8601."""
    return datetime.fromisoformat(text)


def seconds_until(moment: datetime) -> float:
    """How many seconds from now a moment lies; a naive one is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp() - wall()
