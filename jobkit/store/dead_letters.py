"""The dead letters of a store in a server: what is to be done, and what comes in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from jobkit.codec import dumps
from jobkit.job import NewJob
from jobkit.states import State
from jobkit.store import replies, scripts
from jobkit.store.server import Server
from jobkit.store.values import Collected, Death, Dropped, Note


class DeadLetters(Server):
    """The verbs of dead letters."""

    def claim_notes(
        self, note: Note, age: float, grace: float, limit: int = 100
    ) -> Sequence[Death]:
        """Take deaths of which something is to be done; see ``Store.claim_notes``."""
        times = replies.ms(age), limit, replies.ms(grace)
        answers = self._everywhere(scripts.CLAIM_NOTES, note, *times)
        return [Death(*death) for answer in answers for death in answer]

    def noted(self, note: Note, death: Death) -> None:
        """Note that it was done; see ``Store.noted``."""
        self._job(scripts.NOTED, death.id, note, death.name)

    def collect(self, new: NewJob, dropped: Dropped) -> tuple[Collected, State]:
        """File a message that the broker gave up; see ``Store.collect``."""
        answer = self._job(
            *(scripts.COLLECT, new.id, dropped.token, new.task, new.message, new.queue),
            *(replies.text(new.priority), new.dead_letter_queue),
            *(dumps(list(new.stages)), new.crash_limit),
            *(dropped.reason, dropped.error.encode()),
            *(int(dropped.foreign), int(dropped.tell)),
        )
        self._check(new.id, answer)
        return cast("Collected", answer[0]), State(answer[1])
