"""A process that ends our servers and workers when the tests end in any way.

A test process that is killed runs no clean-up of its own. The guardian reads
a pipe from it: when the pipe closes, it kills every process group that was
announced and not taken back.
"""

import atexit
import functools
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import IO, Any


def protect(process: subprocess.Popen[Any]) -> None:
    """Have the group of ``process`` killed if it outlives this process.

    It must have been started with ``start_new_session=True``.
    """
    _tell(f"+ {process.pid}")


def release(process: subprocess.Popen[Any]) -> None:
    """Take ``protect`` back, once the process has ended."""
    _tell(f"- {process.pid}")


def _tell(line: str) -> None:
    pipe = _pipe(os.getpid())
    pipe.write(f"{line}\n")
    pipe.flush()


@functools.cache
def _pipe(_pid: int) -> IO[str]:
    guardian = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C must not end it first
    )
    if guardian.stdin is None:
        raise RuntimeError("The guardian has no pipe.")
    atexit.register(guardian.communicate)
    return guardian.stdin


def _watch(lines: IO[str]) -> None:
    groups: set[int] = set()
    for line in lines:
        sign, pid = line.split()
        (groups.add if sign == "+" else groups.discard)(int(pid))
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    _watch(sys.stdin)
