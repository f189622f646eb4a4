"""Celery's result backend, as the run of a job writes to it."""

from __future__ import annotations

from typing import Any

from celery import states
from celery.backends.redis import RedisBackend

from jobkit import execution
from jobkit.execution import Execution
from jobkit.store.values import Result
from jobkit.views import KEY_VALUE, is_usual, seen_as

LARGE = 64 * 1024
"""Bytes above which Celery stores a result: a script would hold its server up."""


def for_a_run(backend: Any) -> Any:
    """The same backend, which does not read before it writes where nothing can be.

    Celery's backends of keys and values read a result before they store one, so that
    a copy of a task that was thought lost does not overwrite a SUCCESS. The first run
    of a job that has its lease knows that there is none, and saves a round trip. Any
    other run, and any other backend, does what Celery does. A result that goes to the
    store's own server is written there by the script that ends the job.
    """
    return seen_as(_Writing, backend) if is_usual(backend) else backend


class _Writing:
    """A backend that a run writes to."""

    def _store_result(
        self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any
    ) -> Any:
        current = execution.current()
        backend: Any = self
        if current is not None and current.id == task_id:
            if current.alone:
                backend = seen_as(_Blind, backend)
            if state == states.SUCCESS and _may_end(current, self):
                backend = seen_as(_Ending, backend)
            current.shown = current.shown or state == states.SUCCESS
        return KEY_VALUE._store_result(  # noqa: SLF001
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


class _Ending:
    """A backend whose next result the store writes as it ends the job."""

    def _set_with_state(self, key: Any, value: Any, state: str) -> Any:
        backend: Any = self
        where = backend.expires or 0, backend.connparams["db"]
        current: Any = execution.current()
        fits = len(value) <= LARGE
        if not (fits and current.succeed_with(Result(key, value, *where))):
            super()._set_with_state(key, value, state)  # type: ignore[misc]


def _may_end(current: Execution, backend: Any) -> bool:
    """Whether the store can write to the backend, and the job may end with that."""
    plain = type(backend).__bases__[1] is RedisBackend
    return plain and current.may_end_at(backend.connparams)
