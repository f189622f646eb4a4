"""Messages that RabbitMQ gave up, of any task, become dead jobs."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery import Celery
from kombu import Queue
from kombu.serialization import prepare_accept_content

from jobkit.errors import StoreUnavailable
from jobkit.job import ErrorInfo, Message, NewJob
from jobkit.publishing import broker_errors, received, to_context
from jobkit.store.values import DEAD_LETTERED, Dropped

if TYPE_CHECKING:
    from jobkit.kit import JobKit

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""The task of a message that does not name one, and a reason that is not told."""

ARGUMENTS = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000}
"""Of the queue: what is given up there is lost, and RabbitMQ 4 has a limit of 20."""

File = Callable[[NewJob, Dropped], object]


def is_wanted(kit: JobKit) -> bool:
    """Whether the project has messages collected, and its broker may give some up."""
    if kit.routing_map is None or not kit.routing_map.collects:
        return False
    connection: Any = kit.app.connection_for_read()
    return bool(connection.transport.driver_type == "amqp")


class Collector:
    """Takes messages from the queue of those that were given up, to ``file`` them.

    Any number may run at once. A message leaves the queue once it is filed. It
    has a connection of its own and belongs into one thread.
    """

    def __init__(self, kit: JobKit, file: File) -> None:
        self._kit = kit
        self._file = file
        self._connection: Any = None
        self._channel: Any = None

    def prepare(self) -> None:
        """Make the queue: what is given up before it is there is lost, or waits long."""
        try:
            self._open()
        except broker_errors(self._connection) as error:
            logger.warning("Nothing can be collected from the broker: %s", error)
            self.close()

    def round(self) -> int:
        """File all that is there; how many messages it were.

        Raises:
            StoreUnavailable: The store cannot be reached; the messages stay.
        """
        try:
            return self._round(self._open())
        except broker_errors(self._connection) as error:
            logger.warning("Nothing can be collected from the broker: %s", error)
            self.close()
            return 0

    def close(self) -> None:
        """Give the connection back, and with it the messages that are not filed."""
        if self._connection is not None:
            self._connection.collect()
        self._connection = self._channel = None

    def _open(self) -> Any:
        if self._connection is None:
            self._connection = self._kit.app.connection_for_read()
            once = {"max_retries": max(0, len(self._connection.alt) - 1)}
            self._connection.ensure_connection(**once)
        if self._channel is None:
            self._channel = self._connection.channel()
            # A body stays as it is, whatever its encoding is said to be.
            self._channel.auto_decode = False
        queue = Queue(self._kit.collected, queue_arguments=ARGUMENTS)
        bound = queue(self._channel)
        bound.declare()
        return bound

    def _round(self, queue: Any) -> int:
        # Without a store nothing is taken: each return to the queue counts there.
        self._kit.store.ping()
        count, left = 0, False
        try:
            while (message := queue.get()) is not None:
                if self._filed(message):
                    message.ack()
                    count += 1
                else:
                    left = True
        except StoreUnavailable:
            left = True
            raise
        finally:
            if left:
                self._channel.close()
                self._channel = None
        return count

    def _filed(self, message: Any) -> bool:
        try:
            new, dropped = read(self._kit, message)
            self._file(new, dropped)
        except StoreUnavailable:
            raise
        except Exception:  # the others are filed all the same
            logger.exception("A message that RabbitMQ gave up is not filed")
            return False
        logger.warning(
            "RabbitMQ gave up job %s (%s): %s", new.id, new.task, dropped.reason
        )
        return True


def read(kit: JobKit, message: Any) -> tuple[NewJob, Dropped]:
    """The record of a message that was given up, and why it was."""
    headers = message.headers or {}
    last = _last_death(headers)
    queue = str(last.get("queue") or kit.collected)
    named = headers.get("task")
    name = named if isinstance(named, str) and named else UNKNOWN
    kept = received(message, name, queue)
    reason = str(last.get("reason") or UNKNOWN)
    told = f"RabbitMQ gave the message up in queue {queue}: {reason}."
    dropped = Dropped(
        token=":".join(str(last.get(word)) for word in ("queue", "reason", "time")),
        reason=reason,
        error=ErrorInfo(DEAD_LETTERED, told, verdict="infrastructure"),
        foreign=not hasattr(kit.app.tasks.get(name), "new_job"),
        tell=name in kit.app.tasks and _is_readable(kit.app, kept),
    )
    known = headers.get("id")
    job_id = known if isinstance(known, str) and known else str(uuid.uuid4())
    return _new_job(kit, job_id, kept), dropped


def _new_job(kit: JobKit, job_id: str, kept: Message) -> NewJob:
    task: Any = kit.app.tasks.get(kept.task)
    if hasattr(task, "new_job"):
        made: NewJob = task.new_job(job_id, kept)
        return made
    # Of any size: the broker has it no more.
    return NewJob(job_id, kept.task, kept.encode(limit=None), kept.routing_key)


def _last_death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    deaths = headers.get("x-death")
    last = deaths[0] if isinstance(deaths, list) and deaths else None
    return last if isinstance(last, dict) else {}


def _is_readable(app: Celery, kept: Message) -> bool:
    """Whether Celery could be told of its end, with its chord and its errbacks."""
    try:
        request: Any = to_context(
            kept, accept=prepare_accept_content(app.conf.accept_content)
        )
    except Exception:  # noqa: BLE001 - a body of any kind
        return False
    return bool(request.id)
