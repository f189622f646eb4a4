"""The verbs that every store of jobs has: each is one atomic transition.

Time is the store's own, in whole milliseconds. Every verb may be sent twice (a
client sends a command again when its reply was lost) and then has happened
once. The verbs that a run uses carry its *fence*, the number that grows with
each start: a stale owner is answered ``"lost"``, and nothing is changed.

Durations are seconds. ``StoreUnavailable`` is raised by every verb when the
store cannot be reached within its time limit, ``SchemaError`` when the record
was written by a newer jobkit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Unpack

from jobkit.filters import Filters
from jobkit.job import (
    ErrorInfo,
    Event,
    ItemFailure,
    Job,
    NewJob,
    Page,
    ReplayMode,
    RequestKind,
)
from jobkit.states import State
from jobkit.store.slots import Slots
from jobkit.store.values import (
    Amended,
    Backlog,
    BulkAct,
    Collected,
    Death,
    Dropped,
    Due,
    Entered,
    Failure,
    InterruptKind,
    Kept,
    Letter,
    News,
    Note,
    Released,
    Result,
    Retention,
    Snapshot,
    Start,
)


class Store(Slots, Protocol):
    """Where the records of jobs are; see the module for what all verbs share."""

    @property
    def retention(self) -> Retention:
        """How long finished records stay."""

    def is_at(self, options: Mapping[str, Any]) -> bool:
        """Whether it is one server, and the one that a client's options name."""

    def ping(self) -> None:
        """Ask the server for a sign of life."""

    def close(self) -> None:
        """Give the connections back."""

    # -- entering -----------------------------------------------------------

    def enqueue(self, job: NewJob, token: str, hint: float) -> Entered:
        """Record a job; nothing is changed if its id or its unique key is taken.

        An id that was ceded or whose job ended as ``REPLACED`` is free, and with
        ``again`` that of any job that has ended; its fence goes on. QUEUED, or
        SCHEDULED when it has a delay, or BLOCKED. ``token`` names this call, so that its
        repetition is answered like the first. ``hint`` is the time after which a
        QUEUED job's message is taken for lost.
        A unique key is its own until it ends (``until="finish"``), begins
        ("start"), or for so many seconds, ended or not; dead and cancelled jobs
        free it at once. A job with ``on_held="cancel"`` that does not get it is
        recorded as CANCELLED, to be told.

        Raises:
            SettingsError: Its id and its unique key are of two partitions.
        """

    def amend(self, job_id: str, token: str, unique_key: str, message: str) -> Amended:
        """Give the job that has a unique key, and has not begun, another message.

        ``token`` is the generation of the new one; the old one still is a hint that
        begins it, when its turn comes. "begun" and "gone" (it has not got the key any
        more) change nothing.
        """

    def published(
        self,
        job_id: str,
        hint: float,
        *,
        ok: bool = True,
        hints: int | None = None,
        fence: int | None = None,
    ) -> None:
        """Note that a QUEUED job's message was published, or (not ok) was not.

        After ``hint`` it is due again, doubled each time up to six hours; when it
        was not published, neither counted nor doubled. In any other state it does
        nothing.
        With ``hints`` and ``fence``, as ``claim_due`` told them, nor does a word
        that comes late: the job has run since, somebody else has told of it, or
        it is due again.
        """

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
        """Start a run of a QUEUED job: RUNNING with the next fence, or why not.

        The same ``token`` gets the same run again while it lasts, with its
        lease renewed. ``task`` is whose message it is: a late copy of one that
        was replaced does not start the task that goes on with its id. The job that
        is returned has its message only if that is newer than the one that was
        delivered, of another ``generation`` (see ``amend``).
        """

    def renew(self, job_id: str, fence: int, lease: float) -> Kept:
        """Keep the lease for another ``lease`` seconds from now."""

    def save(
        self, job_id: str, fence: int, seq: int, snapshot: Snapshot, lease: float
    ) -> Kept:
        """Write checkpoint and progress, and keep the lease.

        ``seq`` grows with each save of a run: one that comes late, after a
        newer one, changes nothing and is answered as the owner's. Failed items are
        filed under their stage and key: one that fails again stays one row.
        """

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
        """End as SUCCEEDED, or as PARTIAL with open rows in the ledger.

        With the reason ``REPLACED`` its id may be enqueued again. ``tell`` leaves a
        note that the end is ``unheard``. ``result`` is stored in the same step, as
        Celery does; only where ``is_at`` said so. None for a stale owner, whose
        result is only stored if the record is gone.
        """

    def retry(
        self,
        job_id: str,
        fence: int,
        failure: Failure,
        delay: float,
        message: str | None = None,
    ) -> State | None:
        """Wait for ``delay`` after an error: RETRYING, or what was asked for.

        A cancel or pause that was asked for meanwhile is carried out instead.
        ``message`` replaces the stored one. None for a stale owner.
        """

    def bury(
        self,
        job_id: str,
        fence: int,
        failure: Failure,
        reason: str,
        *,
        tell: bool = False,
    ) -> bool:
        """End as DEAD: the job is a dead letter. False for a stale owner.

        ``tell`` leaves a note that the end is ``unheard``.
        """

    def interrupt(
        self,
        job_id: str,
        fence: int,
        kind: InterruptKind,
        reason: str = "",
    ) -> State | None:
        """Stop a run that did not fail; no attempt is counted.

        drain, slice and requeue: QUEUED and due at once; pause: PAUSED; cancel:
        CANCELLED; block: BLOCKED, and neither a start nor an interruption is
        counted. For those that wait a cancel or pause that was asked for
        meanwhile is carried out instead. A pause without a reason is a drain if
        none is asked for (any more). None for a stale owner.
        """

    def cede(self, job_id: str, fence: int) -> bool:
        """Let another job take the id of a run that replaces itself.

        As long as the run lasts, its id may be enqueued; the run's own ending is
        then that of a stale owner. False for a stale owner.
        """

    def replace(
        self, job_id: str, fence: int, new: NewJob, grace: float
    ) -> State | None:
        """Make a run's job another task's, under the same id, from its beginning.

        QUEUED, and due after ``grace`` unless the caller publishes the new
        message and says so; CANCELLED, to be told, if another job has the new one's
        unique key. None for a stale owner.
        """

    def crash(self, job_id: str, worker: str, error: ErrorInfo) -> Released | None:
        """Tell that ``worker`` died with the job: QUEUED and due, or DEAD as poison.

        ``worker`` is what ``begin`` was given, or its beginning. Also for a
        QUEUED job whose worker died before it began, and told again (or after a
        rescue) it counts once. None when the job is not that worker's.
        """

    # -- the workers' rounds --------------------------------------------------

    def rescue(self, limit: int = 100) -> Sequence[Released]:
        """Take jobs from owners whose lease has ended: QUEUED and due, or DEAD.

        A crash without progress is counted; at the record's ``crash_limit`` the
        job is dead with the reason ``poison``. One with progress resets the count.
        """

    def claim_due(self, limit: int, grace: float) -> Sequence[Due]:
        """Take jobs whose time has come, to publish their messages.

        They are QUEUED, and due again after ``grace`` if nobody calls
        ``published`` by then.
        """

    def unblock(
        self, job_id: str, grace: float
    ) -> tuple[State, Due | None] | tuple[None, None]:
        """Let a BLOCKED job go: QUEUED, to be published now by the caller.

        Due again after ``grace`` if nobody calls ``published`` by then. The state
        alone when it was not BLOCKED, None when there is no such job.
        """

    def next_due(self) -> float | None:
        """Seconds until the next job is due (0 or less: now), None if none is."""

    def waiting(self, queues: Sequence[str], age: float) -> bool:
        """Whether a job of these queues has been QUEUED for ``age`` seconds.

        Of each queue, and of all that are QUEUED, the newest alone need be looked
        at: there is always one among them where a queue is served in its order.
        """

    def prune(self, limit: int = 1000) -> int:
        """Remove finished records whose retention has passed; how many it were.

        One whose failed items another job goes over, or may be replayed to go over,
        stays as long as that is so, and up to a day more.
        """

    def untold(self, age: float, limit: int = 100) -> Sequence[Released]:
        """Jobs that ended without a word to Celery: their chords still wait.

        They died or were cancelled at least ``age`` seconds ago and nobody has
        said ``told`` since; not those that ``bury`` or ``discard`` ended, of which
        Celery was told before. Oldest first, up to ``limit`` of each partition; they
        come again after ``age``.
        """

    def told(self, job_id: str) -> None:
        """Note that Celery was told of a job's end."""

    # -- dead letters ---------------------------------------------------------

    def claim_notes(
        self, note: Note, age: float, grace: float, limit: int = 100
    ) -> Sequence[Death]:
        """Take deaths, ``age`` old, of which something is still to be done.

        ``uncopied``: a copy for the broker queue that the record names;
        ``unannounced``: a word that the record is about to go; ``unheard``, of any
        end: its signal, for receivers that have not heard of it. They come again
        after ``grace`` unless somebody says ``noted``. Oldest first, up to
        ``limit`` of each partition. A record of which there may be a copy stays
        as long as dead ones do, however it ends.
        """

    def noted(self, note: Note, death: Death) -> None:
        """Note that it was done; of any other death this takes no note."""

    def collect(self, new: NewJob, dropped: Dropped) -> tuple[Collected, State]:
        """File a message that the broker gave up as a DEAD job.

        ``("queued", QUEUED)`` when it was the hint of a job that waits: then that
        is due again, at once, and ever later if it goes on so. ``("known", state)``
        when the same was told before, or a record needs no message.
        """

    # -- from outside ---------------------------------------------------------

    def ask(
        self, job_id: str, kind: RequestKind, actor: str, reason: str
    ) -> tuple[str, State]:
        """Cancel or pause a job.

        ``("asked", RUNNING)`` when its owner will be told, ``("done", state)``
        when it was carried out at once or before, ``("refused", state)`` when
        the job has ended or waits in a way that cannot be paused.

        Raises:
            JobNotFound: Nothing is recorded under this id.
        """

    def resume(self, job_id: str, actor: str = "") -> tuple[str, State]:
        """PAUSED to QUEUED and due at once; takes back a pause asked for.

        ``("done", state)`` or ``("refused", state)``. Raises JobNotFound.
        """

    def replay(
        self,
        job_id: str,
        mode: ReplayMode,
        actor: str = "",
        reason: str = "",
        death: str = "",
    ) -> tuple[str, State]:
        """DEAD to QUEUED and due at once, with fresh budgets.

        ``resume`` keeps the checkpoint, ``restart`` forgets it. A job that was
        replayed before and has not ended since answers ``("done", state)``
        again: two clicks make one replay. ``("refused", state)`` otherwise, and
        whenever ``death`` is given and is not the job's last. Its unique key is its
        own again. Raises JobNotFound, and DuplicateJob if another job has the key
        by now.
        """

    def replay_items(
        self, child: NewJob, checkpoint: str, actor: str = "", reason: str = ""
    ) -> tuple[str, str]:
        """Make a job over the failed items of one that is PARTIAL.

        ``child`` has the id and the message of the new job and names the old one
        (``replay_of``), of which it takes all else; ``partner`` makes such an id.
        QUEUED and due at once. As items are handled the old job's rows are
        resolved; with the last one it is SUCCEEDED.

        ``("done", id)`` of the new job, or of the one that goes on from an
        earlier call; ``("refused", state)``. Raises JobNotFound; DuplicateJob if
        another job has the old one's unique key, which is the new one's.
        """

    def partner(self, job_id: str) -> str:
        """A new id for a job that is to be kept beside another one, or a unique key."""

    def discard(
        self, job_id: str, actor: str = "", reason: str = ""
    ) -> tuple[str, State]:
        """DEAD to CANCELLED; ``("refused", state)`` for others. Raises JobNotFound."""

    def bulk(
        self,
        job_ids: Sequence[str],
        act: BulkAct,
        bulk: str,
        actor: str = "",
        reason: str = "",
    ) -> Sequence[str]:
        """Replay or discard those of the jobs that are DEAD.

        ``bulk`` names the whole that the call is a part of: in it a job is moved
        once, even if it dies again. The ids of those that it has moved, now or
        before; all others are left alone.
        """

    def restore(self, letter: Letter, token: str) -> bool:
        """Put a DEAD job back; False if its id is taken, and nothing is changed.

        It stays as long as one that dies now. ``token`` as for ``enqueue``.
        """

    # -- reading ----------------------------------------------------------------

    def get(self, job_id: str) -> Job | None:
        """The record, or None."""

    def list(
        self, *, after: str | None = None, limit: int = 50, **filters: Unpack[Filters]
    ) -> Page[Job]:
        """Jobs that match all that is given, newest first; without messages.

        By the time they entered the state when ``state`` is given, else by the
        time they were created. A page may be short although ``next`` is set. See
        ``Wanted`` for the filters.
        """

    def ids(
        self, *, after: str | None = None, limit: int = 50, **filters: Unpack[Filters]
    ) -> Page[tuple[str, str]]:
        """The id and the task of jobs that match, newest first in each partition.

        For going through many: a page takes all its jobs from one partition.
        """

    def take_out(self, job_id: str) -> Letter | None:
        """All that is known of a job, to be put back by ``restore``; or None."""

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""

    def backlog(self, depth: int = 500) -> Sequence[Backlog]:
        """How many jobs each queue has in each state that is not over, or DEAD.

        Exact up to ``depth`` jobs in a state. Beyond, the queues are those of as
        many jobs of its oldest and of its newest, each counted up to 100,000; and
        a queue of which none is among the oldest has waited longer than is told.
        """

    def ended(self, span: float, spans: int) -> Mapping[State, Sequence[int]]:
        """How many jobs ended in each of the last spans (seconds), the last one first.

        By their states. Not counted are those that have been replayed since, and those
        whose record is gone.
        """

    def failures(
        self, job_id: str, after: str | None = None, limit: int = 50
    ) -> Page[ItemFailure]:
        """The ledger of a job's failed items, in the order they first failed."""

    def history(self, job_id: str, after: str = "") -> Sequence[Event]:
        """The job's events after the one with that id, oldest first."""

    def watch(self, job_id: str, timeout: float) -> Iterator[Event | None]:
        """Events and progress from now on; None whenever ``timeout`` passed idle.

        It never ends by itself.
        """

    def place(self, job_id: str, after: str = "") -> str:
        """Where to follow a job from: ``after`` while all since then is kept, else now.

        A place is made of numbers that only grow, with dots and dashes between
        them. One that is unknown, or no place at all, is answered with now.
        """

    def follow(self, places: Mapping[str, str], timeout: float) -> Sequence[News]:
        """Events and progress of several jobs after their places, oldest first.

        Waits up to ``timeout`` for the first; empty when there was none. With
        several partitions those of one may be told up to ``timeout`` late.
        """


def watching(
    follow: Callable[[Mapping[str, str], float], Sequence[News]],
    job_id: str,
    place: str,
    timeout: float,
) -> Iterator[Event | None]:
    """One job, followed from a place; None whenever ``timeout`` passed idle."""
    while True:
        found = follow({job_id: place}, timeout)
        if not found:
            yield None
        for news in found:
            place = news.place
            yield news.event
