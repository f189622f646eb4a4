"""Jobs on their way into the store, with the unique key that they ask for."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from kombu.exceptions import KombuError

from jobkit.errors import CodecError, SettingsError
from jobkit.job import Message, NewJob, Unique
from jobkit.publishing import body_of, sent, with_arguments
from jobkit.store.base import Store
from jobkit.store.values import Amended, Entered

if TYPE_CHECKING:
    from jobkit.task import JobTask

logger = logging.getLogger(__name__)


def unique_of(
    task: JobTask,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    serializer: str | None = None,
) -> Unique | None:
    """The unique key that a call of a task asks for; None if its jobs have none.

    Raises:
        CodecError: The key cannot be made of these arguments.
    """
    rule = task.uniqueness
    if rule is None:
        return None
    args, kwargs = args or (), kwargs or {}
    # Celery makes plain values of pydantic's models later, where it sends them.
    dump = getattr(task, "_dump_pydantic_arguments", None)
    if dump is not None:
        args, kwargs = dump(args, kwargs)
    serializer = serializer or task.serializer
    key = rule.key(args, kwargs, partial(sent, serializer=serializer))
    return Unique(key, rule.until)


def unique_in(task: JobTask, message: Message) -> Unique | None:
    """The unique key that a message asks for, which others made.

    Its id is known already, and may be waited for: a duplicate gets a record that
    has ended. Without a key that can be made it goes without.
    """
    if task.uniqueness is None or not message.body:
        return None
    try:
        args, kwargs, _ = body_of(message)
        key = task.uniqueness.key(args, kwargs, lambda value: value)
    except (CodecError, KombuError) as error:
        logger.warning("A job of %s has no unique key: %s", task.name, error)
        return None
    return Unique(key, task.uniqueness.until, "cancel")


def adopt(
    store: Store, task: JobTask, job_id: str, message: Message, *, again: bool = False
) -> None:
    """Record a job whose message is published whatever becomes of this.

    With its unique key, unless the store cannot keep that beside a job of this id.
    """
    job = replace(task.new_job(job_id, message), again=again)
    hint = task.kit.settings.hint_seconds
    enter = partial(record, store, task, token=uuid.uuid4().hex, hint=hint)
    try:
        enter(job)
    except SettingsError as error:
        logger.error("It runs without its unique key. %s", error)  # noqa: TRY400
        enter(replace(job, unique=None))


def record(
    store: Store, task: JobTask, job: NewJob, token: str, hint: float
) -> Entered:
    """Record a job, or find the one that has its id or its unique key.

    Its message is due again after ``hint`` (seconds).
    With ``on_duplicate="replace_queued"`` that one gets the arguments of this one,
    if it has not begun.
    """
    entered = store.enqueue(job, token, hint)
    rule, unique = task.uniqueness, job.unique
    if entered.id == job.id or not (rule and unique):
        return entered
    if rule.on_duplicate == "replace_queued":
        amended = _amend(store, entered.id, job, unique.key, token)
        if amended == "gone" and unique.on_held == "return":
            return store.enqueue(job, token, hint)
    return entered


def _amend(
    store: Store, holder: str, job: NewJob, unique_key: str, token: str
) -> Amended:
    there = store.get(holder)
    if there is None or there.message is None:
        return "gone"
    if there.starts:
        return "begun"
    message = with_arguments(there.message, Message.decode(job.message), token)
    return store.amend(holder, token, unique_key, message.encode())
