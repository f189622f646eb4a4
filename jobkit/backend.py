"""Celery's result backend, as the run of a job writes to it."""

from __future__ import annotations

from functools import cache
from typing import Any

from celery import states
from celery.backends.base import BaseKeyValueStoreBackend

from jobkit import execution

_KEY_VALUE: Any = BaseKeyValueStoreBackend


def for_a_run(backend: Any) -> Any:
    """The same backend, which does not read before it writes where nothing can be.

    Celery's backends of keys and values read a result before they store one, so that
    a copy of a task that was thought lost does not overwrite a SUCCESS. The first run
    of a job that has its lease knows that there is none, and saves a round trip. Any
    other run, and any other backend, does what Celery does.

    Connections and all else that a backend holds are shared with ``backend``.
    """
    kind = type(backend)
    store = getattr(kind, "_store_result", None)
    # With a __del__ the end of a view would be taken for the backend's.
    if store is not _KEY_VALUE._store_result or hasattr(kind, "__del__"):  # noqa: SLF001
        return backend
    return _as(_Writing, backend)


def _as(way: type, backend: Any) -> Any:
    view: Any = object.__new__(_mixed((way, type(backend))))
    view.__dict__ = backend.__dict__
    return view


@cache
def _mixed(bases: tuple[Any, ...]) -> type:
    return type("".join(base.__name__ for base in bases), bases, {})


class _Writing:
    """A backend that a run writes to."""

    def _store_result(
        self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any
    ) -> Any:
        current = execution.current()
        backend: Any = self
        if current is not None and current.id == task_id:
            if current.alone:
                backend = _as(_Blind, self)
            current.shown = current.shown or state == states.SUCCESS
        return _KEY_VALUE._store_result(  # noqa: SLF001
            backend, task_id, result, state, *args, **kwargs
        )

    def __reduce__(self) -> Any:
        # As what it is a view of, whose class has a name to be found by.
        backend: Any = object.__new__(type(self).__bases__[1])
        backend.__dict__ = self.__dict__
        return backend.__reduce__()


class _Blind:
    """A backend in which there is no result yet."""

    def _get_task_meta_for(self, _: str) -> dict[str, Any]:
        return {"status": states.PENDING, "result": None}
