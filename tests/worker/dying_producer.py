"""A producer that dies between the record of its job and the message."""

import json
import os
import subprocess
import sys
from typing import Any, NoReturn

from kombu import Producer

from jobkit.signals import job_queued
from tests.worker.setup import VARIABLE, Setup, make_app

CODE = 77


def enqueue(
    setup: Setup, job_id: str, task: str = "t.add", *args: Any, late: bool = False
) -> int:
    """Have another process enqueue ``t.add``, or another task, and die; its exit code.

    It dies when the job is recorded; if ``late``, with the message in its hands.
    """
    text = json.dumps([late, *(args or (1, 2))])
    return subprocess.run(
        [sys.executable, "-m", "tests.worker.dying_producer", job_id, task, text],
        env={**os.environ, VARIABLE: setup.encode()},
        check=False,
    ).returncode


def _die(*_: Any, **__: Any) -> NoReturn:
    os._exit(CODE)


def _main(job_id: str, task: str, text: str) -> None:
    app = make_app(Setup.decode(os.environ[VARIABLE]))
    late, *args = json.loads(text)
    if late:
        Producer.publish = _die  # type: ignore[method-assign]
    else:
        job_queued.connect(_die)
    app.tasks[task].apply_async(args, task_id=job_id)


if __name__ == "__main__":
    _main(*sys.argv[1:])
