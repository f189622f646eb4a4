"""Workers and their children are killed at random moments, again and again."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import suppress
from random import Random

import pytest

from jobkit import Job, State
from tests.chaos.conftest import CHECKPOINT_EVERY
from tests.chaos.processes import freeze, members
from tests.waiting import wait_until
from tests.worker.fleet import Fleet

ITEMS = 2_000
PAUSE = 0.0005


class Killer:
    """Kills what runs the current job, and keeps count of the runs it hit."""

    def __init__(self, fleet: Fleet, dice: Random) -> None:
        self.jobs: list[str] = []
        self.hits: set[tuple[str, int]] = set()
        self.near_misses: Counter[str] = Counter()
        self._fleet = fleet
        self._dice = dice

    def strike(self) -> None:
        """Kill a child or a whole worker at a random moment."""
        self._let_time_pass()
        job = self._current()
        running = job.state is State.RUNNING
        name = job.worker if running else self._dice.choice(sorted(self._fleet.workers))
        worker = self._fleet.workers[name.partition("@")[0]]
        if running and self._dice.random() < 0.5:
            child = int(job.worker.rpartition("/")[2])
            freeze([child])
            self._count(job.id, job.worker)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        else:
            freeze(members(worker.pid))
            self._count(job.id, f"{worker.name}@")
            worker.kill()
            worker.launch()

    def _count(self, job_id: str, victim: str) -> None:
        # The victim is frozen. Whatever it sent before is done by the time that
        # the server answers a second time.
        self._fleet.store.ping()
        job = self._fleet.jobs.get(job_id)
        if job.state is State.RUNNING and job.worker.startswith(victim):
            self.hits.add((job.id, job.fence))
        else:
            self.near_misses[job.id] += 1

    def _current(self) -> Job:
        job = self._fleet.store.get(self.jobs[-1]) if self.jobs else None
        if job is None or job.state.finished:
            self.jobs.append(self._fleet.send("walk", ITEMS, PAUSE).id)
            job = self._fleet.jobs.get(self.jobs[-1])
        return job

    def _let_time_pass(self) -> None:
        job_id = self._current().id
        if self._dice.random() < 0.2:
            # No fact to wait for: it is the moment that is random.
            time.sleep(self._dice.uniform(0, 1))
            return
        journal = self._fleet.journal
        some = self._dice.randrange(1, ITEMS // 2)
        enough = len(journal.entries(job_id)) + some
        wait_until(
            lambda: (
                len(journal.entries(job_id)) >= enough
                or self._fleet.jobs.get(job_id).state.finished
            ),
            f"job {job_id} has come on by {some} items",
        )


def assert_unharmed(fleet: Fleet, killer: Killer, job_id: str) -> None:
    job = fleet.wait_for(job_id, timeout=60)
    hits = sum(job == job_id for job, _ in killer.hits)
    done = fleet.journal.items(job_id)

    assert set(done) == set(range(1, ITEMS + 1))
    assert len(done) <= ITEMS + hits * CHECKPOINT_EVERY
    assert (job.state, job.attempts, job.starts) == (State.SUCCEEDED, 0, 1 + hits)
    # A child that is killed before the job begins is a recovery too.
    assert hits <= job.recoveries <= hits + killer.near_misses[job_id]
    assert fleet.ends(job_id) == [State.SUCCEEDED]
    wait_until(lambda: fleet.shown(job_id) == "SUCCESS", "Celery knows", timeout=10)


def survives(fleet: Fleet, dice: Random, kills: int, seconds: float) -> None:
    fleet.start("a", "b")
    killer, end = Killer(fleet, dice), time.monotonic() + seconds
    struck = 0
    while struck < kills and time.monotonic() < end:
        killer.strike()
        struck += 1
    for job_id in killer.jobs:
        assert_unharmed(fleet, killer, job_id)
    print(f"{struck} kills hit {len(killer.hits)} runs of {len(killer.jobs)} jobs")  # noqa: T201
    assert len(killer.hits) >= struck / 2


@pytest.mark.timeout(120)
def test_jobs_survive_a_few_random_kills(fleet: Fleet, dice: Random) -> None:
    survives(fleet, dice, kills=6, seconds=30)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_jobs_survive_two_hundred_random_kills(fleet: Fleet, dice: Random) -> None:
    survives(fleet, dice, kills=200, seconds=900)
