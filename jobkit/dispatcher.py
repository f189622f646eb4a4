"""Due jobs become messages: backoff, resume, replay and lost hints alike."""

from __future__ import annotations

import logging
from collections.abc import Callable

from jobkit.errors import CodecError
from jobkit.job import Message
from jobkit.store.base import Store
from jobkit.store.values import Due

logger = logging.getLogger(__name__)

BATCH = 100

GRACE = 10.0
"""Seconds after which a job that was claimed and not published is due again."""


class Dispatcher:
    """Publishes the kept messages of jobs whose time has come.

    Any number may run at once: each job is claimed in the store by one.
    ``publish`` raises ``unpublished`` errors when the broker cannot be reached.
    """

    def __init__(
        self,
        store: Store,
        publish: Callable[[Message], None],
        hint: float,
        unpublished: tuple[type[BaseException], ...],
    ) -> None:
        self._store = store
        self._publish = publish
        self._hint = hint
        self._unpublished = unpublished

    def round(self) -> int:
        """Publish all that is due; how many messages it were."""
        count = 0
        while due := self._store.claim_due(BATCH, GRACE):
            published = sum(self.dispatch(job) for job in due)
            count += published
            # What a broker out of reach did not take is left for a later round.
            if published < BATCH:
                break
        return count

    def dispatch(self, due: Due) -> bool:
        """Publish the message of one job; whether the broker took it."""
        try:
            message = Message.decode(due.message)
        except (CodecError, ValueError, TypeError):
            logger.exception("The kept message of job %s cannot be read", due.id)
            return False
        try:
            self._publish(message)
        except self._unpublished as error:
            logger.warning("Job %s is due, but not published: %s", due.id, error)
            return False
        except Exception:  # the others are published all the same
            logger.exception("The message of job %s cannot be published", due.id)
            return False
        self._store.published(due.id, self._hint, hints=due.hints, fence=due.fence)
        logger.info("Published job %s (%s)", due.id, message.task)
        return True
