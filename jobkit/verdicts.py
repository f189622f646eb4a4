"""What an error means: a verdict, and how long a rate limit asks to wait."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from jobkit import clock
from jobkit.errors import (
    CodecError,
    Permanent,
    RateLimited,
    SettingsError,
    StageError,
    StoreUnavailable,
    Transient,
)

_LONGEST_WAIT = 30 * 86_400.0
"""A service that asks for more seconds than this made a mistake."""

Verdicts = Mapping[type[BaseException], "Verdict | str"]


class Verdict(StrEnum):
    """What kind of error it is; each kind but permanent has a budget of retries."""

    transient = "transient"
    rate_limited = "rate_limited"
    unknown = "unknown"
    permanent = "permanent"
    infrastructure = "infrastructure"
    time_limit = "time_limit"


def classify(error: BaseException, verdicts: Verdicts) -> tuple[Verdict, float | None]:
    """The verdict on an error, and the seconds that a rate limit asks to wait.

    ``verdicts`` come first, by the nearest class, then the HTTP status of the error or of its
    response, then what is known of its class. An error that tells nothing is
    judged by its cause.
    """
    cause = _cause(error)
    verdict = _verdict(error, verdicts)
    if verdict is None and cause is not None:
        verdict = _verdict(cause, verdicts)
    if verdict is not Verdict.rate_limited:
        return verdict or Verdict.unknown, None
    wait = _retry_after(error)
    return verdict, _retry_after(cause) if wait is None else wait


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


def _verdict(error: BaseException, verdicts: Verdicts) -> Verdict | None:
    """None when nothing is known about it."""
    for kind in type(error).__mro__:
        verdict = verdicts.get(kind) or _JOBKIT.get(kind)
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
