"""Celery's result backend seen through a class that differs in some points."""

from __future__ import annotations

from functools import cache
from typing import Any

from celery.backends.base import BaseKeyValueStoreBackend

KEY_VALUE: Any = BaseKeyValueStoreBackend


def is_usual(backend: Any) -> bool:
    """Whether it stores results as Celery's backends of keys and values do.

    Those with a ``__del__`` do not count: the end of a view would be taken for theirs.
    """
    store = getattr(type(backend), "_store_result", None)
    usual = KEY_VALUE._store_result  # noqa: SLF001
    return store is usual and not hasattr(backend, "__del__")


def seen_as(way: type, backend: Any) -> Any:
    """A view of a backend: connections and all else that it holds are shared with it."""
    view: Any = object.__new__(_mixed((way, type(backend))))
    view.__dict__ = backend.__dict__
    return view


@cache
def _mixed(bases: tuple[Any, ...]) -> type:
    return type("".join(base.__name__ for base in bases), bases, {})


def hasty(backend: Any) -> Any:
    """The same backend, which does not wait for a server that is away."""
    known = isinstance(backend, KEY_VALUE) and not hasattr(backend, "__del__")
    return seen_as(_Hasty, backend) if known else backend


class _Hasty:
    """A backend that gives up at the first error."""

    always_retry = property(lambda _: False)
    retry_policy = property(lambda _: {"max_retries": 0})
