"""What an error means for its job: a verdict, whether to run again, and when."""

from __future__ import annotations

import errno
import math
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import timedelta
from difflib import get_close_matches
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Literal

from jobkit import clock, codec
from jobkit.errors import (
    CodecError,
    Permanent,
    RateLimited,
    SettingsError,
    StageError,
    StoreUnavailable,
    Transient,
)


class Verdict(StrEnum):
    """What kind of error it is; each kind but permanent has a budget of retries."""

    transient = "transient"
    rate_limited = "rate_limited"
    unknown = "unknown"
    permanent = "permanent"
    infrastructure = "infrastructure"
    time_limit = "time_limit"


Reason = Literal["", "permanent", "never", "retries_exhausted", "too_many_errors"]

_COUNTS = ("transient", "rate_limited", "unknown", "crashes", "total")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a job runs again after errors, and after what time.

    A budget of N means N retries: the next error of that kind is the last one.
    ``total`` bounds all errors together but rate limits; ``crashes`` is how many
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
    """What a job has used up of its policy, and where its last error happened."""

    transient: int = 0
    rate_limited: int = 0
    unknown: int = 0
    time_limit: int = 0
    total: int = 0
    position: int = 0

    def encode(self) -> str:
        """The text that the store keeps."""
        return codec.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Budgets:
        """The reverse of ``encode``; nothing stored means nothing used."""
        return cls(**codec.loads(text)) if text else cls()

    def renewed(self, position: int) -> Budgets:
        """The budgets after the job got from its last error to ``position``.

        With progress only the number of all errors stays.
        """
        return Budgets(total=self.total) if position > self.position else self


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
    verdict, retry_after = classify(error, policy)
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


def classify(error: BaseException, policy: RetryPolicy) -> tuple[Verdict, float | None]:
    """The verdict on an error, and the seconds that a rate limit asks to wait.

    The policy's verdicts come first, then the HTTP status of the error or of its
    response, then what is known of its class. An error that tells nothing is
    judged by its cause.
    """
    cause = _cause(error)
    verdict = _verdict(error, policy)
    if verdict is None and cause is not None:
        verdict = _verdict(cause, policy)
    if verdict is not Verdict.rate_limited:
        return verdict or Verdict.unknown, None
    wait = _retry_after(error)
    return verdict, _retry_after(cause) if wait is None else wait


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

_LONGEST_WAIT = 30 * 86_400.0
"""A service that asks for more seconds than this made a mistake."""


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


_JOBKIT: Mapping[type[BaseException], Verdict] = {
    Transient: Verdict.transient,
    RateLimited: Verdict.rate_limited,
    Permanent: Verdict.permanent,
    StoreUnavailable: Verdict.transient,
    CodecError: Verdict.permanent,
    StageError: Verdict.permanent,
    SettingsError: Verdict.permanent,
}

# By package and class, so that none of them has to be imported or installed.
_TRANSIENT = {
    "builtins": "ConnectionError TimeoutError",
    "socket": "gaierror herror",
    "ssl": "SSLError",
    "http": "IncompleteRead BadStatusLine",
    "smtplib": "SMTPServerDisconnected SMTPConnectError",
    "httpx httpcore": "TimeoutException NetworkError ProxyError RemoteProtocolError",
    "requests": "ConnectionError Timeout ChunkedEncodingError",
    "urllib3": "TimeoutError ProtocolError NewConnectionError ProxyError MaxRetryError",
    "aiohttp": "ClientConnectionError ClientPayloadError ServerTimeoutError",
    "botocore": "HTTPClientError ConnectionError",
    "redis valkey": "ConnectionError TimeoutError ReadOnlyError TryAgainError "
    "ClusterDownError MasterDownError",
    "kombu": "OperationalError ConnectionLimitExceeded",
    "amqp": "RecoverableConnectionError RecoverableChannelError",
    "celery sqlalchemy": "TimeoutError",
    "django sqlalchemy psycopg psycopg2 pymysql MySQLdb sqlite3": "OperationalError "
    "InterfaceError",
    "pymongo": "AutoReconnect NetworkTimeout",
}

_NAMES: Mapping[tuple[str, str], Verdict] = {
    **{
        (package, name): Verdict.transient
        for packages, names in _TRANSIENT.items()
        for package in packages.split()
        for name in names.split()
    },
    # These would be transient by their ancestors, but no time will mend them.
    ("ssl", "SSLCertVerificationError"): Verdict.unknown,
    ("redis", "AuthenticationError"): Verdict.unknown,
    ("valkey", "AuthenticationError"): Verdict.unknown,
    ("builtins", "MemoryError"): Verdict.infrastructure,
    ("celery", "SoftTimeLimitExceeded"): Verdict.time_limit,
    ("billiard", "SoftTimeLimitExceeded"): Verdict.time_limit,
}

_NETWORK = {
    errno.EADDRNOTAVAIL,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
}

_FAILURES = range(400, 600)

# Cloudflare has 520 to 524 for an origin that does not answer; 529 is overload.
_PASSING = {408, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}

# GitHub answers 403 to those who are too fast, and says how long to wait.
_LIMITED_IF_ASKED_TO_WAIT = {403, 503}

_THROTTLED = (
    "throttl",
    "slowdown",
    "toomanyrequests",
    "requestlimitexceeded",
    "throughputexceeded",
)
"""Parts of the error codes by which AWS says so, often with the status 400."""


def _verdict(error: BaseException, policy: RetryPolicy) -> Verdict | None:
    """None when nothing is known about it."""
    for kind in type(error).__mro__:
        verdict = policy.verdicts.get(kind) or _JOBKIT.get(kind)
        if verdict is not None:
            return Verdict(verdict)
    return _by_response(error) or _by_class(error)


def _by_class(error: BaseException) -> Verdict | None:
    for kind in type(error).__mro__:
        package = kind.__module__.partition(".")[0]
        verdict = _NAMES.get((package, kind.__name__))
        if verdict is not None:
            return verdict
        if kind.__name__ == "ValidationError":
            return Verdict.permanent
    is_network = isinstance(error, OSError) and error.errno in _NETWORK
    return Verdict.transient if is_network else None


def _cause(error: BaseException) -> BaseException | None:
    # urllib keeps what went wrong as the reason.
    found = error.__cause__ or _peek(error, "reason")
    return found if isinstance(found, BaseException) else None


def _by_response(error: BaseException) -> Verdict | None:
    status = _status(error)
    if status == HTTPStatus.TOO_MANY_REQUESTS or _is_throttled(error):
        return Verdict.rate_limited
    if status in _LIMITED_IF_ASKED_TO_WAIT and _retry_after(error) is not None:
        return Verdict.rate_limited
    if status in _PASSING:
        return Verdict.transient
    is_refused = status is not None and status < HTTPStatus.INTERNAL_SERVER_ERROR
    return Verdict.permanent if is_refused else None


def _status(error: BaseException) -> int | None:
    """The HTTP status of a failed call, wherever its library keeps it."""
    response = _peek(error, "response")
    found = [_peek(response, name) for name in ("status_code", "status")]
    found.append(_peek(_peek(response, "ResponseMetadata"), "HTTPStatusCode"))
    found += [_peek(error, name) for name in ("status_code", "status", "code")]
    with suppress(Exception):
        found.append(_peek(error, "getcode")())
    statuses = (value for value in found if isinstance(value, int))
    return next((int(value) for value in statuses if value in _FAILURES), None)


def _is_throttled(error: BaseException) -> bool:
    code = _peek(_peek(_peek(error, "response"), "Error"), "Code")
    return isinstance(code, str) and any(word in code.lower() for word in _THROTTLED)


def _retry_after(error: BaseException | None) -> float | None:
    response = _peek(error, "response")
    headers = (
        _peek(response, "headers"),
        _peek(_peek(response, "ResponseMetadata"), "HTTPHeaders"),
        _peek(error, "headers"),
    )
    found = (_peek(error, "retry_after"), *map(_retry_after_header, headers))
    waits = (_seconds(value) for value in found)
    return next((wait for wait in waits if wait is not None), None)


def _retry_after_header(headers: Any) -> Any:
    with suppress(Exception):
        for name, value in headers.items():
            if str(name).lower() == "retry-after":
                return value
    return None


def _seconds(value: Any) -> float | None:
    """Seconds from a number, its text, a time span or an HTTP date."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        value = _seconds_in(value)
    if not isinstance(value, int | float) or not value >= 0:
        return None
    return float(min(value, _LONGEST_WAIT))


def _seconds_in(text: str) -> float | None:
    with suppress(ValueError):
        return float(text)
    with suppress(ValueError, OverflowError):
        return max(0.0, clock.seconds_until(parsedate_to_datetime(text)))
    return None


def _peek(thing: Any, name: str) -> Any:
    """An entry or attribute of a stranger, or None.

    Errors carry anything, and a property of one may raise anything.
    """
    with suppress(Exception):
        return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name)
    return None


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
