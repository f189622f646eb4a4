"""Many dead letters replayed or discarded: by a job of its own, at a bounded rate."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from jobkit import clock, codec
from jobkit.errors import NotAllowed, SettingsError
from jobkit.filters import Wanted
from jobkit.job import Job
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.values import BulkAct

REPLAY_ALL, DISCARD_ALL = "jobkit.replay_all", "jobkit.discard_all"
"""The names of the tasks, which every app with jobkit has."""

STAGES = {REPLAY_ALL: "replay", DISCARD_ALL: "discard"}

PAGE = 200
"""Jobs that are moved by one script at the most."""

LOOK_AT = 2_000
"""Jobs that are counted by one script."""

BURST = 5
"""Jobs by which a second may have more than the rate."""

TICK = 0.05
"""Seconds between two looks of a waiting replay at whether it has to stop."""


@dataclass(frozen=True, slots=True)
class Bulk:
    """What ``replay_all`` and ``discard_all`` are about to do.

    ``count`` jobs match, ``ids`` are the newest of them, up to 50, and ``job_id`` is
    the job that goes through them: to be watched and cancelled as any other. It is
    None after a dry run, and when nothing matches.
    """

    count: int
    ids: tuple[str, ...]
    job_id: str | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What one bulk is to do; ``rate`` is jobs a second, None for no bound."""

    act: BulkAct
    wanted: Wanted
    rate: float | None = None
    reason: str = ""
    actor: str = ""
    count: int = 0

    def __post_init__(self) -> None:
        rate: Any = self.rate
        is_number = isinstance(rate, int | float) and 0 < rate < math.inf
        if rate is not None and not is_number:
            raise SettingsError(
                f"rate={rate!r} is no number of jobs a second above 0; None is as "
                "fast as it goes."
            )

    @property
    def task(self) -> str:
        """The task that carries it out."""
        return DISCARD_ALL if self.act == "discard" else REPLAY_ALL

    def encode(self) -> str:
        """The text that is the task's argument."""
        plain = asdict(self)
        del plain["wanted"]["state"]
        return codec.dumps(plain, what="bulk")

    @classmethod
    def decode(cls, text: str) -> Order:
        """The reverse of ``encode``."""
        plain = codec.loads(text)
        wanted = Wanted(state=State.DEAD, **plain.pop("wanted"))
        return cls(wanted=wanted, **plain)


def dead_letters(wanted: Wanted, *, everything: bool) -> Wanted:
    """The dead letters that are meant; all of them only when that is said.

    Raises:
        NotAllowed: Nothing narrows them, and ``everything`` is not set.
        SettingsError: A filter is an empty text, or the state is another one.
    """
    for name in ("task", "queue", "owner", "dead_letter_queue", "error"):
        if getattr(wanted, name) == "":
            raise SettingsError(f"{name}='' names nothing: leave it out, or name one.")
    if wanted.state not in (None, State.DEAD):
        raise SettingsError(f"Dead letters are DEAD, not {wanted.state}.")
    if not (wanted.narrow or everything):
        raise NotAllowed(
            "No filter is given: this would go over all dead letters. Name a task, "
            "queue, owner, error or time, or say everything=True."
        )
    return replace(wanted, state=State.DEAD)


def find(store: Store, wanted: Wanted, after: str | None = None) -> Iterator[str]:
    """The ids of all jobs that match, but for bulks that died themselves."""
    more = True
    while more:
        page = store.ids(after=after, limit=LOOK_AT, **keywords(wanted))
        yield from (job_id for job_id, task in page.items if _is_meant(task, wanted))
        after, more = page.next, page.next is not None


def keywords(wanted: Wanted) -> Any:
    """What is wanted, as the keywords of a list."""
    return asdict(wanted)


def _is_meant(task: str, wanted: Wanted) -> bool:
    return task not in STAGES or task == wanted.task


class Bucket:
    """Hands out leave to move jobs: ``rate`` a second, and ``BURST`` at once.

    It starts empty, so that a run right after another one's end owes nothing to
    it, and time counts only between an act's end and the next one's begin: so
    no second, as the store sees it, has more than ``rate + BURST`` of them.
    """

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._tokens = 0.0
        self._since = clock.monotonic()
        self.size = PAGE if rate is None else max(1, min(BURST, int(rate / 10)))

    def full(self) -> bool:
        """Whether there is leave for ``size`` jobs; takes it if so."""
        if self._rate is None:
            return True
        now = clock.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._since) * self._rate)
        self._since = now
        if self._tokens < self.size:
            return False
        self._tokens -= self.size
        return True

    def done(self, moved: int) -> None:
        """Note that the act is over, and how many jobs were moved by it."""
        self._since = clock.monotonic()
        if self._rate is not None:
            self._tokens += self.size - moved

    def wait(self) -> None:
        """Let time pass until there may be leave."""
        if self._rate is not None:
            missing = (self.size - self._tokens) / self._rate
            time.sleep(min(TICK, max(missing, 0.001)))


def carry_out(task: Any, text: str) -> dict[str, int]:
    """The body of the tasks: go through what is wanted, from where the last run was.

    Jobs that died after the bulk was asked for are left alone, and so are those
    that have been moved meanwhile, and those of tasks that this app does not have.
    """
    order = Order.decode(text)
    job: Job = task._execution.run.job  # noqa: SLF001 - our own
    order = replace(order, wanted=_until(order.wanted, job.created_at))
    bucket = Bucket(order.rate)
    with task.stage(STAGES[task.name], total=order.count) as stage:
        state, more = stage.state, not stage.done
        if more and job.starts > 1:
            # What was moved after the last save is not among the dead any more.
            left = sum(1 for _ in find(task.kit.store, order.wanted, stage.cursor))
            state.current = max(state.current, order.count - left)
        while more:
            while not bucket.full():
                stage.advance(0)
                bucket.wait()
            seen, moved, after = _one_page(task, order, stage.cursor, bucket.size)
            bucket.done(moved)
            more = after is not None
            if more:
                state.place(after, stage.name)
            state.skipped += seen - moved
            state.total = max(state.total or 0, state.current + seen)
            stage.advance(seen)
        state.total = state.current
        return {"moved": state.ok, "skipped": state.skipped}


def _until(wanted: Wanted, asked_at: datetime) -> Wanted:
    return replace(wanted, until=min(wanted.until or asked_at, asked_at))


def _one_page(
    task: Any, order: Order, after: str | None, limit: int
) -> tuple[int, int, str | None]:
    """Move one page; how many jobs it has, how many were moved, and the next one."""
    store: Store = task.kit.store
    page = store.ids(after=after, limit=limit, **keywords(order.wanted))
    meant = [row for row in page.items if _is_meant(row[1], order.wanted)]
    able = [
        job_id
        for job_id, name in meant
        if order.act == "discard" or name in task.app.tasks
    ]
    moved = 0
    if able:
        told = (order.actor, order.reason)
        moved = len(store.bulk(able, order.act, task.job.id, *told))
    return len(meant), moved, page.next
