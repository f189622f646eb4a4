"""The rounds that keep all jobs of an app going: by its workers, and by hand."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from billiard.exceptions import WorkerLostError
from celery import Celery
from kombu.exceptions import OperationalError

from jobkit import dead_letters, ends, results, signals
from jobkit.dead_letters import Copies
from jobkit.dispatcher import Dispatcher
from jobkit.errors import SchemaError
from jobkit.job import Message, NewJob
from jobkit.publishing import Publisher, broker_errors
from jobkit.rescue import Rescue
from jobkit.states import State
from jobkit.store.values import Death, Dropped, Released
from jobkit.turns import Turns

if TYPE_CHECKING:
    from jobkit.kit import JobKit

logger = logging.getLogger(__name__)

UNTOLD_FOR = 10.0
"""Seconds that the process which ended a job has for telling of it itself."""

UNHEARD_FOR = 3600.0
"""Seconds that workers with receivers have for an end before those without drop it."""

PRUNE_BATCH = 250
"""Records that go at a time: others want to be answered in between."""

PATIENCE = 4.0
"""Seconds that a broker is waited for where somebody sits and waits."""


class Rounds:
    """Rescues what lost its owner, publishes what is due, removes what expired.

    It has a store and a broker connection of its own; ``dispatch`` and
    ``disconnect`` belong into one thread, all else is safe in any. ``done``
    counts what was done.
    """

    def __init__(self, kit: JobKit) -> None:
        self.store = kit.open_store()
        self.done: Counter[str] = Counter()
        self._kit = kit
        self._publisher = Publisher(kit.app)
        hint = kit.settings.hint_seconds
        self._dispatcher = Dispatcher(
            self.store, self.publish, hint, (OperationalError,)
        )
        self._rescue = Rescue(self.store, self.released)
        named = kit.routing_map.dead_letter_queues() if kit.routing_map else ()
        self._graves = frozenset(named)
        self._copies = Copies(self.store, self._publisher.publish)
        self._next_publisher = Publisher(kit.app)
        self._turns = Turns(
            self.store,
            Dispatcher(self.store, self.publish_next, hint, (OperationalError,)),
            kit.settings.lease_seconds,
        )

    def rescue(self) -> int:
        """Rescue all jobs whose lease has ended; how many it were."""
        return self._count("rescued", self._rescue.round())

    def tell(self) -> int:
        """Tell Celery of ends that nobody has told it of; how many it were.

        A process may die, or the result backend be away, between the record's
        end and Celery's: chords would wait for ever.
        """
        untold = self.store.untold(UNTOLD_FOR)
        for released in untold:
            self.released(released)
        self._tell_receivers()  # of what is left
        return self._count("told", len(untold))

    def _tell_receivers(self) -> None:
        """Send the signals of ends that no receiver has heard of.

        Those without receivers here are left to others for some time.
        """
        age, patience = UNHEARD_FOR, 0.0
        if ends.heard():
            age, patience = UNTOLD_FOR, UNHEARD_FOR
        while unheard := self.store.claim_notes("unheard", age, UNTOLD_FOR):
            for end in unheard:
                try:
                    ends.catch_up(self.store, end.id, patience)
                except (SchemaError, ValueError) as error:  # a newer worker tells of it
                    logger.warning("The end of job %s is not told: %s", end.id, error)

    def dispatch(self) -> int:
        """Publish all that is due, and copy dead letters; how many jobs were due."""
        published = self._count("published", self._dispatcher.round())
        if self._graves:
            self._count("copied", self._copies.round())
        return published

    def hand_over(self, seconds: float, wait: Callable[[float], object]) -> int:
        """Let go whoever is next under a limit; see ``Turns.round``.

        It belongs into one thread, with ``part``.
        """
        return self._count("let_go", self._turns.round(seconds, wait))

    def part(self) -> None:
        """Give back the broker connection of ``hand_over``."""
        self._next_publisher.close()

    def prune(self) -> int:
        """Remove finished records whose retention has passed; how many it were.

        Of dead letters this is announced before.
        """
        self._announce_expiring()
        pruned = 0
        while count := self.store.prune(PRUNE_BATCH):
            pruned += self._count("pruned", count)
        if self._graves:
            keep = self.store.retention.dead
            try:
                dead_letters.prune(self._kit.app, self._graves, keep)
            except OperationalError as error:
                logger.warning("Copies of dead letters are not pruned now: %s", error)
        return pruned

    def _announce_expiring(self) -> None:
        keep = self.store.retention.dead
        age = max(0.0, keep - self._kit.settings.dead_letter_notice)
        while deaths := self.store.claim_notes("unannounced", age, UNTOLD_FOR):
            for death in deaths:
                try:
                    self._announce(death, keep)
                except (SchemaError, ValueError) as error:  # a newer worker does it
                    logger.warning("No word that job %s goes: %s", death.id, error)
            self._count("announced", len(deaths))

    def _announce(self, death: Death, keep: float) -> None:
        job = self.store.get(death.id)
        if job is not None and job.finished_at is not None:
            at = job.finished_at + timedelta(seconds=keep)
            signals.job_dead_letter_expiring.send(
                sender=job.task, job_id=job.id, expires_at=at
            )
        self.store.noted("unannounced", death)

    def collected(self, new: NewJob, dropped: Dropped) -> None:
        """File a message that the broker gave up, and tell of it."""
        answer, state = self.store.collect(new, dropped)
        self._count("collected", 1)
        if answer != "filed":
            return
        if dropped.tell:
            self.released(Released(new.id, new.task, state))
        else:
            ends.tell(self.store, new.id, state)

    def _count(self, what: str, number: int) -> int:
        self.done[what] += number
        return number

    def publish(self, message: Message) -> None:
        """Publish one message as it was kept."""
        self._publisher.publish(message)

    def publish_next(self, message: Message) -> None:
        """Publish the message of a job that was let go."""
        self._next_publisher.publish(message)

    def released(self, released: Released) -> None:
        """Tell Celery and receivers of a job that was rescued."""
        try:
            announce(self._kit, released)
            if released.state.finished:
                self.store.told(released.id)
        except Exception:  # the other jobs of the round are told all the same
            logger.exception("Celery was not told that job %s ended", released.id)

    def disconnect(self) -> None:
        """Give the broker connection back."""
        self._publisher.close()


class RoundByHand(Rounds):
    """One round of each kind, which remembers what it did."""

    def __init__(self, kit: JobKit) -> None:
        super().__init__(kit)
        self.rescued: list[Released] = []
        self.published: list[Message] = []
        self.refused: list[tuple[Message, str]] = []
        self.pruned = 0

    def go(self) -> None:
        """Do it, once store and broker are known to be there.

        Raises:
            StoreUnavailable: The store cannot be reached.
            OperationalError: The broker cannot be reached; nothing was done.
        """
        try:
            self.store.ping()
            reach(self._kit.app)
            self.rescue()
            self.tell()
            self.hand_over(0, lambda _: True)
            self.dispatch()
            self.pruned = self.prune()
        finally:
            self.disconnect()
            self.store.close()

    def publish(self, message: Message) -> None:
        """Publish one message, and remember whether the broker took it."""
        try:
            super().publish(message)
        except OperationalError as error:
            self.refused.append((message, str(error)))
            raise
        self.published.append(message)

    def publish_next(self, message: Message) -> None:
        """Publish the message of a job that was let go, over the same connection."""
        self.publish(message)

    def released(self, released: Released) -> None:
        """Tell of a job that was rescued, and remember it."""
        self.rescued.append(released)
        super().released(released)


def reach(app: Celery) -> None:
    """Connect to the broker, once and within some seconds.

    Raises:
        OperationalError: It cannot be reached; the message says where it should be.
    """
    connection: Any = app.connection_for_write(connect_timeout=PATIENCE)
    with connection:
        once = {"max_retries": max(0, len(connection.alt) - 1)}
        connection.transport_options = {
            **_deadlines(connection),
            **(connection.transport_options or {}),
            **once,
        }
        try:
            connection.ensure_connection(**once, timeout=PATIENCE)
        except broker_errors(connection) as error:
            raise OperationalError(
                f"The broker at {connection.as_uri()} cannot be reached: "
                f"{str(error).rstrip('.')}. Is it up, and is broker_url right?"
            ) from error


def _deadlines(connection: Any) -> dict[str, float]:
    """What Redis's transport has in place of ``connect_timeout``."""
    if connection.transport.driver_type != "redis":
        return {}
    return {"socket_connect_timeout": PATIENCE, "socket_timeout": PATIENCE}


def announce(kit: JobKit, released: Released) -> None:
    """Tell Celery and receivers what became of a job that lost its owner."""
    job = kit.store.get(released.id)
    if job is None:
        return
    if released.state is State.DEAD:
        error = WorkerLostError(job.error.message if job.error else job.reason)
        results.announce_dead(kit.app, job, error)
        ends.tell(kit.store, job.id, State.DEAD)
    elif released.state is State.CANCELLED:
        results.announce_cancelled(kit.app, job, job.reason)
        ends.tell(kit.store, job.id, State.CANCELLED)
    else:
        signals.job_recovered.send(sender=job.task, job_id=job.id)
