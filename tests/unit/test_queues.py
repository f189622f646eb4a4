"""The routing map finds a queue for each task, and a wrong line is refused."""

import pickle
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from jobkit.errors import SettingsError
from jobkit.queues import DEFAULT_QUEUES, QueueSpec, Route, RoutingMap

QUEUES = {"fast": {"weight": 3, "dead_letter_queue": "fast.graves"}, "slow": {}}


def routing_map(routes: Any = None, queues: Any = QUEUES) -> RoutingMap:
    found = RoutingMap.read(queues, routes)
    assert found is not None
    return found


def refusal(queues: Any, routes: Any = None) -> str:
    with pytest.raises(SettingsError) as caught:
        RoutingMap.read(queues, routes)
    return str(caught.value)


def by_size(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    size = kwargs.get("size", args[0] if args else 0)
    return "slow" if size > 100 else None


async def later(*_: Any) -> str:
    """A chooser that nobody would wait for."""
    return "fast"


def test_without_queues_and_routes_there_is_no_map() -> None:
    assert RoutingMap.read(None, None) is None


def test_with_routes_alone_the_default_queues_stand() -> None:
    found = routing_map({"*": "normal"}, queues=None)

    assert list(found.queues.values()) == [
        QueueSpec("critical", 8, 30.0),
        QueueSpec("high", 4, 300.0),
        QueueSpec("normal", 2, 1_800.0),
        QueueSpec("low", 1, 86_400.0),
    ]
    assert list(DEFAULT_QUEUES) == list(found.queues.values())


def test_with_queues_alone_no_task_is_routed() -> None:
    assert routing_map().find("shop.sync") is None


def test_a_queue_has_defaults() -> None:
    spec = routing_map(queues={"one": {}}).queues["one"]

    assert spec == QueueSpec("one", weight=1, target=None, dead_letter_queue="")


def test_queues_keep_their_order_and_options() -> None:
    queues = {
        "b": {"weight": 5, "target": 60},
        "a": {"target": 0.5, "dead_letter_queue": "graves"},
    }

    assert list(routing_map(queues=queues).queues.values()) == [
        QueueSpec("b", 5, 60.0),
        QueueSpec("a", 1, 0.5, "graves"),
    ]


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        ("shop.sync", "fast"),
        ("shop.sync_all", "slow"),
        ("shop.report", "slow"),
        ("mail.send", "fast"),
        ("mail.send2", "slow"),
        ("Shop.sync", None),
        ("other", None),
    ],
)
def test_an_exact_name_comes_first_then_patterns_in_order(
    task: str, queue: str | None
) -> None:
    found = routing_map(
        {
            "shop.*": "slow",
            "shop.sync": "fast",
            re.compile(r"mail\.send$"): "fast",
            "mail.*": "slow",
        }
    )

    assert found.find(task) == (queue and Route(queue))


@pytest.mark.parametrize(("task", "matches"), [("a1", True), ("ax", False)])
def test_a_pattern_may_have_letters_to_choose_from(task: str, *, matches: bool) -> None:
    assert bool(routing_map({"a[0-9]": "fast"}).find(task)) is matches


def test_a_regex_matches_from_the_beginning() -> None:
    found = routing_map({re.compile("sync"): "fast"})

    assert found.find("sync_orders") == Route("fast")
    assert found.find("shop.sync_orders") is None


@pytest.mark.parametrize("route", [by_size, {"queue": by_size}], ids=["bare", "dict"])
def test_a_callable_decides_by_the_arguments(route: Any) -> None:
    found = routing_map({"shop.sync": route})

    assert found.find("shop.sync", (500,)) == Route("slow")
    assert found.find("shop.sync", (), {"size": 500}) == Route("slow")


def test_a_callable_that_answers_nothing_leaves_it_to_the_next_rule() -> None:
    found = routing_map({"shop.sync": by_size, "shop.*": by_size, "*": "fast"})

    assert found.find("shop.sync", (5,)) == Route("fast")
    assert found.find("shop.sync", (500,)) == Route("slow")


def test_a_queue_that_a_callable_invents_is_refused() -> None:
    found = routing_map({"shop.*": lambda *_: "fats"})

    with pytest.raises(SettingsError) as caught:
        found.find("shop.sync")

    assert "jobkit_routes['shop.*']" in str(caught.value)
    assert "Did you mean 'fast'?" in str(caught.value)


def test_a_route_may_name_a_dead_letter_queue() -> None:
    found = routing_map({"a": {"queue": "fast", "dead_letter_queue": "a.graves"}})

    assert found.find("a") == Route("fast", "a.graves")


@pytest.mark.parametrize(
    ("task", "queue", "dead_letter_queue"),
    [
        ("own", "fast", "own.graves"),
        ("own", "slow", "own.graves"),
        ("own.pattern", "fast", "pattern.graves"),
        ("plain", "fast", "fast.graves"),
        ("plain", "slow", ""),
        ("plain", "elsewhere", ""),
        ("sized", "slow", "sized.graves"),
        ("chosen", "slow", "rest.graves"),
        ("rest", "slow", "rest.graves"),
    ],
)
def test_dead_letters_go_where_the_route_says_then_the_queue(
    task: str, queue: str, dead_letter_queue: str
) -> None:
    found = routing_map(
        {
            "own": {"queue": "fast", "dead_letter_queue": "own.graves"},
            "own.*": {"queue": "fast", "dead_letter_queue": "pattern.graves"},
            "sized": {"queue": by_size, "dead_letter_queue": "sized.graves"},
            "chosen": by_size,
            "plain": "fast",
            "*": {"queue": "slow", "dead_letter_queue": "rest.graves"},
        }
    )

    assert found.dead_letter_queue(task, queue) == dead_letter_queue


def test_a_task_without_a_route_has_the_dead_letter_queue_of_its_queue() -> None:
    assert routing_map().dead_letter_queue("any", "fast") == "fast.graves"


@pytest.mark.parametrize(
    ("queues", "told"),
    [
        ({}, "at least one queue"),
        (["fast"], "at least one queue"),
        ({"": {}}, "the name of a queue is a text"),
        ({7: {}}, "jobkit_queues[7]"),
        ({"fast": 3}, "jobkit_queues['fast'] is 3"),
        ({"fast": None}, "a dict with weight, target, dead_letter_queue"),
        ({"fast": {"weights": 3}}, "no option 'weights'. Did you mean 'weight'?"),
        ({"fast": {"zzz": 3}}, "There are weight, target, dead_letter_queue, type, "),
        ({"fast": {"type": "stream"}}, "type is 'stream'"),
        ({"fast": {"type": None}}, "expected is 'classic' or 'quorum'"),
        ({"fast": {"type": "quorum", "delivery_limit": 0}}, "delivery_limit is 0"),
        ({"fast": {"type": "quorum", "delivery_limit": True}}, "limit is True"),
        ({"fast": {"delivery_limit": 3}}, "only quorum queues have a delivery_limit"),
        ({"fast": {"collect": 1}}, "collect is 1, expected is True or False"),
        ({"fast": {"weight": 0}}, "weight is 0"),
        ({"fast": {"weight": -1}}, "weight is -1"),
        ({"fast": {"weight": 1.5}}, "weight is 1.5"),
        ({"fast": {"weight": True}}, "weight is True"),
        ({"fast": {"weight": "3"}}, "weight is '3'"),
        ({"fast": {"target": 0}}, "target is 0"),
        ({"fast": {"target": True}}, "target is True"),
        ({"fast": {"target": float("inf")}}, "target is inf"),
        ({"fast": {"target": "1h"}}, "target is '1h'"),
        ({"fast": {"dead_letter_queue": 5}}, "dead_letter_queue is 5"),
        ({"fast": {"dead_letter_queue": None}}, "dead_letter_queue is None"),
        ({"fast": {"dead_letter_queue": "fast"}}, "would run again"),
        ({" fast": {}}, "cannot be the name of a queue"),
        ({"fast,slow": {}}, "cannot be the name of a queue"),
        ({"fast\x06": {}}, "cannot be the name of a queue"),
        ({"amq.fast": {}}, "'amq.', which belongs to RabbitMQ"),
        ({"f" * 256: {}}, "up to 255 bytes"),
        ({"fast": {"dead_letter_queue": "amq.dead"}}, "cannot be the name of a queue"),
        ({"fast": {"dead_letter_queue": "slow"}, "slow": {}}, "would run again"),
    ],
)
def test_a_wrong_queue_is_refused_with_its_line(queues: Any, told: str) -> None:
    message = refusal(queues)

    assert message.startswith("jobkit_queues")
    assert told in message


@pytest.mark.parametrize(
    ("routes", "told"),
    [
        ([("*", "fast")], "a dict of task names or patterns"),
        ("fast", "a dict of task names or patterns"),
        ({"": "fast"}, "a task name, a pattern or a regex"),
        ({7: "fast"}, "jobkit_routes[7]"),
        ({"a": "fats"}, "no queue 'fats' in jobkit_queues. Did you mean 'fast'?"),
        ({"a": "zzz"}, "There are fast, slow."),
        ({"a": {}}, "names no queue: add 'queue'"),
        ({"a": {"dead_letter_queue": "x"}}, "names no queue: add 'queue'"),
        ({"a": {"queue": ["fast"]}}, "no queue ['fast']"),
        ({"a": None}, "jobkit_routes['a'] is None"),
        ({"a": {"queue": "fast", "priority": 3}}, "no option 'priority'"),
        ({"a": {"queues": "fast"}}, "Did you mean 'queue'?"),
        ({"a": lambda _: "fast"}, "cannot be called with (args, kwargs)"),
        ({"a": later}, "is async, and nobody would wait"),
        ({re.compile(b"a"): "fast"}, "one for bytes"),
        ({"a ": "fast"}, "no task has space around its name"),
        ({"shop.[ab": "fast"}, "a '[' without its ']'"),
        ({"a": {"queue": "fast", "dead_letter_queue": "a,b"}}, "name of a queue"),
        ({"a": {"queue": "fast", "dead_letter_queue": "slow"}}, "would run again"),
        ({"a": {"queue": "fast", "dead_letter_queue": 1}}, "dead_letter_queue is 1"),
    ],
)
def test_a_wrong_route_is_refused_with_its_line(routes: Any, told: str) -> None:
    message = refusal(QUEUES, routes)

    assert message.startswith("jobkit_routes")
    assert told in message


def test_a_callable_that_does_not_tell_its_arguments_is_taken() -> None:
    found = routing_map({"a": max})

    assert found.find("c") is None


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ("*", "shop.*"),
        ("*", re.compile("shop")),
        ("**", "?"),
        ("shop.*", "shop.sync_*"),
        ("shop.*", "shop.?"),
        ("shop.*", "shop.[ab]"),
        ("shop.*", "shop.[]]*"),
        ("*.sync", "shop.*.sync"),
        ("*a*", "*bab*"),
        (re.compile(".*"), "shop.*"),
        (re.compile(""), re.compile("shop")),
    ],
)
def test_a_pattern_that_can_never_match_is_refused(wide: Any, narrow: Any) -> None:
    message = refusal(QUEUES, {"first.*": "fast", wide: "fast", narrow: "slow"})

    assert message.startswith(f"jobkit_routes[{narrow!r}] can never match")
    assert f"jobkit_routes[{wide!r}] before it" in message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("shop.*", "*"),
        ("shop.*", "shop*"),
        ("shop.sync_*", "shop.*_sync"),
        ("a*b", "a*"),
        ("a?", "a*"),
        ("a?*", "a*"),
        ("[ab]*", "a*"),
        ("a*", re.compile("a")),
        (re.compile("shop"), "shop.*"),
        ("shop.?", "shop.[ab]"),
    ],
)
def test_a_pattern_that_can_match_is_taken(first: Any, second: Any) -> None:
    assert len(routing_map({first: "fast", second: "slow"}).patterns) == 2


def test_a_callable_covers_nothing_because_it_may_pass() -> None:
    found = routing_map({"*": by_size, "shop.*": "fast"})

    assert found.find("shop.sync", (1,)) == Route("fast")


def test_an_exact_name_may_come_after_a_pattern_for_all() -> None:
    found = routing_map({"*": "slow", "shop.sync": "fast"})

    assert found.find("shop.sync") == Route("fast")


def test_a_map_can_be_sent_to_another_process() -> None:
    found = routing_map({"a": by_size, re.compile("b"): "fast", "*": "slow"})

    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301 - our own


# -- what is asked about a map


def test_a_call_is_matched_by_the_rule_that_decides() -> None:
    found = routing_map({"shop.sync": by_size, "shop.*": "fast"})

    matched = [found.match("shop.sync", (size,)) for size in (500, 5)]

    assert [m and (m[0].line, m[1]) for m in matched] == [
        ("jobkit_routes['shop.sync']", "slow"),
        ("jobkit_routes['shop.*']", "fast"),
    ]
    assert found.match("mail.send") is None


def test_the_queues_before_another_are_more_urgent() -> None:
    found = routing_map({}, queues=None)

    assert found.before("critical") == []
    assert found.before("normal") == ["critical", "high"]
    assert found.before("celery") == ["critical", "high", "normal", "low"]


def test_rules_for_no_task_are_told_with_the_name_that_is_near() -> None:
    found = routing_map({"shop.snyc": "fast", "mail.*": "slow", "shop.*": "slow"})

    assert list(found.unused(["shop.sync", "celery.chord"])) == [
        (
            "jobkit_routes['shop.snyc'] is for no task of this app. "
            "Did you mean 'shop.sync'?"
        ),
        "jobkit_routes['mail.*'] is for no task of this app.",
    ]
