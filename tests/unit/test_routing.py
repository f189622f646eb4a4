"""With the map installed, tasks land where it says, and nothing else changes."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue
from kombu.transport import memory

from jobkit.errors import SettingsError
from jobkit.order import Order
from jobkit.queues import RoutingMap
from jobkit.routing import Explanation, MapRouter, explain, install, overview

DEFAULT_QUEUES = ["critical", "high", "normal", "low"]


@pytest.fixture(autouse=True)
def empty_broker() -> Iterator[None]:
    """Kombu's broker in memory is one for the whole process."""
    memory.Channel.queues.clear()
    memory.Transport.global_state.clear()
    yield
    memory.Channel.queues.clear()
    memory.Transport.global_state.clear()


def make_app(broker: str = "memory://", **conf: Any) -> Any:
    app: Any = Celery("shop", broker=broker, set_as_current=False)
    app.conf.update(conf)
    return app


def installed(routes: Any = None, queues: Any = None, **conf: Any) -> Any:
    app = make_app(**conf)
    install(app, RoutingMap.read(queues, routes or {}))
    return app


def add_task(app: Any, name: str = "shop.sync", **options: Any) -> Any:
    """A task of this app alone: Celery gives a shared one to all apps."""

    def done() -> str:
        return name

    return app.task(done, name=name, shared=False, **options)


def landed(app: Any, task: str = "shop.sync", *args: Any, **options: Any) -> str:
    """The queue in which a new message of the task is."""
    app.send_task(task, args, ignore_result=True, **options)
    with app.connection_for_read() as connection:
        queues = connection.default_channel.queues
        (name,) = [name for name, queue in queues.items() if queue.qsize()]
        queues[name].get()
    return str(name)


def declared(app: Any) -> list[str]:
    return [queue.name for queue in app.conf.task_queues]


def consumed(app: Any) -> list[str]:
    return list(app.amqp.queues.consume_from)


def test_without_a_map_nothing_changes() -> None:
    app = make_app()

    install(app, None)

    assert app.conf.task_routes is None
    assert app.conf.task_queues is None


def test_a_task_lands_in_the_queue_of_its_route() -> None:
    app = installed({"shop.sync": "critical", "shop.*": "low", "*": "normal"})

    assert landed(app, "shop.sync") == "critical"
    assert landed(app, "shop.report") == "low"
    assert landed(app, "mail.send") == "normal"


def test_a_task_of_the_app_lands_in_the_queue_of_its_route() -> None:
    app = installed({"shop.sync": "critical"})

    add_task(app, ignore_result=True).delay()

    assert memory.Channel.queues["critical"].qsize() == 1


def test_a_task_without_a_route_lands_in_celerys_default_queue() -> None:
    assert landed(installed({"mail.*": "low"})) == "celery"


def test_the_arguments_may_decide() -> None:
    app = installed({"shop.*": lambda args, _: "low" if args[0] > 9 else None})

    assert landed(app, "shop.sync", 10) == "low"
    assert landed(app, "shop.sync", 1) == "celery"


def test_an_error_in_a_rule_reaches_the_caller() -> None:
    app = installed({"shop.*": lambda args, _: args[7]})

    with pytest.raises(IndexError):
        landed(app, "shop.sync", 1)


def test_a_rule_that_needs_arguments_does_not_break_a_chord() -> None:
    app = installed({"shop.*": lambda args, _: args[0]})

    # The call with which Celery looks for the queue of a chord's body.
    route = app.amqp.router.route({"result": []}, "shop.sync")

    assert route["queue"].name == "celery"


def test_the_callers_queue_wins() -> None:
    app = installed({"*": "normal"})

    assert landed(app, queue="critical") == "critical"
    assert landed(app, queue="elsewhere") == "elsewhere"


def test_the_callers_routing_key_wins() -> None:
    app = installed({"*": "normal"}, task_queues=[Queue("own", Exchange("x"), "k")])
    app.amqp.queues["own"](app.connection_for_write().default_channel).declare()

    assert landed(app, exchange="x", routing_key="k") == "own"


@pytest.mark.filterwarnings(r"ignore:\s*The 'queue' task attribute")
def test_the_tasks_own_queue_wins() -> None:
    app = installed({"*": "normal"})

    add_task(app, queue="critical", ignore_result=True).delay()

    assert memory.Channel.queues["critical"].qsize() == 1


def test_a_retry_stays_in_its_queue() -> None:
    app = installed({"*": "normal"})
    task = add_task(app, ignore_result=True)
    place = {"exchange": "", "routing_key": "low"}

    task.push_request(args=(), kwargs={}, delivery_info=place)
    task.signature_from_request().apply_async()

    assert memory.Channel.queues["low"].qsize() == 1


class OldRouter:
    def route_for_task(self, task: str, *_: Any) -> dict[str, str] | None:
        return {"queue": "theirs"} if task == "shop.sync" else None


def function_router(name: str, *_: Any, **__: Any) -> dict[str, str] | None:
    return {"queue": "theirs"} if name == "shop.sync" else None


THEIRS = {"shop.*": {"queue": "theirs"}}


@pytest.mark.parametrize(
    "routes",
    [
        THEIRS,
        [THEIRS],
        (THEIRS,),
        ([("shop.*", "theirs")],),
        function_router,
        [{"other": "x"}, function_router],
        OldRouter(),
        f"{__name__}:function_router",
    ],
    ids=["dict", "list", "tuple", "pairs", "function", "two", "object", "name"],
)
def test_the_projects_routes_apply_where_the_map_has_none(routes: Any) -> None:
    app = installed({"mail.*": "low"}, task_routes=routes)

    assert landed(app, "shop.sync") == "theirs"
    assert landed(app, "mail.send") == "low"
    assert landed(app, "other.task") in {"celery", "x"}


def test_the_map_comes_before_the_projects_routes() -> None:
    assert landed(installed({"shop.*": "low"}, task_routes=THEIRS)) == "low"


def test_the_projects_options_stay_where_the_caller_names_a_queue() -> None:
    theirs = {"shop.*": {"queue": "theirs", "serializer": "yaml"}}
    app = installed({"*": "low"}, task_routes=theirs)

    route = app.amqp.router.route({"queue": "critical"}, "shop.sync")

    assert (route["queue"].name, route["serializer"]) == ("critical", "yaml")


def test_workers_consume_the_queues_of_the_map_and_the_default_one() -> None:
    assert consumed(installed()) == ["celery", *DEFAULT_QUEUES]


def test_the_default_queue_is_declared_as_celery_declares_it() -> None:
    options = {"task_default_queue": "main", "task_default_queue_type": "quorum"}
    without = make_app(**options).amqp.queues["main"]

    declared = installed(**options).amqp.queues["main"]

    assert declared.as_dict(recurse=True) == without.as_dict(recurse=True)
    assert declared.queue_arguments == {"x-queue-type": "quorum"}


def test_a_queue_of_the_map_is_declared_as_celery_declares_one_it_misses() -> None:
    options = {
        "task_create_missing_queue_type": "quorum",
        "task_create_missing_queue_exchange_type": "topic",
    }
    without = make_app(**options).amqp.queues["high"]

    declared = installed(**options).amqp.queues["high"]

    assert declared.as_dict(recurse=True) == without.as_dict(recurse=True)


def test_a_default_queue_that_is_in_the_map_is_not_doubled() -> None:
    app = installed({"*": "low"}, task_default_queue="normal")

    assert consumed(app) == ["normal", "critical", "high", "low"]


OWN = Queue("high", Exchange("their exchange"), "key", max_length=5)


@pytest.mark.parametrize(
    "queues",
    [
        [OWN, Queue("theirs")],
        (OWN, Queue("theirs")),
        {"high": OWN, "theirs": {"routing_key": "theirs"}},
    ],
    ids=["list", "tuple", "dict"],
)
def test_the_projects_queues_stay_as_they_are(queues: Any) -> None:
    app = installed({"*": "high"}, task_queues=queues)

    assert consumed(app) == ["high", "theirs", "critical", "normal", "low"]
    assert declared(app) == consumed(app)
    assert app.amqp.queues["high"].exchange.name == "their exchange"
    assert app.amqp.queues["high"].max_length == 5


def test_the_queues_are_known_when_celery_may_not_make_any() -> None:
    app = installed({"*": "low"}, task_create_missing_queues=False)

    assert landed(app) == "low"


def test_a_router_that_celery_made_before_is_forgotten() -> None:
    app = make_app(task_routes=THEIRS)
    assert landed(app) == "theirs"

    install(app, RoutingMap.read(None, {"shop.*": "low"}))

    assert landed(app) == "low"
    assert "low" in consumed(app)
    assert "theirs" not in declared(app)


def test_a_queue_that_a_caller_used_before_is_consumed_from_now_on() -> None:
    app = make_app()
    assert landed(app, queue="high") == "high"

    install(app, RoutingMap.read(None, {"shop.*": "low"}))

    assert sorted(consumed(app)) == ["celery", "critical", "high", "low", "normal"]


def test_a_worker_that_was_told_its_queues_keeps_to_them() -> None:
    app = make_app()
    app.select_queues(["celery", "low"])

    install(app, RoutingMap.read(None, {"*": "high"}))

    assert consumed(app) == ["celery", "low"]
    assert landed(app) == "high"


def test_a_worker_may_be_told_its_queues_afterwards() -> None:
    app = installed({"*": "low"})

    app.select_queues(["low"])

    assert consumed(app) == ["low"]


def test_installing_again_replaces_the_map() -> None:
    app = installed({"shop.*": "low"}, task_routes=THEIRS)

    install(app, RoutingMap.read(None, {"mail.*": "high"}))

    assert landed(app, "mail.send") == "high"
    assert landed(app, "shop.sync") == "theirs"
    assert [type(route) for route in app.conf.task_routes] == [MapRouter, dict]
    assert declared(app) == ["celery", *DEFAULT_QUEUES]


@pytest.mark.parametrize("namespace", ["CELERY", "celery"])
def test_the_map_is_used_under_a_namespace(namespace: str) -> None:
    values = {
        "celery_broker_url": "memory://",
        "celery_task_routes": THEIRS,
        "celery_task_queues": (Queue("theirs"),),
    }
    cased = str.upper if namespace.isupper() else str.lower
    source = SimpleNamespace(**{cased(name): value for name, value in values.items()})
    app: Any = Celery("shop", set_as_current=False)
    app.config_from_object(source, namespace=namespace)
    install(app, RoutingMap.read(None, {"mail.*": "low"}))

    assert landed(app, "mail.send") == "low"
    assert landed(app, "shop.sync") == "theirs"
    assert declared(app) == ["theirs", *DEFAULT_QUEUES]


def test_a_workers_consumer_gets_what_lands_in_all_of_these_queues() -> None:
    app = installed({"shop.sync": "critical"})
    tasks: list[str] = []

    def receive(message: Any) -> None:
        message.ack()
        tasks.append(message.headers["task"])

    for name in ("shop.sync", "shop.other"):
        app.send_task(name, ignore_result=True)
    with app.connection_for_read() as connection:
        consumer = app.amqp.TaskConsumer(connection.default_channel)
        consumer.on_message = receive
        with consumer:
            while len(tasks) < 2:
                connection.drain_events(timeout=10)

    assert sorted(tasks) == ["shop.other", "shop.sync"]


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, None),
        ({"type": "classic"}, {"x-queue-type": "classic"}),
        (
            {"type": "quorum", "delivery_limit": 3},
            {"x-queue-type": "quorum", "x-delivery-limit": 3},
        ),
        (
            {"collect": True},
            {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "pile"},
        ),
        (
            {"type": "quorum", "collect": True},
            {
                "x-queue-type": "quorum",
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": "pile",
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        ),
    ],
)
def test_a_queue_is_declared_as_the_map_has_it(
    options: dict[str, Any], arguments: dict[str, Any] | None
) -> None:
    app = make_app()
    install(app, RoutingMap.read({"work": options, "rest": {}}, {}), collected="pile")

    assert app.amqp.queues["work"].queue_arguments == arguments
    assert app.amqp.queues["rest"].queue_arguments is None


def test_the_apps_own_type_counts_for_what_is_collected() -> None:
    queue = Queue("work", queue_arguments={"x-queue-type": "quorum", "x-own": 1})
    app = installed(queues={"work": {"collect": True}}, task_queues=[queue])

    arguments = app.amqp.queues["work"].queue_arguments
    assert arguments["x-own"] == 1
    assert arguments["x-dead-letter-strategy"] == "at-least-once"
    assert arguments["x-dead-letter-routing-key"] == "jobkit.dead_letters"


# -- the order of the queues

REDIS = "redis://127.0.0.1:1/0"
ORDER = Order((("critical", 8), ("high", 4), ("normal", 2), ("low", 1)))


def ordered(order: Order | None = None, **conf: Any) -> Any:
    app = make_app(**conf)
    install(app, RoutingMap.read(None, {}), order)
    return app.conf


def test_on_redis_workers_get_the_order_and_take_nothing_ahead() -> None:
    conf = ordered(broker=REDIS)

    assert conf.broker_transport_options == {"queue_order_strategy": ORDER}
    assert conf.worker_prefetch_multiplier == 1
    assert conf.worker_disable_prefetch is True


def test_the_order_may_be_strict() -> None:
    strict = Order(ORDER.weights, strict=True)

    conf = ordered(strict, broker=REDIS)

    assert conf.broker_transport_options["queue_order_strategy"] == strict


@pytest.mark.parametrize("broker", ["memory://", "amqp://", "nonsense://"])
def test_other_brokers_get_no_option_that_they_do_not_know(broker: str) -> None:
    conf = ordered(broker=broker)

    assert conf.broker_transport_options == {}
    assert conf.worker_prefetch_multiplier == 1
    assert conf.worker_disable_prefetch is False


def test_a_project_that_has_its_own_order_and_prefetch_keeps_them() -> None:
    theirs = {"queue_order_strategy": "sorted", "visibility_timeout": 60}

    conf = ordered(
        broker=REDIS,
        broker_transport_options=theirs,
        worker_prefetch_multiplier=3,
        worker_disable_prefetch=False,
    )

    assert conf.broker_transport_options == theirs
    assert conf.worker_prefetch_multiplier == 3
    assert conf.worker_disable_prefetch is False


def test_the_projects_transport_options_stay() -> None:
    theirs = {"visibility_timeout": 60}

    options = ordered(broker=REDIS, broker_transport_options=theirs)

    assert options.broker_transport_options == {
        "visibility_timeout": 60,
        "queue_order_strategy": ORDER,
    }
    assert theirs == {"visibility_timeout": 60}


def test_installing_again_replaces_the_order() -> None:
    app = make_app(broker=REDIS)
    install(app, RoutingMap.read(None, {}))

    install(app, RoutingMap.read({"one": {}}, {}))

    options = app.conf.broker_transport_options
    assert options["queue_order_strategy"] == Order((("one", 1),))


def test_without_a_map_prefetch_and_order_are_celerys() -> None:
    app = make_app(broker=REDIS)

    install(app, None)

    assert app.conf.broker_transport_options == {}
    assert app.conf.worker_prefetch_multiplier == 4
    assert app.conf.worker_disable_prefetch is False


# -- one task at a time


def test_the_map_may_be_adopted_for_one_task() -> None:
    app = installed({"shop.sync": "critical"}, task_routes=THEIRS)
    for name in ("shop.sync", "shop.report", "mail.send"):
        add_task(app, name)

    # Before anything is published: Celery 5.6 consumes what its process published to.
    assert consumed(app) == ["celery", *DEFAULT_QUEUES]
    assert landed(app, "shop.sync") == "critical"
    assert landed(app, "shop.report") == "theirs"
    assert landed(app, "mail.send") == "celery"


# -- explained

MAP = RoutingMap.read(
    {"fast": {"weight": 3, "target": 60}, "slow": {"dead_letter_queue": "graves"}},
    {
        "shop.sync": {"queue": "fast", "dead_letter_queue": "sync.graves"},
        "shop.by_size": lambda args, _: "slow" if args[0] > 9 else None,
        "shop.*": "slow",
    },
)


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An app with the map, whose tasks are its own alone."""
    monkeypatch.setattr("celery._state._on_app_finalizers", set())
    app = make_app(task_routes={"mail.*": "theirs"})
    install(app, MAP)
    for name in ("shop.sync", "shop.by_size", "mail.send", "other"):
        add_task(app, name)
    return app


def test_all_tasks_are_explained(shop: Any) -> None:
    assert overview(shop, MAP) == [
        Explanation("mail.send", "theirs", "task_routes", None, None, "theirs.dead"),
        Explanation("other", "celery", "task_default_queue", None, None, "celery.dead"),
        Explanation(
            "shop.by_size", "", "jobkit_routes['shop.by_size'], by the arguments"
        ),
        Explanation(
            *("shop.sync", "fast", "jobkit_routes['shop.sync']", 3, 60.0, "sync.graves")
        ),
    ]


@pytest.mark.parametrize(
    ("size", "rule"),
    [(10, "jobkit_routes['shop.by_size']"), (1, "jobkit_routes['shop.*']")],
)
def test_one_call_is_explained_by_its_arguments(
    shop: Any, size: int, rule: str
) -> None:
    told = explain(shop, MAP, "shop.by_size", [size])

    assert (told.queue, told.rule) == ("slow", rule)
    assert (told.weight, told.target, told.dead_letter_queue) == (1, None, "graves")
    assert landed(shop, "shop.by_size", size) == told.queue


@pytest.mark.filterwarnings(r"ignore:\s*The 'queue' task attribute")
def test_the_tasks_own_queue_is_explained(shop: Any) -> None:
    add_task(shop, "shop.urgent", queue="fast")

    told = explain(shop, MAP, "shop.urgent")

    assert (told.queue, told.rule) == ("fast", "the task's own options")
    assert told in overview(shop, MAP)


def test_a_rule_that_raises_is_named(shop: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        explain(shop, MAP, "shop.by_size", ["many"])

    assert "The route of shop.by_size('many') is not known" in str(caught.value)
    assert "TypeError" in str(caught.value)


def test_without_a_map_celerys_own_routes_are_explained() -> None:
    app = make_app(task_routes=THEIRS)

    told = explain(app, None, "shop.sync")

    assert (told.queue, told.rule, told.weight) == ("theirs", "task_routes", None)
    assert told.dead_letter_queue == "theirs.dead"
