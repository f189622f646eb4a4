from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from jobkit import Limit, ProgressTask, RateLimit, State


@pytest.fixture
def sync(app: Celery) -> Any:
    """A task of which one job a shop runs at a time, and a few call the API."""

    @app.task(
        base=ProgressTask,
        name="shop.sync",
        shared=False,
        limits=[
            Limit("shop:{shop}", 1),
            RateLimit("api", 60, per=60),
        ],
    )
    def sync(shop: str) -> None:
        """Sync one shop."""

    return sync


def test_one_job_of_a_shop_is_let_go_and_the_next_waits_in_the_store(sync: Any) -> None:
    first, second, other = (sync.delay(shop) for shop in ("berlin", "berlin", "rome"))

    assert first.job().state is State.QUEUED
    assert second.job().state is State.BLOCKED
    assert other.job().state is State.QUEUED


def test_a_limit_shows_who_has_it_and_how_many_wait(app: Celery, sync: Any) -> None:
    first, _, _ = (sync.delay("berlin") for _ in range(3))

    limit = app.jobkit.jobs.limit("shop:berlin")  # type: ignore[attr-defined]
    assert limit.promised == (first.id,)  # its message is published
    assert limit.holders == ()  # nobody runs
    assert limit.waiting == 2


def test_a_limit_can_be_changed_while_its_jobs_wait(app: Celery, sync: Any) -> None:
    jobs = app.jobkit.jobs  # type: ignore[attr-defined]
    jobs.set_limit("shop:berlin", 2)
    results = [sync.delay("berlin") for _ in range(3)]
    states = [result.job().state for result in results]
    assert states == [State.QUEUED, State.QUEUED, State.BLOCKED]

    jobs.set_limit("shop:berlin", None)  # what the code says is in force again
    assert jobs.limit("shop:berlin").n == 1


def test_a_job_that_waits_is_cancelled_as_any_other(sync: Any) -> None:
    _, second = sync.delay("berlin"), sync.delay("berlin")

    assert second.cancel(reason="the shop has closed")
    assert second.job().state is State.CANCELLED


def test_an_argument_that_cannot_be_part_of_a_key_is_refused(sync: Any) -> None:
    with pytest.raises(ValueError, match="cannot use the argument 'shop'"):
        sync.delay(["berlin", "rome"])
