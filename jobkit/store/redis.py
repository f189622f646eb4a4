"""Jobs in Redis or Valkey: every verb is one Lua script on one partition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from jobkit.codec import dumps
from jobkit.job import (
    ErrorInfo,
    Event,
    ItemFailure,
    Job,
    NewJob,
    Page,
    ReplayMode,
    RequestKind,
    StopRequest,
)
from jobkit.states import State
from jobkit.store import replies, scripts, streams
from jobkit.store.base import watching
from jobkit.store.dead_letters import DeadLetters
from jobkit.store.letters import Letters
from jobkit.store.redis_slots import RedisSlots
from jobkit.store.values import (
    BACKLOG_STATES,
    ENDS,
    LEASE_EXPIRED,
    Amended,
    Backlog,
    Due,
    Entered,
    Failure,
    InterruptKind,
    Kept,
    News,
    Released,
    Result,
    Snapshot,
    Start,
)


class RedisStore(DeadLetters, Letters, RedisSlots):
    """A store in Redis, Valkey, a Sentinel group or a Cluster."""

    # -- entering -----------------------------------------------------------

    def enqueue(self, job: NewJob, token: str, hint: float) -> Entered:
        """Record a job; see ``Store.enqueue``."""
        self._check_place(job)
        outcome, there = self._job(
            *(scripts.ENQUEUE, job.id, token, job.task, job.message, job.queue),
            replies.text(job.priority),
            *(job.dead_letter_queue, job.owner, dumps(list(job.stages))),
            *(job.crash_limit, replies.ms(job.delay or 0), replies.ms(hint)),
            int(job.again),
            *replies.unique(job),
            job.unique.on_held if job.unique else "",
            int(job.blocked),
        )
        return Entered(outcome == "ok", there)

    def amend(self, job_id: str, token: str, unique_key: str, message: str) -> Amended:
        """Give a job another message; see ``Store.amend``."""
        answer: Amended = self._job(scripts.AMEND, job_id, token, unique_key, message)
        return answer

    def published(
        self,
        job_id: str,
        hint: float,
        *,
        ok: bool = True,
        hints: int | None = None,
        fence: int | None = None,
    ) -> None:
        """Note what became of a message; see ``Store.published``."""
        claim = replies.text(hints), replies.text(fence)
        self._job(scripts.PUBLISHED, job_id, replies.ms(hint), int(ok), *claim)

    # -- running ------------------------------------------------------------

    def begin(
        self,
        job_id: str,
        token: str,
        worker: str,
        lease: float,
        task: str = "",
        generation: str = "",
    ) -> Start:
        """Start a run; see ``Store.begin``."""
        answer = self._job(
            *(scripts.BEGIN, job_id, token, worker, replies.ms(lease)),
            *(task, generation),
        )
        self._check(job_id, answer)
        if answer[0] == "run":
            return Start("run", replies.job(answer[1], answer[2]))
        return Start(answer[0])

    def renew(self, job_id: str, fence: int, lease: float) -> Kept:
        """Keep the lease; see ``Store.renew``."""
        return replies.kept(self._job(scripts.RENEW, job_id, fence, replies.ms(lease)))

    def save(
        self, job_id: str, fence: int, seq: int, snapshot: Snapshot, lease: float
    ) -> Kept:
        """Write checkpoint and progress; see ``Store.save``."""
        answer = self._job(
            scripts.SAVE,
            job_id,
            fence,
            seq,
            *replies.snapshot(snapshot),
            *(replies.ms(lease), *replies.ledger(snapshot)),
        )
        return replies.kept(answer)

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
        """End as SUCCEEDED or PARTIAL; see ``Store.succeed``."""
        told = *replies.snapshot(snapshot), reason, int(tell)
        kept = (*replies.result(result), self.database) if result else ()
        return replies.state(self._job(scripts.SUCCEED, job_id, fence, *told, *kept))

    def retry(
        self,
        job_id: str,
        fence: int,
        failure: Failure,
        delay: float,
        message: str | None = None,
    ) -> State | None:
        """Wait after an error; see ``Store.retry``."""
        return replies.state(
            self._job(
                scripts.RETRY,
                job_id,
                fence,
                *replies.failure(failure),
                replies.ms(delay),
                message or "",
            ),
        )

    def bury(
        self,
        job_id: str,
        fence: int,
        failure: Failure,
        reason: str,
        *,
        tell: bool = False,
    ) -> bool:
        """End as DEAD; see ``Store.bury``."""
        told = *replies.failure(failure), reason, int(tell)
        return bool(self._job(scripts.BURY, job_id, fence, *told) == "ok")

    def interrupt(
        self, job_id: str, fence: int, kind: InterruptKind, reason: str = ""
    ) -> State | None:
        """Stop a run that did not fail; see ``Store.interrupt``."""
        return replies.state(self._job(scripts.INTERRUPT, job_id, fence, kind, reason))

    def cede(self, job_id: str, fence: int) -> bool:
        """Free the id for a replacement; see ``Store.cede``."""
        return bool(self._job(scripts.CEDE, job_id, fence) == "ok")

    def replace(
        self, job_id: str, fence: int, new: NewJob, grace: float
    ) -> State | None:
        """Make a run's job another task's; see ``Store.replace``."""
        return replies.state(
            self._job(
                scripts.REPLACE,
                job_id,
                fence,
                *(new.task, new.message, new.queue, replies.text(new.priority)),
                *(new.dead_letter_queue, dumps(list(new.stages)), new.crash_limit),
                replies.ms(grace),
                *replies.unique(new),
            ),
        )

    def crash(self, job_id: str, worker: str, error: ErrorInfo) -> Released | None:
        """Tell that a worker died; see ``Store.crash``."""
        answer = self._job(scripts.CRASH, job_id, worker, error.encode())
        if answer[0] == "gone":
            return None
        return Released(job_id, answer[0], State(answer[1]))

    # -- the workers' rounds --------------------------------------------------

    def rescue(self, limit: int = 100) -> Sequence[Released]:
        """Take jobs whose lease has ended; see ``Store.rescue``."""
        error = LEASE_EXPIRED.encode()
        return replies.released(self._everywhere(scripts.RESCUE, limit, error))

    def claim_due(self, limit: int, grace: float) -> Sequence[Due]:
        """Take jobs whose time has come; see ``Store.claim_due``."""
        return [
            Due(job_id, message, int(hints), int(fence))
            for answer in self._everywhere(scripts.CLAIM_DUE, limit, replies.ms(grace))
            for job_id, message, hints, fence in answer
        ]

    def unblock(
        self, job_id: str, grace: float
    ) -> tuple[State, Due | None] | tuple[None, None]:
        """Let a BLOCKED job go; see ``Store.unblock``."""
        answer = self._job(scripts.UNBLOCK, job_id, replies.ms(grace))
        if not answer:
            return None, None
        state, *due = answer
        if not due:
            return State(state), None
        return State(state), Due(job_id, due[0], int(due[1]), int(due[2]))

    def next_due(self) -> float | None:
        """Seconds until the next job is due; see ``Store.next_due``."""
        spans = [int(span) for span in self._everywhere(scripts.NEXT_DUE) if span]
        return min(spans) / 1000 if spans else None

    def waiting(self, queues: Sequence[str], age: float) -> bool:
        """Whether a job of these queues waits; see ``Store.waiting``."""
        names = dumps(list(queues))
        return any(self._everywhere(scripts.WAITING, names, replies.ms(age)))

    def prune(self, limit: int = 1000) -> int:
        """Remove records whose retention has passed; see ``Store.prune``."""
        return sum(int(count) for count in self._everywhere(scripts.PRUNE, limit))

    def untold(self, age: float, limit: int = 100) -> Sequence[Released]:
        """Jobs of whose end Celery was not told; see ``Store.untold``."""
        answers = self._everywhere(scripts.UNTOLD, replies.ms(age), limit)
        return replies.released(answers)

    def told(self, job_id: str) -> None:
        """Note that Celery was told of a job's end."""
        self._job(scripts.TOLD, job_id)

    # -- from outside ---------------------------------------------------------

    def ask(
        self, job_id: str, kind: RequestKind, actor: str, reason: str
    ) -> tuple[str, State]:
        """Cancel or pause a job; see ``Store.ask``."""
        request = StopRequest(kind, actor, reason).encode()
        return self._act(scripts.ASK, job_id, request)

    def resume(self, job_id: str, actor: str = "") -> tuple[str, State]:
        """Let a paused job go on; see ``Store.resume``."""
        return self._act(scripts.RESUME, job_id, actor)

    def replay(
        self,
        job_id: str,
        mode: ReplayMode,
        actor: str = "",
        reason: str = "",
        death: str = "",
    ) -> tuple[str, State]:
        """Run a dead job again; see ``Store.replay``."""
        return self._act(scripts.REPLAY, job_id, mode, actor, reason, death)

    def replay_items(
        self, child: NewJob, checkpoint: str, actor: str = "", reason: str = ""
    ) -> tuple[str, str]:
        """Make a job over failed items; see ``Store.replay_items``."""
        job_id, told = child.replay_of, (actor, reason)
        answer = self._job(
            *(scripts.REPLAY_ITEMS, job_id, child.id, child.message, checkpoint, *told)
        )
        return self._answer(job_id, answer)

    def partner(self, job_id: str) -> str:
        """An id in the same partition; see ``Store.partner``."""
        return self.keys.partner(job_id)

    def discard(
        self, job_id: str, actor: str = "", reason: str = ""
    ) -> tuple[str, State]:
        """Give a dead job up; see ``Store.discard``."""
        return self._act(scripts.DISCARD, job_id, actor, reason)

    # -- reading ----------------------------------------------------------------

    def get(self, job_id: str) -> Job | None:
        """The record, or None."""
        with self._errors:
            fields = cast("dict[str, str]", self._client.hgetall(self.keys.job(job_id)))
        return Job.from_fields(fields) if fields else None

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        totals = dict.fromkeys(State, 0)
        for partition in range(self.keys.partitions):
            with self._errors, self._client.pipeline(transaction=False) as pipe:
                for state in State:
                    pipe.zcard(self.keys.state(partition, state))
                for state, count in zip(State, pipe.execute(), strict=True):
                    totals[state] += int(count)
        return totals

    def backlog(self, depth: int = 500) -> Sequence[Backlog]:
        """How many jobs each queue has; see ``Store.backlog``."""
        states = dumps(list(map(str, BACKLOG_STATES)))
        return replies.backlog(self._everywhere(scripts.BACKLOG, states, depth))

    def ended(self, span: float, spans: int) -> Mapping[State, Sequence[int]]:
        """How many jobs ended in each of the last spans; see ``Store.ended``."""
        states = dumps(list(map(str, ENDS)))
        answers = self._everywhere(scripts.ENDED, states, replies.ms(span), spans)
        return replies.ended(answers)

    def failures(
        self, job_id: str, after: str | None = None, limit: int = 50
    ) -> Page[ItemFailure]:
        """The ledger of a job's failed items; see ``Store.failures``."""
        answer = self._job(scripts.FAILURES, job_id, after or "-1", limit)
        return replies.failures(answer)

    def history(self, job_id: str, after: str = "") -> Sequence[Event]:
        """The job's events after the one with that id, oldest first."""
        start = f"({after}" if after else "-"
        with self._errors:
            entries: Any = self._client.xrange(self.keys.events(job_id), start)
        return [replies.event(entry_id, fields) for entry_id, fields in entries]

    def watch(self, job_id: str, timeout: float) -> Iterator[Event | None]:
        """Events and progress from now on; see ``Store.watch``."""
        return watching(self.follow, job_id, self.place(job_id), timeout)

    def place(self, job_id: str, after: str = "") -> str:
        """Where to follow a job from; see ``Store.place``."""
        told = zip(
            streams.streams_of(self.keys, job_id), streams.entries(after), strict=True
        )
        with self._errors, self._client.pipeline(transaction=False) as pipe:
            for stream, entry in told:
                pipe.xrevrange(stream, count=1)
                pipe.xrange(stream, entry, entry)
                pipe.xlen(stream)
            return streams.standing(pipe.execute(), after)

    def follow(self, places: Mapping[str, str], timeout: float) -> Sequence[News]:
        """Events and progress of several jobs; see ``Store.follow``."""
        following = streams.Following(self.keys, places)
        left = timeout
        while True:
            # A block must end before the reply's own time limit does.
            block = min(left, self._timeout / 2)
            share = block / max(1, len(following.groups))
            found = [
                news
                for group in following.groups
                for news in following.read(self._entries(group, share))
            ]
            left -= block
            if found or left <= 0:
                return found

    def _entries(self, group: dict[str, str], block: float) -> Any:
        wait = max(1, replies.ms(block)) if block else None  # 0 would be for ever
        with self._errors:
            return self._client.xread(cast("dict[Any, Any]", group), block=wait)
