"""A producer that dies between the record of its job and the message."""

import json
import os
import subprocess
import sys
from typing import Any, NoReturn

from jobkit.signals import job_queued
from tests.worker.setup import VARIABLE, Setup, make_app

CODE = 77


def enqueue(setup: Setup, job_id: str, task: str = "t.add", *args: Any) -> int:
    """Have another process enqueue ``t.add``, or another task, and die; its exit code."""
    text = json.dumps(args or (1, 2))
    return subprocess.run(
        [sys.executable, "-m", "tests.worker.dying_producer", job_id, task, text],
        env={**os.environ, VARIABLE: setup.encode()},
        check=False,
    ).returncode


def _die(**_: Any) -> NoReturn:
    os._exit(CODE)


def _main(job_id: str, task: str, text: str) -> None:
    app = make_app(Setup.decode(os.environ[VARIABLE]))
    job_queued.connect(_die)
    app.tasks[task].apply_async(json.loads(text), task_id=job_id)


if __name__ == "__main__":
    _main(*sys.argv[1:])
