"""The dead letters of a store in memory: what is to be done, and what comes in."""

from __future__ import annotations

from jobkit.job import SCHEMA, NewJob
from jobkit.states import State
from jobkit.store.memory_records import HINT_CAP, Record, milliseconds
from jobkit.store.memory_shelf import Shelf
from jobkit.store.values import Collected, Death, Dropped, Note


class DeadLetters(Shelf):
    """The verbs of dead letters."""

    def claim_notes(
        self, note: Note, age: float, grace: float, limit: int = 100
    ) -> list[Death]:
        """Take ends of which something is still to be done."""
        with self._change() as at:
            latest = at - milliseconds(age)
            claimed = []
            for record in self._earliest(note, latest, limit):
                record.fields[note] = str(latest + milliseconds(grace))
                if note == "uncopied":
                    record.fields["copied"] = "1"
                claimed.append(Death(record.text("id"), record.death))
            return claimed

    def noted(self, note: Note, death: Death) -> None:
        """Note that it was done."""
        with self._change():
            record = self._jobs.get(death.id)
            if record and record.state.finished and record.death == death.name:
                record.drop(note)

    def collect(self, new: NewJob, dropped: Dropped) -> tuple[Collected, State]:
        """File a message that the broker gave up, or have its job published again."""
        with self._change() as at:
            before = self._jobs.get(new.id)
            if before is None:
                record = self._jobs[new.id] = Record(self._ids)
                _file(record, new, dropped, at)
                return "filed", record.state
            record = self._known(new.id)
            foreign = bool(record.text("foreign"))
            again = record.text("dropped") == dropped.token
            if again or not (foreign or record.state is State.QUEUED):
                return "known", record.state
            if not foreign:
                _publish_again(record, dropped, at)
                return "queued", record.state
            record = self._jobs[new.id] = Record(self._ids, before.number("fence"))
            record.fields["replays"] = str(before.number("replays"))
            _file(record, new, dropped, at)
            return "filed", record.state


def _file(record: Record, new: NewJob, dropped: Dropped, at: int) -> None:
    record.move(State.DEAD, at)
    record.write(
        at,
        id=new.id,
        schema=SCHEMA,
        created_at=at,
        dropped=dropped.token,
        error=dropped.error.encode(),
    )
    record.describe(new, at)
    if dropped.foreign:
        record.write(at, foreign=1)
    record.finish(State.DEAD, at, dropped.reason)
    record.leave_unheard(at, tell=True)
    if dropped.tell:
        record.leave_untold(at)
    record.event("dead", at, dropped.reason)


def _publish_again(record: Record, dropped: Dropped, at: int) -> None:
    # One that is given up again and again comes ever later.
    wait = 1000 * (2 ** max(record.number("hints") - 1, 0) - 1)
    record.write(at, dropped=dropped.token, due_at=at + min(wait, HINT_CAP))
    record.event("dropped", at, dropped.reason)
