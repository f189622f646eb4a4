"""Whose turn it is under a limit: jobs that were let go become messages."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from jobkit import clock
from jobkit.dispatcher import BATCH, GRACE, Dispatcher
from jobkit.errors import StoreError
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.slots import Claim, Standing

logger = logging.getLogger(__name__)

SOON = 0.02
"""Seconds between two rounds of a fast rate, at the least."""


class Turns:
    """Takes slots for runs and gives them back, and hands over to those who are next.

    ``span`` (seconds) is how long a job that was let go has for beginning. Any
    number may do it at once, and none has to: what one leaves undone, another
    one's ``round`` does.
    """

    def __init__(self, store: Store, dispatcher: Dispatcher, span: float) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._span = span

    def line_up(self, job_id: str, claims: Sequence[Claim], hint: float) -> bool:
        """Whether a job that was recorded as BLOCKED is to be published now.

        If so, its message is due again after ``hint``.
        """
        standing = self._store.acquire(job_id, 0, claims, self._span, self._span)
        if standing.standing == "waiting":
            return False
        state, _ = self._store.unblock(job_id, hint)
        # Also if that was sent twice: a second message does no harm.
        return state is State.QUEUED

    def take(
        self, job_id: str, fence: int, claims: Sequence[Claim], lease: float
    ) -> Standing:
        """Take the slots of a run; ``held``, or it has to wait."""
        answer = self._store.acquire(job_id, fence, claims, lease, self._span)
        self._hand_over(answer.let_go)
        return answer.standing

    def give_back(self, job_id: str, fence: int, *, keep: bool = False) -> None:
        """Give the slots of a run back, or (fence 0) a place in a line.

        ``keep`` promises them to the job's next run. A store out of reach is
        logged only: what is held runs out.
        """
        try:
            let_go = self._store.release(job_id, fence, self._span, keep=keep)
        except StoreError as error:
            logger.warning(
                "Job %s keeps its slots until they run out: %s", job_id, error
            )
            return
        self._hand_over(let_go)

    def round(self, seconds: float, wait: Callable[[float], object]) -> int:
        """Hand over to whoever is next; how many jobs it were.

        Where a rate lets the next one go within ``seconds`` it goes on; ``wait`` is
        called with a time to wait, and answers whether to stop.
        """
        count, deadline = 0, clock.monotonic() + seconds
        while True:
            turns = self._store.grant(BATCH, self._span)
            count += len(turns.let_go)
            if sent := self._hand_over(turns.let_go):
                self._store.confirm(sent)
            left = deadline - clock.monotonic()
            if turns.wait is None or turns.wait >= left:
                return count
            if wait(max(SOON, turns.wait)):
                return count

    def _hand_over(self, job_ids: Iterable[str]) -> list[str]:
        """Publish the messages of jobs that were let go; those that are on their way."""
        left, sent = deque(job_ids), []
        try:
            while left:
                job_id = left.popleft()
                state, due = self._store.unblock(job_id, GRACE)
                if due is not None:
                    self._dispatcher.dispatch(due)
                if state is State.QUEUED:
                    sent.append(job_id)
                elif state is not State.RUNNING:  # it may be about to be BLOCKED
                    left.extend(self._store.release(job_id, 0, self._span))
        except StoreError as error:
            logger.warning("Jobs that are next wait for another round: %s", error)
        return sent
