"""The ``jobkit_*`` settings of a Celery app, read once and checked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

from jobkit.errors import SettingsError

KEY = "jobkit_"
"""What the names of all settings begin with in ``app.conf``."""

STORE_SCHEMES = (
    "redis://",
    "rediss://",
    "valkey://",
    "valkeys://",
    "unix://",
    "redis+socket://",
    "sentinel://",
    "redis+cluster://",
)

DAY = 86_400.0

MOST_PARTITIONS = 1024

QueueOrder = Literal["weighted", "strict"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a project set, or the defaults.

    Times are seconds (a ``timedelta`` is taken too). ``store_timeout`` bounds
    one command, ``hint_seconds`` is the time after which a published message is
    taken for lost, ``mirror_interval`` is the time between two copies of the
    progress in the result backend (0: none), ``keep_*`` is how long finished
    records stay, ``dead_letter_notice`` is how long before its end a dead one is
    announced. ``time_slice`` is how long a job goes on before it asks whether more
    urgent ones wait (None: for ever). ``retry_policy``, ``queues``, ``routes`` and
    ``limits`` are as written. ``show_arguments`` lets the
    pages in Flower show what a job was called with.
    """

    store_url: str | None = None
    prefix: str = "jobkit"
    partitions: int = 1
    store_timeout: float = 2.0
    lease_seconds: float = 30.0
    checkpoint_interval: float = 1.0
    checkpoint_every: int | None = None
    retry_policy: Any = None
    hint_seconds: float = 300.0
    dispatch_interval: float = 0.5
    ack_after: float = 10.0
    mirror_interval: float = 2.0
    keep_succeeded: float = DAY
    keep_partial: float = 7 * DAY
    keep_cancelled: float = 7 * DAY
    keep_dead: float = 30 * DAY
    dead_letter_notice: float = DAY
    queues: Any = None
    routes: Any = None
    queue_order: QueueOrder = "weighted"
    time_slice: float | None = None
    limits: Any = None
    show_arguments: bool = False

    @classmethod
    def read(cls, conf: Mapping[str, Any]) -> Settings:
        """Read the settings from a dict or from ``app.conf``.

        Raises:
            SettingsError: One is unknown, ill-typed or out of range.
        """
        return cls(
            **{name: _checked(name, value) for name, value in _written(conf).items()}
        )


def store_url(settings: Settings, conf: Mapping[str, Any]) -> str:
    """The address of the job store.

    It is ``jobkit_store_url``, else the result backend, else the broker, where
    those are Redis or Valkey; their TLS options and the name of their Sentinel
    group come along.

    Raises:
        SettingsError: None of them is.
    """
    if settings.store_url is not None:
        return _translated(settings.store_url)
    backend, broker = _address(conf, "result_backend"), _address(conf, "broker_url")
    if _is_store(backend):
        url, tls = backend, conf.get("redis_backend_use_ssl")
        options = conf.get("result_backend_transport_options")
    elif _is_store(broker):
        url, tls = broker, conf.get("broker_use_ssl")
        options = conf.get("broker_transport_options")
    else:
        raise SettingsError(
            f"There is no store for the jobs: neither result_backend "
            f"({_scheme(backend)}) nor broker_url ({_scheme(broker)}) is one Redis or "
            "Valkey. Set jobkit_store_url, for example to 'redis://localhost:6379/0'.",
        )
    return _translated(*_with_options(url, tls, options), without=_TIMES)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a setting takes: in words, and as a test of the converted value."""

    expected: str
    fits: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _seconds(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return float(value) if _is_number(value) else value


def _is_prefix(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[\w.:-]+", value, re.ASCII))


def _is_store(value: Any) -> bool:
    """Whether it names one store: only Sentinels are several addresses of one."""
    return (
        isinstance(value, str)
        and value.startswith(STORE_SCHEMES)
        and (";" not in value or value.startswith("sentinel://"))
    )


def _is_policy(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, Mapping)
        or (isinstance(value, str) and value == "never")
        or all(hasattr(value, name) for name in ("transient", "verdicts", "never"))
    )


_PERIOD = _Kind("seconds, more than 0", lambda v: _is_number(v) and v > 0, _seconds)
_ANYTHING = _Kind("anything", lambda _: True)

_KINDS = {
    "store_url": _Kind(
        f"None or one address that begins with {', '.join(STORE_SCHEMES)}",
        lambda value: value is None or _is_store(value),
    ),
    "prefix": _Kind("letters, digits and _ . : -, at least one", _is_prefix),
    "partitions": _Kind(
        f"a whole number from 1 to {MOST_PARTITIONS}",
        lambda value: _is_count(value) and value <= MOST_PARTITIONS,
    ),
    "store_timeout": _PERIOD,
    "lease_seconds": _PERIOD,
    "checkpoint_interval": _PERIOD,
    "checkpoint_every": _Kind(
        "None or a whole number of items, at least 1",
        lambda value: value is None or _is_count(value),
    ),
    "retry_policy": _Kind(
        "a RetryPolicy, a dict of its arguments, 'never' or None", _is_policy
    ),
    "hint_seconds": _PERIOD,
    "dispatch_interval": _PERIOD,
    "ack_after": _PERIOD,
    "mirror_interval": _Kind(
        "seconds, 0 (never) or more", lambda v: _is_number(v) and v >= 0, _seconds
    ),
    "keep_succeeded": _PERIOD,
    "keep_partial": _PERIOD,
    "keep_cancelled": _PERIOD,
    "keep_dead": _PERIOD,
    "dead_letter_notice": _PERIOD,
    "show_arguments": _Kind("True or False", lambda value: isinstance(value, bool)),
    "queues": _ANYTHING,
    "routes": _ANYTHING,
    "limits": _ANYTHING,
    "queue_order": _Kind(
        "'weighted' or 'strict'",
        lambda v: isinstance(v, str) and v in ("weighted", "strict"),
    ),
    "time_slice": _Kind(
        "None or seconds, more than 0",
        lambda v: v is None or (_is_number(v) and v > 0),
        _seconds,
    ),
}

_NAMES = tuple(field.name for field in fields(Settings))


def _written(conf: Mapping[str, Any]) -> dict[str, Any]:
    """The values in ``conf``, by the setting's name without ``jobkit_``."""
    # Going through the keys loads a lazy configuration; only then does it know
    # its namespace (CELERY_ in Django), and what it contains.
    keys = list(conf)
    namespace = getattr(conf, "prefix", None) or ""
    values = {}
    for key in keys:
        setting = key.removeprefix(namespace).lower()
        name = setting.removeprefix(KEY)
        if name == setting:
            continue
        if setting in conf:
            values[name] = conf[setting]
        elif name in _NAMES:
            right = (namespace + KEY.upper() if namespace else KEY) + name
            raise SettingsError(
                f"{key} is read by nobody: write "
                f"{right.upper() if namespace.isupper() else right.lower()}.",
            )
    return values


def _checked(name: str, value: Any) -> Any:
    kind = _KINDS.get(name)
    if kind is None:
        raise SettingsError(f"There is no setting {KEY}{name}. {_nearest(name)}")
    converted = kind.convert(value)
    if not kind.fits(converted):
        raise SettingsError(
            f"{KEY}{name} is {_shown(name, value)}, expected is {kind.expected}."
        )
    return converted


def _nearest(name: str) -> str:
    close = get_close_matches(name, _NAMES, n=1)
    if close:
        return f"Did you mean {KEY}{close[0]}?"
    return f"There are {', '.join(KEY + known for known in _NAMES)}."


def _shown(name: str, value: Any) -> str:
    """The value for a message, without the secrets of an address."""
    if name != "store_url" or not isinstance(value, str):
        return repr(value)
    return repr(re.sub(r"[^/]*@", "***@", value.partition("?")[0]))


def _address(conf: Mapping[str, Any], name: str) -> Any:
    # As an attribute of Celery's settings it takes the environment into account.
    value = getattr(conf, name, None) or conf.get(name)
    if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        return ";".join(value)
    return value


def _scheme(value: Any) -> str:
    if not isinstance(value, str):
        return "not set" if value is None else type(value).__name__
    scheme, mark, _ = value.partition("://")
    several = "several addresses, " if ";" in value else ""
    return f"{several}{scheme}{mark}..." if mark else several + "no address"


def _with_options(url: str, tls: Any, options: Any) -> tuple[str, dict[str, Any]]:
    """The address, and what Celery is told beside it, as parameters."""
    if url.startswith("sentinel://"):
        group = (options or {}).get("master_name")
        return url, {"master_name": group} if group else {}
    if not tls or not url.startswith(("redis://", "rediss://")):
        return url, {}
    files = tls.items() if isinstance(tls, Mapping) else ()
    words = {name: _word(name, value) for name, value in files if "ssl_" in name}
    texts = {name: word for name, word in words.items() if isinstance(word, str)}
    return "rediss://" + url.partition("://")[2], texts


# A client takes these from the address before it listens to store_timeout.
_TIMES = ("socket_timeout", "socket_connect_timeout", "retry_on_timeout")


def _translated(
    url: str, extra: Mapping[str, Any] | None = None, without: Container[str] = ()
) -> str:
    """The address with Celery's parameters in the words of Redis clients."""
    front, mark, last = url.rpartition(";")
    head, _, query = last.partition("?")
    written = dict(parse_qsl(query))
    wanted = {
        "db" if name == "virtual_host" else name: _word(name, value)
        for name, value in {**(extra or {}), **written}.items()
        if name not in without
    }
    if wanted == written:
        return url
    return f"{front}{mark}{head}" + (f"?{urlencode(wanted)}" if wanted else "")


def _word(name: str, value: Any) -> Any:
    if name == "ssl_cert_reqs":
        # The constants of the ssl module have the names that Celery's texts have.
        value = getattr(value, "name", value) or "none"
        return str(value).lower().removeprefix("cert_")
    return str(value).lower() if isinstance(value, bool) else value
