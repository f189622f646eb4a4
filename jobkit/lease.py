"""The right to run one job for a while, and the threads that keep it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from jobkit import clock
from jobkit.errors import (
    Cancelled,
    Drained,
    Interrupted,
    LeaseLost,
    Paused,
    StoreUnavailable,
    Yielded,
)
from jobkit.job import StopRequest
from jobkit.store.base import Store
from jobkit.store.values import Kept

logger = logging.getLogger(__name__)

TICK = 0.05
"""Seconds between two looks of the keeper."""


RENEW_AGAIN = 0.5
"""Seconds between two tries to renew while the store is out of reach, at the most."""


WAITED = 0.5
"""Seconds after which a job that is queued counts as waiting: no worker is free."""


@dataclass(frozen=True, slots=True)
class Slice:
    """How long a run may go on before it asks whether more urgent jobs wait.

    ``queues`` are those that are more urgent than its own.
    """

    seconds: float
    queues: tuple[str, ...]


class Lease:
    """What one run knows of its right to go on.

    ``attention`` is all that a hot loop has to read: it turns true when there
    is something to do at the next item boundary, be it a save or a stop.

    The run fences itself at two thirds of the lease, by the monotonic clock,
    counted from the moment the last confirmed command was *sent*: so it has
    stopped writing before the store lets anybody else begin. ``sent_at`` is that
    moment for the command that began the run, by default now.
    """

    def __init__(
        self,
        store: Store,
        job_id: str,
        fence: int,
        seconds: float,
        save_every: float,
        sent_at: float | None = None,
    ) -> None:
        self.attention = False
        self.store = store
        self.job_id = job_id
        self.fence = fence
        self.seconds = seconds
        self.request: StopRequest | None = None
        self.drained = False
        self.slice: Slice | None = None
        self.outranked = False
        self._taken = False
        self._save_every = save_every
        self._saved = self._slice_began = clock.monotonic()
        self._confirmed = self._saved if sent_at is None else sent_at
        self._tried = self._confirmed
        self._slots_confirmed: float | None = None

    @property
    def lost(self) -> bool:
        """Whether another owner may have the job by now."""
        return self._taken or self._age() >= self.seconds * 2 / 3

    def _age(self) -> float:
        confirmed = self._confirmed
        if self._slots_confirmed is not None:
            confirmed = min(confirmed, self._slots_confirmed)
        return clock.monotonic() - confirmed

    def hold_slots(self, sent_at: float) -> None:
        """Keep the run's slots beside its lease; without them it stops as well."""
        self._slots_confirmed = sent_at

    def confirm(self, sent_at: float, kept: Kept) -> None:
        """Take in the answer to a command that was sent at ``sent_at``."""
        if kept.owner:
            self._confirmed = max(self._confirmed, sent_at)
            self.request = kept.request
        else:
            self._taken = True

    def saved(self) -> None:
        """Note that a save was made or tried: the next is due an interval later."""
        self._saved = clock.monotonic()

    def stop(self) -> Interrupted | None:
        """Why the run has to stop at this item boundary, if it has to."""
        if self.lost:
            return LeaseLost(f"the lease of job {self.job_id} (fence {self.fence})")
        if self.request:
            told = f"{self.request.actor}: {self.request.reason}"
            return Cancelled(told) if self.request.kind == "cancel" else Paused(told)
        if self.drained:
            return Drained("the worker is shutting down")
        return Yielded("more urgent jobs wait") if self.outranked else None

    def tick(self, *, draining: bool) -> None:
        """One look of the keeper: raise ``attention`` if there is a reason."""
        self.drained = self.drained or draining
        now = clock.monotonic()
        if now - self._saved >= self._save_every - TICK or self.stop():
            self.attention = True

    @property
    def due(self) -> bool:
        """Whether it is time to renew, or to try that again."""
        third = self.seconds / 3
        again = min(third / 4, RENEW_AGAIN)
        tried = clock.monotonic() - self._tried
        return not self.lost and self._age() >= third and tried >= again

    @property
    def slice_over(self) -> bool:
        """Whether it is time to ask if more urgent jobs wait."""
        if self.slice is None or self.outranked:
            return False
        return clock.monotonic() - self._slice_began >= self.slice.seconds

    def ask_for_more(self) -> None:
        """Begin another slice, unless more urgent jobs wait."""
        self._slice_began = clock.monotonic()
        queues = self.slice.queues if self.slice else ()
        try:
            self.outranked = self.store.waiting(queues, WAITED)
        except StoreUnavailable as error:
            logger.warning("Job %s goes on for another slice: %s", self.job_id, error)
        except Exception:  # this thread renews all the leases of its process
            logger.exception("Job %s goes on for another slice", self.job_id)

    def look(self, every: float) -> None:
        """Ask the store what it wants, unless it has said or was asked just now."""
        asked = max(self._confirmed, self._tried)
        if self.stop() is None and clock.monotonic() - asked >= every:
            self.renew()

    def renew(self) -> None:
        """Ask the store for more time; it may take as long as the store's limit."""
        now = self._tried = clock.monotonic()
        try:
            kept = self.store.renew(self.job_id, self.fence, self.seconds)
            if self._slots_confirmed is not None:
                self._renew_slots(now)
        except StoreUnavailable as error:
            left = self.seconds * 2 / 3 - self._age()
            logger.warning(
                "Job %s cannot renew its lease and stops in %.1f s: %s",
                *(self.job_id, max(left, 0.0), error),
            )
        except Exception:  # this thread renews all the leases of its process
            logger.exception("Job %s cannot renew its lease", self.job_id)
        else:
            self.confirm(now, kept)

    def _renew_slots(self, sent_at: float) -> None:
        if self.store.renew_slots(self.job_id, self.fence, self.seconds):
            self._slots_confirmed = sent_at
        else:
            self._taken = True


class Keeper:
    """The threads of this process that look after the leases of its runs.

    One looks and never waits for the store, so that a slow renewal by the other
    keeps no run from stopping in time. They start with the first lease, and anew
    in a forked child.
    """

    def __init__(self, draining: Callable[[], bool]) -> None:
        self._draining = draining
        self._forget_threads()

    def _forget_threads(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._busy = threading.Event()
        self._due = threading.Event()
        self._leases: set[Lease] = set()
        self._threads: list[threading.Thread] = []

    def keep(self, lease: Lease) -> None:
        """Look after a lease from now on."""
        if self._pid != os.getpid():
            self._forget_threads()
        with self._lock:
            self._leases.add(lease)
            if not self._busy.is_set():  # which wakes somebody each time
                self._busy.set()
            if not self._threads:
                self._start("jobkit-keeper", self._look)
                self._start("jobkit-renewer", self._renew)

    def _start(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def release(self, lease: Lease) -> None:
        """Stop looking after a lease."""
        with self._lock:
            self._leases.discard(lease)

    def _kept(self) -> list[Lease]:
        with self._lock:
            return list(self._leases)

    def _rest(self) -> None:
        # Here and not in release: of short jobs the next one comes at once.
        with self._lock:
            if not self._leases:
                self._busy.clear()

    def _look(self) -> None:
        pause = threading.Event()
        while True:
            self._busy.wait()
            pause.wait(TICK)
            draining = self._draining()
            for lease in self._kept():
                lease.tick(draining=draining)
                if lease.due or lease.slice_over:
                    self._due.set()
            self._rest()

    def _renew(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            for lease in self._kept():
                # It may have been released while another one was renewed.
                if lease in self._leases and lease.due:
                    lease.renew()
                if lease in self._leases and lease.slice_over:
                    lease.ask_for_more()
