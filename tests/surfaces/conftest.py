"""The command ``celery -A ... jobs ...``, run for a fleet's app."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from tests.servers import ValkeyServer
from tests.surfaces.flowers import Flower
from tests.worker.fleet import TOP, Fleet, new_name, opened, show_logs
from tests.worker.setup import VARIABLE, Setup

Done = subprocess.CompletedProcess[str]
MakeFleet = Callable[..., Fleet]
MakeFlower = Callable[..., Flower]


def run(fleet: Fleet, *arguments: str) -> Done:
    """Run ``celery -A tests.worker.app jobs`` as a person would; not in colour."""
    return subprocess.run(
        [*(sys.executable, "-m", "celery", "-A", "tests.worker.app"), *arguments],
        cwd=TOP,
        env={**os.environ, VARIABLE: fleet.setup.encode()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def jobs(fleet: Fleet, *arguments: str) -> Done:
    """Run one of the commands behind ``jobs``."""
    return run(fleet, "jobs", *arguments)


def here(group: Any, fleet: Fleet, *arguments: str) -> Done:
    """Run one of the commands of a group in this process, as Celery does."""
    context = SimpleNamespace(app=fleet.app, no_color=True)
    done = CliRunner().invoke(group, arguments, obj=context)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess([], done.exit_code, done.stdout, done.stderr)


def told(done: Done) -> Any:
    """What a command that went well has told a program."""
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def refused(done: Done, code: int = 1) -> str:
    """What a command said that has refused something."""
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    return done.stderr


@pytest.fixture(scope="module")
def fleet(
    valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """A fleet that the tests of a module share; it has no workers."""
    folder = tmp_path_factory.mktemp("fleet")
    setup = Setup(
        broker=valkey.database_url(0),
        backend=valkey.database_url(1),
        store=valkey.database_url(2),
        name=new_name(),
        journal=str(folder / "journal"),
    )
    with opened(setup, folder) as shared:
        yield shared


@pytest.fixture
def make_flower(fleet: Fleet, tmp_path: Path) -> Iterator[MakeFlower]:
    """Makes Flowers for the module's fleet, or for another one."""
    with ExitStack() as stack:

        def make(*options: str, of: Fleet = fleet, **more: Any) -> Flower:
            flower = Flower(of.setup, tmp_path / "flower.log", *options, **more)
            return stack.enter_context(flower.running())

        yield make


@pytest.fixture
def make_fleet(valkey: ValkeyServer, tmp_path: Path) -> Iterator[MakeFleet]:
    """Makes fleets whose servers are Valkey, unless told otherwise."""
    with ExitStack() as stack:

        def make(broker: str = "", store: str = "", **conf: Any) -> Fleet:
            setup = Setup(
                broker=broker or valkey.database_url(0),
                backend=valkey.database_url(1),
                store=store or valkey.database_url(2),
                name=new_name(),
                journal=str(tmp_path / "journal"),
                conf=conf,
            )
            fleet = stack.enter_context(opened(setup, tmp_path))
            stack.callback(show_logs, fleet)
            return fleet

        yield make
