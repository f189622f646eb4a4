"""What the doctor says of queues and their order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jobkit import JobKit
from jobkit.checks import Finding, Setup
from jobkit.doctor import examine
from jobkit.order import Order
from jobkit.queue_checks import QUEUE_CHECKS, order, rules, without_map
from jobkit.queues import RoutingMap
from jobkit.settings import Settings
from tests.unit.conftest import MakeApp
from tests.unit.test_doctor_checks import worker

ALONE = {"worker_disable_prefetch": True}
OURS = {"queue_order_strategy": Order((("critical", 8),))}


def settings(**values: Any) -> Settings:
    return replace(Settings(), **values)


@pytest.fixture
def sound(make_app: MakeApp) -> Setup:
    """An app on Redis with a map, against which nothing is to be said."""
    return Setup(
        make_app(**ALONE).conf,
        broker="redis",
        transport_options=OURS,
        routing_map=RoutingMap.read(None, {"shop.*": "high"}),
        names=["shop.sync"],
        workers=[worker(conf=ALONE)],
    )


def found(setup: Setup) -> list[Finding]:
    return [finding for check in QUEUE_CHECKS for finding in check(setup)]


def test_a_map_on_redis_is_obeyed(sound: Setup) -> None:
    assert [(f.check, f.level, f.fix) for f in found(sound)] == [
        ("routes", "ok", ""),
        ("queue order", "ok", ""),
    ]


def test_without_a_map_there_is_nothing_to_say(sound: Setup) -> None:
    assert found(replace(sound, routing_map=None)) == []


@pytest.mark.parametrize(
    ("values", "named"),
    [({"queue_order": "strict"}, "queue_order"), ({"time_slice": 5.0}, "time_slice")],
)
def test_settings_that_mean_nothing_without_a_map_are_told(
    sound: Setup, values: Any, named: str
) -> None:
    setup = replace(sound, routing_map=None, settings=settings(**values))

    (finding,) = without_map(setup)

    assert finding.level == "warning"
    assert finding.found.endswith(f"nobody reads jobkit_{named}.")
    assert finding.fix == "app.conf.jobkit_routes = {'*': 'normal'}"


@pytest.mark.parametrize(
    ("name", "level"), [("shop.snyc", "warning"), ("quite.another", "info")]
)
def test_a_rule_for_no_task_is_told(sound: Setup, name: str, level: str) -> None:
    setup = replace(sound, routing_map=RoutingMap.read(None, {name: "high"}))

    (finding,) = rules(setup)

    assert finding.level == level
    assert finding.found.startswith(f"jobkit_routes[{name!r}] is for no task")
    assert "jobs routes" in finding.fix


def test_an_order_of_the_projects_own_is_told(sound: Setup) -> None:
    theirs = {"queue_order_strategy": "sorted"}

    (finding,) = order(replace(sound, transport_options=theirs))

    assert finding.level == "info"
    assert "own queue_order_strategy ('sorted') decides" in finding.found


@pytest.mark.parametrize("running", [True, False])
def test_workers_that_take_messages_ahead_are_told(
    sound: Setup, make_app: MakeApp, *, running: bool
) -> None:
    workers = [worker("w@one", conf={})] if running else []
    conf = sound.conf if running else make_app().conf

    (finding,) = order(replace(sound, conf=conf, workers=workers))

    assert finding.level == "warning"
    assert ("w@one" if running else "this app") in finding.found
    assert finding.fix == "app.conf.worker_disable_prefetch = True"


def test_what_rabbitmq_has_is_told(sound: Setup) -> None:
    (finding,) = order(replace(sound, broker="amqp"))

    assert finding.level == "info"
    assert "taking one message of each ahead" in finding.found
    assert "worker -Q QUEUE" in finding.fix


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_a_pool_without_order_on_rabbitmq_is_told(sound: Setup, pool: str) -> None:
    workers = [worker(pool=pool)]

    (finding,) = order(replace(sound, broker="amqp", workers=workers))

    assert finding.level == "warning"
    assert f"the {pool} pool" in finding.found
    assert "'prefork'" in finding.fix
    assert "worker -Q QUEUE" in finding.fix


def test_a_broker_without_an_order_is_told(sound: Setup) -> None:
    (finding,) = order(replace(sound, broker="sqs"))

    assert (finding.level, "sqs" in finding.found) == ("warning", True)


@pytest.mark.parametrize("by_place", [{"queue_order": "strict"}, {"time_slice": 9.0}])
def test_an_order_against_the_weights_is_told(sound: Setup, by_place: Any) -> None:
    queues = {"low": {"weight": 1}, "high": {"weight": 4}}
    setup = replace(sound, routing_map=RoutingMap.read(queues, {"shop.*": "high"}))
    assert [finding.level for finding in order(setup)] == ["ok"]

    (finding,) = order(replace(setup, settings=settings(**by_place)))

    assert finding.level == "warning"
    assert "'low' is before 'high'" in finding.found


def test_the_map_of_an_app_is_looked_at(make_app: MakeApp) -> None:
    app = make_app(broker_url="memory://", jobkit_routes={"shop.*": "high"})

    checks = {finding.check for finding in examine(JobKit(app))}

    assert {"routes", "queue order"} <= checks
