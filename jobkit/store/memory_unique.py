"""The unique keys of records in memory: taken, given up, and found to be held."""

from __future__ import annotations

from jobkit.job import NewJob, Unique
from jobkit.states import State
from jobkit.store.memory_records import Record, milliseconds
from jobkit.store.values import DUPLICATE


def holds(record: Record, key: str, at: int) -> bool:
    """Whether a job has a unique key now."""
    till = record.number("unique_till")
    mine = record.text("unique_key") == key and "unique_held" in record.fields
    return mine and (not till or at < till)


def is_free(record: Record, new: NewJob, at: int) -> bool:
    """Whether a new job may have the id of one that is there."""
    if record.replaced or not (new.again and record.state.finished):
        return record.replaced
    return new.unique is None or not holds(record, new.unique.key, at)


def claim(record: Record, unique: Unique | None, holder: str, at: int) -> bool:
    """Take a key for a job, or end the job if another one has it; whether it goes on."""
    if unique is None:
        return True
    until = unique.until
    record.fields["unique_key"] = unique.key
    record.fields["unique_until"] = str(
        until if isinstance(until, str) else milliseconds(until)
    )
    if holder:
        _yield_to(holder, record, at)
    else:
        take_key(record, at)
    return not holder


def take_key(record: Record, at: int) -> None:
    """Give a job the key that it has written down, if any."""
    if record.text("unique_key"):
        record.fields["unique_held"] = "1"
        if record.text("unique_until").isdecimal():
            till = at + record.number("unique_until")
            record.fields["unique_till"] = str(till)


def _yield_to(holder: str, record: Record, at: int) -> None:
    record.finish(State.CANCELLED, at, DUPLICATE + holder)
    record.leave_untold(at)
    record.write(at, duplicate_of=holder)
    record.event("cancelled", at, DUPLICATE + holder)


def written(record: Record) -> Unique | None:
    """The key that a job has written down, for another one that is to have it."""
    key, until = record.text("unique_key"), record.text("unique_until")
    if not key:
        return None
    if until.isdecimal():
        return Unique(key, int(until) / 1000)
    return Unique(key, "start" if until == "start" else "finish")


def amend(record: Record, token: str, message: str, at: int) -> None:
    """Give a job another message."""
    record.write(at, message=message, generation=token)
    record.event("amended", at)
