"""One job in memory: its text fields, its history, and its moves between states."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from jobkit import clock, codec
from jobkit.filters import Wanted
from jobkit.job import (
    SCHEMA,
    ErrorInfo,
    Event,
    FailedItem,
    ItemFailure,
    Job,
    NewJob,
    Page,
    Progress,
    ReplayMode,
    RequestKind,
    StopRequest,
)
from jobkit.states import State
from jobkit.store.values import (
    BLOCKED_FOR,
    EVENTS_KEPT,
    LEDGER_KEPT,
    REPLACED,
    REQUEUED_FOR,
    RESOLVED,
    TICKS_KEPT,
    Begun,
    Due,
    Failure,
    Released,
    Snapshot,
)

HINT_CAP = 6 * 3_600_000
LAST_CHANCE = 86_400_000

_DONE = frozenset({State.SUCCEEDED, State.PARTIAL})
NOTES = ("uncopied", "unannounced")
"""What is still to be done about a death, since when."""

REFUSALS: dict[State, Begun] = {
    State.SCHEDULED: "not_due",
    State.BLOCKED: "not_due",
    State.RETRYING: "not_due",
    State.RUNNING: "duplicate",
    State.PAUSED: "paused",
    State.CANCELLED: "cancelled",
    State.SUCCEEDED: "finished",
    State.PARTIAL: "finished",
    State.DEAD: "finished",
}
"""Why no run starts in a state."""

_MATCHED = ("state", "task", "queue", "owner", "dead_letter_queue")


def milliseconds(seconds: float) -> int:
    """The store's whole milliseconds."""
    return int(seconds * 1000)


def said(actor: str, reason: str, what: str = "") -> str:
    """What was done, by whom and why, as the detail of an event."""
    who = " by ".join(filter(None, (what, actor)))
    return ": ".join(filter(None, (who, reason)))


def stored(request: StopRequest) -> StopRequest:
    """A request as it reads when it has been stored: cut to what is kept."""
    return StopRequest.decode(request.encode()) or request


class Record:
    """The fields of a job with its history; ``at`` is always the time of the verb."""

    def __init__(self, ids: Iterator[int], fence: int = 0) -> None:
        self.fields: dict[str, str] = {"fence": str(fence)}
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self.ticks: deque[Event] = deque(maxlen=TICKS_KEPT)
        self.ledger: dict[str, str] = {}
        self._ids = ids

    @property
    def state(self) -> State:
        """Where the job is."""
        return State(self.fields["state"])

    @property
    def replaced(self) -> bool:
        """Whether another task goes on with its id, or is about to."""
        if "ceded" in self.fields:
            return True
        return self.state is State.SUCCEEDED and self.text("reason") == REPLACED

    @property
    def request(self) -> StopRequest | None:
        """What its owner is asked for."""
        return StopRequest.decode(self.fields.get("request"))

    def text(self, name: str) -> str:
        """A field, empty when it is absent."""
        return self.fields.get(name, "")

    def number(self, name: str) -> int:
        """A field that counts, 0 when it is absent."""
        return int(self.fields.get(name) or 0)

    def write(self, at: int, **values: object) -> None:
        """Set fields, and note that something was written."""
        self.fields["updated_at"] = str(at)
        self.fields.update({name: str(value) for name, value in values.items()})

    def drop(self, *names: str) -> None:
        """Remove fields."""
        for name in names:
            self.fields.pop(name, None)

    def count(self, name: str) -> None:
        """Add one to a field."""
        self.fields[name] = str(self.number(name) + 1)

    @property
    def newer(self) -> bool:
        """Whether a newer jobkit wrote it."""
        return self.number("schema") > SCHEMA

    def matches(self, wanted: Wanted, moment: int) -> bool:
        """Whether it is among those, with the moment by which they are in order."""
        error = ErrorInfo.decode(self.text("error"))
        return (
            all(
                not (value := getattr(wanted, name)) or self.text(name) == value
                for name in _MATCHED
            )
            and (not wanted.error or (error is not None and error.type == wanted.error))
            and not (wanted.since and moment < clock.milliseconds(wanted.since))
            and not (wanted.until and moment > clock.milliseconds(wanted.until))
        )

    def job(self, *, message: bool = True) -> Job:
        """The frozen record."""
        job = Job.from_fields(self.fields)
        return job if message else replace(job, message=None)

    def released(self) -> Released:
        """What it has become."""
        return Released(self.text("id"), self.text("task"), self.state)

    def due(self) -> Due:
        """What is needed to publish its message."""
        return Due(
            *(self.text("id"), self.text("message")),
            *(self.number("hints"), self.number("fence")),
        )

    def has_moved_on(self, hints: int | None, fence: int | None, at: int) -> bool:
        """Whether it is not waiting any more as it was claimed; never if not told."""
        claimed = {"hints": hints, "fence": fence}
        given = {name: count for name, count in claimed.items() if count is not None}
        moved = any(self.number(name) != count for name, count in given.items())
        return bool(given) and (moved or self.number("due_at") <= at)

    def belongs_to(self, worker: str) -> bool:
        """Whether its last run was of this worker, or of a part of it."""
        return _is_part_of(self.text("worker"), worker)

    def has_been_run_by(self, worker: str) -> bool:
        """Whether any run that the history knows was of this worker."""
        return any(
            event.name == "started" and _is_part_of(event.detail, worker)
            for event in self.events
        )

    def event(self, name: str, at: int, detail: str = "", progress: str = "") -> None:
        """Add an entry to the history."""
        self.events.append(self._entry(name, at, detail, progress))

    def tick(self, at: int) -> None:
        """Add an entry to the progress that watchers see."""
        self.ticks.append(self._entry("progressed", at, "", self.text("progress")))

    def _entry(self, name: str, at: int, detail: str, progress: str) -> Event:
        return Event(
            id=str(next(self._ids)),
            name=name,
            at=clock.from_milliseconds(at),
            state=self.state,
            detail=detail,
            progress=Progress.decode(progress) if progress else None,
        )

    def news(self, seen: int) -> Sequence[Event]:
        """Entries after the one with that id, of both kinds, oldest first."""
        entries = [*self.events, *self.ticks]
        news = [event for event in entries if int(event.id) > seen]
        return sorted(news, key=lambda event: int(event.id))

    def tells_all(self, seen: int) -> bool:
        """Whether nothing after the entry with that id has gone for lack of room."""
        kept: tuple[deque[Event], ...] = (self.events, self.ticks)
        return all(
            len(entries) != entries.maxlen or int(entries[0].id) <= seen
            for entries in kept
        )

    def move(self, to: State, at: int) -> None:
        """Enter a state; lease and due time belong to the one before."""
        self.write(at, state=to, entered_at=at)
        self.drop("lease_until", "due_at", "ceded", *NOTES)

    def enter(self, new: NewJob, token: str, hint: int, at: int) -> None:
        """Become the record of a new job."""
        delay = milliseconds(new.delay or 0)
        state, wait = State.QUEUED, hint
        if delay > 0:
            state, wait = State.SCHEDULED, delay
        elif new.blocked:
            state, wait = State.BLOCKED, milliseconds(BLOCKED_FOR)
        self.move(state, at)
        self.write(
            at,
            id=new.id,
            schema=SCHEMA,
            enqueue_token=token,
            owner=new.owner,
            created_at=at,
            due_at=at + wait,
        )
        self.describe(new, at)
        self.event(self.state.lower(), at)

    def enter_over(self, parent: Record, new: NewJob, checkpoint: str, at: int) -> None:
        """Become the record of a job over the failed items of another one."""
        like = ("task", "queue", "priority", "dead_letter_queue", "owner")
        self.move(State.QUEUED, at)
        self.write(
            at,
            **{name: parent.text(name) for name in like},
            stages=parent.text("stages") or "[]",
            crash_limit=parent.text("crash_limit") or "3",
            id=new.id,
            schema=SCHEMA,
            enqueue_token=new.id,
            message=new.message,
            checkpoint=checkpoint,
            replay_of=new.replay_of,
            replay_root=parent.text("replay_root") or new.replay_of,
            created_at=at,
            due_at=at,
        )
        self.event("queued", at)

    def replay_there_is(
        self, before: Record | None, child: str
    ) -> tuple[str, str] | None:
        """Why no job over its failed items is made: it goes on, or there is none."""
        if before and (not before.state.finished or before.text("id") == child):
            return "done", before.text("id")
        if self.state is not State.PARTIAL or not self.number("open_failures"):
            return "refused", self.state
        return None

    def replay_items(self, child: str, detail: str, at: int) -> None:
        """Note that a job goes over its failed items."""
        self.write(at, replayed_by=child)
        self.count("replays")
        self.event("replayed", at, detail)

    def describe(self, new: NewJob, at: int) -> None:
        """Write what is to be run, and where."""
        self.write(
            at,
            task=new.task,
            message=new.message,
            queue=new.queue,
            priority="" if new.priority is None else new.priority,
            dead_letter_queue=new.dead_letter_queue,
            stages=codec.dumps(list(new.stages)),
            crash_limit=new.crash_limit,
        )

    def begin(self, token: str, worker: str, lease: int, at: int) -> None:
        """Start a run under the next fence."""
        self.move(State.RUNNING, at)
        self.drop("request", "reason", "foreign")
        self.count("fence")
        self.count("starts")
        self.write(
            at,
            token=token,
            worker=worker,
            lease_until=at + lease,
            position_at_begin=self.number("position"),
            save_seq=0,
            hints=0,
        )
        if self.text("unique_until") == "start":
            self.drop("unique_held")
        self.fields.setdefault("started_at", str(at))
        self.event("started", at, worker)

    def keep(self, snapshot: Snapshot, at: int) -> None:
        """Write a snapshot; the position never goes back."""
        self.write(
            at,
            position=max(self.number("position"), snapshot.position),
            checkpoint=snapshot.checkpoint,
            progress=snapshot.progress.encode(),
        )

    def file(self, failed: Iterable[FailedItem], at: int) -> None:
        """Put failed items into the ledger; what is there stays one row."""
        for item in failed:
            known = self.ledger.get(item.row)
            if known is None and len(self.ledger) >= LEDGER_KEPT:
                self.fields["ledger_full"] = "1"
                continue
            state, first, *_ = known.split("\n", 2) if known else ("", str(at))
            if state != "open":
                self.count("open_failures")
            self.ledger[item.row] = f"open\n{first}\n{at}\n{item.encode()}"

    def resolve(self, rows: Iterable[str], child: str, at: int) -> None:
        """Close rows that a replay has handled; with the last one the job succeeds."""
        for name in rows:
            row = self.ledger.get(name, "")
            if row.startswith("open\n"):
                self.ledger[name] = "resolved" + row.removeprefix("open")
                self.fields["open_failures"] = str(self.number("open_failures") - 1)
        left = self.number("open_failures") or self.text("ledger_full")
        if self.state is State.PARTIAL and not left:
            self.finish(State.SUCCEEDED, at, RESOLVED)
            self.leave_unheard(at, tell=True)
            self.event("resolved", at, child)

    def forget_failures(self) -> None:
        """Empty the ledger."""
        self.ledger.clear()
        self.drop("open_failures", "ledger_full")

    def page_of_failures(self, after: str | None, limit: int) -> Page[ItemFailure]:
        """A part of the ledger."""
        start = int(after) + 1 if after else 0
        rows = list(enumerate(self.ledger.values()))[start : start + limit]
        more = str(start + limit - 1) if len(rows) == limit else None
        return Page(tuple(ItemFailure.read(*row) for row in rows), more)

    def succeed(self, at: int, reason: str) -> None:
        """End well, or as well as its failed items allow."""
        whole = not self.number("open_failures") or reason == REPLACED
        to = State.SUCCEEDED if whole else State.PARTIAL
        self.finish(to, at, reason)
        self.event(to.lower(), at, reason, self.text("progress"))

    def blame(self, failure: Failure, at: int) -> None:
        """Write an error, and count what it costs."""
        if failure.attempt:
            self.count("attempts")
        if failure.rate_limited:
            self.count("rate_limited")
        self.write(at, budgets=failure.budgets, error=failure.error.encode())

    def queue(self, at: int, due: int) -> None:
        """Wait for a worker; the message is to be published when it is due."""
        self.move(State.QUEUED, at)
        self.write(at, due_at=due)

    def unstart(self) -> None:
        """Take back that it was started: it was judged only."""
        self.fields["starts"] = str(self.number("starts") - 1)
        if not self.number("starts"):
            self.drop("started_at")

    def give_back(self, kind: str, reason: str, at: int) -> None:
        """Wait for another run, at once or when it is let go."""
        if kind == "block":
            self.move(State.BLOCKED, at)
            self.write(at, due_at=at + milliseconds(BLOCKED_FOR))
            self.event("blocked", at, reason)
        else:
            # A message that the broker has put back comes by itself.
            wait = milliseconds(REQUEUED_FOR) if kind == "requeue" else 0
            self.queue(at, at + wait)
            self.event("interrupted", at, reason or kind)

    def finish(self, to: State, at: int, reason: str = "") -> None:
        """End."""
        if to not in _DONE or not self.text("unique_till"):
            self.drop("unique_held")
        self.move(to, at)
        self.drop("request", "kept_till")
        self.write(at, finished_at=at, reason=reason)
        if to is State.DEAD:
            copied = NOTES if self.text("dead_letter_queue") else NOTES[1:]
            self.write(at, **dict.fromkeys(copied, at))

    def leave_untold(self, at: int) -> None:
        """Note that neither Celery nor a receiver of signals has heard of its end."""
        self.write(at, untold_since=at, unheard=at)

    def leave_unheard(self, at: int, *, tell: bool) -> None:
        """Note that no receiver of signals has heard of its end, where one wants to."""
        if tell:
            self.write(at, unheard=at)

    def is_needed_by(self, child: State) -> bool:
        """Whether the job over its failed items may yet read them."""
        return self.state in _DONE and (child is State.DEAD or not child.finished)

    def expires_at(self, kept: Mapping[str, float]) -> int:
        """When the record of an ended job goes; not before a copy that may come back."""
        retention = kept[self.state.lower()]
        if self.text("copied"):
            retention = max(retention, kept["dead"])
        begun = max(self.number("finished_at"), self.number("restored_at"))
        till = self.number("unique_till") if self.state in _DONE else 0
        kept_till = self.number("kept_till")
        return max(till, kept_till, begun + milliseconds(retention))

    @property
    def death(self) -> str:
        """The name of its last death."""
        return f"{self.number('fence')}.{self.text('finished_at')}"

    def replay(self, mode: ReplayMode, detail: str, at: int) -> None:
        """Take the ending back, with fresh budgets."""
        self.drop("finished_at", "reason", "budgets", "untold_since", "unheard")
        if mode == "restart":
            self.drop("checkpoint", "progress", "position")
            self.forget_failures()
        self.count("replays")
        self.write(at, attempts=0, rate_limited=0, crashes_without_progress=0)
        self.queue(at, at)
        self.event("replayed", at, detail)

    def discard(self, at: int, reason: str, detail: str) -> None:
        """Be given up, as a dead letter."""
        self.drop("unheard")
        self.finish(State.CANCELLED, at, reason or "discarded")
        self.event("discarded", at, detail)

    def bury(self, at: int, reason: str) -> None:
        """End as a dead letter."""
        self.finish(State.DEAD, at, reason)
        self.event("dead", at, reason, self.text("progress"))

    def ask(self, request: StopRequest, at: int) -> None:
        """Leave a request for the owner; the first stays, but cancel beats pause."""
        asked = self.request
        if asked is None or (asked.kind, request.kind) == ("pause", "cancel"):
            self.write(at, request=request.encode())
            detail = said(request.actor, request.reason, request.kind)
            self.event("asked", at, detail)

    def stop(self, request: StopRequest, at: int) -> State:
        """Carry out what was asked."""
        detail = said(request.actor, request.reason)
        if request.kind == "cancel":
            self.finish(State.CANCELLED, at, request.reason)
            self.leave_untold(at)
            self.event("cancelled", at, detail, self.text("progress"))
        else:
            self.move(State.PAUSED, at)
            self.drop("request")
            self.write(at, reason=request.reason)
            self.event("paused", at, detail)
        return self.state

    def stop_if_asked(self, at: int) -> bool:
        """Carry out what was asked meanwhile; whether anything was."""
        request = self.request
        if request:
            self.stop(request, at)
        return bool(request)

    def become(self, new: NewJob, at: int) -> None:
        """Become another job under the same id, from its beginning."""
        self.describe(new, at)
        self.drop("checkpoint", "progress", "budgets", "error", "generation")
        self.drop("unique_key", "unique_until", "unique_till", "unique_held")
        self.forget_failures()
        self.write(at, position=0, attempts=0, crashes_without_progress=0)

    def go_on_as(self, new: NewJob, grace: int, at: int) -> None:
        """Wait for the message of the job that it has become."""
        self.queue(at, at + grace)
        self.event("replaced", at, new.task)
        self.stop_if_asked(at)

    @property
    def place(self) -> str:
        """How far it was, for the error of a poisoned job."""
        seen = Progress.decode(self.text("progress"))
        if seen.stage is None:
            return "Nothing was saved."
        return f"Last checkpoint: item {seen.current} of stage {seen.stage}."

    def lose_owner(self, at: int, error: ErrorInfo) -> None:
        """Be due again after a crash, or dead as poison; an older error stays."""
        progressed = self.number("position") > self.number("position_at_begin")
        if self.state is State.RUNNING and progressed:
            self.write(at, crashes_without_progress=0)
        else:
            self.count("crashes_without_progress")
        self.count("recoveries")
        if not self.text("error"):
            self.write(at, error=error.encode())
        if self.number("crashes_without_progress") >= self.number("crash_limit"):
            error = replace(error, message=f"{error.message} {self.place}")
            self.write(at, error=error.encode())
            self.bury(at, "poison")
            self.leave_untold(at)
        elif not self.stop_if_asked(at):
            self.queue(at, at)
            self.event("recovered", at)


def _is_part_of(owner: str, worker: str) -> bool:
    return owner == worker or owner.startswith(worker + "/")


def heard(asked: StopRequest | None, kind: RequestKind, reason: str) -> StopRequest:
    """What an owner stops for; a cancel that was asked for meanwhile is not lost."""
    own = StopRequest(kind, "", reason)
    if asked is None:
        return own
    overruled = (asked.kind, kind) == ("cancel", "pause")
    return asked if overruled or (asked.kind == kind and not reason) else own
