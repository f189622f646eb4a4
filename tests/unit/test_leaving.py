"""A worker's last look at its jobs, when it can learn nothing of them."""

import logging
from dataclasses import dataclass

import pytest
from celery.worker import state

from jobkit import leaving
from jobkit.leaving import Leaving
from jobkit.store.redis import RedisStore
from tests.unit.conftest import NOWHERE


@dataclass(frozen=True)
class Request:
    """What Celery's worker keeps of a message, as far as it is looked at."""

    id: str
    hostname: str = "a@test"


def watch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LAST_FETCH", "DEAF_AFTER"):
        monkeypatch.setattr(leaving, name, 0.0)
    worker = Leaving(lambda: RedisStore(NOWHERE, timeout=0.2), Request)
    worker.note()
    worker.watch()


def test_a_running_job_is_named_though_the_store_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running, waiting = Request("runs"), Request("waits")
    monkeypatch.setattr(state, "requests", {r.id: r for r in (running, waiting)})
    monkeypatch.setattr(state, "active_requests", {running})

    with caplog.at_level(logging.WARNING, "jobkit.leaving"):
        watch(monkeypatch)

    named = [text for text in caplog.messages if "has not stopped" in text]
    assert len(named) == 1
    assert named[0].startswith("Job runs has not stopped for the shutdown")
    assert "checkpoint: not known" in named[0]


def test_nothing_is_asked_when_nothing_is_held(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state, "requests", {})

    watch(monkeypatch)

    assert caplog.messages == []
