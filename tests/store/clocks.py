"""Time that passes only when a test says so, for every store."""

import re
from collections.abc import Callable

from typing_extensions import override

from jobkit.store.redis import RedisStore
from jobkit.store.scripts import Verb
from jobkit.store.values import Retention

START = 4_102_444_800_000
"""The first of January 2100: the server must not expire keys while a test runs."""

_NOW = re.compile(r"^local function now\(\)\n.*?^end\n", re.MULTILINE | re.DOTALL)


class Clock:
    """Milliseconds since the epoch, told to all who follow it."""

    def __init__(self) -> None:
        self.now = START
        self._followers: list[Callable[[int], object]] = []

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += round(seconds * 1000)
        for follower in self._followers:
            follower(self.now)

    def tell(self, follower: Callable[[int], object]) -> None:
        """Tell the time, now and whenever it changes."""
        self._followers.append(follower)
        follower(self.now)


class ClockedRedisStore(RedisStore):
    """The real store, except that its scripts read a test's clock."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        prefix: str,
        partitions: int = 1,
        retention: Retention | None = None,
    ) -> None:
        super().__init__(url, prefix, partitions, retention or Retention())
        clock.tell(self._set_time)

    def _set_time(self, now: int) -> None:
        for tag in (*self.keys.tags(), self.keys.limits):
            self._client.set(f"test:{tag}", now)

    @override
    def script_source(self, verb: Verb) -> str:
        source = _NOW.sub(
            "local function now()\n"
            "  return tonumber(redis.call('GET', 'test:' .. KEYS[1]))\n"
            "end\n",
            super().script_source(verb),
        )
        if "'TIME'" in source:
            raise AssertionError(f"{verb.name} still reads the server's time.")
        return source
