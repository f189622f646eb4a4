"""Jobs kept in the memory of this process, for tests and for eager runs."""

from __future__ import annotations

import uuid
from dataclasses import asdict

from jobkit.job import (
    ErrorInfo,
    NewJob,
    ReplayMode,
    RequestKind,
    StopRequest,
    check_schema,
)
from jobkit.states import State
from jobkit.store.memory_dead_letters import DeadLetters
from jobkit.store.memory_letters import Letters
from jobkit.store.memory_records import (
    HINT_CAP,
    LAST_CHANCE,
    REFUSALS,
    Record,
    heard,
    milliseconds,
    said,
    stored,
)
from jobkit.store.memory_slots import MemorySlots
from jobkit.store.memory_unique import (
    amend,
    claim,
    holds,
    is_free,
    take_key,
    written,
)
from jobkit.store.values import (
    LEASE_EXPIRED,
    RESENT,
    Amended,
    Due,
    Entered,
    Failure,
    InterruptKind,
    Kept,
    Released,
    Result,
    Snapshot,
    Start,
)

_DUE_STATES = frozenset({State.SCHEDULED, State.QUEUED, State.BLOCKED, State.RETRYING})
_ANY = frozenset(State)
_DONE = frozenset({State.SUCCEEDED, State.PARTIAL})
_AFTER_RETRY = frozenset({State.RETRYING, State.CANCELLED, State.PAUSED})


class MemoryStore(DeadLetters, Letters, MemorySlots):
    """A store without a server; it lives and dies with the process.

    Safe for threads, unknown to other processes.
    """

    def enqueue(self, job: NewJob, token: str, hint: float) -> Entered:
        """Record a job."""
        with self._change() as at:
            known = self._jobs.get(job.id)
            if known and known.text("enqueue_token") == token:
                twin = known.text("duplicate_of")
                return Entered(not twin, twin or job.id)
            if known and not is_free(known, job, at):
                return Entered(new=False, id=job.id)
            holder = self._holder(job.unique, job.id, at)
            if job.unique and holder and job.unique.on_held != "cancel":
                return Entered(new=False, id=holder)
            fence = known.number("fence") if known else 0
            record = self._jobs[job.id] = Record(self._ids, fence)
            record.enter(job, token, milliseconds(hint), at)
            claim(record, job.unique, holder, at)
            return Entered(not holder, holder or job.id)

    def amend(self, job_id: str, token: str, unique_key: str, message: str) -> Amended:
        """Give a job that has not begun another message."""
        with self._change() as at:
            record = self._jobs.get(job_id)
            if record and record.text("generation") == token:
                return "ok"
            if record is None or not holds(record, unique_key, at):
                return "gone"
            if record.number("starts"):
                return "begun"
            amend(record, token, message, at)
            return "ok"

    def published(
        self,
        job_id: str,
        hint: float,
        *,
        ok: bool = True,
        hints: int | None = None,
        fence: int | None = None,
    ) -> None:
        """Note that a QUEUED job's message was published, or was not."""
        with self._change() as at:
            record = self._jobs.get(job_id)
            if record is None or record.state is not State.QUEUED:
                return
            if record.has_moved_on(hints, fence, at):
                return
            if not ok:
                record.write(at, due_at=at + milliseconds(hint))
                return
            if record.text("foreign"):
                del self._jobs[job_id]
                return
            record.count("hints")
            wait = milliseconds(hint) * 2 ** (record.number("hints") - 1)
            record.write(at, due_at=at + min(wait, HINT_CAP), published_at=at)

    def begin(
        self,
        job_id: str,
        token: str,
        worker: str,
        lease: float,
        task: str = "",
        generation: str = "",
    ) -> Start:
        """Start a run of a QUEUED job."""
        with self._change() as at:
            record = self._jobs.get(job_id)
            if record is None:
                return Start("unknown")
            check_schema(record.fields)
            if record.state is State.QUEUED:
                if task not in ("", record.text("task")):
                    return Start("another_task")
                record.begin(token, worker, milliseconds(lease), at)
            elif record.state is not State.RUNNING or record.text("token") != token:
                return Start(REFUSALS[record.state])
            else:
                record.write(at, lease_until=at + milliseconds(lease))
            newest = record.text("generation")
            newer = bool(task and newest and newest != generation)
            return Start("run", record.job(message=newer))

    def renew(self, job_id: str, fence: int, lease: float) -> Kept:
        """Keep the lease."""
        with self._change() as at:
            run = self._owned(job_id, fence)
            if run is None:
                return Kept(owner=False)
            run.write(at, lease_until=at + milliseconds(lease))
            return Kept(owner=True, request=run.request)

    def save(
        self, job_id: str, fence: int, seq: int, snapshot: Snapshot, lease: float
    ) -> Kept:
        """Write checkpoint and progress, and keep the lease."""
        with self._change() as at:
            run = self._owned(job_id, fence)
            if run is None:
                return Kept(owner=False)
            if seq > run.number("save_seq"):
                run.keep(snapshot, at)
                run.file(snapshot.failed, at)
                self._resolve(run, snapshot, at)
                run.write(at, save_seq=seq, lease_until=at + milliseconds(lease))
                run.tick(at)
            return Kept(owner=True, request=run.request)

    def _resolve(self, run: Record, snapshot: Snapshot, at: int) -> None:
        # An item that a replay of a replay has handled is open nowhere.
        parent = self._jobs.get(run.text("replay_of"))
        while parent:
            parent.resolve(snapshot.resolved, run.text("id"), at)
            parent = self._jobs.get(parent.text("replay_of"))

    def succeed(
        self,
        job_id: str,
        fence: int,
        snapshot: Snapshot,
        reason: str = "",
        *,
        tell: bool = False,
        result: Result | None = None,
    ) -> State | None:
        """End as SUCCEEDED, or as PARTIAL."""
        del result  # there is no server that it could be at
        with self._change() as at:
            run = self._owned(job_id, fence)
            if run is None:
                return self._became(job_id, fence, _DONE)
            run.keep(snapshot, at)
            run.succeed(at, reason)
            run.leave_unheard(at, tell=tell)
            return run.state

    def _became(
        self, job_id: str, fence: int, among: frozenset[State] = _ANY
    ) -> State | None:
        record = self._held(job_id, fence)
        return record.state if record and record.state in among else None

    def retry(
        self,
        job_id: str,
        fence: int,
        failure: Failure,
        delay: float,
        message: str | None = None,
    ) -> State | None:
        """Wait after an error."""
        with self._change() as at:
            run = self._owned(job_id, fence)
            if run is None:
                return self._became(job_id, fence, _AFTER_RETRY)
            run.blame(failure, at)
            if message:
                run.write(at, message=message)
            if not run.stop_if_asked(at):
                run.move(State.RETRYING, at)
                run.write(at, due_at=at + milliseconds(delay))
                run.event("retrying", at, str(milliseconds(delay)))
            return run.state

    def bury(
        self,
        job_id: str,
        fence: int,
        failure: Failure,
        reason: str,
        *,
        tell: bool = False,
    ) -> bool:
        """End as DEAD."""
        with self._change() as at:
            run = self._owned(job_id, fence)
            if run is None:
                return self._became(job_id, fence) is State.DEAD
            run.blame(failure, at)
            run.bury(at, reason)
            run.leave_unheard(at, tell=tell)
            return True

    def interrupt(
        self, job_id: str, fence: int, kind: InterruptKind, reason: str = ""
    ) -> State | None:
        """Stop a run that did not fail."""
        with self._change() as at:
            run = self._owned(job_id, fence)
            if run is None:
                return self._became(job_id, fence)
            if kind not in ("cancel", "block"):
                run.count("interruptions")
            if kind == "block":
                run.unstart()
            taken_back = kind == "pause" and not (reason or run.request)
            if kind in ("cancel", "pause") and not taken_back:
                run.stop(heard(run.request, kind, reason), at)
            elif not run.stop_if_asked(at):
                run.give_back(kind, reason, at)
            if run.state is State.BLOCKED and run.text("unique_until") == "start":
                self._take_again(run, at)
            return run.state

    def _take_again(self, record: Record, at: int) -> None:
        if not self._holder(written(record), record.text("id"), at):
            take_key(record, at)

    def cede(self, job_id: str, fence: int) -> bool:
        """Free the id for a replacement."""
        with self._change():
            run = self._owned(job_id, fence)
            if run is not None:
                run.fields["ceded"] = "1"
            return run is not None

    def replace(
        self, job_id: str, fence: int, new: NewJob, grace: float
    ) -> State | None:
        """Make a run's job another task's."""
        with self._change() as at:
            run = self._owned(job_id, fence)
            if run is None:
                return self._became(job_id, fence)
            holder = self._holder(new.unique, job_id, at)
            run.become(new, at)
            if claim(run, new.unique, holder, at):
                run.go_on_as(new, milliseconds(grace), at)
            return run.state

    def crash(self, job_id: str, worker: str, error: ErrorInfo) -> Released | None:
        """Tell that a worker died with the job."""
        with self._change() as at:
            record = self._jobs.get(job_id)
            if record is None:
                return None
            running = record.state is State.RUNNING and record.belongs_to(worker)
            if not running and record.state is not State.QUEUED:
                return None
            # Of a queued job that this worker once ran, its death was told before.
            if running or not record.has_been_run_by(worker):
                record.write(at, error=error.encode())
                record.lose_owner(at, error)
            elif record.number("due_at") > at and record.events[-1].name != "replaced":
                # Its message may be what the worker died with.
                record.fields["due_at"] = str(at)
            return record.released()

    def rescue(self, limit: int = 100) -> list[Released]:
        """Take jobs from owners whose lease has ended."""
        with self._change() as at:
            released = []
            for record in self._earliest("lease_until", at, limit):
                record.lose_owner(at, LEASE_EXPIRED)
                released.append(record.released())
            return released

    def claim_due(self, limit: int, grace: float) -> list[Due]:
        """Take jobs whose time has come."""
        with self._change() as at:
            claimed = []
            for record in self._earliest("due_at", at, limit):
                if record.state is not State.QUEUED:
                    record.move(State.QUEUED, at)
                    record.event("queued", at)
                record.write(at, due_at=at + milliseconds(grace))
                claimed.append(record.due())
            return claimed

    def unblock(
        self, job_id: str, grace: float
    ) -> tuple[State, Due | None] | tuple[None, None]:
        """Let a BLOCKED job go."""
        with self._change() as at:
            record = self._jobs.get(job_id)
            if record is None:
                return None, None
            if record.state is not State.BLOCKED:
                return record.state, None
            record.queue(at, at + milliseconds(grace))
            record.event("queued", at)
            return record.state, record.due()

    def next_due(self) -> float | None:
        """Seconds until the next job is due."""
        with self._changed:
            due = [int(at) for job in self._jobs.values() if (at := job.text("due_at"))]
            return (min(due) - self._now()) / 1000 if due else None

    def prune(self, limit: int = 1000) -> int:
        """Remove finished records whose retention has passed."""
        with self._change() as at:
            kept = asdict(self._retention)
            ended = self._earliest("finished_at", at, len(self._jobs))
            old = [record for record in ended if at >= record.expires_at(kept)]
            old.sort(key=lambda record: record.expires_at(kept))
            gone = 0
            for record in old[:limit]:
                child = self._jobs.get(record.text("replayed_by"))
                if child and record.is_needed_by(child.state):
                    record.fields["kept_till"] = str(at + LAST_CHANCE)
                else:
                    del self._jobs[record.text("id")]
                    gone += 1
            return gone

    def untold(self, age: float, limit: int = 100) -> list[Released]:
        """Jobs of whose end Celery was not told."""
        with self._change() as at:
            untold = self._earliest("untold_since", at - milliseconds(age), limit)
            for record in untold:
                record.fields["untold_since"] = str(at)
            return [record.released() for record in untold]

    def told(self, job_id: str) -> None:
        """Note that Celery was told of a job's end."""
        with self._changed:
            if record := self._jobs.get(job_id):
                record.drop("untold_since")

    def ask(
        self, job_id: str, kind: RequestKind, actor: str, reason: str
    ) -> tuple[str, State]:
        """Cancel or pause a job."""
        with self._change() as at:
            record = self._known(job_id)
            state = record.state
            request = stored(StopRequest(kind, actor, reason))
            if state is State.RUNNING:
                record.ask(request, at)
                return "asked", state
            if state in _DUE_STATES or (state is State.PAUSED and kind == "cancel"):
                return "done", record.stop(request, at)
            same = record.text("reason") == reason and state is State.CANCELLED
            resent = same and at < record.number("finished_at") + milliseconds(RESENT)
            done = resent if kind == "cancel" else state is State.PAUSED
            return ("done" if done else "refused"), state

    def resume(self, job_id: str, actor: str = "") -> tuple[str, State]:
        """Let a paused job go on."""
        with self._change() as at:
            record = self._known(job_id)
            if record.state is State.PAUSED:
                record.drop("reason")
                record.queue(at, at)
                record.event("resumed", at, actor)
            elif record.request and record.request.kind == "pause":
                record.write(at, request="")
                record.event("resumed", at, actor)
            goes_on = record.state in {State.QUEUED, State.RUNNING}
            return ("done" if goes_on else "refused"), record.state

    def replay(
        self,
        job_id: str,
        mode: ReplayMode,
        actor: str = "",
        reason: str = "",
        death: str = "",
    ) -> tuple[str, State]:
        """Give a dead job fresh budgets and another run."""
        with self._change() as at:
            record = self._known(job_id)
            if death and (record.state is not State.DEAD or record.death != death):
                return "refused", record.state
            if record.state is not State.DEAD:
                before = record.number("replays") > 0 and not record.state.finished
                return ("done" if before else "refused"), record.state
            self._check_key(record, at)
            record.replay(mode, said(actor, reason, mode), at)
            take_key(record, at)
            return "done", record.state

    def replay_items(
        self, child: NewJob, checkpoint: str, actor: str = "", reason: str = ""
    ) -> tuple[str, str]:
        """Make a job over failed items."""
        with self._change() as at:
            record = self._known(child.replay_of)
            before = self._jobs.get(record.text("replayed_by"))
            answer = record.replay_there_is(before, child.id)
            if answer is None:
                self._check_key(record, at)
                self._jobs[child.id] = new = Record(self._ids)
                new.enter_over(record, child, checkpoint, at)
                claim(new, written(record), "", at)
                record.replay_items(child.id, said(actor, reason, "failed_items"), at)
            return answer or ("done", child.id)

    def partner(self, job_id: str) -> str:  # noqa: ARG002 - there is one partition
        """A new id."""
        return str(uuid.uuid4())

    def discard(
        self, job_id: str, actor: str = "", reason: str = ""
    ) -> tuple[str, State]:
        """Give a dead job up."""
        with self._change() as at:
            record = self._known(job_id)
            if record.state is State.DEAD:
                record.discard(at, reason, said(actor, reason))
            gone = record.state is State.CANCELLED
            return ("done" if gone else "refused"), record.state
