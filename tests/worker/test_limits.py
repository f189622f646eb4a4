"""How jobs wait for the slots and rates of their limits."""

from __future__ import annotations

import itertools
import os
import signal
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import pytest
import redis

from jobkit import State
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, FleetFactory, Worker
from tests.worker.journal import Entry
from tests.worker.promises import CLASSIC, REDIS, backend_writes_here
from tests.worker.setup import LEASE

KEY = "shop:berlin"


@pytest.fixture
def shop() -> str:
    """A shop of the test's own, in a fleet that others use too."""
    return f"shop-{uuid.uuid4().hex[:8]}"


def begins(fleet: Fleet, shop: str = "") -> list[Entry]:
    """What has begun for a shop, or for all, by time."""
    entries = fleet.journal.entries()
    return [e for e in entries if e.item.startswith(shop) and e.item.endswith("begin")]


def sell(
    fleet: Fleet, many: int, shop: str = "berlin", seconds: float = 0.0
) -> list[str]:
    return [fleet.send("sell", shop, seconds).id for _ in range(many)]


def all_end(fleet: Fleet, job_ids: Iterable[str], timeout: float = 30.0) -> None:
    for job_id in job_ids:
        job = fleet.wait_for(job_id, timeout=timeout)
        assert (job.state, job.attempts) == (State.SUCCEEDED, 0)


def most_at_once(fleet: Fleet, shop: str = "") -> int:
    """How many runs of a shop overlapped."""
    entries = [e for e in fleet.journal.entries() if e.item.startswith(shop)]
    steps = (1 if entry.item.endswith("begin") else -1 for entry in entries)
    return max(itertools.accumulate(steps))


def nothing_is_left(fleet: Fleet) -> None:
    """Demand that nobody holds, waits or is remembered, but for a time."""
    with redis.Redis.from_url(fleet.setup.store, decode_responses=True) as client:
        tag = fleet.store.keys.limits

        def left() -> list[str]:
            # The prefix of a fleet has no letter that a pattern knows.
            names = client.scan_iter(match=f"{tag}:*", count=1000)
            return [name for name in names if client.ttl(name) == -1]

        wait_until(
            lambda: left() == [f"{tag}:numbers"], "no limit is in use", 2 * LEASE
        )


@pytest.mark.parametrize("broker", [REDIS, CLASSIC], indirect=True)
def test_one_job_of_a_shop_runs_at_a_time_in_the_order_they_came(fleet: Fleet) -> None:
    fleet.start("a", concurrency=3)
    berlin, paris = sell(fleet, 5, seconds=0.2), sell(fleet, 2, "paris", 0.2)
    all_end(fleet, berlin + paris)

    assert [entry.job for entry in begins(fleet, "berlin")] == berlin
    assert most_at_once(fleet, "berlin") == 1
    assert most_at_once(fleet) == 2
    for job_id in berlin:
        job = fleet.jobs.get(job_id)
        assert (job.starts, job.interruptions, job.recoveries) == (1, 0, 0)
    nothing_is_left(fleet)


@pytest.mark.parametrize("leases", [3, pytest.param(10, marks=pytest.mark.long)])
def test_a_waiter_uses_nothing_until_the_holder_ends(
    make_fleet: FleetFactory, leases: int
) -> None:
    lease = 1.0
    fleet = make_fleet(jobkit_lease_seconds=lease)
    fleet.start("a", concurrency=2)
    (holder,) = sell(fleet, 1, seconds=leases * lease)
    begun = fleet.journal.wait_for(holder)
    first, second = sell(fleet, 2)
    deadline = begun.at + leases * lease - 1
    while time.monotonic() < deadline:
        assert [fleet.jobs.get(job_id).state for job_id in (first, second)] == [
            State.BLOCKED
        ] * 2
        # The other process of the worker has time for other jobs.
        assert fleet.send("add", 1, 1).get(timeout=10) == 2
        state = fleet.jobs.limit(KEY)
        assert state
        assert (state.holders, state.promised, state.waiting) == ((holder,), (), 2)
        time.sleep(0.2)
    for job_id in (first, second):
        job = fleet.jobs.get(job_id)
        assert (job.attempts, job.starts, job.started_at) == (0, 0, None)

    all_end(fleet, (holder, first, second))
    ended = next(e.at for e in fleet.journal.entries(holder) if e.item.endswith("end"))
    starts = [
        entry for entry in begins(fleet) if entry.job != holder and ":" in entry.item
    ]
    assert [entry.job for entry in starts] == [first, second]
    assert 0 <= starts[0].at - ended < 2
    assert 0 <= starts[1].at - starts[0].at < 2


def test_two_tenants_take_turns_whoever_came_first(fleet: Fleet) -> None:
    fleet.start("a", concurrency=4)
    wide = [fleet.send("sell_wide", "ada", 0.05).id for _ in range(80)]
    wait_until(lambda: len(begins(fleet)) >= 12, "ada has the fleet for herself")
    came_at = time.monotonic()
    others = [fleet.send("sell_wide", "bob", 0.05).id for _ in range(10)]
    all_end(fleet, wide + others)

    assert most_at_once(fleet) == 4
    later = [entry.item[:3] for entry in begins(fleet) if entry.at > came_at]
    last = max(place for place, shop in enumerate(later) if shop == "bob")
    # One for each of bob's, and those that were let go before he was in the line.
    assert later[:last].count("ada") <= 10 + 4


def test_jobs_that_want_several_slots_take_all_or_none(fleet: Fleet) -> None:
    fleet.start("a", concurrency=4)
    shops = ["berlin", "paris", "rome"] * 3
    both = [fleet.send("sell_both", shop, 0.1).id for shop in shops]
    alone = [fleet.send("sell", shop, 0.1).id for shop in shops]
    all_end(fleet, both + alone)

    assert {most_at_once(fleet, shop) for shop in shops} == {1}
    runs = [e for e in fleet.journal.entries() if e.job in both]
    steps = (1 if entry.item.endswith("begin") else -1 for entry in runs)
    assert max(itertools.accumulate(steps)) == 2
    nothing_is_left(fleet)


def test_a_limit_that_is_raised_lets_waiters_go_at_once(
    standing_fleet: Fleet, shop: str
) -> None:
    fleet, key = standing_fleet, f"shop:{shop}"
    (holder,), others = sell(fleet, 1, shop, 2), sell(fleet, 2, shop, 1)
    fleet.wait_for(holder, State.RUNNING)
    assert fleet.jobs.get(others[0]).state is State.BLOCKED

    fleet.jobs.set_limit(key, 2)
    fleet.wait_for(others[0], State.RUNNING, timeout=1)
    assert fleet.jobs.get(holder).state is State.RUNNING
    state = fleet.jobs.limit(key)
    assert state
    assert (state.n, state.changed, state.waiting) == (2, True, 1)

    fleet.jobs.set_limit(key, None)
    all_end(fleet, (holder, *others))
    nothing_is_left(fleet)


@backend_writes_here
def test_jobs_that_wait_can_be_cancelled_and_paused(
    standing_fleet: Fleet, shop: str
) -> None:
    fleet = standing_fleet
    holder, cancelled, paused, last = sell(fleet, 4, shop, 0.5)
    fleet.wait_for(holder, State.RUNNING)
    fleet.jobs.cancel(cancelled)
    fleet.jobs.pause(paused)
    state = fleet.jobs.limit(f"shop:{shop}")
    assert state
    assert state.waiting == 1

    all_end(fleet, (holder, last))
    fleet.jobs.resume(paused)
    all_end(fleet, (paused,))
    assert fleet.jobs.get(cancelled).state is State.CANCELLED
    assert [e.job for e in begins(fleet, shop)] == [holder, last, paused]
    nothing_is_left(fleet)


def test_a_drained_job_goes_on_before_those_that_wait(fleet: Fleet) -> None:
    first, _ = fleet.start("a", "b")
    walk = [fleet.send("walk_alone", "berlin", 50).id for _ in range(2)]
    fleet.journal.wait_for(walk[0], count=5)
    owner = fleet.owner(walk[0])
    owner.send_signal(signal.SIGTERM)
    all_end(fleet, walk)

    assert fleet.jobs.get(walk[0]).interruptions == 1
    runs = [job for job, _ in itertools.groupby(e.job for e in fleet.journal.entries())]
    assert runs == walk
    assert first.name in fleet.workers


def test_a_job_in_its_backoff_holds_no_slot(standing_fleet: Fleet, shop: str) -> None:
    fleet = standing_fleet
    fails = fleet.send("fail_once", shop, 1).id
    fleet.wait_for(fails, State.RETRYING)
    (other,) = sell(fleet, 1, shop)
    all_end(fleet, (other,))
    assert fleet.jobs.get(fails).state is State.RETRYING
    assert fleet.wait_for(fails).state is State.SUCCEEDED


def test_a_rate_spreads_the_starts(standing_fleet: Fleet, shop: str) -> None:
    fleet = standing_fleet
    calls = [fleet.send("call", shop).id for _ in range(14)]
    all_end(fleet, calls)

    starts = [entry.at for entry in begins(fleet, shop)]
    for place, at in enumerate(starts):
        in_a_second = [other for other in starts[place:] if other - at < 1.0]
        assert len(in_a_second) <= 10 + 1
    # 13 intervals of 0.1 s, one of them for the way; without the rate all begin at once.
    assert 1.1 < starts[-1] - starts[0] < 3
    assert {entry.job for entry in begins(fleet, shop)} == set(calls)


def test_a_service_that_asks_to_wait_is_left_alone_by_all(
    standing_fleet: Fleet, shop: str
) -> None:
    fleet = standing_fleet
    scolded = fleet.send("scold", shop, 1.5).id
    fleet.wait_for(scolded, State.RETRYING)
    told_at = fleet.journal.wait_for(scolded).at
    calls = [fleet.send("call", shop).id for _ in range(3)]
    elsewhere = fleet.send("call", f"not-{shop}").id
    all_end(fleet, (elsewhere, *calls))

    assert fleet.journal.wait_for(elsewhere).at - told_at < 1.5
    assert min(fleet.journal.wait_for(job_id).at for job_id in calls) - told_at > 1.4
    assert fleet.wait_for(scolded).attempts == 0


def test_an_argument_that_no_producer_has_checked_ends_the_job(
    standing_fleet: Fleet,
) -> None:
    fleet = standing_fleet
    result = fleet.app.send_task("t.sell", args=[["a", "list"]])
    job = fleet.wait_for(result.id)

    assert (job.state, job.starts) == (State.DEAD, 1)
    assert job.error
    assert "'shop:{shop}' cannot use the argument 'shop'" in job.error.message
    assert fleet.journal.entries(result.id) == []


# -- workers that die


def pids(worker: Worker) -> set[int]:
    """All processes of a worker."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with_name = stat.read_text().rpartition(")")[2].split()
        if int(with_name[2]) == worker.pid:
            found.add(int(stat.parent.name))
    return found


def kill(worker: Worker, died: dict[int, float]) -> None:
    """Kill a worker, and note when each of its processes was gone."""
    processes = pids(worker)
    at = worker.kill()
    died.update(dict.fromkeys(processes, at))


def overlaps(entries: list[Entry], died: dict[int, float]) -> list[tuple[Entry, Entry]]:
    """Pairs of runs that both held the slot at one moment."""
    ends = {(e.job, e.fence): e.at for e in entries if e.item.endswith("end")}
    starts = [entry for entry in entries if entry.item.endswith("begin")]
    found = []
    for earlier, later in itertools.pairwise(starts):
        end = ends.get((earlier.job, earlier.fence), died.get(earlier.pid))
        if end is None or later.at < end:
            found.append((earlier, later))
    return found


def under_kills(fleet: Fleet, jobs: int, names: str, seconds: float) -> None:
    """Sell for one shop while a worker is killed every two seconds, and judge it."""
    fleet.start(*names, concurrency=8 // len(names))
    died: dict[int, float] = {}
    sold = sell(fleet, jobs, seconds=0.1)
    victims, deadline = itertools.cycle(names), time.monotonic() + seconds
    kill_at = time.monotonic() + 2
    while time.monotonic() < deadline:
        state = fleet.jobs.limit(KEY)
        in_use = len(state.holders) + len(state.promised) if state else 0
        assert in_use <= 1
        if time.monotonic() >= kill_at:
            # Preferably the one that holds the slot.
            held = state and [fleet.jobs.get(job).worker for job in state.holders]
            name = held[0].partition("@")[0] if held and held[0] else next(victims)
            kill(fleet.workers[name], died)
            fleet.workers[name].launch()
            kill_at += 2
        time.sleep(0.02)
    all_end(fleet, sold, timeout=60)

    entries = fleet.journal.entries()
    assert len(died) > 4
    assert overlaps(entries, died) == []
    assert {entry.job for entry in entries if entry.item.endswith("end")} == set(sold)
    nothing_is_left(fleet)


def test_one_at_a_time_while_workers_are_killed(make_fleet: FleetFactory) -> None:
    under_kills(make_fleet(jobkit_hint_seconds=LEASE), 25, "ab", 5)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("broker", [REDIS, CLASSIC], indirect=True)
def test_one_at_a_time_while_workers_are_killed_for_a_minute(
    make_fleet: FleetFactory,
) -> None:
    # In a minute the killer meets the same job more often than its policy would bear.
    policy = {"base": 0.1, "crashes": 100}
    fleet = make_fleet(jobkit_hint_seconds=LEASE, jobkit_retry_policy=policy)
    under_kills(fleet, 200, "abcd", 60)


@pytest.mark.long
def test_a_frozen_holder_loses_its_slot_and_frees_nobody_elses(fleet: Fleet) -> None:
    fleet.start("a", "b")
    (holder,) = sell(fleet, 1, seconds=1)
    frozen = fleet.owner(holder)
    fleet.journal.wait_for(holder)
    frozen.send_signal_to_all(signal.SIGSTOP)
    (other,) = sell(fleet, 1, seconds=3)
    fleet.journal.wait_for(other, timeout=LEASE * 4 + 5)
    frozen.send_signal_to_all(signal.SIGCONT)
    last = sell(fleet, 1)[0]
    all_end(fleet, (holder, other, last))

    mine = fleet.journal.entries(other)
    theirs = [e.at for e in begins(fleet) if e.job == last]
    assert min(theirs) > max(entry.at for entry in mine)
    nothing_is_left(fleet)


def test_a_run_that_ends_frees_its_slot_and_a_killed_one_goes_on_in_it(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_lease_seconds=30)
    fleet.start("a", concurrency=2)
    (holder,) = sell(fleet, 1, seconds=0.5)
    entry = fleet.journal.wait_for(holder)
    (other,) = sell(fleet, 1)
    os.kill(entry.pid, signal.SIGKILL)
    all_end(fleet, (holder, other), timeout=20)
    assert [e.job for e in begins(fleet)] == [holder, holder, other]


@pytest.mark.parametrize(
    "task", ["sell_hard", pytest.param("sell_once", marks=pytest.mark.long)]
)
def test_a_run_that_its_worker_ends_for_good_frees_its_slot(
    make_fleet: FleetFactory, task: str
) -> None:
    fleet = make_fleet(jobkit_lease_seconds=30)
    fleet.start("a", concurrency=2)
    holder = fleet.send(task, "berlin", 60).id
    entry = fleet.journal.wait_for(holder)
    (other,) = sell(fleet, 1)
    if task == "sell_once":
        os.kill(entry.pid, signal.SIGKILL)
    all_end(fleet, (other,), timeout=15)
    assert fleet.jobs.get(holder).state is State.DEAD
