"""Jobs seen and steered from outside: by scripts, web pages and operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import get_args

from jobkit.checkpoint import Checkpoint
from jobkit.errors import JobNotFound, NotAllowed, SettingsError
from jobkit.job import Event, ItemFailure, Job, Message, NewJob, Page, ReplayMode
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.redis import RedisStore

IDLE = 30.0
"""Seconds without news after which a watcher looks whether the job is over."""

Listener = Callable[[str, str], None]


class Client:
    """Reads jobs, and asks for what people may ask for.

    ``store`` is a store or the URL of one, under ``prefix``.
    ``cancelled`` is called with the id and reason of each job that was cancelled
    at once, without an owner who could tell Celery. ``anew`` writes a job's
    message for another id.
    """

    def __init__(
        self,
        store: Store | str,
        cancelled: Listener | None = None,
        anew: Callable[[Message, str], Message] | None = None,
        *,
        prefix: str = "jobkit",
        partitions: int = 1,
    ) -> None:
        if isinstance(store, str):
            store = RedisStore(store, prefix, partitions)
        self.store: Store = store
        self._cancelled = cancelled
        self._anew = anew

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
        self,
        *,
        state: State | str | None = None,
        task: str | None = None,
        queue: str | None = None,
        owner: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Job]:
        """Jobs that match all that is given, newest first.

        A page's ``next`` goes into ``after`` for the next page; it is None at
        the end. A page may be short, even empty, although more follow.

        Raises:
            SettingsError: There is no such state, or ``limit`` is below 1.
        """
        if limit < 1:
            raise SettingsError(f"A page has room for one job at least: limit={limit}.")
        return self.store.list(
            state=_state(state) if state else None,
            task=task,
            queue=queue,
            owner=owner,
            after=after,
            limit=limit,
        )

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        return self.store.counts()

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

    def cancel(self, job_id: str, *, reason: str = "", actor: str = "") -> bool:
        """Cancel a job: at once if it waits, at its next item if it runs.

        False when it had ended before: then nothing is changed. Raises
        JobNotFound.
        """
        answer, state = self.store.ask(job_id, "cancel", actor, reason)
        if answer == "done" and state is State.CANCELLED and self._cancelled:
            self._cancelled(job_id, reason)
        return answer != "refused"

    def pause(self, job_id: str, *, reason: str = "", actor: str = "") -> bool:
        """Pause a job until it is resumed; False when it had ended before."""
        answer, _ = self.store.ask(job_id, "pause", actor, reason)
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
            NotAllowed: It is not dead, or not PARTIAL; as DuplicateJob: another job
                has its unique key by now. JobNotFound as above.
        """
        if mode not in get_args(ReplayMode):
            raise SettingsError(
                f"A replay is one of {', '.join(get_args(ReplayMode))}, not {mode!r}."
            )
        if mode == "failed_items":
            return self._replay_items(job_id, actor, reason)
        answer, state = self.store.replay(job_id, mode, actor, reason)
        if answer == "refused":
            raise NotAllowed(
                f"Job {job_id!r} is {state} and not dead: only dead jobs are replayed.",
                state,
            )
        return job_id

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


def _state(name: str) -> State:
    if name not in set(State):
        raise SettingsError(
            f"There is no state {name!r}: use one of {[*map(str, State)]}."
        )
    return State(name)
