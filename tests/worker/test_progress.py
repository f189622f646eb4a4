"""Progress as others see it: in the store, by watching, and in Celery's backend."""

from __future__ import annotations

import math
import threading

import redis

from jobkit import Event, State
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, FleetFactory

CELERY_PROGRESS_KEYS = {"pending", "current", "total", "percent", "description"}


class Watch:
    """A thread that keeps all that a watcher of a job is told."""

    def __init__(self, fleet: Fleet, job_id: str) -> None:
        self.events: list[Event] = []
        self._thread = threading.Thread(target=self._watch, args=(fleet, job_id))
        self._thread.start()

    def _watch(self, fleet: Fleet, job_id: str) -> None:
        self.events.extend(fleet.jobs.watch(job_id))

    def all(self) -> list[Event]:
        """Everything up to the end of the job."""
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()
        return self.events


def saves(fleet: Fleet, job_id: str) -> int:
    """How often the last run has saved."""
    with redis.Redis.from_url(fleet.setup.store, decode_responses=True) as client:
        return int(client.hget(fleet.store.keys.job(job_id), "save_seq") or 0)


def test_a_running_job_saves_once_a_second(fleet: Fleet) -> None:
    fleet.start("a")
    result = fleet.send("walk", 2_000, 0.001)

    job = fleet.wait_for(result.id)

    assert job.started_at
    assert job.finished_at
    seconds = (job.finished_at - job.started_at).total_seconds()
    stages = 3
    assert seconds > 2
    assert saves(fleet, job.id) <= math.ceil(seconds) + 2 * stages
    assert job.progress.stage == "end"
    assert job.progress.percent == 100.0
    assert job.checkpoint


def test_progress_never_goes_back_even_over_a_takeover(fleet: Fleet) -> None:
    fleet.start("a", "b")
    result = fleet.send("walk", 300)
    watch = Watch(fleet, result.id)
    fleet.journal.wait_for(result.id, count=180)
    fleet.owner(result.id).kill()
    fleet.wait_for(result.id)

    events = watch.all()
    shown = [event.progress for event in events if event.progress]
    percents = [p.percent for p in shown if p.percent is not None]
    imported = [p.current for p in shown if p.stage == "import"]

    assert "recovered" in [event.name for event in events]
    assert percents == sorted(percents)
    assert percents[-1] == 100.0
    assert imported == sorted(imported)
    assert imported[-1] == 300
    assert all(p.current == p.ok + p.failed + p.skipped for p in shown)
    assert events[-1].state is State.SUCCEEDED


def test_the_result_backend_mirrors_progress_and_then_the_end(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_mirror_interval=0.1)
    fleet.start("a")
    result = fleet.send("walk", 250)

    wait_until(
        lambda: (
            fleet.shown(result.id) == "PROGRESS" and result.info["stage"] == "import"
        ),
        "progress is mirrored",
    )
    info = result.info
    assert info.keys() >= CELERY_PROGRESS_KEYS | {"stage", "eta_seconds", "rate"}
    assert (info["total"], info["pending"], info["stage"]) == (250, False, "import")
    assert 0 < info["percent"] < 100

    states: list[str] = []

    def ended() -> bool:
        ended = fleet.jobs.get(result.id).state.finished
        states.append(fleet.shown(result.id))
        return ended

    wait_until(ended, "the job has ended")
    assert set(states) == {"PROGRESS", "SUCCESS"}
    assert set(states[states.index("SUCCESS") :]) == {"SUCCESS"}
    assert result.get(timeout=5) == 250
