"""A result backend that does not take the first result of each task."""

from __future__ import annotations

from typing import Any

import redis
from celery import states
from celery.backends.redis import RedisBackend


class FickleBackend(RedisBackend):
    """Redis, but away for a moment whenever a task has succeeded."""

    def store_result(self, task_id: str, result: Any, state: str, **kwargs: Any) -> Any:  # type: ignore[override]
        """Refuse the first success, take all else."""
        first = state == states.SUCCESS and self.client.set(
            f"fickle-{task_id}", 1, nx=True
        )
        if first:
            raise redis.ConnectionError("away for a moment")
        return super().store_result(task_id, result, state, **kwargs)
