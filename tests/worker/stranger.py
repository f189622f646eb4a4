"""A producer that knows the broker and nothing of jobkit or of the tasks."""

import json
import os
import subprocess
import sys
from typing import Any

from celery import Celery

from tests.worker.setup import VARIABLE, Setup


def send(setup: Setup, task: str, *args: Any, **headers: str) -> str:
    """Send a task by its name from another process; its id."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.worker.stranger",
            task,
            json.dumps([args, headers]),
        ],
        env={**os.environ, VARIABLE: setup.encode()},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def _main(task: str, text: str) -> None:
    setup = Setup.decode(os.environ[VARIABLE])
    args, headers = json.loads(text)
    with Celery("stranger", broker=setup.broker) as app:
        app.conf.task_default_queue = setup.name
        sys.stdout.write(app.send_task(task, args, headers=headers).id)


if __name__ == "__main__":
    _main(*sys.argv[1:])
