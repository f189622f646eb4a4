"""The right to run one job for a while, and the thread that keeps it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from jobkit import clock
from jobkit.errors import (
    Cancelled,
    Drained,
    Interrupted,
    LeaseLost,
    Paused,
    StoreUnavailable,
)
from jobkit.job import StopRequest
from jobkit.store.base import Kept, Store

logger = logging.getLogger(__name__)

TICK = 0.05
"""Seconds between two looks of the keeper."""


RENEW_AGAIN = 0.5
"""Seconds between two tries to renew while the store is out of reach, at the most."""


class Lease:
    """What one run knows of its right to go on.

    ``attention`` is all that a hot loop has to read: it turns true when there
    is something to do at the next item boundary, be it a save or a stop.

    The run fences itself at two thirds of the lease, by the monotonic clock,
    counted from the moment the last confirmed command was *sent*: so it has
    stopped writing before the store lets anybody else begin.
    """

    def __init__(
        self, store: Store, job_id: str, fence: int, seconds: float, save_every: float
    ) -> None:
        self.attention = False
        self.store = store
        self.job_id = job_id
        self.fence = fence
        self.seconds = seconds
        self.request: StopRequest | None = None
        self.drained = False
        self._taken = False
        self._save_every = save_every
        self._confirmed = clock.monotonic()
        self._saved = self._confirmed
        self._tried = self._confirmed

    @property
    def lost(self) -> bool:
        """Whether another owner may have the job by now."""
        return self._taken or self._age() >= self.seconds * 2 / 3

    def _age(self) -> float:
        return clock.monotonic() - self._confirmed

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
        return Drained("the worker is shutting down") if self.drained else None

    def tick(self, *, draining: bool) -> None:
        """One look of the keeper: renew if it is time, and raise ``attention``."""
        self.drained = self.drained or draining
        now = clock.monotonic()
        third = self.seconds / 3
        again = min(third / 4, RENEW_AGAIN)
        if not self.lost and self._age() >= third and now - self._tried >= again:
            self._tried = now
            self._renew(now)
        if now - self._saved >= self._save_every - TICK or self.stop():
            self.attention = True

    def _renew(self, now: float) -> None:
        try:
            kept = self.store.renew(self.job_id, self.fence, self.seconds)
        except StoreUnavailable as error:
            left = self.seconds * 2 / 3 - self._age()
            logger.warning(
                "Job %s cannot renew its lease and stops in %.1f s: %s",
                *(self.job_id, max(left, 0.0), error),
            )
        except Exception:  # this thread keeps all the leases of its process
            logger.exception("Job %s cannot renew its lease", self.job_id)
        else:
            self.confirm(now, kept)


class Keeper:
    """The thread of this process that looks after the leases of its runs.

    It starts with the first lease, and anew in a forked child.
    """

    def __init__(self, draining: Callable[[], bool]) -> None:
        self._draining = draining
        self._forget_threads()

    def _forget_threads(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._busy = threading.Event()
        self._leases: set[Lease] = set()
        self._thread: threading.Thread | None = None

    def keep(self, lease: Lease) -> None:
        """Look after a lease from now on."""
        if self._pid != os.getpid():
            self._forget_threads()
        with self._lock:
            self._leases.add(lease)
            self._busy.set()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="jobkit-keeper", daemon=True
                )
                self._thread.start()

    def release(self, lease: Lease) -> None:
        """Stop looking after a lease."""
        with self._lock:
            self._leases.discard(lease)
            if not self._leases:
                self._busy.clear()

    def _work(self) -> None:
        pause = threading.Event()
        while True:
            self._busy.wait()
            pause.wait(TICK)
            draining = self._draining()
            with self._lock:
                leases = list(self._leases)
            for lease in leases:
                lease.tick(draining=draining)
