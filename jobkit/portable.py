"""Jobs as text that outlives their store: dead letters as JSON Lines, items as CSV."""

from __future__ import annotations

import csv
import io
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jobkit import codec
from jobkit.bulk import find
from jobkit.errors import JobkitError, StoreUnavailable
from jobkit.filters import Wanted
from jobkit.job import Event, ItemFailure, Job, Progress, check_schema
from jobkit.states import State
from jobkit.store import replies
from jobkit.store.base import Store
from jobkit.store.values import Letter

FORMAT = "jobkit.dead_letter"
VERSION = 1
"""The layout of a line; a newer one is refused."""

JSON_FIELDS = ("message", "stages", "progress", "error")
"""Fields that are JSON in the record, and in the line as well."""

COLUMNS = (
    *("stage", "key", "error", "message", "attempts"),
    *("first_at", "last_at", "open", "item"),
)
"""The columns of the CSV of failed items."""

DANGEROUS = tuple("=+-@\t\r\n\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}") + tuple(
    "\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"
)
"""How a cell begins that a spreadsheet may take for a formula (OWASP, CSV Injection)."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of the lines of an export.

    ``restored`` jobs were put back, ``existing`` were there and left alone;
    ``refused`` has the number and the fault of each line that was not taken.
    """

    restored: int = 0
    existing: int = 0
    refused: tuple[tuple[int, str], ...] = ()


FAULTS = (
    *(JobkitError, ValueError, TypeError, KeyError, AttributeError),
    *(OverflowError, OSError),  # of a time that no calendar has
)
"""What a line is refused with."""

_NUMBER = re.compile(r"\w+_at|fence|attempts|starts|recoveries|interruptions|replays")


def export(store: Store, wanted: Wanted) -> Iterator[str]:
    """Each dead letter that matches as one line, without its line end."""
    for job_id in find(store, wanted):
        letter = store.take_out(job_id)
        if letter is not None and letter.fields["state"] == State.DEAD:
            yield json.dumps(_document(letter), ensure_ascii=False)


def restore(store: Store, lines: Iterable[str | bytes]) -> Restored:
    """Put exported dead letters back; see ``Restored``."""
    counts, refused = {True: 0, False: 0}, []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            letter = _letter(json.loads(line))
            counts[store.restore(letter, uuid.uuid4().hex)] += 1
        except StoreUnavailable:
            raise
        except FAULTS as error:
            refused.append((number, _fault(error)))
    return Restored(counts[True], counts[False], tuple(refused))


def csv_lines(rows: Iterable[ItemFailure]) -> Iterator[str]:
    """Failed items as lines of CSV with a header, each with its line end."""
    line = io.StringIO()
    writer = csv.writer(line)
    writer.writerow(COLUMNS)
    yield line.getvalue()
    for failure in rows:
        line.seek(0)
        line.truncate()
        writer.writerow([_cell(text) for text in _cells(failure)])
        yield line.getvalue()


def _document(letter: Letter) -> dict[str, Any]:
    record: dict[str, Any] = dict(sorted(letter.kept.items()))
    for name in JSON_FIELDS:
        if name in record:
            record[name] = json.loads(record[name])
    return {
        "format": FORMAT,
        "version": VERSION,
        "record": record,
        "history": [replies.told(event) for event in letter.events],
        "failures": list(letter.failures),
    }


def _letter(line: Any) -> Letter:
    """The job of a line.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, JobkitError: It is none.
    """
    if not isinstance(line, dict) or line.get("format") != FORMAT:
        raise ValueError("it is no dead letter of jobkit")
    if line["version"] > VERSION:
        raise ValueError(
            f"it has version {line['version']}, this jobkit reads up to {VERSION}: "
            "upgrade celery-jobkit"
        )
    fields = _fields(line["record"])
    events = tuple(_event(told) for told in line["history"])
    letter = Letter(fields, events, tuple(line["failures"]))
    _ = letter.rows  # each has to be one
    return letter


def _fields(record: Mapping[str, Any]) -> dict[str, str]:
    fields = {
        name: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if name in JSON_FIELDS
        else value
        for name, value in record.items()
    }
    if not all(isinstance(value, str) for value in fields.values()):
        raise TypeError("a field of the record is no text")
    for name, text in fields.items():
        text.encode()  # halves of characters are none
        if _NUMBER.fullmatch(name) and not re.fullmatch("[0-9]*", text):
            raise ValueError(f"its {name} is no number: {text!r}")
    _ = fields["message"]
    check_schema(fields)
    job = Job.from_fields(fields)
    if (
        job.state is not State.DEAD
        or job.finished_at is None
        or not (job.id and job.task)
    ):
        raise ValueError("its record is not that of a dead job")
    if len(fields.get("message", "").encode()) > codec.MESSAGE_LIMIT:
        raise ValueError("its message is over 1 MiB")
    return fields


def _event(told: Mapping[str, Any]) -> Event:
    progress = told["progress"]
    return replies.event(
        "", {**told, "progress": Progress.decode(progress).encode() if progress else ""}
    )


def _fault(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"
    return str(error)


def _cells(failure: ItemFailure) -> Iterator[Any]:
    for name in COLUMNS[:5]:
        yield getattr(failure, name)
    yield failure.first_at.isoformat()
    yield failure.last_at.isoformat()
    yield "yes" if failure.open else "no"
    yield failure.payload


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    is_formula = isinstance(value, str) and value.startswith(DANGEROUS)
    return f"'{value}" if is_formula else value
