"""What producer and workers of a test have in common, passed by the environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from celery import Celery

from tests.worker import tasks

VARIABLE = "JOBKIT_TEST_SETUP"

LEASE = 2.0
"""Seconds: short, so that tests need not wait long for a recovery."""

QUORUM_CONF: Mapping[str, Any] = {
    "task_default_queue_type": "quorum",
    "task_default_exchange_type": "topic",
    "broker_transport_options": {"confirm_publish": True},
}
"""An app on quorum queues, as Celery's documentation sets one up."""

STAGES = ("prepare", "import", "end")


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker's URL, with the settings of an app that uses it."""

    url: str
    conf: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Setup:
    """Addresses and names of one test's app; ``conf`` is added to its settings.

    ``app`` is the module that its workers load.
    """

    broker: str
    backend: str
    store: str
    name: str
    journal: str
    conf: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[str, ...] = STAGES
    app: str = "tests.worker.app"

    def encode(self) -> str:
        """The text that a worker's environment carries."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Setup:
        """The reverse of ``encode``."""
        return cls(**json.loads(text))


def make_app(setup: Setup) -> Celery:
    """An app with all tasks; its queue and its jobs have names of their own."""
    app = Celery(
        "tests", broker=setup.broker, backend=setup.backend, set_as_current=False
    )
    app.conf.update(
        broker_connection_retry_on_startup=True,
        task_default_queue=setup.name,
        jobkit_store_url=setup.store,
        jobkit_prefix=setup.name,
        jobkit_lease_seconds=LEASE,
        journal=setup.journal,
    )
    app.conf.update(setup.conf)
    tasks.register(app, setup.stages)
    app.finalize()
    return app
