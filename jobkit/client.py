"""Jobs seen and steered from outside: by scripts, web pages and operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Unpack, get_args

from jobkit.bulk import Bulk, Order, dead_letters, find
from jobkit.checkpoint import Checkpoint
from jobkit.errors import JobNotFound, NotAllowed, SettingsError
from jobkit.filters import Filters, Wanted
from jobkit.job import Event, ItemFailure, Job, Message, NewJob, Page, ReplayMode
from jobkit.limits import check_terms
from jobkit.portable import Restored, csv_lines, export, restore
from jobkit.states import State
from jobkit.statistics import MOST, NEWEST, Statistics, Usual, count, newest_ended
from jobkit.store.base import Store
from jobkit.store.redis import RedisStore
from jobkit.store.slots import LimitState
from jobkit.store.values import DEAD_LETTERED, Backlog

IDLE = 30.0
"""Seconds without news after which a watcher looks whether the job is over."""

SHOWN = 50
"""Ids that a bulk names."""

ROWS = 500
"""Failed items that are read at a time."""
A_DAY = 1_440
"""Minutes."""

SPAN = 30.0
"""Seconds that a job has for beginning which is next in the place of another one."""

Listener = Callable[[str, str], None]
Targets = Mapping[str, float | None]


class Client:
    """Reads jobs, and asks for what people may ask for.

    ``store`` is a store or the URL of one, under ``prefix``.
    ``cancelled`` is called with the id and reason of each job that was cancelled
    at once, without an owner who could tell Celery. ``anew`` writes a job's
    message for another id. ``knows`` tells whether there is a task of a name, and
    ``send`` enqueues one with an argument and returns the job's id, ``targets`` tells
    those of the queues: what only a Celery app can do, so that ``kit.jobs`` has them
    and a client by URL has not.
    """

    def __init__(
        self,
        store: Store | str,
        cancelled: Listener | None = None,
        anew: Callable[[Message, str], Message] | None = None,
        *,
        knows: Callable[[str], bool] | None = None,
        send: Callable[[str, str], str] | None = None,
        targets: Callable[[], Targets] = dict,
        prefix: str = "jobkit",
        partitions: int = 1,
    ) -> None:
        if isinstance(store, str):
            store = RedisStore(store, prefix, partitions)
        self.store: Store = store
        self._cancelled = cancelled
        self._anew = anew
        self._knows = knows
        self._send = send
        self._targets = targets
        self._usual = Usual(store)

    def get(self, job_id: str) -> Job:
        """The record now.

        Raises:
            JobNotFound: It was never recorded, or its retention has passed.
        """
        job = self.store.get(job_id)
        if job is None:
            raise JobNotFound(job_id)
        return job

    def list(
        self, *, after: str | None = None, limit: int = 50, **filters: Unpack[Filters]
    ) -> Page[Job]:
        """Jobs that match all that is given, newest first.

        Filters are ``state``, ``task``, ``queue``, ``owner``, ``dead_letter_queue``,
        ``error`` (the class of the last one), ``since`` and ``until`` (when a job
        entered the state that is given, else when it was created). A page's
        ``next`` goes into ``after`` for the next page; it is None at the end. A
        page may be short, even empty, although more follow.

        Raises:
            SettingsError: There is no such state, a moment has no time zone, or
                ``limit`` is below 1.
        """
        if limit < 1:
            raise SettingsError(f"A page has room for one job at least: limit={limit}.")
        return self.store.list(after=after, limit=limit, **filters)

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        return self.store.counts()

    def backlog(self) -> Sequence[Backlog]:
        """How many jobs each queue has in each state that is not over, or DEAD.

        With the seconds since the oldest of them is in it. Exact up to 500 jobs in
        a state, beyond as ``Store.backlog`` says.
        """
        return self.store.backlog()

    def ended(self, minutes: int = 60) -> Mapping[State, Sequence[int]]:
        """How many jobs ended in each of the last minutes, by state; the last one first.

        Not counted are jobs that have been replayed since, and those whose record is
        gone.

        Raises:
            SettingsError: ``minutes`` is below 1, or more than a day has.
        """
        if not 1 <= minutes <= A_DAY:
            raise SettingsError(f"minutes={minutes} is not from 1 to {A_DAY}.")
        return self.store.ended(60.0, minutes)

    def statistics(
        self, *, task: str | None = None, newest: int = NEWEST, waiting: bool = True
    ) -> Statistics:
        """How long jobs ran and waited, and how they ended, by task and by queue.

        Counted from the records of the ``newest`` that have ended (SUCCEEDED, PARTIAL or
        DEAD), of one task if it is given: jobs cost nothing more for it. Without
        ``waiting`` it is not counted how many wait now, which takes a while where very
        many do.

        Raises:
            SettingsError: ``newest`` is below 1, or above 25,000.
        """
        if not 1 <= newest <= MOST:
            raise SettingsError(f"Statistics are of 1 to {MOST} jobs: newest={newest}.")
        ended = newest_ended(self.store, newest, task)
        backlog = self.store.backlog() if waiting else ()
        return count(ended, self._targets(), backlog)

    def usual_seconds(self, task: str) -> float | None:
        """How long a job of this task usually runs; None where nothing is known.

        It is the median of the last 50 that succeeded. It may be asked as often as
        one likes: the store is asked once a minute. While that is away, what was known
        before is told.
        """
        return self._usual.seconds(task)

    def history(self, job_id: str, after: str = "") -> Sequence[Event]:
        """What happened to the job, oldest first; the last 200 events are kept."""
        return self.store.history(job_id, after)

    def failures(
        self, job_id: str, *, after: str | None = None, limit: int = 50
    ) -> Page[ItemFailure]:
        """The items of a job that failed, in the order they first did.

        Up to 10,000 are kept. A page's ``next`` goes into ``after``.

        Raises:
            SettingsError: ``limit`` is below 1.
        """
        if limit < 1:
            raise SettingsError(f"A page has room for one row at least: limit={limit}.")
        return self.store.failures(job_id, after, limit)

    def failures_csv(self, job_id: str) -> Iterator[str]:
        """The failed items of a job as lines of CSV with a header, for people.

        A cell that a spreadsheet would take for a formula gets a quote in front.

        Raises:
            JobNotFound: As ``get``.
        """
        self.get(job_id)
        return csv_lines(self._rows(job_id))

    def _rows(self, job_id: str) -> Iterator[ItemFailure]:
        page = self.store.failures(job_id, None, ROWS)
        yield from page.items
        while page.next is not None:
            page = self.store.failures(job_id, page.next, ROWS)
            yield from page.items

    def watch(self, job_id: str) -> Iterator[Event]:
        """What happens to the job from now on, up to its end.

        The first event, ``now``, says how it stands. No event is polled for:
        they are pushed by the store.

        Raises:
            JobNotFound: It was never recorded, or its retention has passed.
        """
        # Subscribed before the record is read, so that nothing falls between.
        news = self.store.watch(job_id, IDLE)
        job = self.get(job_id)
        yield Event("", "now", job.updated_at, job.state, job.reason, job.progress)
        if job.state.finished:
            return
        for event in news:
            if event is not None:
                yield event
            elif self.get(job_id).state.finished:
                return
            if event is not None and event.state.finished:
                return

    def set_limit(self, key: str, n: int | None, per: float | None = None) -> None:
        """Change a limit for the jobs that have this key, at once and for all.

        With ``per`` (seconds) it is a rate. None takes the change back: what the
        code says is in force again. ``key`` is a key as ``limits`` shows it, with the
        arguments filled in.

        Raises:
            SettingsError: ``n`` is below 1, or ``per`` is no time.
        """
        if n is not None:
            check_terms(key, n, per)
        self.store.set_limit(key, n, per)

    def limit(self, key: str, *, rate: bool = False) -> LimitState | None:
        """Who holds a limit now, and how many wait; None when nobody uses it."""
        return self.store.limit(key, rate=rate)

    def limits(self, *, after: str | None = None, limit: int = 50) -> Page[LimitState]:
        """The limits that are in use, or were changed, in the order of their keys.

        A page's ``next`` goes into ``after``.

        Raises:
            SettingsError: ``limit`` is below 1.
        """
        if limit < 1:
            raise SettingsError(f"A page has room for one at least: limit={limit}.")
        return self.store.limits(after, limit)

    def cancel(self, job_id: str, *, reason: str = "", actor: str = "") -> bool:
        """Cancel a job: at once if it waits, at its next item if it runs.

        False when it had ended before: then nothing is changed. Raises
        JobNotFound.
        """
        answer, state = self.store.ask(job_id, "cancel", actor, reason)
        if answer == "done":
            self.store.release(job_id, 0, SPAN)
        if answer == "done" and state is State.CANCELLED and self._cancelled:
            self._cancelled(job_id, reason)
        return answer != "refused"

    def pause(self, job_id: str, *, reason: str = "", actor: str = "") -> bool:
        """Pause a job until it is resumed; False when it had ended before."""
        answer, _ = self.store.ask(job_id, "pause", actor, reason)
        if answer == "done":
            self.store.release(job_id, 0, SPAN)
        return answer != "refused"

    def resume(self, job_id: str, *, actor: str = "") -> None:
        """Let a paused job go on from its checkpoint.

        Raises:
            NotAllowed: It is not paused. JobNotFound as above.
        """
        answer, state = self.store.resume(job_id, actor)
        if answer == "refused":
            raise NotAllowed(
                f"Job {job_id!r} is {state} and not paused: there is nothing to resume.",
                state,
            )

    def replay(
        self,
        job_id: str,
        mode: ReplayMode = "resume",
        *,
        reason: str = "",
        actor: str = "",
    ) -> str:
        """Run a dead job again, with fresh budgets; the id of the job that will run.

        ``resume`` goes on from the checkpoint, ``restart`` begins anew. Of a job
        that ended as PARTIAL ``failed_items`` makes another one, over those items
        alone; as they are handled their rows are resolved, and with the last one
        the first job is SUCCEEDED. Asked twice, it is replayed once.

        Raises:
            NotAllowed: It is not dead, or not PARTIAL; the app has no such task
                any more; or (as DuplicateJob) another job has its unique key by now.
                JobNotFound as above.
        """
        if mode not in get_args(ReplayMode):
            raise SettingsError(
                f"A replay is one of {', '.join(get_args(ReplayMode))}, not {mode!r}."
            )
        self._check_task(job_id)
        if mode == "failed_items":
            return self._replay_items(job_id, actor, reason)
        answer, state = self.store.replay(job_id, mode, actor, reason)
        if answer == "refused":
            raise NotAllowed(
                f"Job {job_id!r} is {state} and not dead: only dead jobs are replayed.",
                state,
            )
        return job_id

    def _check_task(self, job_id: str) -> None:
        """Refuse what no worker of this app could run."""
        if self._knows is None:
            return
        job = self.get(job_id)
        foreign = job.error is not None and job.error.type == DEAD_LETTERED
        over = job.state in (State.DEAD, State.PARTIAL) and not foreign
        if over and not self._knows(job.task):
            raise NotAllowed(
                f"Job {job_id!r} is one of the task {job.task!r}, which this app does "
                "not have: deploy it, or import its module, and replay the job then.",
                job.state,
            )

    def replay_all(
        self,
        mode: ReplayMode = "resume",
        *,
        rate: float | None = None,
        expect: int | None = None,
        everything: bool = False,
        dry_run: bool = False,
        reason: str = "",
        actor: str = "",
        **filters: Unpack[Filters],
    ) -> Bulk:
        """Replay all dead letters that match, by a job of its own.

        The filters are those of ``list``; ``since`` and ``until`` say when a job
        died. The job shows its progress and stops when it is cancelled; those
        that die again, or later, are not replayed by it.

        Args:
            mode: ``resume`` or ``restart``, as for ``replay``.
            rate: Jobs a second, with a burst of 5; None is as fast as it goes.
            expect: The number that was seen: another one is refused.
            everything: Needed when there is no filter.
            dry_run: Only tell what would be replayed.
            reason: Why, for the history of each job.
            actor: Who, likewise.
            **filters: Which.

        Raises:
            NotAllowed: Another number of jobs matches than is expected; there is
                no filter; or this client has no Celery app.
            SettingsError: An argument is wrong.
        """
        if mode not in ("resume", "restart"):
            raise SettingsError(
                f"Dead letters are replayed by resume or restart, not {mode!r}."
            )
        wanted = dead_letters(Wanted.of(**filters), everything=everything)
        order = Order(mode, wanted, rate, reason, actor)
        return self._in_bulk(order, expect, dry_run=dry_run)

    def discard_all(
        self,
        *,
        rate: float | None = None,
        expect: int | None = None,
        everything: bool = False,
        dry_run: bool = False,
        reason: str = "",
        actor: str = "",
        **filters: Unpack[Filters],
    ) -> Bulk:
        """Give all dead letters up that match; see ``replay_all``."""
        wanted = dead_letters(Wanted.of(**filters), everything=everything)
        order = Order("discard", wanted, rate, reason, actor)
        return self._in_bulk(order, expect, dry_run=dry_run)

    def _in_bulk(self, order: Order, expect: int | None, *, dry_run: bool) -> Bulk:
        found = find(self.store, order.wanted)
        ids = tuple(islice(found, SHOWN))
        count = len(ids) + sum(1 for _ in found)
        if expect is not None and count != expect:
            raise NotAllowed(
                f"{count} dead letters match, and not {expect} as expected: look at "
                "them again, and expect the new number."
            )
        if dry_run or not count:
            return Bulk(count, ids)
        if self._send is None:
            raise NotAllowed(
                "A bulk is a job, which the client of an app enqueues, kit.jobs: this "
                "one can make a dry run."
            )
        text = replace(order, count=count).encode()
        return Bulk(count, ids, self._send(order.task, text))

    def export(self, **filters: Unpack[Filters]) -> Iterator[str]:
        """Dead letters that match, all that is known of each as a line of JSON.

        They stay where they are. The filters are those of ``list``; without any
        it is all dead letters. ``restore`` reads the lines, here or elsewhere.
        """
        wanted = dead_letters(Wanted.of(**filters), everything=True)
        return export(self.store, wanted)

    def restore(self, lines: Iterable[str | bytes]) -> Restored:
        """Put dead letters back that were exported; those that are there stay.

        A line that cannot be read is told with its number; the others go on.
        """
        return restore(self.store, lines)

    def _replay_items(self, job_id: str, actor: str, reason: str) -> str:
        if self._anew is None:
            raise NotAllowed(
                "Failed items are replayed by the client of an app, kit.jobs: this one "
                "cannot write the message of another job."
            )
        job = self.get(job_id)
        if job.message is None:
            raise NotAllowed(f"Job {job_id!r} has no message to replay.", job.state)
        child = self.store.partner(job_id)
        message = self._anew(job.message, child).encode()
        answer, found = self.store.replay_items(
            NewJob(child, job.task, message, replay_of=job_id),
            Checkpoint.decode(job.checkpoint).over_failures().encode(),
            actor,
            reason,
        )
        if answer == "refused":
            raise NotAllowed(
                f"Job {job_id!r} is {found}: only the items of a PARTIAL job are replayed.",
                found,
            )
        return found

    def discard(self, job_id: str, *, reason: str = "", actor: str = "") -> None:
        """Give a dead job up: it becomes CANCELLED.

        Raises:
            NotAllowed: It is not dead. JobNotFound as above.
        """
        answer, state = self.store.discard(job_id, actor, reason)
        if answer == "refused":
            raise NotAllowed(
                f"Job {job_id!r} is {state} and not dead: only dead jobs are discarded.",
                state,
            )
