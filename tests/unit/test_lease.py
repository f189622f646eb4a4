"""A lease is kept in time, given up in time, and tells when to stop."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typing_extensions import override

from jobkit import clock
from jobkit import lease as lease_module
from jobkit.drain import DrainFlag
from jobkit.errors import Cancelled, Drained, LeaseLost, Paused, Yielded
from jobkit.job import StopRequest
from jobkit.lease import TICK, Keeper, Lease, Slice
from jobkit.store.slots import Claim
from jobkit.store.values import Kept
from tests.unit.runs import ID, Time, Watched, begin, kept, kill, stop_the_clock
from tests.waiting import wait_until

TOP = Path(__file__).parents[2]

OURS = Kept(owner=True)
SECONDS = 30.0
SHOP = (Claim("shop", 1),)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return stop_the_clock(monkeypatch)


@pytest.fixture
def store() -> Watched:
    return Watched()


@pytest.fixture
def lease(time: Time, store: Watched) -> Lease:  # noqa: ARG001 - it stands still first
    return begin(store, seconds=SECONDS, interval=1000.0).lease


def ticks(lease: Lease, time: Time, seconds: float, *, draining: bool = False) -> None:
    """Let a keeper look after a lease for some time."""
    for _ in range(round(seconds / TICK)):
        time.advance(TICK)
        lease.tick(draining=draining)
        if lease.due:
            lease.renew()


# -- kept, and given up


def test_a_lease_is_renewed_at_a_third(
    lease: Lease, time: Time, store: Watched
) -> None:
    ticks(lease, time, 9.9)
    assert store.renewed == 0

    ticks(lease, time, 0.2)
    assert store.renewed == 1

    ticks(lease, time, 600.0)
    assert store.renewed == pytest.approx(61, abs=1)
    assert lease.stop() is None


def test_a_save_renews_as_well(lease: Lease, time: Time, store: Watched) -> None:
    for _ in range(10):
        ticks(lease, time, 9.0)
        lease.confirm(time.now, OURS)

    assert store.renewed == 0
    assert not lease.lost


def test_a_run_fences_itself_at_two_thirds(lease: Lease, time: Time) -> None:
    time.advance(19.99)
    assert (lease.lost, lease.stop()) == (False, None)

    time.advance(0.02)

    assert lease.lost
    assert isinstance(lease.stop(), LeaseLost)
    assert ID in str(lease.stop())


def test_a_frozen_keeper_cannot_keep_a_lease_that_is_over(
    lease: Lease, time: Time, store: Watched
) -> None:
    time.advance(20.0)

    lease.tick(draining=False)

    assert not lease.due
    assert store.renewed == 0
    assert lease.attention
    assert isinstance(lease.stop(), LeaseLost)


def test_an_answer_counts_from_when_its_question_was_sent(
    lease: Lease, time: Time
) -> None:
    sent_at = time.now
    time.advance(15.0)
    lease.confirm(sent_at, OURS)
    time.advance(5.0)

    assert lease.lost


def test_an_answer_that_comes_late_takes_nothing_back(lease: Lease, time: Time) -> None:
    old = time.now
    time.advance(15.0)
    lease.confirm(time.now, OURS)
    lease.confirm(old, OURS)
    time.advance(15.0)

    assert not lease.lost


def test_a_lease_counts_from_when_its_begin_was_sent(
    time: Time, store: Watched
) -> None:
    sent_at = time.now
    time.advance(15.0)
    lease = Lease(store, ID, 1, SECONDS, save_every=1.0, sent_at=sent_at)

    assert lease.due
    assert not lease.lost
    time.advance(5.0)
    assert lease.lost


def test_what_is_lost_stays_lost(lease: Lease, time: Time) -> None:
    lease.confirm(time.now, Kept(owner=False))
    lease.confirm(time.now, OURS)

    assert lease.lost


def test_the_store_tells_that_another_owner_has_the_job(
    lease: Lease, time: Time, store: Watched
) -> None:
    kill(store)
    begin(store)

    ticks(lease, time, 10.1)

    assert lease.attention
    assert isinstance(lease.stop(), LeaseLost)


def test_while_the_store_is_away_the_keeper_tries_on_but_not_at_every_look(
    lease: Lease, time: Time, store: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    store.down = True
    ticks(lease, time, 17.0)

    assert 10 <= store.renewed <= 16
    assert not lease.lost
    assert "cannot renew its lease and stops in" in caplog.text

    store.down = False
    ticks(lease, time, 19.0)

    assert lease.stop() is None


def test_an_outage_longer_than_two_thirds_loses_the_lease(
    lease: Lease, time: Time, store: Watched
) -> None:
    store.down = True
    ticks(lease, time, 20.1)
    tries = store.renewed

    ticks(lease, time, 30.0)

    assert lease.lost
    assert store.renewed == tries


# -- what makes a loop look up


def test_a_save_is_due_an_interval_after_the_last(time: Time, store: Watched) -> None:
    lease = begin(store, interval=1.0).lease
    looks = []
    for _ in range(2):
        for seconds in (0.9, 0.1):
            ticks(lease, time, seconds)
            looks.append(lease.attention)
        lease.attention = False
        lease.saved()

    assert looks == [False, True, False, True]


@pytest.mark.parametrize(("kind", "error"), [("cancel", Cancelled), ("pause", Paused)])
def test_a_renewal_brings_what_was_asked_for(
    lease: Lease, time: Time, store: Watched, kind: str, error: type[BaseException]
) -> None:
    store.ask(ID, "cancel" if kind == "cancel" else "pause", "ana", "too slow")
    ticks(lease, time, 10.1)

    stop = lease.stop()

    assert lease.attention
    assert isinstance(stop, error)
    assert str(stop) == "ana: too slow"


def test_a_request_can_be_taken_back(lease: Lease, time: Time) -> None:
    lease.confirm(time.now, Kept(owner=True, request=StopRequest("pause", "ana", "")))
    assert isinstance(lease.stop(), Paused)

    lease.confirm(time.now, OURS)

    assert lease.stop() is None


def test_a_drain_is_seen_at_the_next_look_and_stays(lease: Lease, time: Time) -> None:
    ticks(lease, time, TICK, draining=True)
    assert lease.attention
    assert isinstance(lease.stop(), Drained)

    ticks(lease, time, TICK)

    assert isinstance(lease.stop(), Drained)


def test_a_cancel_goes_before_a_drain_and_a_lost_lease_before_both(
    lease: Lease, time: Time
) -> None:
    lease.confirm(time.now, Kept(owner=True, request=StopRequest("cancel", "ana", "")))
    ticks(lease, time, TICK, draining=True)
    assert isinstance(lease.stop(), Cancelled)

    time.advance(20.0)

    assert isinstance(lease.stop(), LeaseLost)


# -- time slices


@dataclass
class Crowded(Watched):
    """A store that says whether more urgent jobs wait, and counts who asks."""

    crowded: bool = False
    asked_for: list[tuple[str, ...]] = field(default_factory=list)

    @override
    def waiting(self, queues: Sequence[str], age: float) -> bool:
        self._reach()
        self.asked_for.append(tuple(queues))
        return self.crowded


@pytest.fixture
def sliced(time: Time) -> Lease:  # noqa: ARG001 - it stands still first
    lease = begin(Crowded(), seconds=SECONDS, interval=1000.0).lease
    lease.slice = Slice(5.0, ("critical", "high"))
    return lease


def slices(lease: Lease, time: Time, seconds: float) -> list[tuple[str, ...]]:
    """Let a keeper look after a lease; what the store was asked."""
    for _ in range(round(seconds / TICK)):
        ticks(lease, time, TICK)
        if lease.slice_over:
            lease.ask_for_more()
    store = lease.store
    assert isinstance(store, Crowded)
    return store.asked_for


def test_the_store_is_asked_once_a_slice_who_waits(sliced: Lease, time: Time) -> None:
    assert slices(sliced, time, 4.8) == []
    assert slices(sliced, time, 0.4) == [("critical", "high")]

    assert len(slices(sliced, time, 5 * 10)) == pytest.approx(11, abs=1)
    assert sliced.stop() is None
    assert not sliced.attention


def test_without_a_slice_the_store_is_not_asked(sliced: Lease, time: Time) -> None:
    sliced.slice = None

    assert slices(sliced, time, 600.0) == []


def test_a_run_stops_at_the_end_of_its_slice_when_others_wait(
    sliced: Lease, time: Time
) -> None:
    sliced.store.crowded = True  # type: ignore[attr-defined]
    slices(sliced, time, 4.8)
    assert sliced.stop() is None

    asked = slices(sliced, time, 0.4)
    assert isinstance(sliced.stop(), Yielded)
    assert sliced.attention

    assert slices(sliced, time, 10.0) == asked


def test_a_drain_goes_before_the_end_of_a_slice(sliced: Lease, time: Time) -> None:
    sliced.outranked = True
    ticks(sliced, time, TICK, draining=True)

    assert isinstance(sliced.stop(), Drained)


def test_a_run_goes_on_for_another_slice_while_the_store_is_away(
    sliced: Lease, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    sliced.store.down = True  # type: ignore[attr-defined]
    slices(sliced, time, 6.0)

    assert sliced.stop() is None
    assert "goes on for another slice" in caplog.text


# -- the keeper


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    keeper = Keeper(DrainFlag().is_set)
    yield keeper
    for lease in list(keeper._leases):
        keeper.release(lease)


def test_two_threads_keep_all_leases_of_a_process(keeper: Keeper) -> None:
    store = Watched()
    leases = [begin(store, job_id=f"job {i}", seconds=0.9).lease for i in range(3)]
    for lease in leases:
        keeper.keep(lease)

    wait_until(lambda: store.renewed >= 9, "each lease was renewed thrice")

    assert not any(lease.lost for lease in leases)
    names = [thread.name for thread in keeper._threads]
    assert names == ["jobkit-keeper", "jobkit-renewer"]
    assert all(thread.daemon and thread.is_alive() for thread in keeper._threads)


@dataclass
class Slow(Watched):
    """A store that lets the renewals of one job wait until a test says so."""

    slow: str = "slow"
    asked: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    @override
    def renew(self, job_id: str, fence: int, lease: float) -> Kept:
        if job_id == self.slow:
            self.asked.set()
            assert self.go.wait(30)
        return super().renew(job_id, fence, lease)


@pytest.fixture
def slow() -> Iterator[Slow]:
    store = Slow()
    yield store
    store.go.set()


def test_a_slow_renewal_does_not_keep_other_runs_from_stopping(
    keeper: Keeper, slow: Slow
) -> None:
    keeper.keep(begin(slow, job_id="slow", seconds=0.3, interval=600.0).lease)
    assert slow.asked.wait(30)
    short = begin(slow, job_id="short", seconds=0.3, interval=600.0).lease
    asked = begin(slow, job_id="asked", seconds=600.0, interval=600.0).lease
    for lease in (short, asked):
        keeper.keep(lease)
    request = StopRequest("cancel", "ana", "too slow")
    asked.confirm(clock.monotonic(), Kept(owner=True, request=request))

    wait_until(lambda: short.attention, "its run is told of the lost lease")
    wait_until(lambda: asked.attention, "its run is told of the cancel")

    assert isinstance(short.stop(), LeaseLost)
    assert isinstance(asked.stop(), Cancelled)
    assert slow.renewed == 0


def test_a_slow_renewal_does_not_delay_a_drain(slow: Slow) -> None:
    flag = DrainFlag()
    keeper = Keeper(flag.is_set)
    leases = [
        begin(slow, job_id="slow", seconds=0.3, interval=600.0).lease,
        begin(slow, job_id="other", seconds=600.0, interval=600.0).lease,
    ]
    for lease in leases:
        keeper.keep(lease)
    assert slow.asked.wait(30)
    assert not leases[1].attention

    flag.set()

    wait_until(lambda: leases[1].attention, "its run is told of the drain")
    assert isinstance(leases[1].stop(), Drained)
    for lease in leases:
        keeper.release(lease)


def test_the_others_are_renewed_after_a_slow_renewal(
    keeper: Keeper, slow: Slow
) -> None:
    first = begin(slow, job_id="slow", seconds=0.3).lease
    other = begin(slow, job_id="other", seconds=30.0).lease
    gone = begin(slow, job_id="gone", seconds=30.0).lease
    keeper.keep(first)
    assert slow.asked.wait(30)
    for lease in (other, gone):
        lease._confirmed -= 11.0
        lease._tried -= 11.0
        keeper.keep(lease)
    assert other.due
    keeper.release(gone)

    slow.go.set()

    wait_until(lambda: not other.due, "it is renewed in its turn")
    assert gone.due


def test_a_released_lease_is_not_renewed_any_more(keeper: Keeper) -> None:
    store = Watched()
    first = begin(store, job_id="first", seconds=0.6).lease
    other = begin(store, job_id="other", seconds=0.6).lease
    keeper.keep(first)
    keeper.keep(other)
    keeper.release(first)

    wait_until(lambda: first.lost, "the released lease is over")

    assert not other.lost


def test_the_keeper_rests_without_leases_and_wakes_for_the_next(keeper: Keeper) -> None:
    store = Watched()
    for times in (1, 2):
        lease = begin(store, job_id=f"job {times}", seconds=0.6).lease
        store.renewed = 0
        keeper.keep(lease)
        wait_until(lambda: store.renewed, "it was renewed")
        keeper.release(lease)
        wait_until(lambda: not keeper._busy.is_set(), "the keeper rests")


class Broken(Watched):
    """A store with a bug: its first answer is none."""

    @override
    def renew(self, job_id: str, fence: int, lease: float) -> Kept:
        if not self.renewed:
            self.renewed += 1
            raise RuntimeError("a bug")
        return super().renew(job_id, fence, lease)


def test_the_keeper_outlives_an_error_that_nobody_expects(
    keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    store = Broken()
    lease = begin(store, seconds=1.2).lease
    keeper.keep(lease)

    wait_until(lambda: store.renewed >= 3, "it was renewed after the error")

    assert not lease.lost
    assert "a bug" in caplog.text


def test_a_keeper_looks_twenty_times_a_second() -> None:
    assert lease_module.TICK == 0.05


FORKED_KEEPER = """
import os, sys, threading
from jobkit.lease import Keeper
from tests.unit.runs import Watched, begin
from tests.waiting import wait_until

store = Watched()
keeper = Keeper(lambda: False)
keeper.keep(begin(store, job_id="parent", seconds=600.0).lease)
with keeper._lock:  # the worst moment for a fork
    child = os.fork()
if child == 0:
    lease = begin(store, job_id="child", seconds=0.6).lease
    keeper.keep(lease)
    wait_until(lambda: store.renewed >= 3, "the child's renewer works")
    wait_until(lambda: lease.attention, "the child's keeper works")
    assert keeper._leases == {lease}
    keeper.release(lease)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert all(thread.is_alive() for thread in keeper._threads)
print("well")
"""

FORKED_DRAIN = """
import os
from jobkit.drain import DrainFlag
from jobkit.errors import Drained
from jobkit.lease import Keeper
from tests.unit.runs import Watched, begin
from tests.waiting import wait_until

flag = DrainFlag()
keeper = Keeper(flag.is_set)
ready, go = os.pipe()
child = os.fork()
if child == 0:
    lease = begin(Watched(), seconds=600.0, interval=600.0).lease
    keeper.keep(lease)
    assert not flag.is_set() and not lease.attention
    os.write(go, b".")
    wait_until(lambda: lease.attention, "the child hears of the drain")
    os._exit(7 if isinstance(lease.stop(), Drained) else 1)
os.read(ready, 1)
flag.set()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
print("well")
"""

SPAWNED_DRAIN = """
import os
import subprocess
import sys
from pathlib import Path
from jobkit.drain import VARIABLE, DrainFlag

CHILD = (
    "from jobkit.drain import DrainFlag; from tests.waiting import wait_until; "
    "flag = DrainFlag(); assert not flag.is_set(); print('ready', flush=True); "
    "wait_until(flag.is_set, 'the child hears of the drain')"
)
flag = DrainFlag()
flag.begin(forks=False)
path = Path(os.environ[VARIABLE])
assert path.stat().st_mode & 0o777 == 0o600
command = [sys.executable, "-c", CHILD]
child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
assert child.stdout.readline() == "ready\\n"
flag.set()
assert child.wait() == 0
nested = DrainFlag()
assert nested.is_set()
nested.begin(forks=True)
assert not nested.is_set() and flag.is_set() and VARIABLE not in os.environ
del flag
assert not path.exists()
os.environ[VARIABLE] = str(path)
assert not DrainFlag().is_set()
print("well")
"""


@pytest.mark.parametrize(
    "program",
    [FORKED_KEEPER, FORKED_DRAIN, SPAWNED_DRAIN],
    ids=["keeper", "drain", "spawned"],
)
def test_a_child_has_a_keeper_of_its_own_and_hears_of_the_drain(
    program: str,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=TOP,
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (done.stdout, done.returncode) == ("well\n", 0), done.stderr


def test_a_drain_flag_can_be_taken_back() -> None:
    flag = DrainFlag()
    assert not flag.is_set()
    flag.set()
    assert flag.is_set()
    flag.begin(forks=True)
    assert not flag.is_set()


def test_flags_do_not_know_each_other() -> None:
    one, other = DrainFlag(), DrainFlag()
    one.set()

    assert not other.is_set()


def test_a_lease_is_of_one_record(store: Watched) -> None:
    run = begin(store)

    assert run.lease.fence == kept(store).fence == 1


# -- with slots


@pytest.fixture
def limited(lease: Lease, time: Time, store: Watched) -> Lease:
    """A lease of a run that holds a slot."""
    store.acquire(ID, lease.fence, SHOP, SECONDS, SECONDS)
    lease.hold_slots(time.now)
    return lease


def test_slots_are_renewed_though_saves_keep_the_lease(
    limited: Lease, time: Time, store: Watched
) -> None:
    for _ in range(10):
        ticks(limited, time, 9.0)
        limited.confirm(time.now, OURS)

    assert store.renewed == 8  # once in each third
    assert not limited.lost


def test_a_run_whose_slots_are_gone_stops(
    limited: Lease, time: Time, store: Watched
) -> None:
    store.release(ID, limited.fence, SECONDS)
    ticks(limited, time, 10.1)

    assert isinstance(limited.stop(), LeaseLost)


def test_a_run_stops_before_its_slots_run_out(limited: Lease, time: Time) -> None:
    for _ in range(4):
        time.advance(4.9)
        limited.confirm(time.now, OURS)
    assert not limited.lost

    time.advance(0.5)
    assert limited.lost
