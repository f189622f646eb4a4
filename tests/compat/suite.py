"""Celery's own tests: where they come from, and one run of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from tests import guardian
from tests.compat import plugin
from tests.servers import ValkeyServer

ROOT = Path(__file__).parents[2]

CACHE = Path(sys.prefix) / "compat"
"""In the virtual environment: that is in no repository, and goes when Celery does."""

EXTRA = ["pydantic>=2.12"]
"""What the tests import beside what is installed for ours."""

TEST_SECONDS = 300

RUN_SECONDS = 45 * 60

_PLUGINS = ("pytest_timeout", "celery.contrib.pytest", plugin.__name__)

_WORST_FIRST = ("failed", "xpassed", "skipped", "xfailed", "passed")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a test went, and what it said when it did not pass."""

    word: str
    text: str = ""

    @property
    def bad(self) -> bool:
        """Whether it failed, or ended the process that ran it."""
        return self.word in {"failed", "unfinished"}


@dataclass(frozen=True, slots=True)
class Suite:
    """The tests of one release of Celery, unpacked."""

    folder: Path
    extra: Path

    @classmethod
    def fetch(cls) -> Suite:
        """Download and unpack what is not there yet."""
        name = f"celery-{version('celery')}"
        suite = cls(CACHE / name, CACHE / f"{name}-extra")
        if not suite.folder.exists():
            _unpack(name, suite.folder)
        if not suite.extra.exists():
            _pip("install", "--target", str(suite.extra), *EXTRA)
        return suite

    def run(self, tests: Iterable[str], side: str, options: Sequence[str] = ()) -> Run:
        """Run tests with a Valkey of their own, and show pytest's dots meanwhile.

        ``side`` is ``"celery"`` or ``"jobkit"``: whose task class it is.
        """
        with ValkeyServer() as valkey, TemporaryDirectory(prefix="jobkit-") as folder:
            outcomes = Path(folder) / "outcomes.jsonl"
            outcomes.touch()
            environment = {
                **os.environ,
                **_addresses(valkey),
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                "PYTHONPATH": f"{ROOT}{os.pathsep}{self.extra}",
                "WORKER_LOGLEVEL": "INFO",
                plugin.OUTCOMES: str(outcomes),
            }
            if side == "jobkit":
                environment[plugin.SETTINGS] = _settings(valkey)
            finished = self._pytest([*tests, *options], environment)
            _check(valkey, side)
            return Run(side, finished, _read(outcomes))

    def _pytest(self, arguments: list[str], environment: dict[str, str]) -> bool:
        names = [part for name in _PLUGINS for part in ("-p", name)]
        quiet = ["-q", "--tb=no", "--disable-warnings", "-p", "no:cacheprovider"]
        limit = f"--timeout={TEST_SECONDS}"
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *names, *quiet, limit, *arguments],
            cwd=self.folder,
            env=environment,
            start_new_session=True,
        )
        guardian.protect(process)
        try:
            return process.wait(RUN_SECONDS) in {0, 1}
        except subprocess.TimeoutExpired:
            return False
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            guardian.release(process)


@dataclass(frozen=True, slots=True)
class Run:
    """What a run of the tests has shown; ``finished`` is false when it was cut."""

    side: str
    finished: bool
    outcomes: dict[str, Outcome]


def _addresses(valkey: ValkeyServer) -> dict[str, str]:
    # Some tests look for results in database 0, whatever their backend is.
    return {
        "TEST_BROKER": valkey.database_url(1),
        "TEST_BACKEND": valkey.database_url(0),
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(valkey.port),
    }


def _settings(valkey: ValkeyServer) -> str:
    return json.dumps(
        {
            "jobkit_store_url": valkey.database_url(2),
            "jobkit_retry_policy": "never",
        },
    )


def _check(valkey: ValkeyServer, side: str) -> None:
    with redis.Redis.from_url(valkey.database_url(2)) as client:
        if bool(client.dbsize()) != (side == "jobkit"):
            raise RuntimeError(f"These were not the jobs of {side}'s task class.")


def _read(path: Path) -> dict[str, Outcome]:
    """The worst that was noted of each test, unless it was not noted to its end."""
    outcomes: dict[str, Outcome] = {}
    started = ""
    for line in path.read_text().splitlines():
        test, word, text = json.loads(line)
        if word in {"started", "finished"}:
            started = test if word == "started" else ""
        elif test not in outcomes or _rank(word) < _rank(outcomes[test].word):
            outcomes[test] = Outcome(word, text)
    if started:
        outcomes[started] = Outcome("unfinished")
    return outcomes


def _rank(word: str) -> int:
    return _WORST_FIRST.index(word)


def _unpack(name: str, folder: Path) -> None:
    """Unpack the tests alone, lest Celery be imported from there."""
    with TemporaryDirectory(prefix="jobkit-") as download:
        release = name.replace("-", "==")
        # To read its dependencies, pip prepares even what it is not to install.
        _pip("download", "--no-deps", "--no-binary", "celery", "-d", download, release)
        with tarfile.open(f"{download}/{name}.tar.gz") as archive:
            wanted = [
                member
                for member in archive.getmembers()
                if member.name == f"{name}/pyproject.toml"
                or member.name.startswith(f"{name}/t/")
            ]
            partial = folder.with_suffix(".part")
            archive.extractall(partial, members=wanted, filter="data")
    (partial / name).rename(folder)
    partial.rmdir()


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)
