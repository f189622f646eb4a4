"""Dead letters as messages of a real broker queue: copied out, and known again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from jobkit import clock
from jobkit.errors import DuplicateJob, JobNotFound, StoreUnavailable
from jobkit.job import Job, Message
from jobkit.publishing import COPIED, broker_errors
from jobkit.store.base import Store
from jobkit.store.values import Death

logger = logging.getLogger(__name__)

BATCH = 100

GRACE = 10.0
"""Seconds after which a copy that was not confirmed is published again."""

LONGEST = 2**32 / 1000 - 1
"""Seconds of expiry that RabbitMQ takes."""

DEATH = f"{COPIED}death"
"""The header that says which death of which job a copy is of."""


class Copies:
    """Publishes dead letters to the queues that the project names for them.

    Any number may run at once: each death is claimed in the store by one. What
    the broker does not take now, it gets later; seldom one comes twice.
    """

    def __init__(self, store: Store, publish: Callable[[Message], None]) -> None:
        self._store = store
        self._publish = publish

    def round(self) -> int:
        """Publish all copies that are missing; how many it were."""
        count = 0
        while deaths := self._store.claim_notes("uncopied", 0, GRACE, BATCH):
            copied = sum(self._copy(death) for death in deaths)
            count += copied
            # What a broker out of reach did not take is left for a later round.
            if copied < BATCH:
                break
        return count

    def _copy(self, death: Death) -> bool:
        try:
            job = self._store.get(death.id)
            if job is None or job.message is None or name_of(job) != death.name:
                return False
            self._publish(copy_of(job, job.message, self._store.retention.dead))
        except OperationalError as error:
            logger.warning("Dead letter %s is not copied yet: %s", death.id, error)
            return False
        except StoreUnavailable:
            raise
        except Exception:  # the others are copied all the same
            logger.exception("Dead letter %s cannot be copied", death.id)
            return False
        self._store.noted("uncopied", death)
        logger.info("Copied dead letter %s to %s", job.id, job.dead_letter_queue)
        return True


def name_of(job: Job) -> str:
    """The name of a job's last death."""
    died_at = round(job.finished_at.timestamp() * 1000) if job.finished_at else ""
    return f"{job.fence}.{died_at}"


def copy_of(job: Job, message: Message, keep: float) -> Message:
    """A dead job's message for its dead-letter queue, where it lasts ``keep`` seconds."""
    died_at = job.finished_at.isoformat() if job.finished_at else ""
    told = {
        "death": name_of(job),
        "id": job.id,
        "state": str(job.state),
        "reason": job.reason,
        "error": job.error.type if job.error else "",
        "died_at": died_at,
        "fence": job.fence,
        "queue": job.queue,
    }
    headers = {COPIED + name: value for name, value in told.items()}
    return replace(
        message,
        headers={**message.headers, **headers},
        properties={**message.properties, "expiration": min(keep, LONGEST)},
        exchange="",
        routing_key=job.dead_letter_queue,
    )


def death_in(headers: Mapping[str, Any] | None) -> str:
    """The death of which a message is a copy; empty for any other message."""
    return str((headers or {}).get(DEATH) or "")


def bring_back(store: Store, job_id: str, death: str) -> bool | None:
    """Replay the job of a dead letter that somebody moved back to a queue.

    False for a stale one: the job did not die that death last, is dead no more, or
    another job has its unique key. None when there is no record any more.
    """
    try:
        answer, _ = store.replay(
            job_id, "resume", "", "its dead letter was moved back", death
        )
    except JobNotFound:
        return None
    except DuplicateJob as error:
        logger.warning("Job %s stays dead, its letter came back: %s", job_id, error)
        return False
    return answer == "done"


def prune(app: Celery, queues: Iterable[str], keep: float) -> int:
    """Remove copies older than ``keep`` seconds from a Redis broker; how many.

    Other brokers do it themselves: Redis has no expiry for an entry of a list.
    """
    connection: Any = app.connection_for_write()
    if connection.transport.driver_type != "redis":
        return 0
    with connection:
        try:
            channel = connection.default_channel
            return sum(_prune(channel, queue, keep) for queue in queues)
        except broker_errors(connection) as error:
            raise OperationalError(str(error)) from error


def _prune(channel: Any, queue: str, keep: float) -> int:
    # The steps' lists have names that only this method knows.
    steps = [channel._q_for_pri(queue, step) for step in channel.priority_steps]  # noqa: SLF001
    prefix = getattr(channel, "global_keyprefix", "")
    with channel.conn_or_acquire() as client:
        return sum(_prune_list(client, prefix + step, keep) for step in steps)


def _prune_list(client: Any, name: str, keep: float) -> int:
    count = 0
    # The oldest is the last. Whoever takes it meanwhile has it, and it is not there.
    while (last := client.lrange(name, -1, -1)) and _is_over(last[0], keep):
        count += client.lrem(name, -1, last[0])
    return count


def _is_over(text: bytes | str, keep: float) -> bool:
    try:
        _, _, died_at = death_in(json.loads(text).get("headers")).partition(".")
    except (ValueError, AttributeError):
        return False
    return died_at.isdecimal() and int(died_at) / 1000 + keep < clock.wall()
