"""A producer that knows the broker and nothing of jobkit or of the tasks."""

import json
import os
import subprocess
import sys
from typing import Any

from celery import Celery

from tests.worker.setup import QUORUM_CONF, VARIABLE, Setup


def send(setup: Setup, task: str, *args: Any, **options: Any) -> str:
    """Send a task by its name from another process; its id."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.worker.stranger",
            task,
            json.dumps([args, options]),
        ],
        env={**os.environ, VARIABLE: setup.encode()},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def _main(task: str, text: str) -> None:
    setup = Setup.decode(os.environ[VARIABLE])
    args, options = json.loads(text)
    with Celery("stranger", broker=setup.broker) as app:
        app.conf.task_default_queue = setup.name
        app.conf.update(
            {name: setup.conf[name] for name in QUORUM_CONF.keys() & setup.conf}
        )
        sys.stdout.write(app.send_task(task, args, **options).id)


if __name__ == "__main__":
    _main(*sys.argv[1:])
