"""What goes into the verbs of a store, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jobkit.job import (
    ErrorInfo,
    Event,
    FailedItem,
    ItemFailure,
    Job,
    Progress,
    StopRequest,
)
from jobkit.states import State

Begun = Literal[
    "run",
    "unknown",
    "duplicate",
    "finished",
    "cancelled",
    "paused",
    "not_due",
    "another_task",
]
Note = Literal["uncopied", "unannounced", "unheard"]
Collected = Literal["filed", "queued", "known"]
BulkAct = Literal["resume", "restart", "discard"]
InterruptKind = Literal["drain", "slice", "pause", "cancel", "requeue", "block"]
Amended = Literal["ok", "begun", "gone"]

REPLACED = "replaced"
"""The reason of a job whose id another task goes on with."""

RESOLVED = "failures_resolved"
"""The reason of a job of which a replay has handled the last failed item."""

DUPLICATE = "duplicate of "
"""What the reason of a job begins with that ended for another one's unique key."""

LEASE_EXPIRED = ErrorInfo(
    "LeaseExpired",
    "The worker's lease ended without a word: it was killed, frozen or cut off.",
    verdict="infrastructure",
)
"""The error of a job whose owner fell silent."""

PORTABLE = frozenset(
    {
        *("id", "schema", "task", "message", "state", "reason", "queue", "priority"),
        *("dead_letter_queue", "owner", "fence", "worker", "attempts", "starts"),
        *("recoveries", "interruptions", "crashes_without_progress", "crash_limit"),
        *("rate_limited", "budgets", "position", "stages", "checkpoint", "progress"),
        *("error", "open_failures", "ledger_full", "replay_of", "replays"),
        *("foreign", "dropped"),
        *("created_at", "published_at", "started_at", "updated_at", "finished_at"),
    }
)
"""The fields of a dead job's record that an export has."""

RESENT = 5.0
"""Seconds in which the same cancel is the first one, sent again for its answer."""

REQUEUED_FOR = 30.0
"""Seconds after which a message is sent for a job that was put back at the broker."""

BLOCKED_FOR = 3600.0
"""Seconds after which a BLOCKED job that nobody let go is judged anew."""

DEAD_LETTERED = "DeadLettered"
"""The error of a message that the broker gave up: its task may be anybody's."""

EVENTS_KEPT = 200
"""Entries of a job's history; the oldest go first."""

LEDGER_KEPT = 10_000
"""Rows of a job's ledger of failed items; further items are only counted."""

TICKS_KEPT = 32
"""Progress entries that a watcher who fell behind can still read."""

TICKS_LINGER = 60.0
"""Seconds that progress entries stay after the end, for watchers who lag."""


@dataclass(frozen=True, slots=True)
class Entered:
    """The answer to ``enqueue``: true for a new job; ``id`` is the one that is there.

    That is the job itself, or another one that has its unique key.
    """

    new: bool
    id: str

    def __bool__(self) -> bool:
        return self.new


@dataclass(frozen=True, slots=True)
class Start:
    """The answer to ``begin``: the run with its record, or why there is none."""

    outcome: Begun
    job: Job | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """The answer to ``renew`` and ``save``: still the owner, and what is asked."""

    owner: bool
    request: StopRequest | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What ``save`` and the endings write down together.

    ``position`` only grows; it tells a crash with progress from one without.
    ``checkpoint`` is opaque to the store. ``failed`` are items for the ledger,
    ``resolved`` the names of rows of the job that this one replays.
    """

    position: int
    checkpoint: str
    progress: Progress
    failed: tuple[FailedItem, ...] = ()
    resolved: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """A result of Celery's, for the server that has the job's record as well.

    It is kept in the ``database`` of that number, for ``seconds``; 0: for ever.
    """

    key: str | bytes
    value: str | bytes
    seconds: int
    database: int


@dataclass(frozen=True, slots=True)
class Failure:
    """An error, and what it costs: the counters and budgets after it."""

    error: ErrorInfo
    budgets: str = ""
    attempt: bool = True
    rate_limited: bool = False


@dataclass(frozen=True, slots=True)
class Retention:
    """Seconds that finished records stay, by how they ended."""

    succeeded: float = 86_400.0
    partial: float = 7 * 86_400.0
    cancelled: float = 7 * 86_400.0
    dead: float = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Released:
    """A job that lost its owner: what it became."""

    id: str
    task: str
    state: State


@dataclass(frozen=True, slots=True)
class Letter:
    """A job with all that belongs to it, as text: its record, history and ledger."""

    fields: Mapping[str, str]
    events: tuple[Event, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The job's id."""
        return self.fields["id"]

    @property
    def kept(self) -> dict[str, str]:
        """The fields of its record that mean something in another store."""
        return {
            name: text
            for name, text in self.fields.items()
            if name in PORTABLE and text
        }

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The ledger's rows with their names."""
        return [
            (ItemFailure.read(place, entry).row, entry)
            for place, entry in enumerate(self.failures)
        ]


@dataclass(frozen=True, slots=True)
class Due:
    """A job whose message is to be published now."""

    id: str
    message: str
    hints: int
    fence: int


@dataclass(frozen=True, slots=True)
class Death:
    """One death of a job, by its name: it may be replayed, and die another one."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """That the broker gave a message up, and why.

    ``token`` is the same when this is told again. ``foreign`` is a message of a
    task that is no job: once it is published again its record goes. ``tell`` has
    Celery told of its end.
    """

    token: str
    reason: str
    error: ErrorInfo
    foreign: bool = False
    tell: bool = False


@dataclass(frozen=True, slots=True)
class News:
    """An event of a job that is followed, and the place to read on after it."""

    job_id: str
    event: Event
    place: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """The jobs of a queue in one state, and how long the oldest has been in it."""

    queue: str
    state: State
    jobs: int
    oldest: float


BACKLOG_STATES = (*(state for state in State if not state.finished), State.DEAD)
"""The states of which a backlog is told: those that want something done."""

ENDS = tuple(state for state in State if state.finished)
"""The states in which a job has ended."""
