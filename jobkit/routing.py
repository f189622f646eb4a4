"""The routing map in Celery's own terms: queues to consume, and a router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery import Celery

from jobkit.errors import SettingsError
from jobkit.order import STRATEGY, Order
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


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a call of a task goes, and why.

    ``rule`` is the line of the settings that decided, or who else did. ``weight``
    and ``target`` are None for a queue that is not in the map, and ``queue`` is
    empty where it depends on the arguments.
    """

    task: str
    queue: str
    rule: str
    weight: int | None = None
    target: float | None = None
    dead_letter_queue: str = ""


def overview(app: Celery, routing_map: RoutingMap | None) -> list[Explanation]:
    """Where the app's tasks go."""
    names = sorted(name for name in app.tasks if not name.startswith("celery."))
    return [
        _by_arguments(app, routing_map, name) or explain(app, routing_map, name)
        for name in names
    ]


def explain(
    app: Celery,
    routing_map: RoutingMap | None,
    name: str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Explanation:
    """Ask Celery where a call goes, and find out who says so.

    Raises:
        SettingsError: A rule picked a queue that does not exist, or raised.
    """
    call = (name, args, kwargs or {})
    try:
        own = _own_options(app, name)
        rule = _who(app, routing_map, own, call)
        route = _router(app).route(own, *call, task_type=app.tasks.get(name))
    except SettingsError:
        raise
    except Exception as error:
        shown = ", ".join(
            [*map(repr, args), *(f"{k}={v!r}" for k, v in call[2].items())]
        )
        told = f"{type(error).__name__}: {error}"
        raise SettingsError(
            f"The route of {name}({shown}) is not known: {told}"
        ) from error
    queue = getattr(route.get("queue"), "name", None) or str(route.get("routing_key"))
    spec = (routing_map.queues if routing_map else {}).get(queue, QueueSpec(queue, 0))
    named = routing_map.dead_letter_queue(name, queue) if routing_map else ""
    return Explanation(
        *(name, queue, rule, spec.weight or None, spec.target),
        dead_letter_queue=named or f"{queue}.dead",
    )


def _router(app: Celery) -> Any:
    return app.amqp.router


def _own_options(app: Celery, name: str) -> dict[str, Any]:
    task: Any = app.tasks.get(name)
    options = task._get_exec_options() if task else {}  # noqa: SLF001 - Celery's way
    return {key: options[key] for key in _DESTINATION if options.get(key) is not None}


def _by_arguments(
    app: Celery, routing_map: RoutingMap | None, name: str
) -> Explanation | None:
    if routing_map is None or _own_options(app, name):
        return None
    rule = next(iter(routing_map.asked(name)), None)
    if rule is None or isinstance(rule.queue, str):
        return None
    return Explanation(name, "", f"{rule.line}, by the arguments")


def _who(
    app: Celery, routing_map: RoutingMap | None, own: Any, call: tuple[Any, ...]
) -> str:
    """Who decides: the task itself, a rule of the map, or the project's settings."""
    if own:
        return "the task's own options"
    task = app.tasks.get(call[0])
    for route in _router(app).routes:
        if _router(app).query_router(route, *call, {}, task) is not None:
            matched = routing_map.match(*call) if routing_map else None
            ours = matched and isinstance(route, MapRouter)
            return matched[0].line if matched and ours else "task_routes"
    return "task_default_queue"


def order_of(routing_map: RoutingMap, *, strict: bool = False) -> Order:
    """The order in which workers serve the queues of the map."""
    weights = [(spec.name, spec.weight) for spec in routing_map.queues.values()]
    return Order(tuple(weights), strict)


def install(
    app: Celery,
    routing_map: RoutingMap | None,
    order: Order | None = None,
    collected: str = "jobkit.dead_letters",
) -> None:
    """Make an app use the map, for all of its tasks; None changes nothing.

    The project's own queues stay, with Celery's default queue where it has none
    of its own. Its own routes are asked where the map has none. What a caller or
    a task says about its queue wins over both. An order of queues and a prefetch
    that the project has set stay. ``collected`` is the queue for what RabbitMQ
    gives up.
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
        **_consumption(app, order or order_of(routing_map)),
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


def _consumption(app: Celery, order: Order) -> dict[str, Any]:
    """The settings by which workers keep to an order.

    It holds as far as they take no message before they can run it.
    """
    conf: Any = app.conf
    wanted: dict[str, Any] = {"worker_prefetch_multiplier": 1}
    if is_redis(app):
        wanted["worker_disable_prefetch"] = True
    settings = {k: v for k, v in wanted.items() if not conf.value_set_for(k)}
    options = conf.broker_transport_options or {}
    theirs = options.get(STRATEGY)
    if is_redis(app) and (theirs is None or isinstance(theirs, Order)):
        settings["broker_transport_options"] = {**options, STRATEGY: order}
    return settings


def is_redis(app: Celery) -> bool:
    """Whether messages come from Redis, over which kombu orders the queues."""
    try:
        connection: Any = app.connection_for_read()
        return bool(connection.get_transport_cls().driver_type == "redis")
    except Exception:  # noqa: BLE001 - any transport; its worker tells what is wrong
        return False


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
