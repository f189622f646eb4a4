"""Limits: how many jobs run at once, or start in a time, for each value of an argument."""

from __future__ import annotations

import enum
import hashlib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from fnmatch import fnmatchcase
from inspect import Parameter, Signature
from string import Formatter
from typing import Any
from uuid import UUID

from jobkit.errors import SettingsError
from jobkit.store.slots import Claim

MOST = 8
"""Limits of one task."""

LONGEST = 200
"""Characters of a key; the rest of a longer one is replaced by its digest."""

SHORTEST = 0.01
"""Seconds: the store counts milliseconds."""

PLAIN = (str, int, UUID, Decimal, date, enum.Enum)
"""Types of arguments that have one text each."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``n`` jobs with this key run at once.

    ``key`` may name arguments of the task: ``"shop:{shop}"``. Tasks that use the
    same key share its slots.

    Raises:
        SettingsError: An argument is ill-typed or out of range.
    """

    key: str
    n: int

    def __post_init__(self) -> None:
        _check_key(self.key)
        check_terms(self.key, self.n, None)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most ``n`` jobs with this key start in ``per`` seconds, spread evenly.

    A tenth of ``n`` (one at least) may start at once, so that any ``per`` seconds see
    ``n`` and that many more at the most. ``key`` as in ``Limit``.

    Raises:
        SettingsError: An argument is ill-typed or out of range.
    """

    key: str
    n: int
    per: float

    def __post_init__(self) -> None:
        _check_key(self.key)
        per: Any = self.per
        if isinstance(per, timedelta):
            per = per.total_seconds()
        check_terms(self.key, self.n, "nothing" if per is None else per)
        object.__setattr__(self, "per", float(per))


AnyLimit = Limit | RateLimit


def check_terms(key: str, n: Any, per: Any) -> None:
    """Refuse a number that is no limit, or a time that is none.

    Raises:
        SettingsError: ``n`` is not a whole number from 1, or ``per`` not seconds.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise SettingsError(
            f"The limit {key!r} is {n!r}, expected is a whole number from 1."
        )
    is_number = isinstance(per, int | float) and not isinstance(per, bool)
    if per is not None and not (is_number and SHORTEST <= per < math.inf):
        raise SettingsError(
            f"The limit {key!r} is per {per!r}, expected are seconds, {SHORTEST:g} or "
            "more."
        )


def _check_key(key: Any) -> None:
    if not isinstance(key, str) or not key:
        raise SettingsError(
            f"The key of a limit is {key!r}, expected is a text such as 'shop:{{shop}}'."
        )
    for name in _fields(key):
        if not name.isidentifier():
            raise SettingsError(
                f"The limit {key!r} has {{{name}}}: between braces belongs the name of "
                "an argument, and nothing else."
            )


def _fields(key: str) -> Iterator[str]:
    try:
        parts = list(Formatter().parse(key))
    except ValueError as error:
        raise SettingsError(f"The limit {key!r} is no template: {error}.") from None
    for _, name, form, conversion in parts:
        if name is not None:
            yield name + (f"!{conversion}" if conversion else "") + (form or "")


def limits_of(value: Any) -> tuple[AnyLimit, ...]:
    """The limits that a task option or a setting means.

    It is a list of limits, or of dicts of their arguments.

    Raises:
        SettingsError: It is not, or names a key twice.
    """
    if not isinstance(value, list | tuple):
        raise SettingsError(
            f"limits is {value!r}, expected is a list such as [Limit('shop:{{shop}}', 1)]."
        )
    found = tuple(_limit(entry) for entry in value)
    names = [(type(limit), limit.key) for limit in found]
    for kind, key in names:
        if names.count((kind, key)) > 1:
            raise SettingsError(f"The limit {key!r} is there twice.")
    if len(found) > MOST:
        raise SettingsError(f"There are {len(found)} limits, at most {MOST} may be.")
    return found


def _limit(entry: Any) -> AnyLimit:
    if isinstance(entry, Limit | RateLimit):
        return entry
    kind = RateLimit if isinstance(entry, Mapping) and "per" in entry else Limit
    wanted = set(kind.__slots__)
    if not isinstance(entry, Mapping) or set(entry) != wanted:
        raise SettingsError(
            f"A limit is a Limit, a RateLimit, or a dict of key, n (and per), not {entry!r}."
        )
    return kind(**entry)


@dataclass(frozen=True, slots=True)
class LimitMap:
    """What the setting ``jobkit_limits`` says: limits by patterns of task names."""

    limits: Mapping[str, tuple[AnyLimit, ...]]

    @classmethod
    def read(cls, value: Any) -> LimitMap:
        """Read the setting; None is nothing.

        Raises:
            SettingsError: It is ill-formed; the message names the pattern.
        """
        if value is None:
            return cls({})
        if not isinstance(value, Mapping):
            raise SettingsError(
                f"jobkit_limits is {value!r}, expected is a dict of task names or "
                "patterns: {'shop.*': [Limit('shop:{shop}', 1)]}."
            )
        found = {}
        for pattern, limits in value.items():
            try:
                found[str(pattern)] = limits_of(limits)
            except SettingsError as error:
                raise SettingsError(f"jobkit_limits[{pattern!r}]: {error}") from None
        return cls(found)

    def merged(self, task: str, own: tuple[AnyLimit, ...]) -> tuple[AnyLimit, ...]:
        """A task's limits: the setting's, exact name first, then its own other keys."""
        found: dict[tuple[type, str], AnyLimit] = {}
        exact = self.limits.get(task, ())
        by_pattern = (
            limit
            for pattern, limits in self.limits.items()
            if pattern != task and fnmatchcase(task, pattern)
            for limit in limits
        )
        for limit in (*exact, *by_pattern, *own):
            found.setdefault((type(limit), limit.key), limit)
        return tuple(found.values())


def check_names(limits: Sequence[AnyLimit], signature: Signature) -> None:
    """Refuse a template that names no argument of the task.

    Raises:
        SettingsError: It names the limit and the argument.
    """
    parameters = signature.parameters.values()
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return
    named = [p.name for p in parameters if p.kind is not Parameter.VAR_POSITIONAL]
    for limit in limits:
        for name in _fields(limit.key):
            if name not in named:
                raise SettingsError(
                    f"the limit {limit.key!r} names the argument {name!r}, but its "
                    f"arguments are {named}."
                )


def claims_of(
    limits: Sequence[AnyLimit],
    signature: Signature,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[Claim, ...]:
    """What a call wants of the limits, the narrowest first and rates last.

    Nothing when the arguments do not fit the task: its call fails.

    Raises:
        SettingsError: An argument is missing, or has no plain text.
    """
    if not limits:
        return ()
    arguments = _arguments(signature, args, kwargs)
    if arguments is None:
        return ()
    found: dict[str, Claim] = {}
    for limit in limits:
        per = limit.per if isinstance(limit, RateLimit) else None
        claim = Claim(_rendered(limit.key, arguments), limit.n, per)
        known = found.get(claim.name)
        if known is None or claim.n < known.n:
            found[claim.name] = claim
    return tuple(sorted(found.values(), key=lambda c: (c.per is not None, c.n)))


def _arguments(
    signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any] | None:
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    for parameter in signature.parameters.values():
        if parameter.kind is Parameter.VAR_KEYWORD:
            arguments |= arguments.pop(parameter.name, {})
    return arguments


def _rendered(key: str, arguments: Mapping[str, Any]) -> str:
    texts = {}
    for name in _fields(key):
        if name not in arguments:
            raise SettingsError(
                f"the limit {key!r} needs the argument {name!r}, which is not given."
            )
        value = arguments[name]
        if not isinstance(value, PLAIN):
            raise SettingsError(
                f"the limit {key!r} cannot use the argument {name!r}: it is "
                f"{value!r}, expected is a text, a number, a date or a UUID."
            )
        texts[name] = str(value.value if isinstance(value, enum.Enum) else value)
    text = key.format_map(texts)
    shown = text.encode(errors="replace").decode()
    if shown == text and len(text) <= LONGEST:
        return text
    # Half a character, as in some names of files, is none that a store keeps.
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{shown[: LONGEST - 17]}~{digest}"


def signature_of(run: Any, *, bound: bool) -> Signature:
    """The arguments of a task's body, without the task itself."""
    signature = inspect.signature(run)
    parameters = list(signature.parameters.values())
    return signature.replace(parameters=parameters[1:] if bound else parameters)
