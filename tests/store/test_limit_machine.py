"""Random traffic under limits, in memory and in the server side by side."""

import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from typing_extensions import override

from jobkit.store.memory import MemoryStore
from jobkit.store.slots import Claim
from tests.servers import ValkeyServer
from tests.store.clocks import Clock, ClockedRedisStore

LEASE, SPAN = 10.0, 5.0
NARROW, WIDE, RATE = Claim("shop:a", 1), Claim("api", 3), Claim("calls", 2, 4.0)
OTHER = Claim("shop:b", 2)

JOBS = "abcdefg"
jobs = st.sampled_from(JOBS)
claims = st.sampled_from(
    [(NARROW,), (WIDE,), (NARROW, WIDE), (OTHER, WIDE), (WIDE, RATE), (RATE,)]
)


class Traffic(RuleBasedStateMachine):
    """Does the same to both, and keeps account of who may run."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.clock = Clock()
        self.memory = MemoryStore(now=self.clock)
        prefix = f"test-{uuid.uuid4().hex[:12]}"
        self.redis = ClockedRedisStore(url, self.clock, prefix)
        self.fences: dict[str, int] = {}

    @override
    def teardown(self) -> None:
        self.redis.close()

    def both(self, verb: str, *arguments: Any, **options: Any) -> Any:
        mine = getattr(self.memory, verb)(*arguments, **options)
        theirs = getattr(self.redis, verb)(*arguments, **options)
        assert mine == theirs
        return mine

    @rule(job=jobs, wanted=claims)
    def line_up(self, job: str, wanted: tuple[Claim, ...]) -> None:
        self.both("acquire", job, 0, wanted, LEASE, SPAN)

    @rule(job=jobs, wanted=claims, again=st.booleans())
    def begin(self, job: str, wanted: tuple[Claim, ...], *, again: bool) -> None:
        fence = self.fences.get(job, 0) + (0 if again else 1)
        self.fences[job] = max(1, fence)
        self.both("acquire", job, self.fences[job], wanted, LEASE, SPAN)

    @rule(job=jobs, stale=st.sampled_from([0, 0, 1]), keep=st.booleans())
    def end(self, job: str, stale: int, *, keep: bool) -> None:
        fence = max(1, self.fences.get(job, 1) - stale)
        self.both("release", job, fence, SPAN, keep=keep)

    @rule(job=jobs)
    def withdraw(self, job: str) -> None:
        self.both("release", job, 0, SPAN)

    @rule(job=jobs, stale=st.sampled_from([0, 0, 1]))
    def renew(self, job: str, stale: int) -> None:
        self.both("renew_slots", job, self.fences.get(job, 1) - stale, LEASE)

    @rule(sure=st.booleans())
    def grant(self, *, sure: bool) -> None:
        turns = self.both("grant", 5, SPAN)
        if sure:
            self.both("confirm", turns.let_go)

    @rule(n=st.sampled_from([None, 1, 2, 5]))
    def set_slots(self, n: int | None) -> None:
        self.both("set_limit", "api", n)

    @rule(n=st.sampled_from([None, 1, 20]))
    def set_rate(self, n: int | None) -> None:
        self.both("set_limit", "calls", n, n and 2.0)

    @rule(delay=st.sampled_from([1, 20]))
    def slow_down(self, delay: float) -> None:
        self.both("slow_down", [WIDE, RATE], delay)

    @rule(seconds=st.sampled_from([0.5, 2, 5, 11]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def all_is_told_alike(self) -> None:
        page = self.both("limits", limit=10)
        assert not page.next
        for state in page.items:
            assert not set(state.holders) & set(state.promised)

    @invariant()
    def nobody_waits_for_what_is_free(self) -> None:
        """A line that could move has one of its own before it, in a wider line."""
        for _ in JOBS * 2:
            if not self.both("grant", 100, SPAN).let_go:
                break
        else:
            raise AssertionError("there is no end of those who are let go")
        lines = self.memory._lines
        for name, line in lines.lines.items():
            if not line.wait:
                continue
            place = lines.places[line.head()]
            claim = next(c for c in place.claims if c.name == name)
            others = [
                theirs
                for theirs in lines.places.values()
                if theirs.stage == "waiting"
                and theirs.line != name
                and name in [c.name for c in theirs.claims]
            ]
            assert others or not lines.admits(claim, self.clock.now)


def machine(url: str) -> type[Traffic]:
    class Lives(Traffic):
        def __init__(self) -> None:
            super().__init__(url)

    return Lives


QUICK = settings(
    max_examples=60,
    stateful_step_count=40,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
THOROUGH = settings(QUICK, max_examples=800, stateful_step_count=80)


def test_memory_and_server_agree_on_limits(valkey: ValkeyServer) -> None:
    run_state_machine_as_test(machine(valkey.url), settings=QUICK)


@pytest.mark.long
@pytest.mark.timeout("1200")
def test_memory_and_server_agree_on_limits_for_long(valkey: ValkeyServer) -> None:
    run_state_machine_as_test(machine(valkey.url), settings=THOROUGH)
