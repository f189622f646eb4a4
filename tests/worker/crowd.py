"""Many producers that enqueue the same job at the same moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.worker.setup import VARIABLE, Setup, make_app

PROCESSES = 4


def enqueue(setup: Setup, task: str, *args: Any, producers: int) -> list[Any]:
    """Have so many producers enqueue a job at once: each one's id and ``existing``."""
    command = [sys.executable, "-m", "tests.worker.crowd", task, json.dumps(args)]
    processes = [
        subprocess.Popen(
            [*command, str(producers // PROCESSES)],
            env={**os.environ, VARIABLE: setup.encode()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    told = []
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        text, _ = process.communicate()
        told += json.loads(text)
    return told


def _main(task: str, text: str, threads: str) -> None:
    app = make_app(Setup.decode(os.environ[VARIABLE]))
    job: Any = app.tasks[task]
    args, gate = json.loads(text), threading.Barrier(int(threads))

    def produce(_: int) -> tuple[str, bool]:
        with app.connection_for_write() as connection:
            connection.ensure_connection()
            gate.wait()
            result = job.apply_async(args, connection=connection)
        return result.id, result.existing

    job.kit.store.ping()
    print("ready", flush=True)  # noqa: T201 - it is read
    sys.stdin.readline()
    with ThreadPoolExecutor(int(threads)) as pool:
        print(json.dumps(list(pool.map(produce, range(int(threads))))))  # noqa: T201 - likewise


if __name__ == "__main__":
    _main(*sys.argv[1:])
