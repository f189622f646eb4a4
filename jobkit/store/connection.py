"""Clients of the servers that a store's URL can name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast
from urllib.parse import parse_qsl

import redis
from redis.backoff import ExponentialBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from jobkit.errors import SettingsError
from jobkit.store import address
from jobkit.store.address import safe_url


def connect(url: str, timeout: float) -> Callable[[], Any]:
    """What makes a client for any of the URLs that name a store.

    ``redis://``, ``rediss://``, ``valkey://``, ``valkeys://``, ``unix://``,
    ``sentinel://host:port;host:port/db?master_name=...`` and
    ``redis+cluster://host:port``. Only the client of a Cluster asks a server when
    it is made.

    Raises:
        SettingsError: The URL is none of these, or has a part that is wrong.
    """
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(ExponentialBackoff(cap=0.2, base=0.05), 1),
        "health_check_interval": 0,
    }
    scheme, where = address.resolved(url)
    if scheme == "sentinel":
        group = _sentinel(url, options)
        return lambda: group
    client = _plain(url, where, options)
    if not scheme.endswith("+cluster"):
        return lambda: client
    if client.get_connection_kwargs().get("db"):
        raise address.wrong(url, "a Cluster has only the database 0")
    return partial(RedisCluster.from_url, where, **options)


def _plain(url: str, where: str, options: dict[str, Any]) -> Any:
    if not where.startswith("unix:"):
        address.database(url, address.split(url, where))
    try:
        client = redis.Redis.from_url(where, **options)
        pool = client.connection_pool
        # Options are only looked at when a connection is made; it is not opened.
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        name = str(error).rpartition("argument ")[2]
        raise address.wrong(url, f"there is no option {name}") from error
    except (ValueError, redis.RedisError) as error:
        raise address.wrong(url, str(error).rstrip(".")) from error
    return client


def _sentinel(url: str, options: dict[str, Any]) -> Any:
    # Celery writes a group as sentinel://a:1;sentinel://b:2, each with a path.
    parts = [
        address.split(url, part if "://" in part else f"sentinel://{part}")
        for part in url.split(";")
    ]
    last = parts[-1]
    query = dict(parse_qsl(last.query))
    name = query.get("master_name")
    if not name:
        raise SettingsError(
            f"{safe_url(url)!r} does not say which group it means: "
            "add ?master_name=NAME.",
        )
    hosts = [(part.hostname or "localhost", part.port or 26379) for part in parts]
    quiet = {key: options[key] for key in ("socket_timeout", "socket_connect_timeout")}
    group: Any = cast("Any", Sentinel)(hosts, sentinel_kwargs=quiet)
    db = address.database(url, last)
    return group.master_for(name, db=db, password=last.password, **options)
