"""Follows one job through what the store tells of it, and strikes its workers."""

from __future__ import annotations

import queue
import signal
import threading
import time
from dataclasses import dataclass, field

from examples.order_sync import tasks
from examples.order_sync.processes import Crew, Worker
from examples.order_sync.promises import Strike
from examples.order_sync.screen import Screen, node_of
from jobkit import Event, Job, State

News = tuple[float, Event, Job]


DELAY = 0.5
"""Seconds from a save to the strike: in between two saves there is most to lose."""


@dataclass(slots=True)
class Conductor:
    """Hears of one job, and strikes its workers when the plan says so.

    A strike counts when it hit a run; one that came just after the run had ended
    by itself is made again.
    """

    crew: Crew
    screen: Screen
    plan: list[tuple[float, signal.Signals]]
    strikes: list[Strike] = field(default_factory=list)
    setbacks: int = 0
    _pending: Strike | None = None
    _hit: bool = False
    _due: float | None = None
    _percent: float = 0.0
    _last_worker: str = ""

    def follow(self, job_id: str, seconds: float) -> None:
        """Go along with the job to its end, or until the time is over."""
        deadline = time.monotonic() + seconds
        news = listen(job_id)
        while time.monotonic() < deadline:
            self._see_who_left()
            self._strike_if_due(job_id)
            try:
                heard = news.get(timeout=0.1)
            except queue.Empty:
                continue
            if isinstance(heard, BaseException):
                raise heard
            self._hear(*heard)
            if heard[2].state.finished:
                self._wait_for_those_who_leave()
                return
        self.screen.say(f"the job did not end within {seconds:.0f} s", "bold red")

    def _hear(self, at: float, event: Event, job: Job) -> None:
        self.screen.show(job)
        match event.name:
            case "started":
                self._started(at, job)
            case "recovered" | "interrupted":
                self._hit = True
            case "retrying":
                self._retrying(job)
        percent = job.progress.percent or 0.0
        self.setbacks += percent < self._percent
        self._percent = percent
        if event.name != "progressed":
            self._due = None
        elif self.plan and percent >= self.plan[0][0] and not self._pending:
            self._due = at + DELAY

    def _started(self, at: float, job: Job) -> None:
        who, done = node_of(job), f"{job.progress.current:,} orders"
        strike, self._pending = self._pending, None
        if strike is not None and not self._hit:
            self.screen.say(f"that run had ended before {strike.signal.name} hit it")
        if strike is not None and self._hit:
            strike.recovered_after = at - strike.at
            self.strikes.append(strike)
            self.plan.pop(0)
            after = f"{strike.recovered_after:.1f} s after {strike.signal.name}"
            self.screen.say(f"{who} goes on after {done}, {after}", "green")
        elif who != self._last_worker:
            begun = job.progress.stage is not None
            told = f"goes on after {done}" if begun else "starts the job"
            self.screen.say(f"{who} {told}")
        self._last_worker = who

    def _retrying(self, job: Job) -> None:
        if job.error is None or job.due_at is None:
            return
        what = job.error.message.partition(" for url")[0]
        wait = (job.due_at - job.updated_at).total_seconds()
        told = f"{job.error.verdict}: {what}; again in {wait:.1f} s"
        self.screen.say(told, "yellow")

    def _strike_if_due(self, job_id: str) -> None:
        if self._due is None or time.monotonic() < self._due:
            return
        job = tasks.kit.jobs.get(job_id)
        worker = self.crew.named(job.worker)
        if job.state is not State.RUNNING or worker is None or not worker.running:
            return
        if self.crew.others_ready(worker):
            self._due = None
            self._strike(worker, job)

    def _strike(self, worker: Worker, job: Job) -> None:
        number = self.plan[0][1]
        self._hit = False
        self._pending = Strike(number, worker.name, job.fence, time.monotonic())
        if number is signal.SIGKILL:
            worker.kill()
            told = f"kill -9 of {worker.name} and its children"
        else:
            worker.terminate()
            told = f"SIGTERM to {worker.name}"
        another = self.crew.hire().name
        told += f" at {job.progress.percent:.0f} %; {another} is started"
        self.screen.say(told, "bold red")

    def _see_who_left(self) -> None:
        for strike in self._leaving():
            worker = self._worker(strike)
            if not worker.running:
                strike.left_after = time.monotonic() - strike.at
                after = f"{strike.left_after:.1f} s after SIGTERM"
                self.screen.say(f"{worker.name} has left, {after}")

    def _leaving(self) -> list[Strike]:
        strikes = [*self.strikes, *([self._pending] if self._pending else [])]
        return [one for one in strikes if not one.is_kill and one.left_after is None]

    def _worker(self, strike: Strike) -> Worker:
        return next(w for w in self.crew.workers if w.name == strike.worker)

    def _wait_for_those_who_leave(self) -> None:
        deadline = time.monotonic() + 5
        while self._leaving() and time.monotonic() < deadline:
            self._see_who_left()
            time.sleep(0.05)


def listen(job_id: str) -> queue.Queue[News | BaseException]:
    """What the store tells of a job, with the time when it was told."""
    news: queue.Queue[News | BaseException] = queue.Queue()

    def work() -> None:
        try:
            for event in tasks.kit.jobs.watch(job_id):
                news.put((time.monotonic(), event, tasks.kit.jobs.get(job_id)))
        except Exception as error:  # noqa: BLE001 - raised by who reads the news
            news.put(error)

    threading.Thread(target=work, name="news", daemon=True).start()
    return news
