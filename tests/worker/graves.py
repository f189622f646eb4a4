"""The queues of a broker as any tool sees them: looked into, and moved between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from kombu import Queue

from tests.waiting import wait_until
from tests.worker.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Seen:
    """A message, byte for byte."""

    body: bytes
    content_type: str
    content_encoding: str
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]


_APART = {
    *("application_headers", "delivery_info", "delivery_tag"),
    *("content_type", "content_encoding", "body_encoding"),
}


@contextmanager
def channel(fleet: Fleet) -> Iterator[Any]:
    """A channel that leaves bodies as they are."""
    with fleet.app.connection_for_write() as connection, connection.channel() as opened:
        cast("Any", opened).auto_decode = False
        yield opened


def taken(fleet: Fleet, queue: str) -> Seen | None:
    """The oldest message of a queue, which is not there any more."""
    with channel(fleet) as opened:
        try:
            message: Any = Queue(queue)(opened).get(no_ack=True)
        except opened.connection.channel_errors:  # there is no such queue yet
            return None
    if message is None:
        return None
    body = message.body if isinstance(message.body, bytes) else message.body.encode()
    properties = {k: v for k, v in message.properties.items() if k not in _APART}
    return Seen(
        *(body, message.content_type, message.content_encoding),
        # A quorum queue counts, from 0 on, what it gives out itself.
        {k: v for k, v in message.headers.items() if k != "x-delivery-count"},
        properties,
    )


def waited_for(fleet: Fleet, queue: str) -> Seen:
    """The oldest message of a queue, once there is one."""
    seen = wait_until(lambda: taken(fleet, queue), f"a message is in {queue}")
    assert seen
    return seen


def put(fleet: Fleet, queue: str, seen: Seen, **properties: Any) -> None:
    """Publish a message straight into a queue."""
    own = {k: v for k, v in seen.properties.items() if k != "expiration"}
    with channel(fleet) as opened, fleet.app.amqp.Producer(opened) as producer:
        producer.publish(
            seen.body,
            exchange="",
            routing_key=queue,
            content_type=seen.content_type,
            content_encoding=seen.content_encoding,
            headers=dict(seen.headers),
            **{**own, **properties},
        )


def waiting(fleet: Fleet, queue: str) -> int:
    """How many messages of a queue nobody has taken."""
    with channel(fleet) as opened:
        try:
            told: Any = Queue(queue)(opened).queue_declare(passive=True)
            return int(told.message_count)
        except opened.connection.channel_errors:  # Redis has no empty queues
            return 0
