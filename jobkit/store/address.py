"""URLs of stores: which kind they name, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from jobkit.errors import SettingsError

PLAIN = {"valkey": "redis", "valkeys": "rediss", "redis+socket": "unix"}
KINDS = ("redis", "rediss", "unix", "sentinel", "redis+cluster", "rediss+cluster")


def resolved(url: str) -> tuple[str, str]:
    """The kind of a store's URL, and the URL in the words of Redis clients.

    Raises:
        SettingsError: It is of another kind.
    """
    head, _, rest = url.partition(":")
    scheme = PLAIN.get(head.lower(), head.lower())
    if scheme not in KINDS:
        raise SettingsError(
            f"{safe_url(url)!r} is no store: use redis://, rediss://, valkey://, "
            "valkeys://, unix://, sentinel:// or redis+cluster://.",
        )
    return scheme, f"{scheme.removesuffix('+cluster')}:{rest}"


def split(url: str, address: str) -> SplitResult:
    """The parts of one address of a URL.

    Raises:
        SettingsError: Its host or port is malformed.
    """
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        # The error may show a part of a password.
        raise wrong(
            url,
            "its host or port is malformed (a port is a number up to 65535; in a "
            "password, / is written as %2F, # as %23, ? as %3F and @ as %40)",
        ) from None
    return parts


def database(url: str, parts: SplitResult) -> int:
    """The number that the path is; 0 without one.

    Raises:
        SettingsError: It is no number.
    """
    path = parts.path.strip("/")
    if path and not path.isdecimal():
        raise wrong(url, "the database, which is its path, is no number")
    return int(path or 0)


def place(options: Mapping[str, Any]) -> tuple[str, int]:
    """The server that a client's options name: its host and port, or its socket."""
    path = options.get("path")
    if path:
        return path, 0
    return options.get("host") or "localhost", int(options.get("port") or 6379)


def wrong(url: str, what: str) -> SettingsError:
    """The error of a URL of which a part is wrong."""
    return SettingsError(f"{safe_url(url)!r} is no address of a store: {what}.")


def safe_url(url: str) -> str:
    """The URL without its password, for messages."""
    url = re.sub(r"(\w*password=)[^&;]*", r"\1***", url)
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, _, user = head.partition("://")
    return f"{scheme}://{user.split(':')[0]}:***@{tail}"
