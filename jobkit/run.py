"""One run of a job: stages and items on top of a lease, saved as it goes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

from jobkit import clock, codec
from jobkit.checkpoint import Checkpoint, Migration
from jobkit.errors import (
    Interrupted,
    LeaseLost,
    Permanent,
    StageError,
    StoreUnavailable,
)
from jobkit.items import StageRun
from jobkit.job import FailedItem, ItemFailure, Job, Progress
from jobkit.lease import Lease
from jobkit.progress import Measured, Pace, Plan, Stage, progress, total_of
from jobkit.skip import Skipping
from jobkit.store.values import Snapshot

logger = logging.getLogger(__name__)

T = TypeVar("T")
Source = Iterable[T] | Callable[[Any], Iterable[T]]

UNNAMED = Stage("run")
"""The stage of a task that declares none and reports by ``set_progress``."""

UNDECLARED = Plan((UNNAMED,))
"""The plan of such a task."""

PATIENCE = 0.25
"""Seconds between two tries of a write that the run cannot do without."""


LEDGER_PAGE = 200
"""Rows of the ledger that are read at a time."""

LOOK_EVERY = 1.0
"""Seconds between two questions to the store of a loop that saves nothing."""


class Run:
    """What a task knows of its own run.

    ``listener`` is called with the progress after each save that the store
    took; ``checkpoint_every`` saves after so many items besides the interval.
    ``enter`` is called in each thread that handles items for the run.
    """

    def __init__(
        self,
        job: Job,
        lease: Lease,
        plan: Plan,
        *,
        checkpoint_every: int | None = None,
        skipping: Skipping | None = None,
        listener: Callable[[Progress], None] | None = None,
    ) -> None:
        self.job = job
        self.lease = lease
        self.plan = plan if plan.stages else UNDECLARED
        self.saved = Checkpoint.decode(job.checkpoint)
        self.saved.forgive(job.replays)
        self.misfit: str | None = None
        if self.saved.stages:
            self.saved.rename(self.plan.former)
            self.misfit = self.saved.misfit(self.plan.names)
        self.saved.plan = self.plan.names
        self.progress = job.progress
        self.checkpoint_every = checkpoint_every
        self.skipping = skipping or Skipping()
        self.failed: list[FailedItem] = []
        self.resolved: list[str] = []
        self.ended = False
        self.stopped: Interrupted | None = None
        self.listener = listener
        self.enter: Callable[[], None] | None = None
        self._declared = bool(plan.stages)
        self._seq = 0
        self._unsaved = False
        self._used: list[str] = []
        self._open: StageRun | None = None
        self._since: float | None = None
        self._seconds = 0.0
        self._pace = Pace(self.saved.rate)
        self._message: str | None = None

    def migrate(self, migration: Migration) -> None:
        """Let user code fit saved stages to the plan, which they do not fit."""
        try:
            stages = migration(self.saved.opened())
            if stages is not None:
                self.saved.replace(stages, self.plan.names)
                self.misfit = None
        except Exception as error:
            logger.exception("Job %s cannot be migrated", self.job.id)
            told = f"{type(error).__qualname__}: {error}"
            self.misfit = f"{self.misfit} Its migrate failed with {told}"

    # -- what user code calls -------------------------------------------------

    def stage(
        self, name: str, total: int | None = None, title: str | None = None
    ) -> StageRun:
        """Begin a stage; see ``ProgressTask.stage``."""
        index = self._use(name)
        name = self.plan.names[index]
        self.say(title or self.plan.stages[index].title)
        state = self.saved.stage(name)
        # A replay goes over the failed items alone, whose number is known.
        if total is not None and not (self.job.replay_of and state.total is not None):
            state.total = total_of(total, name)
        return StageRun(self, name, index, state)

    def step(self, name: str, call: Callable[[], T]) -> T:
        """Do something once and keep its value; see ``ProgressTask.step``."""
        with self.stage(name, total=1) as stage:
            if not stage.done:
                self.check()
                value = call()
                stage.state.keep(value, name)
                stage.state.current = 1
                return value
            return codec.loads(stage.state.value or "null")  # type: ignore[no-any-return]

    def current(self) -> StageRun:
        """The stage that is open; for a task that declares none, its only one."""
        if self._open is None:
            if self._declared:
                raise StageError(
                    "No stage is open: report progress inside `with self.stage(...)`.",
                )
            return self.stage(UNNAMED.name).__enter__()
        return self._open

    def check(self) -> None:
        """Stop here if the run has to stop.

        Raises:
            Interrupted: Which kind says why.
        """
        reason = self.lease.stop()
        if reason:
            self.stopped = reason
            raise reason

    def attend(self, *, stop: bool = True) -> None:
        """Save, and stop here if the run has to stop; not without ``stop``."""
        self.lease.attention = False
        if not self.lease.lost:
            self.save()
        if stop:
            self.check()

    def leave_for(self, reason: Interrupted) -> NoReturn:
        """Save, and stop here for a reason that there was a moment ago."""
        self.attend()
        self.stopped = reason
        raise reason

    def failures(self) -> Iterator[ItemFailure]:
        """The ledger of failed items, with those of this moment."""
        if self.failed:
            self.save()
            self.insist(lambda: None)
        return self._ledger(self.job.id)

    def to_replay(self, stage: str, place: int | None) -> Iterator[ItemFailure]:
        """Open rows of the job that this one replays, behind a place in its ledger.

        Raises:
            Permanent: Its record is gone, and they with it.
        """
        replayed = self.job.replay_of
        if self.lease.store.get(replayed) is None:
            raise Permanent(
                f"The failed items of job {replayed!r} cannot be replayed: its record "
                "is not kept any more.",
            )
        return (
            row
            for row in self._ledger(replayed)
            if row.open
            and self.now(row.stage) == stage
            and (place is None or row.place > place)
        )

    def now(self, stage: str) -> str:
        """The name that a stage has now."""
        return self.plan.former.get(stage, stage)

    def _ledger(self, job_id: str) -> Iterator[ItemFailure]:
        after: str | None = ""
        while after is not None:
            page = self.lease.store.failures(job_id, after or None, LEDGER_PAGE)
            yield from page.items
            after = page.next

    # -- stages -----------------------------------------------------------------

    def _use(self, name: str) -> int:
        if name != UNNAMED.name or self._declared:
            self._must_be_declared(name)
        if name in self._used:
            raise StageError(
                f"Stage {name!r} is used a second time in one run: "
                "its cursor would be overwritten. Declare another stage.",
            )
        if self._open is not None:
            raise StageError(
                f"Stage {name!r} begins inside stage {self._open.name!r}: "
                "close that one first.",
            )
        index = self.plan.index(name)
        if self._used and index < self.plan.index(self._used[-1]):
            raise StageError(
                f"Stage {name!r} comes after {self._used[-1]!r}, but the task's stages "
                f"are in the order {list(self.plan.names)}.",
            )
        self._used.append(name)
        return index

    def _must_be_declared(self, name: str) -> None:
        if not self._declared:
            raise StageError(
                f"Stage {name!r} is not declared: the task has no stages. "
                f"Add stages=[{name!r}] to it.",
            )
        self.plan.index(name)

    def opened(self, stage: StageRun) -> None:
        """Make a stage the current one."""
        same = self.progress.stage == stage.name
        self._open = stage
        # Of one that an earlier run has finished nothing more is timed.
        self._since = None if stage.state.done else clock.monotonic()
        self._seconds = stage.state.seconds
        self._pace = Pace(self.saved.rate if same else None)
        self._pace.measure(stage.state.current, clock.monotonic())
        if not (same or stage.state.done or stage.name == UNNAMED.name):
            self.attend(stop=False)  # it is seen before its first item is through

    def must_be_open(self, stage: StageRun) -> None:
        """Refuse what can only be done inside the stage's block.

        Raises:
            StageError: It has not been entered, or it was left.
        """
        if self._open is not stage:
            raise StageError(
                f"Stage {stage.name!r} is not open: write "
                f"`with self.stage({stage.name!r}) as stage:` and iterate inside.",
            )

    def closed(self, stage: StageRun, error: BaseException | None) -> None:
        """Save the end of a stage, good or bad; an interruption was saved before."""
        if error is None and self.stopped is None:
            newly = not stage.state.done
            stage.state.done = True
            if newly:
                self.save()
        elif not isinstance(error, Interrupted):
            self.save()
        self._open = None

    def left(self, error: BaseException) -> BaseException:
        """Save the stage of a task that declares none, which no block closes.

        Returns what the run ends with: the error, or that its lease is lost.
        """
        try:
            if self._open is not None and not self.ended:
                self.closed(self._open, error)
        except LeaseLost as lost:
            return lost
        return error

    def say(self, text: str | None) -> None:
        """Show a message beside the progress."""
        self._message = None if text is None else str(text)[: codec.TEXT_LIMIT]

    # -- saving -------------------------------------------------------------------

    def save(self) -> None:
        """Write checkpoint and progress; an outage only makes it come later.

        Raises:
            LeaseLost: The store says that another run owns the job.
        """
        snapshot = self.snapshot()
        sent_at = clock.monotonic()
        self._seq += 1
        lease = self.lease
        try:
            kept = lease.store.save(
                self.job.id, lease.fence, self._seq, snapshot, lease.seconds
            )
        except StoreUnavailable as error:
            self._unsaved = True
            logger.warning("Job %s goes on without saving: %s", self.job.id, error)
            return
        finally:
            lease.saved()
        self._unsaved = False
        del self.failed[: len(snapshot.failed)]
        del self.resolved[: len(snapshot.resolved)]
        lease.confirm(sent_at, kept)
        if not kept.owner:
            self.check()
        if self.listener:
            self.listener(self.progress)

    def insist(self, write: Callable[[], T]) -> T:
        """Make a write that must not be skipped, for as long as the lease holds.

        A checkpoint that an outage kept back is written first.

        Raises:
            LeaseLost: The store stayed out of reach; somebody else will run
                the job again from its checkpoint.
        """
        while True:
            if self._unsaved:
                self.save()
            try:
                if not self._unsaved:
                    return write()
            except StoreUnavailable as error:
                logger.warning("Job %s waits for the store: %s", self.job.id, error)
            if self.lease.lost:
                raise LeaseLost("the store stayed out of reach")
            time.sleep(PATIENCE)

    def snapshot(self) -> Snapshot:
        """Where the run is now, as the store keeps it."""
        if self._open is not None:
            self.progress = self._measure(self._open)
            if self._since is not None:
                seconds = self._seconds + clock.monotonic() - self._since
                self._open.state.seconds = round(seconds, 1)
        return Snapshot(
            *(self.saved.position, self.saved.encode(), self.progress),
            failed=tuple(self.failed),
            resolved=tuple(self.resolved),
        )

    def final(self) -> Snapshot:
        """The end of a run that did all it had to do: nothing is left."""
        if self._open is not None:
            self._open.state.done = True
        snapshot = self.snapshot()
        if not self.saved.stages:
            return snapshot
        self.progress = replace(self.progress, percent=100.0, eta_seconds=None)
        return Snapshot(snapshot.position, snapshot.checkpoint, self.progress)

    def _measure(self, stage: StageRun) -> Progress:
        state = stage.state
        self._pace.measure(state.current, clock.monotonic())
        now = Measured(
            index=stage.index,
            current=state.current,
            total=state.total,
            ok=state.ok,
            failed=state.failed,
            skipped=state.skipped,
            done=state.done,
            message=self._message,
        )
        shown = progress(self.plan, now, self._pace.rate, self.saved.floor)
        self.saved.rate = self._pace.rate
        self.saved.floor = shown.percent or self.saved.floor
        return shown


class CurrentJob:
    """What a task may know of the job that it runs."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def id(self) -> str:
        """The job's id, which is the Celery task's."""
        return self._run.job.id

    @property
    def fence(self) -> int:
        """A number that grows with each start: for ``WHERE fence <= :fence``."""
        return self._run.lease.fence

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1; only errors make it grow."""
        return self._run.job.attempts + 1

    @property
    def recoveries(self) -> int:
        """How often the job was taken from a worker that died."""
        return self._run.job.recoveries

    @property
    def owner(self) -> str:
        """The tenant or user it was enqueued for."""
        return self._run.job.owner

    def should_stop(self) -> bool:
        """Whether the run is to stop now; for loops that jobkit does not see.

        A body that was told so and returns has stopped, not ended: the job goes
        on elsewhere, or is paused or cancelled, as it was asked to. The store is
        asked at most once a second.
        """
        lease = self._run.lease
        lease.look(LOOK_EVERY)
        reason = lease.stop()
        if reason is not None:
            self._run.stopped = reason
        return reason is not None

    def item_key(self, item: object) -> str:
        """A key for one item that stays the same over retries and replays.

        To be handed to services that do a thing once for each idempotency key.
        """
        return f"{self._run.job.replay_root or self._run.job.id}:{item}"
