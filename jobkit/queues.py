"""The routing map: which queues there are, and which task goes to which."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from jobkit.errors import SettingsError

Chooser: TypeAlias = Callable[[Sequence[Any], Mapping[str, Any]], str | None]
"""Picks a queue's name by a task's arguments; None leaves it to the next rule."""

NAME_LIMIT = 255
"""Bytes of a queue's name that RabbitMQ takes."""


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue: its share of the workers, and the seconds in which a job is due.

    ``dead_letter_queue`` is empty unless the project names one. RabbitMQ alone
    knows the others: the ``type`` of the queue (empty: the app's), the number of
    returns after which it gives a message up, and whether jobkit collects those.
    """

    name: str
    weight: int = 1
    target: float | None = None
    dead_letter_queue: str = ""
    type: str = ""
    delivery_limit: int | None = None
    collect: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """Where a task goes, and where its dead letters go if the route says so."""

    queue: str
    dead_letter_queue: str = ""


DEFAULT_QUEUES = (
    QueueSpec("critical", weight=8, target=30.0),
    QueueSpec("high", weight=4, target=300.0),
    QueueSpec("normal", weight=2, target=1_800.0),
    QueueSpec("low", weight=1, target=86_400.0),
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of ``jobkit_routes``: the tasks it is for, and their route."""

    key: str | re.Pattern[str]
    queue: str | Chooser
    dead_letter_queue: str = ""

    @property
    def line(self) -> str:
        """Where it stands in the project's settings."""
        return _line(self.key)

    def matches(self, task: str) -> bool:
        """Whether it is for this task; a regex has to match from the beginning."""
        if isinstance(self.key, str):
            return fnmatchcase(task, self.key)
        return self.key.match(task) is not None

    def pick(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
        """The queue for these arguments."""
        return self.queue if isinstance(self.queue, str) else self.queue(args, kwargs)


@dataclass(frozen=True, slots=True)
class RoutingMap:
    """All queues by name, rules for exact names, and patterns in their order."""

    queues: Mapping[str, QueueSpec]
    exact: Mapping[str, Rule] = field(default_factory=dict)
    patterns: tuple[Rule, ...] = ()

    @classmethod
    def read(cls, queues: Any, routes: Any) -> RoutingMap | None:
        """Read ``jobkit_queues`` and ``jobkit_routes``; None when neither is set.

        With routes alone the default queues stand.

        Raises:
            SettingsError: It names the line, and what is wrong with it.
        """
        if queues is None and routes is None:
            return None
        specs = _read_queues(queues)
        rules = _read_routes({} if routes is None else routes, specs)
        patterns = tuple(rule for rule in rules if _is_pattern(rule.key))
        _check_reachable(patterns)
        exact = {str(rule.key): rule for rule in rules if not _is_pattern(rule.key)}
        return cls(specs, exact, patterns)

    def find(
        self,
        task: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Route | None:
        """The route of a task with these arguments, or None if no rule has one.

        Raises:
            SettingsError: A rule picked a queue that does not exist.
        """
        matched = self.match(task, args, kwargs)
        return matched and Route(matched[1], matched[0].dead_letter_queue)

    def match(
        self,
        task: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[Rule, str] | None:
        """The rule that decides about this call, and the queue it picks.

        Raises:
            SettingsError: A rule picked a queue that does not exist.
        """
        for rule in self.asked(task):
            queue = rule.pick(args, {} if kwargs is None else kwargs)
            if queue is not None:
                _check_queue(rule.line, queue, self.queues)
                return rule, queue
        return None

    def unused(self, tasks: Sequence[str]) -> Iterator[str]:
        """The lines that are for none of these tasks, with the name that is near."""
        for rule in (*self.exact.values(), *self.patterns):
            if not any(rule.matches(task) for task in tasks):
                close = get_close_matches(str(rule.key), tasks, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                yield f"{rule.line} is for no task of this app.{hint}"

    def before(self, queue: str) -> Sequence[str]:
        """The queues that are more urgent: for one that is not in the map, all."""
        names = list(self.queues)
        return names[: names.index(queue)] if queue in self.queues else names

    def dead_letter_queue(self, task: str, queue: str) -> str:
        """Where copies of the dead letters of a task in this queue go.

        The route's choice comes first, then the queue's; empty if neither names a
        queue. A rule that goes by
        arguments is not asked: it counts if it names a dead-letter queue.
        """
        for rule in self.asked(task):
            if rule.dead_letter_queue:
                return rule.dead_letter_queue
            if isinstance(rule.queue, str):
                break
        spec = self.queues.get(queue)
        return spec.dead_letter_queue if spec else ""

    def dead_letter_queues(self) -> set[str]:
        """All that are named."""
        rules = (*self.exact.values(), *self.patterns)
        by_rules = {rule.dead_letter_queue for rule in rules}
        by_queues = {spec.dead_letter_queue for spec in self.queues.values()}
        return (by_rules | by_queues) - {""}

    @property
    def collects(self) -> bool:
        """Whether what RabbitMQ gives up is collected, of any queue."""
        return any(spec.collect for spec in self.queues.values())

    def asked(self, task: str) -> Iterator[Rule]:
        """The rules for a task, in the order in which they are asked."""
        if task in self.exact:
            yield self.exact[task]
        yield from (rule for rule in self.patterns if rule.matches(task))


def _read_queues(queues: Any) -> dict[str, QueueSpec]:
    if queues is None:
        return {spec.name: spec for spec in DEFAULT_QUEUES}
    if not isinstance(queues, Mapping) or not queues:
        raise SettingsError(
            f"jobkit_queues is {queues!r}, expected is a dict of at least one queue: "
            "{'name': {'weight': 1}}.",
        )
    specs = {name: _read_queue(name, options) for name, options in queues.items()}
    for name, spec in specs.items():
        _check_dead_letters(f"jobkit_queues[{name!r}]", spec.dead_letter_queue, specs)
    return specs


def _read_queue(name: Any, options: Any) -> QueueSpec:
    line = f"jobkit_queues[{name!r}]"
    if not isinstance(name, str) or not name:
        raise SettingsError(f"{line}: the name of a queue is a text.")
    _check_name(line, name)
    known = {"weight": 1, "target": None, "dead_letter_queue": "", **_BROKERS_OWN}
    given = {**known, **_options(line, options, known)}
    weight, target = given["weight"], given["target"]
    if not isinstance(weight, int) or isinstance(weight, bool) or weight < 1:
        raise SettingsError(
            f"{line}: weight is {weight!r}, expected is a whole number from 1. "
            "To stop work on a queue, start no worker for it.",
        )
    if target is not None and not _is_positive(target):
        raise SettingsError(f"{line}: target is {target!r}, expected is seconds, > 0.")
    _check_brokers_own(line, given)
    return QueueSpec(
        name,
        weight,
        None if target is None else float(target),
        given["dead_letter_queue"],
        **{option: given[option] for option in _BROKERS_OWN},
    )


_BROKERS_OWN: dict[str, Any] = {"type": "", "delivery_limit": None, "collect": False}


def _check_brokers_own(line: str, given: Mapping[str, Any]) -> None:
    kind, limit, collect = (given[option] for option in _BROKERS_OWN)
    if kind not in ("", "classic", "quorum"):
        raise SettingsError(
            f"{line}: type is {kind!r}, expected is 'classic' or 'quorum'."
        )
    if limit is not None and (type(limit) is not int or limit < 1):
        raise SettingsError(
            f"{line}: delivery_limit is {limit!r}, expected is a whole number from 1."
        )
    if limit is not None and kind != "quorum":
        raise SettingsError(
            f"{line}: only quorum queues have a delivery_limit: set 'type': 'quorum'."
        )
    if not isinstance(collect, bool):
        raise SettingsError(
            f"{line}: collect is {collect!r}, expected is True or False."
        )


def _read_routes(routes: Any, queues: Mapping[str, QueueSpec]) -> list[Rule]:
    if not isinstance(routes, Mapping):
        raise SettingsError(
            f"jobkit_routes is {routes!r}, expected is a dict of task names or "
            "patterns: {'shop.*': 'high'}.",
        )
    return [_read_route(key, route, queues) for key, route in routes.items()]


def _read_route(key: Any, route: Any, queues: Mapping[str, QueueSpec]) -> Rule:
    line = _line(key)
    if not isinstance(key, str | re.Pattern) or not key:
        raise SettingsError(
            f"{line}: a route is for a task name, a pattern or a regex."
        )
    _check_key(line, key)
    if isinstance(route, str) or callable(route):
        route = {"queue": route}
    given = _options(line, route, ("queue", "dead_letter_queue"))
    rule = Rule(key, given.get("queue"), given.get("dead_letter_queue", ""))
    if callable(rule.queue):
        _check_chooser(line, rule.queue)
    else:
        _check_queue(line, rule.queue, queues)
    _check_dead_letters(line, rule.dead_letter_queue, queues)
    return rule


def _options(line: str, options: Any, known: Sequence[str] | Mapping[str, Any]) -> Any:
    if not isinstance(options, Mapping):
        raise SettingsError(
            f"{line} is {options!r}, expected is a dict with {', '.join(known)}.",
        )
    for name in options:
        if name not in known:
            raise SettingsError(
                f"{line}: there is no option {name!r}.{_nearest(name, known)}",
            )
    return options


def _check_queue(line: str, queue: Any, queues: Mapping[str, QueueSpec]) -> None:
    if queue is None:
        raise SettingsError(f"{line} names no queue: add 'queue': NAME to it.")
    if not isinstance(queue, str) or queue not in queues:
        raise SettingsError(
            f"{line}: there is no queue {queue!r} in jobkit_queues."
            f"{_nearest(queue, queues)}",
        )


def _check_name(line: str, name: str) -> None:
    """Refuse what a broker, or the worker's option -Q, would take otherwise."""
    odd = name != name.strip() or "," in name or not name.isprintable()
    if odd or name.startswith("amq.") or len(name.encode()) > NAME_LIMIT:
        raise SettingsError(
            f"{line}: {name!r} cannot be the name of a queue. It is up to {NAME_LIMIT} "
            "bytes without commas, control characters and space around it, and does "
            "not begin with 'amq.', which belongs to RabbitMQ.",
        )


def _check_key(line: str, key: str | re.Pattern[str]) -> None:
    if isinstance(key, re.Pattern):
        if not isinstance(key.pattern, str):
            raise SettingsError(f"{line}: the regex is one for bytes; names are texts.")
    elif key != key.strip():
        raise SettingsError(f"{line}: no task has space around its name.")
    elif "[" in re.sub(r"\[!?.[^]]*\]", "", key):
        raise SettingsError(f"{line} can never match: there is a '[' without its ']'.")


def _check_chooser(line: str, chooser: Chooser) -> None:
    if inspect.iscoroutinefunction(chooser):
        raise SettingsError(f"{line}: {chooser!r} is async, and nobody would wait.")
    try:
        inspect.signature(chooser).bind((), {})
    except TypeError:
        raise SettingsError(
            f"{line}: {chooser!r} cannot be called with (args, kwargs) of the task.",
        ) from None
    except ValueError:
        # Some that are written in C do not tell their signature.
        return


def _check_dead_letters(line: str, name: Any, queues: Mapping[str, QueueSpec]) -> None:
    if not isinstance(name, str):
        raise SettingsError(f"{line}: dead_letter_queue is {name!r}, expected a name.")
    if name:
        _check_name(line, name)
    if name in queues:
        raise SettingsError(
            f"{line}: dead_letter_queue is {name!r}, from which workers take jobs: a "
            "dead letter there would run again. Choose a name of its own.",
        )


def _check_reachable(patterns: Sequence[Rule]) -> None:
    for place, rule in enumerate(patterns):
        for earlier in patterns[:place]:
            if not callable(earlier.queue) and _covers(earlier.key, rule.key):
                raise SettingsError(
                    f"{_line(rule.key)} can never match: {_line(earlier.key)} before "
                    "it takes all its tasks. Move it up, or remove it.",
                )


_EVERYTHING = ("", ".*", ".+", "^.*", ".*$", "^.*$")


def _covers(wide: str | re.Pattern[str], narrow: str | re.Pattern[str]) -> bool:
    """Whether all that ``narrow`` matches is matched by ``wide``, as far as known."""
    if isinstance(wide, re.Pattern):
        return wide.pattern in _EVERYTHING
    if isinstance(narrow, re.Pattern) or "?" in wide or "[" in wide:
        return not wide.strip("*")
    # A letter that is in no pattern stands for all that a wildcard may be: only a
    # star takes it.
    return fnmatchcase(re.sub(r"\[!?.[^]]*\]|[*?]", "\0", narrow), wide)


def _is_pattern(key: str | re.Pattern[str]) -> bool:
    return isinstance(key, re.Pattern) or any(sign in key for sign in "*?[")


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf


def _line(key: Any) -> str:
    return f"jobkit_routes[{key!r}]"


def _nearest(name: Any, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = get_close_matches(str(name), list(known), n=1)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" There are {', '.join(known)}."
