"""What is known of a job: the frozen values that the store keeps and returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from jobkit import clock, codec
from jobkit.errors import SchemaError
from jobkit.states import State

SCHEMA = 1
"""The newest layout of a record that this version reads and writes."""

T = TypeVar("T")

RequestKind = Literal["cancel", "pause"]
ReplayMode = Literal["resume", "restart", "failed_items"]


@dataclass(frozen=True, slots=True)
class Message:
    """A broker message, whole, so that it can be published again byte for byte."""

    task: str
    body: bytes
    content_type: str
    content_encoding: str
    headers: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    exchange: str = ""
    routing_key: str = ""

    def encode(self, limit: int | None = codec.MESSAGE_LIMIT) -> str:
        """The text that the store keeps; ``limit`` is the most bytes it may take."""
        return codec.dumps(
            {
                "task": self.task,
                "body": self.body,
                "content_type": self.content_type,
                "content_encoding": self.content_encoding,
                "headers": dict(self.headers),
                "properties": dict(self.properties),
                "exchange": self.exchange,
                "routing_key": self.routing_key,
            },
            what="message",
            limit=limit,
        )

    @classmethod
    def decode(cls, text: str) -> Message:
        """The reverse of ``encode``."""
        return cls(**codec.loads(text))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is; None where it is not known.

    ``current`` and ``total`` count the items of the current stage, ``percent``
    (0 to 100) and ``eta_seconds`` speak of the whole job, ``rate`` is items a
    second of running time. ``ok + failed + skipped`` is what was processed in
    the current stage.
    """

    current: int = 0
    total: int | None = None
    percent: float | None = None
    rate: float | None = None
    eta_seconds: float | None = None
    message: str | None = None
    stage: str | None = None
    stage_index: int | None = None
    stage_count: int | None = None
    ok: int = 0
    failed: int = 0
    skipped: int = 0

    def encode(self) -> str:
        """The text that the store keeps; empty when nothing is done."""
        if self is _NOTHING_DONE or self == _NOTHING_DONE:
            return ""
        return codec.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def decode(cls, text: str | None) -> Progress:
        """The reverse of ``encode``; nothing stored means nothing done."""
        return cls(**codec.loads(text)) if text else _NOTHING_DONE


_NOTHING_DONE = Progress()


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """The last error of a job, as text: its class, message, traceback and verdict."""

    type: str
    message: str
    traceback: str = ""
    verdict: str = ""

    def encode(self) -> str:
        """The text that the store keeps, cut to what it takes."""
        return codec.dumps(
            {
                "type": self.type,
                "message": self.message[: codec.TEXT_LIMIT],
                "traceback": self.traceback[-codec.TRACEBACK_LIMIT :],
                "verdict": self.verdict,
            },
        )

    @classmethod
    def decode(cls, text: str | None) -> ErrorInfo | None:
        """The reverse of ``encode``."""
        return cls(**codec.loads(text)) if text else None


@dataclass(frozen=True, slots=True)
class FailedItem:
    """An item that failed, on its way into the ledger.

    ``payload`` is the item itself as encoded text, empty when it cannot be kept;
    ``attempts`` is how often it was tried.
    """

    stage: str
    key: str
    error: str
    message: str
    attempts: int = 1
    payload: str = ""

    @property
    def row(self) -> str:
        """The name of its row: an item is kept once in each stage."""
        return f"{self.stage}\n{self.key}"

    def encode(self) -> str:
        """The text that the store keeps."""
        return codec.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def decode(cls, text: str) -> FailedItem:
        """The reverse of ``encode``."""
        return cls(**codec.loads(text))


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """One row of a job's ledger of failed items.

    ``error`` is the name of the error's class; ``attempts`` counts the tries of
    its last run. ``open`` is False once a replay has handled the item. ``place``
    is the row's number in the ledger, from 0.
    """

    place: int
    stage: str
    key: str
    error: str
    message: str
    attempts: int
    first_at: datetime
    last_at: datetime
    open: bool
    payload: str

    @property
    def row(self) -> str:
        """The name of the row."""
        return f"{self.stage}\n{self.key}"

    @property
    def item(self) -> Any:
        """The item itself; None when it was too large, or of a type that is not kept."""
        return codec.loads(self.payload) if self.payload else None

    @classmethod
    def read(cls, place: int, entry: str) -> ItemFailure:
        """A row as the store keeps it: state, first and last time, and the item."""
        state, first, last, text = entry.split("\n", 3)
        failed = FailedItem.decode(text)
        return cls(
            place,
            *(failed.stage, failed.key, failed.error, failed.message, failed.attempts),
            first_at=clock.from_milliseconds(int(first)),
            last_at=clock.from_milliseconds(int(last)),
            open=state == "open",
            payload=failed.payload,
        )


@dataclass(frozen=True, slots=True)
class StopRequest:
    """That somebody asked a running job to stop: what for, who, and why."""

    kind: RequestKind
    actor: str = ""
    reason: str = ""

    def encode(self) -> str:
        """The text that the store keeps: kind, actor and reason, a line each."""
        actor = self.actor[: codec.TEXT_LIMIT].replace("\n", " ")
        return f"{self.kind}\n{actor}\n{self.reason[: codec.TEXT_LIMIT]}"

    @classmethod
    def decode(cls, text: str | None) -> StopRequest | None:
        """The reverse of ``encode``."""
        if not text:
            return None
        kind, actor, reason = text.split("\n", 2)
        return cls("cancel" if kind == "cancel" else "pause", actor, reason)


@dataclass(frozen=True, slots=True)
class Unique:
    """The key that one job has at a time, and for how long.

    ``until`` is "finish", "start", or a number of seconds. ``on_held`` says what
    becomes of a job whose key another one has: nothing is recorded ("return"), or
    it is recorded as CANCELLED ("cancel").
    """

    key: str
    until: Literal["finish", "start"] | float = "finish"
    on_held: Literal["return", "cancel"] = "return"


@dataclass(frozen=True, slots=True)
class NewJob:
    """What is known of a job before it has run.

    ``stages`` are the declared names in order, ``crash_limit`` is the number of
    crashes without progress after which it is dead, ``delay`` (seconds) makes
    it SCHEDULED; without one it is QUEUED, and the caller publishes its message.
    With ``blocked`` it is BLOCKED instead, until ``unblock``.
    ``dead_letter_queue`` is empty unless the project names one. With ``again`` it may
    have the id of a job that has ended, which is forgotten.
    ``replay_of`` is the job whose failed items it is over.
    """

    id: str
    task: str
    message: str
    queue: str = ""
    priority: int | None = None
    dead_letter_queue: str = ""
    owner: str = ""
    stages: tuple[str, ...] = ()
    crash_limit: int = 3
    delay: float | None = None
    again: bool = False
    blocked: bool = False
    replay_of: str = ""
    unique: Unique | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The record of a job, as it was when it was read."""

    id: str
    task: str
    state: State
    reason: str = ""
    queue: str = ""
    priority: int | None = None
    dead_letter_queue: str = ""
    owner: str = ""
    fence: int = 0
    worker: str = ""
    attempts: int = 0
    starts: int = 0
    recoveries: int = 0
    interruptions: int = 0
    crashes_without_progress: int = 0
    crash_limit: int = 3
    rate_limited: int = 0
    budgets: str = ""
    position: int = 0
    stages: tuple[str, ...] = ()
    checkpoint: str = ""
    progress: Progress = _NOTHING_DONE
    error: ErrorInfo | None = None
    open_failures: int = 0
    request: StopRequest | None = None
    replay_of: str = ""
    replay_root: str = ""
    replays: int = 0
    message: Message | None = None
    created_at: datetime
    published_at: datetime | None = None
    started_at: datetime | None = None
    updated_at: datetime
    finished_at: datetime | None = None
    due_at: datetime | None = None
    lease_until: datetime | None = None
    unique_key: str = ""
    generation: str = ""

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> Job:
        """Read a record from the text fields that the store keeps.

        Raises:
            SchemaError: A newer jobkit wrote it.
        """
        check_schema(fields)
        # Each run reads its record, and most fields of most jobs are not there.
        more = {
            name: _READERS[name](text)
            for name, text in fields.items()
            if name in _READERS
        }
        get = fields.get
        more["dead_letter_queue"] = get("dead_letter_queue") or _usual(get("queue"))
        more["replay_root"] = get("replay_root") or get("replay_of", "")
        return cls(
            id=fields["id"],
            task=fields["task"],
            state=State(fields["state"]),
            created_at=clock.from_milliseconds(int(fields["created_at"])),
            updated_at=clock.from_milliseconds(int(fields["updated_at"])),
            **more,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a job's history: what happened, when, and the state after it.

    ``id`` is the place in the history, to read on after; ``progress`` is set on
    ``progressed`` and on the end.
    """

    id: str
    name: str
    at: datetime
    state: State
    detail: str = ""
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and where the next part begins (None at the end)."""

    items: tuple[T, ...]
    next: str | None = None


def check_schema(fields: Mapping[str, str]) -> None:
    """Refuse a record that a newer jobkit wrote.

    Raises:
        SchemaError: It names both versions and what to do.
    """
    schema = int(fields.get("schema", SCHEMA))
    if schema > SCHEMA:
        raise SchemaError(
            f"Job {fields.get('id', '?')!r} has schema {schema}, this jobkit reads up "
            f"to {SCHEMA}: upgrade celery-jobkit in this process.",
        )


def _usual(queue: str | None) -> str:
    return f"{queue}.dead" if queue else ""


def _number(text: str) -> int | None:
    return int(float(text)) if text else None


def _names(text: str) -> tuple[str, ...]:
    return tuple(codec.loads(text)) if text != "[]" else ()


def _moment(text: str) -> datetime | None:
    return clock.from_milliseconds(int(text)) if text and text != "0" else None


def _message(text: str) -> Message | None:
    return Message.decode(text) if text else None


_READERS: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(("reason", "queue", "dead_letter_queue", "owner", "worker"), str),
    **dict.fromkeys(("budgets", "checkpoint", "unique_key", "generation"), str),
    **dict.fromkeys(("replay_of", "replay_root"), str),
    **dict.fromkeys(("fence", "attempts", "starts", "recoveries", "replays"), int),
    **dict.fromkeys(("interruptions", "crashes_without_progress"), int),
    **dict.fromkeys(("crash_limit", "rate_limited", "position"), int),
    **dict.fromkeys(("published_at", "started_at", "finished_at"), _moment),
    **dict.fromkeys(("due_at", "lease_until"), _moment),
    "open_failures": int,
    "priority": _number,
    "stages": _names,
    "progress": Progress.decode,
    "error": ErrorInfo.decode,
    "request": StopRequest.decode,
    "message": _message,
}
"""How the fields of a record are read that need not be there.

An empty number is no number: such a record is damaged, and a ``ValueError``.
"""
