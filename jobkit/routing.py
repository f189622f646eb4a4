"""The routing map in Celery's own terms: queues to consume, and a router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery import Celery

from jobkit.queues import QueueSpec, RoutingMap

_DESTINATION = ("queue", "exchange", "routing_key")


@dataclass(frozen=True, slots=True)
class MapRouter:
    """An entry of ``task_routes`` that asks the routing map."""

    routing_map: RoutingMap

    def __call__(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> dict[str, str] | None:
        """The queue of a task; None where the map or the caller has decided."""
        chosen = options or {}
        if any(chosen.get(key) is not None for key in _DESTINATION):
            return None
        try:
            route = self.routing_map.find(name, args or (), kwargs or {})
        except (LookupError, TypeError):
            # For the body of a chord Celery asks before there are arguments, and
            # a rule that goes by arguments cannot answer then.
            if args or kwargs:
                raise
            return None
        return None if route is None else {"queue": route.queue}


def install(
    app: Celery, routing_map: RoutingMap | None, collected: str = "jobkit.dead_letters"
) -> None:
    """Make an app use the map, for all of its tasks; None changes nothing.

    The project's own queues stay, with Celery's default queue where it has none
    of its own. Its own routes are asked where the map has none. What a caller or
    a task says about its queue wins over both. ``collected`` is the queue for what
    RabbitMQ gives up.
    """
    if routing_map is None:
        return
    declared = app.amqp.Queues(app.conf.task_queues, create_missing=True)
    ours = [declared[name] for name in routing_map.queues]
    for queue, spec in zip(ours, routing_map.queues.values(), strict=True):
        _shape(queue, spec, collected)
    selected = getattr(app.amqp.queues, "_consume_from", None) is not None
    for queue in ours:
        # A worker that was told its queues (-Q) goes on with just these.
        if selected:
            app.amqp.queues.add(queue)
        else:
            app.amqp.queues.select_add(queue)
    _set(
        app.conf,
        task_queues=tuple(declared.values()),
        task_routes=[MapRouter(routing_map), *_other_routes(app.conf.task_routes)],
    )


def _shape(queue: Any, spec: QueueSpec, collected: str) -> None:
    """Give a queue what RabbitMQ takes as its arguments; others take none."""
    arguments = dict(queue.queue_arguments or {})
    if spec.type:
        arguments["x-queue-type"] = spec.type
    if spec.delivery_limit is not None:
        arguments["x-delivery-limit"] = spec.delivery_limit
    if spec.collect:
        arguments["x-dead-letter-exchange"] = ""
        arguments["x-dead-letter-routing-key"] = collected
        if arguments.get("x-queue-type") == "quorum":
            # A message leaves the queue once the other has it, not before.
            arguments["x-dead-letter-strategy"] = "at-least-once"
            arguments["x-overflow"] = "reject-publish"
    queue.queue_arguments = arguments or queue.queue_arguments


def _set(conf: Any, **values: Any) -> None:
    """Set what Celery shall read, wherever the project wrote it."""
    # Before 5.7 a name with the namespace wins, wherever it is set.
    space = conf.prefix or ""
    cased = str.upper if space.isupper() else str.lower
    spaced = {cased(space + name): value for name, value in values.items()}
    # `update` tells Celery to forget the router it made before; plain setting of
    # the attribute does not.
    conf.update(**{**spaced, **values})


def _other_routes(routes: Any) -> list[Any]:
    """The project's routes as a list, without a map that was installed before."""
    if routes is None:
        return []
    several = routes if isinstance(routes, list | tuple) else [routes]
    return [route for route in several if not isinstance(route, MapRouter)]
