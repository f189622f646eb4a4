"""The loop of the recovery figures as plain Celery tasks, in an app without jobkit."""

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery

from tests.worker.journal import Journal
from tests.worker.setup import VARIABLE, Setup


def make_app(setup: Setup) -> Celery:
    """An app with Celery's defaults, and the loop in the two ways to acknowledge."""
    app = Celery("plain", broker=setup.broker, backend=setup.backend)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        task_default_queue=setup.name,
        **setup.conf,
    )
    journal = Journal(Path(setup.journal))

    def walk(self: Any, items: int, pause: float) -> int:
        for item in range(1, items + 1):
            journal.write(self.request.id, 1, item)
            time.sleep(pause)
        return items

    task: Any = app.task  # its types want no options from a dict
    late = {"acks_late": True, "reject_on_worker_lost": True}
    task(bind=True, name="plain.default", shared=False)(walk)
    task(bind=True, name="plain.late", shared=False, **late)(walk)
    return app


if VARIABLE in os.environ:
    app = make_app(Setup.decode(os.environ[VARIABLE]))
