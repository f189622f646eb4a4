"""What an error means for its job: a verdict, whether to run again, and when."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, Literal

from jobkit import codec
from jobkit.errors import (
    SettingsError,
)
from jobkit.verdicts import Verdict, classify

Reason = Literal["", "permanent", "never", "retries_exhausted", "too_many_errors"]

_COUNTS = ("transient", "rate_limited", "unknown", "crashes", "total")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a job runs again after errors, and after what time.

    A budget of N means N retries: the next error of that kind is the last one.
    ``total`` bounds all errors together but rate limits, and how often a result is
    tried again that the backend did not take; ``crashes`` is how many
    crashes without progress make the job poison. ``base`` and ``cap`` (seconds)
    shape the backoff. ``verdicts`` says what your exceptions mean: the nearest
    class in an error's line of ancestors wins, before the defaults. With
    ``never`` every error is final; only the task's own ``self.retry`` is left.

    Raises:
        SettingsError: An argument is ill-typed or out of range.
    """

    transient: int = 5
    rate_limited: int = 10
    unknown: int = 3
    crashes: int = 3
    total: int = 25
    base: float = 1.0
    cap: float = 300.0
    verdicts: Mapping[type[BaseException], Verdict | str] = field(
        default_factory=dict, hash=False
    )
    never: bool = False

    def __post_init__(self) -> None:
        for name in _COUNTS:
            _check_count(name, getattr(self, name), least=int(name == "crashes"))
        for name in ("base", "cap"):
            _check_seconds(name, getattr(self, name))
        if not isinstance(self.never, bool):
            raise SettingsError(_expected("never", self.never, "True or False"))
        object.__setattr__(self, "verdicts", _checked_verdicts(self.verdicts))

    @classmethod
    def of(cls, value: Any) -> RetryPolicy:
        """The policy that a setting or a task option means.

        It may be a policy, a dict of its arguments, ``"never"``, or None for the
        defaults.

        Raises:
            SettingsError: It is none of these, or an argument is wrong.
        """
        if value is None:
            return cls()
        if isinstance(value, RetryPolicy):
            return value
        if isinstance(value, str) and value == "never":
            return cls(never=True)
        if not isinstance(value, Mapping):
            raise SettingsError(
                f"A retry policy is a RetryPolicy, a dict of its arguments, 'never' or "
                f"None, not {value!r}.",
            )
        for name in value:
            _check_argument(name)
        return cls(**value)


@dataclass(frozen=True, slots=True)
class Budgets:
    """What a job has used up of its policy, and where its last error happened.

    ``own`` counts the retries that the task asked for itself.
    """

    transient: int = 0
    rate_limited: int = 0
    unknown: int = 0
    time_limit: int = 0
    total: int = 0
    position: int = 0
    own: int = 0

    def encode(self) -> str:
        """The text that the store keeps."""
        return codec.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Budgets:
        """The reverse of ``encode``; nothing stored means nothing used."""
        return cls(**codec.loads(text)) if text else cls()

    def renewed(self, position: int) -> Budgets:
        """The budgets after the job got from its last error to ``position``.

        With progress only the number of all errors stays, and of the task's own.
        """
        return (
            Budgets(total=self.total, own=self.own)
            if position > self.position
            else self
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from an error.

    ``delay`` is seconds, ``budgets`` are those after the error, ``reason`` says
    why a job that is not retried is dead, ``attempt`` is whether it counts as one.
    """

    verdict: Verdict
    retry: bool
    delay: float
    budgets: Budgets
    reason: Reason
    attempt: bool
    rate_limited: bool


def decide(
    error: BaseException,
    policy: RetryPolicy,
    budgets: Budgets,
    position: int,
    rand: Callable[[], float] = random.random,
) -> Decision:
    """Decide what follows from an error that a run ended with at ``position``.

    ``position`` grows with the job's progress; ``rand`` gives numbers from 0 to 1.
    """
    verdict, retry_after = classify(error, policy.verdicts)
    before = budgets.renewed(position)
    counter = _COUNTER.get(verdict)
    used = getattr(before, counter) if counter else 0
    after = _charged(before, counter, position)
    reason = _why_final(verdict, policy, used, after.total)
    delay = 0.0 if reason else _delay(policy, used, retry_after, rand)
    limited = verdict is Verdict.rate_limited
    return Decision(
        verdict=verdict,
        retry=not reason,
        delay=delay,
        budgets=after,
        reason=reason,
        attempt=not limited,
        rate_limited=limited,
    )


# A crash is counted by the store; an error that only looks like one is bounded here.
_COUNTER = {
    Verdict.transient: "transient",
    Verdict.rate_limited: "rate_limited",
    Verdict.unknown: "unknown",
    Verdict.infrastructure: "unknown",
    Verdict.time_limit: "time_limit",
}


def _charged(budgets: Budgets, counter: str | None, position: int) -> Budgets:
    spent = {counter: getattr(budgets, counter) + 1} if counter else {}
    total = budgets.total + (counter != "rate_limited")
    position = max(position, budgets.position)
    return replace(budgets, **spent, total=total, position=position)


def _why_final(verdict: Verdict, policy: RetryPolicy, used: int, total: int) -> Reason:
    if verdict is Verdict.permanent:
        return "permanent"
    if policy.never:
        return "never"
    # Time limits and the like have the budget of the unknown.
    if used >= getattr(policy, verdict, policy.unknown):
        return "retries_exhausted"
    is_error = verdict is not Verdict.rate_limited
    return "too_many_errors" if is_error and total > policy.total else ""


_BACKOFF_DOUBLINGS = 60


def _delay(
    policy: RetryPolicy,
    before: int,
    retry_after: float | None,
    rand: Callable[[], float],
) -> float:
    if retry_after:
        return retry_after * (1 + rand() / 10)
    # Exponential backoff with equal jitter: the upper half of the whole delay.
    whole = min(policy.cap, policy.base * 2.0 ** min(before, _BACKOFF_DOUBLINGS))
    return whole / 2 * (1 + rand())


def _checked_verdicts(verdicts: Any) -> dict[type[BaseException], Verdict]:
    if not isinstance(verdicts, Mapping):
        raise SettingsError(_expected("verdicts", verdicts, "a dict of classes"))
    return {kind: _checked_verdict(kind, word) for kind, word in verdicts.items()}


def _checked_verdict(kind: Any, word: Any) -> Verdict:
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise SettingsError(_expected("verdicts", kind, "exception classes as keys"))
    if word not in list(Verdict):
        words = f"one of {', '.join(Verdict)}"
        raise SettingsError(_expected(f"verdicts[{kind.__name__}]", word, words))
    return Verdict(word)


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SettingsError(_expected(name, value, f"a whole number from {least}"))


def _check_seconds(name: str, value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf:
        raise SettingsError(_expected(name, value, "seconds, 0 or more"))


def _check_argument(name: Any) -> None:
    names = [argument.name for argument in fields(RetryPolicy)]
    if name not in names:
        close = get_close_matches(str(name), names, n=1) or names
        raise SettingsError(
            f"A retry policy has no argument {name!r}; did you mean "
            f"{' or '.join(close)}?",
        )


def _expected(name: str, value: Any, expected: str) -> str:
    return f"{name} of a retry policy is {value!r}, expected is {expected}."
