"""Celery apps for tests that start no worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.signals import before_task_publish

NOWHERE = "redis://127.0.0.1:1/0"
"""Where nobody answers: what needs a server fails at once."""

MakeApp = Callable[..., Celery]


class Now:
    """The store's milliseconds, moved by hand."""

    def __init__(self) -> None:
        self.milliseconds = 1_000_000

    def __call__(self) -> int:
        return self.milliseconds

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.milliseconds += round(seconds * 1000)


@pytest.fixture
def now() -> Now:
    """A time for a store in memory."""
    return Now()


@pytest.fixture
def make_app() -> Iterator[MakeApp]:
    """Makes an app from its settings; broker and store are nowhere unless told."""
    apps: list[Celery] = []

    def make(**settings: Any) -> Celery:
        app = Celery("test", set_as_current=False)
        app.conf.update(
            {"broker_url": NOWHERE, "jobkit_store_url": NOWHERE, **settings}
        )
        apps.append(app)
        return app

    yield make
    for app in apps:
        if kit := getattr(app, "jobkit", None):
            before_task_publish.disconnect(kit._sent_by_name)
        app.close()


@pytest.fixture
def app(make_app: MakeApp) -> Celery:
    """An app that has neither broker, store nor result backend."""
    return make_app()
