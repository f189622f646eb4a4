"""Messages: caught on their way to the broker, kept whole, published again."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from celery import Celery
from celery.app.task import Context
from kombu import Connection, Queue, serialization
from kombu.compression import compress, decompress
from kombu.exceptions import (
    EncodeError,
    KombuError,
    OperationalError,
    SerializerNotInstalled,
)
from kombu.utils import json as kombu_json
from kombu.utils.encoding import str_to_bytes

from jobkit import codec
from jobkit.errors import CodecError
from jobkit.job import Message

logger = logging.getLogger(__name__)

_NOT_PROPERTIES = frozenset(
    {
        *("exchange", "routing_key", "serializer", "compression", "retry"),
        *("retry_policy", "declare", "headers", "timeout", "confirm_timeout"),
        *("content_type", "content_encoding", "mandatory", "immediate"),
    },
)

ETA = "jobkit_eta"
"""The header for the ``eta`` of a job: Celery's would have a worker hold it."""

GENERATION = "jobkit_generation"
"""The header of a message that took the place of another one of the same job."""
COPIED = "jobkit_dead_letter_"
"""What the headers begin with that a dead letter has in a broker queue alone."""

_DELAYED = re.compile(r"(?P<name>(?:.+_)?celery_delayed)_(?:\d+|delivery)")
_DELAY = re.compile(r"^(?:[01]\.){28}")

Publish = Callable[[], None]
Decide = Callable[[Message, Publish], None]


class MessageCatcher:
    """Stands in for a kombu producer and catches one task's message.

    ``decide`` gets the whole message and the call that publishes it. Other
    messages (``task-sent`` events) pass.
    """

    def __init__(self, producer: Any, task_id: str, task: str, decide: Decide) -> None:
        self._producer = producer
        self._task_id = task_id
        self._task = task
        self._decide = decide

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, **options: Any) -> Any:
        """Hand the task's message to ``decide``; publish any other."""
        headers = options.get("headers") or {}
        if headers.get("id") != self._task_id:
            return self._producer.publish(body, **options)
        message = catch(self._task, body, options)
        ready = {
            **{name: value for name, value in options.items() if name not in _ENCODED},
            "headers": dict(message.headers),
            "content_type": message.content_type,
            "content_encoding": message.content_encoding,
        }
        return self._decide(
            message, lambda: self._producer.publish(message.body, **ready)
        )


_ENCODED = frozenset({"serializer", "compression", "headers"})


def catch(task: str, body: Any, options: Mapping[str, Any]) -> Message:
    """Make a whole message of what ``Producer.publish`` is given."""
    content_type, encoding, text = serialization.dumps(body, options.get("serializer"))
    body = str_to_bytes(text)
    headers = without_death(options.get("headers") or {})
    if options.get("compression"):
        body, headers["compression"] = compress(body, options["compression"])
    exchange = options.get("exchange") or ""
    place, key = _undelayed(
        getattr(exchange, "name", exchange), options.get("routing_key") or ""
    )
    return Message(
        task=task,
        body=body,
        content_type=content_type,
        content_encoding=encoding,
        headers=_kept(headers),
        properties=_kept(
            {
                name: value
                for name, value in options.items()
                if name not in _NOT_PROPERTIES and value is not None
            },
        ),
        exchange=place,
        routing_key=key,
    )


def received(message: Any, task: str, queue: str) -> Message:
    """Make a whole message of one that a broker gave up, for the queue it came from.

    What the broker has written on it goes.
    """
    properties = {
        name: value
        for name, value in message.properties.items()
        if name not in _NOT_PROPERTIES and name not in _BROKERS_OWN
    }
    headers = {
        name: value
        for name, value in without_death(message.headers or {}).items()
        if not _BROKERS_HEADERS.match(name)
    }
    body = message.body
    return Message(
        task=task,
        body=body if isinstance(body, bytes) else str_to_bytes(body),
        # Without a type, kombu would take the body for a value to be written.
        content_type=message.content_type or "application/octet-stream",
        content_encoding=message.content_encoding or "binary",
        headers=_kept(headers),
        properties=_kept(properties),
        routing_key=queue,
    )


_BROKERS_OWN = frozenset({"application_headers", "delivery_info", "expiration"})
_BROKERS_HEADERS = re.compile(r"x-death$|x-(first|last)-death-|x-delivery-count$")


def _undelayed(exchange: str, routing_key: str) -> tuple[str, str]:
    """Where a message goes without the delay that Celery has with quorum queues.

    Its name for an exchange is the delay's and not the task's; what comes out of
    the last one goes to the queue of the bare routing key.
    """
    delayed = _DELAYED.fullmatch(exchange)
    if delayed is None:
        return exchange, routing_key
    return f"{delayed['name']}_delivery", _DELAY.sub("", routing_key, count=1)


def _kept(values: dict[str, Any]) -> dict[str, Any]:
    """The values with their types, or as JSON has them where they are not kept."""
    try:
        codec.dumps(values)
    except CodecError:
        plain: dict[str, Any] = kombu_json.loads(kombu_json.dumps(values))
        return plain
    return values


def queue_of(message: Message, declare: Any = None) -> str:
    """The name of the queue that a message goes to."""
    if not message.exchange:
        return message.routing_key
    for entity in declare or ():
        name = getattr(entity, "name", None)
        if name and hasattr(entity, "exchange"):
            return str(name)
    return message.routing_key


def without_death(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Headers without those of a dead letter."""
    return {
        name: value for name, value in headers.items() if not name.startswith(COPIED)
    }


def from_request(app: Celery, task: Any, request: Any) -> Message:
    """Write the message of a running request anew, for one nobody recorded."""
    custom = {
        name: value
        for name, value in (request.headers or {}).items()
        if name not in Context.__dict__ and isinstance(name, str)
    }
    custom.pop(GENERATION, None)
    custom = without_death(custom)
    hard, soft = request.timelimit or (None, None)
    made = app.amqp.create_task_message(
        request.id,
        task.name,
        request.args,
        request.kwargs,
        group_id=request.group,
        group_index=request.group_index,
        expires=request.expires,
        retries=request.retries,
        chord=request.chord,
        callbacks=request.callbacks,
        errbacks=request.errbacks,
        reply_to=request.reply_to,
        time_limit=hard,
        soft_time_limit=soft,
        root_id=request.root_id,
        parent_id=request.parent_id,
        shadow=request.shadow,
        chain=request.chain,
        ignore_result=request.ignore_result,
        replaced_task_nesting=request.replaced_task_nesting,
    )
    where = request.delivery_info or {}
    options = {
        "headers": {**made.headers, **_stamps(request), **custom},
        "exchange": where.get("exchange"),
        "routing_key": where.get("routing_key"),
        "priority": where.get("priority"),
        **{name: value for name, value in made.properties.items() if value},
    }
    return _accepted(app, task, made.body, options)


def _stamps(request: Any) -> dict[str, Any]:
    if not request.stamps:
        return {}
    return {"stamped_headers": request.stamped_headers, "stamps": request.stamps}


def _accepted(app: Celery, task: Any, body: Any, options: dict[str, Any]) -> Message:
    """The message as its task writes it, or else as its producer may have done."""
    own = task.serializer or app.conf.task_serializer
    names = serialization.registry.type_to_name  # type: ignore[attr-defined]
    for name in (own, *(names.get(kind, kind) for kind in app.conf.accept_content)):
        with suppress(EncodeError, SerializerNotInstalled):
            return catch(task.name, body, {**options, "serializer": name})
    return catch(task.name, body, {**options, "serializer": own})


def sent(value: Any, serializer: str | None) -> Any:
    """What a worker gets of an argument.

    Raises:
        CodecError: It cannot be sent.
    """
    try:
        kind, encoding, text = serialization.dumps(value, serializer)
        return serialization.loads(text, kind, encoding, accept=[kind])
    except KombuError as error:
        raise CodecError(f"It cannot be sent: {error}.") from error


def body_of(message: Message, accept: Any = None) -> tuple[Any, Any, Any]:
    """What is in a message: args, kwargs, and what is to be called after it."""
    body = message.body
    compression = message.headers.get("compression")
    if compression:
        body = decompress(body, compression)
    args, kwargs, embed = serialization.loads(
        body,
        message.content_type,
        message.content_encoding,
        accept=accept or [message.content_type],
    )
    return args, kwargs, embed


def with_arguments(message: Message, other: Message, generation: str) -> Message:
    """A message with the arguments of another one, and nothing else of it.

    What is called after it, and what waits for it, stays what it was.
    """
    args, kwargs, _ = body_of(other)
    _, _, embed = body_of(message)
    names = serialization.registry.type_to_name  # type: ignore[attr-defined]
    kind, encoding, text = serialization.dumps(
        (args, kwargs, embed), names.get(other.content_type)
    )
    headers = {**message.headers, GENERATION: generation}
    headers.pop("compression", None)
    for name in ("argsrepr", "kwargsrepr"):
        headers[name] = other.headers.get(name)
    return replace(
        message,
        body=str_to_bytes(text),
        content_type=kind,
        content_encoding=encoding,
        headers=headers,
    )


def to_context(message: Message, accept: Any = None) -> Context:
    """The request that a worker would make of a message, of ``accept``ed types."""
    args, kwargs, embed = body_of(message, accept)
    return Context(
        {**message.headers, **message.properties, **(embed or {})},
        args=args,
        kwargs=kwargs,
        called_directly=False,
        delivery_info={
            "exchange": message.exchange,
            "routing_key": message.routing_key,
            "priority": message.properties.get("priority"),
        },
    )


def anew(app: Celery, message: Message, job_id: str) -> Message:
    """The message of another job, of the same task with the same arguments.

    It belongs to no chain, group or chord, and calls nobody back: the first job did.
    """
    request: Any = to_context(message)
    none = ("parent_id", "group", "group_index", "chord", "chain", "callbacks")
    request.update(dict.fromkeys((*none, "errbacks", "expires", "headers")))
    request.update(id=job_id, root_id=job_id, retries=0, replaced_task_nesting=0)
    task = app.tasks.get(message.task) or _Unknown(message.task)
    return from_request(app, task, request)


@dataclass(frozen=True, slots=True)
class _Unknown:
    """A task that this process does not have."""

    name: str
    serializer: str | None = None


class Publisher:
    """Publishes kept messages over a connection of its own.

    It is not the app's producer pool: a worker forks new children while this
    runs in a thread, and a lock that is held at that moment stays held there.
    RabbitMQ confirms what it publishes.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._connection: Connection | None = None

    def publish(self, message: Message) -> None:
        """Publish a message as it was kept; a queue that is not there is made.

        Raises:
            OperationalError: The broker cannot be reached.
        """
        is_new = self._connection is None
        try:
            self._send(message)
        except OperationalError:
            if is_new:
                raise
            self._send(message)  # the broker was restarted, or closed an idle one

    def _send(self, message: Message) -> None:
        connection = self._connect()
        known = declared(self._app, message)
        try:
            if not message.exchange and not known:
                self._make(connection, message.routing_key)
            with connection.Producer(auto_declare=False) as producer:
                _send(self._app, producer, message)
        except broker_errors(connection) as error:
            self.close()
            raise OperationalError(str(error)) from error

    def _make(self, connection: Any, name: str) -> None:
        kind = getattr(self._app.conf, "task_default_queue_type", None)
        queue = Queue(name, queue_arguments={"x-queue-type": kind} if kind else None)
        try:
            with connection.channel() as channel:
                queue(channel).declare()
        except connection.channel_errors as error:
            # Somebody declared it otherwise: so it is there.
            logger.debug("Queue %s is used as it is: %s", name, error)

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.collect()
            self._connection = None

    def _connect(self) -> Connection:
        if self._connection is None:
            connection = self._app.connection_for_write()
            # One try at each of its addresses: the next round comes soon.
            options = connection.transport_options or {}
            once: dict[str, Any] = {"max_retries": max(0, len(connection.alt) - 1)}
            if connection.transport.driver_type == "amqp":
                once["confirm_publish"] = True
            connection.transport_options = {**options, **once}
            self._connection = connection
        return self._connection


def publish_from_pool(app: Celery, message: Message) -> None:
    """Publish a message as it was kept, over a connection of the app's pool.

    Not in the main process of a worker: see ``Publisher``.

    Raises:
        OperationalError: The broker cannot be reached.
    """
    once = {"max_retries": 1, "interval_start": 0}
    pool: Any = app.producer_or_acquire()
    with pool as producer:
        try:
            _send(app, producer, message, retry=True, retry_policy=once)
        except broker_errors(producer.connection) as error:
            raise OperationalError(str(error)) from error


def _send(app: Celery, producer: Any, message: Message, **options: Any) -> None:
    producer.publish(
        message.body,
        exchange=message.exchange,
        routing_key=message.routing_key,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        headers=dict(message.headers),
        declare=declared(app, message),
        **options,
        **message.properties,
    )


def declared(app: Celery, message: Message) -> list[Any]:
    """The queues to declare with a message, as its first caller did."""
    queues = app.amqp.queues
    if message.exchange:
        place = (message.exchange, message.routing_key)
        return [queue for queue in queues.values() if _place(queue) == place]
    queue = queues.get(message.routing_key)
    return [queue] if queue is not None else []


def _place(queue: Any) -> tuple[str, str]:
    return getattr(queue.exchange, "name", ""), queue.routing_key


def broker_errors(connection: Any) -> tuple[type[BaseException], ...]:
    """What a connection's broker out of reach raises."""
    return (
        OperationalError,
        *connection.connection_errors,
        *connection.channel_errors,
    )
