"""A store that is away, and a Flower that is not as jobkit knows it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobkit.states import State
from tests.servers import ValkeyServer
from tests.store.lives import enqueued
from tests.surfaces.conftest import MakeFleet, MakeFlower
from tests.surfaces.flowers import LOGIN, USER, Flower
from tests.waiting import wait_until
from tests.worker.fleet import TOP, Fleet
from tests.worker.setup import VARIABLE


@pytest.fixture
def seen(
    make_fleet: MakeFleet, make_flower: MakeFlower, valkey_server: ValkeyServer
) -> Flower:
    """A Flower that has shown a job, before something happens to its store."""
    fleet = make_fleet(store=valkey_server.url)
    enqueued(fleet.store, "seen")
    flower = make_flower(LOGIN, of=fleet)
    flower.http.auth = USER
    for path in ("/jobs/api/jobs", "/jobs/api/jobs/seen", "/jobs/api/dead-letters"):
        assert flower.json(path)["store"] == ""
    return flower


def metric(flower: Flower, line: str) -> bool:
    return line in flower.get("/metrics").text.splitlines()


WITHOUT_STORE = {
    "/jobs": 200,
    "/dead-letters": 200,
    "/jobs/seen": 200,
    "/jobs/another": 200,
    "/jobs/api/jobs/seen": 200,
    "/jobs/api/jobs/another": 503,
    "/jobs/api/jobs?state=DEAD": 503,
}
FLOWERS_OWN = ("/workers", "/tasks", "/metrics", "/healthcheck")


@pytest.mark.parametrize(
    "how", ["gone", pytest.param("hanging", marks=pytest.mark.long)]
)
def test_without_the_store_pages_are_stale_and_flower_is_as_ever(
    seen: Flower, valkey_server: ValkeyServer, how: str
) -> None:
    (valkey_server.kill if how == "gone" else valkey_server.pause)()
    shown = wait_until(
        lambda: (d := seen.json("/jobs/api/jobs"))["store"] and d, "it is told"
    )
    assert [job["id"] for job in shown["jobs"]] == ["seen"]
    assert shown["age"] > 0

    with ThreadPoolExecutor() as pool:
        asked = {path: pool.submit(seen.get, path) for path in WITHOUT_STORE}
        begun = time.monotonic()
        assert [seen.get(path).status_code for path in FLOWERS_OWN] == [200] * 4
        assert time.monotonic() - begun < 1
    assert {path: a.result().status_code for path, a in asked.items()} == WITHOUT_STORE
    assert max(a.result().elapsed.total_seconds() for a in asked.values()) < 4
    wait_until(lambda: metric(seen, "jobkit_store_up 0.0"), "the metrics say so")
    assert "jobkit_jobs{" not in seen.get("/metrics").text
    if how == "gone":
        assert seen.post("/jobs/seen/cancel").status_code == 503
    assert "Traceback" not in seen.log

    (valkey_server.start if how == "gone" else valkey_server.resume)()
    wait_until(lambda: not seen.json("/jobs/api/jobs")["store"], "it is back")


@pytest.mark.long
def test_flower_ends_soon_though_the_store_hangs(
    seen: Flower, valkey_server: ValkeyServer
) -> None:
    valkey_server.pause()
    with ThreadPoolExecutor(32) as pool:
        for number in range(32):
            pool.submit(seen.get, f"/jobs/api/jobs?owner={number}")
        wait_until(lambda: seen.json("/jobs/api/jobs")["store"], "it hangs")
        assert seen.process
        seen.process.terminate()
        seen.process.wait(8)


BROKEN = {
    "without start": "class Flower: pass",
    "without a class": "",
    "with another start": "class Flower: start = property(lambda self: 1 / 0)",
}
COMMAND = """
import click
import flower.app

@click.command()
def flower():
    print("started")
"""


def broken_flower(folder: Path, app: str) -> str:
    """A path on which a package is found that only looks like Flower."""
    package = folder / "flower"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "app.py").write_text(app)
    (package / "command.py").write_text(COMMAND)
    return f"{folder}{os.pathsep}{TOP}"


@pytest.mark.parametrize(
    "app",
    [
        pytest.param(
            app, id=how, marks=[pytest.mark.long] if "start" not in how else []
        )
        for how, app in BROKEN.items()
    ],
)
def test_a_flower_that_is_broken_stops_nobody(
    fleet: Fleet, tmp_path: Path, app: str
) -> None:
    path = broken_flower(tmp_path, app)
    for command in ("flower", "report")[: 2 if "pass" in app else 1]:
        done = subprocess.run(
            [sys.executable, "-m", "celery", "-A", fleet.setup.app, command],
            cwd=TOP,
            env={**os.environ, "PYTHONPATH": path, VARIABLE: fleet.setup.encode()},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert ("started" in done.stdout) == (command == "flower")
        assert "Traceback" not in done.stderr


@pytest.mark.long
def test_a_worker_runs_beside_a_broken_flower(
    make_fleet: MakeFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = broken_flower(tmp_path, BROKEN["without start"])
    monkeypatch.setenv("PYTHONPATH", path)
    fleet = make_fleet()
    fleet.start("w")

    assert fleet.wait_for(fleet.send("add", 1, 2).id).state is State.SUCCEEDED


LOOK = """
import sys
import celery.bin.celery  # which loads Flower's command, as in a worker
from tests.worker.app import app
app.loader.import_default_modules()
assert "flower.app" in sys.modules
print(*sorted(name for name in sys.modules if name.startswith("jobkit.flower")))
"""


def test_a_worker_has_nothing_of_the_pages(fleet: Fleet) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        cwd=TOP,
        env={**os.environ, "PYTHONPATH": str(TOP), VARIABLE: fleet.setup.encode()},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == ["jobkit.flower"]


APP = """
import celery
{imports}
app = celery.Celery("plain", broker={broker!r}, backend={broker!r})
{more}
"""


@pytest.mark.parametrize(
    "imports", [pytest.param("", marks=pytest.mark.long), "import jobkit"]
)
def test_an_app_without_jobs_has_flower_as_it_is(
    fleet: Fleet, tmp_path: Path, imports: str
) -> None:
    text = APP.format(imports=imports, broker=fleet.setup.broker, more="")
    flower = written(tmp_path, text, fleet)

    with flower.running():
        assert flower.get("/jobs").status_code == 404
        assert "/jobs" not in flower.get("/workers").text
        assert "jobkit" not in flower.get("/metrics").text


TASKS = """
import jobkit
from celery import shared_task

@shared_task(base=jobkit.ProgressTask)
def job():
    pass
"""


def test_jobs_are_shown_of_an_app_whose_tasks_alone_import_jobkit(
    fleet: Fleet, tmp_path: Path
) -> None:
    (tmp_path / "tasks_of_jobs.py").write_text(TASKS)
    more = 'app.conf.imports = ["tasks_of_jobs"]'
    text = APP.format(imports="", broker=fleet.setup.broker, more=more)
    flower = written(tmp_path, text, fleet)

    with flower.running():
        assert flower.get("/jobs").status_code == 200


def test_a_setting_that_is_wrong_leaves_flower_as_it_is(
    fleet: Fleet, tmp_path: Path
) -> None:
    more = "import jobkit; jobkit.JobKit(app); app.conf.jobkit_partitions = 0"
    text = APP.format(imports="", broker=fleet.setup.broker, more=more)
    flower = written(tmp_path, text, fleet)

    with flower.running():
        assert flower.get("/workers").status_code == 200
        assert flower.get("/jobs").status_code == 404
        assert (
            "This Flower shows no jobs: SettingsError: jobkit_partitions" in flower.log
        )


def written(folder: Path, text: str, fleet: Fleet) -> Flower:
    """A Flower of an app that is written for the test."""
    (folder / "proj_of_a_test.py").write_text(text)
    path = f"{folder}{os.pathsep}{TOP}"
    return Flower(
        fleet.setup,
        folder / "log",
        app="proj_of_a_test",
        environment={"PYTHONPATH": path},
    )


MADE = """
from flower.app import Flower
from flower.urls import settings
from tornado.options import options
import flower.options
from tests.worker.app import app
import jobkit.flower

made = Flower(capp=app, options=options, **settings)
jobkit.flower.attach(made)
jobkit.flower.attach(made)
print(made.reverse_url("jobkit_jobs"), made.settings["template_loader"])
"""


LATE = """
import jobkit
from flower.app import Flower
from flower.urls import settings
from tornado.options import options
import flower.options
from tests.worker.app import app

Flower(capp=app, options=options, **settings)
print(hasattr(Flower.start, jobkit.flower.MARK))
"""


def test_it_does_not_matter_which_of_both_is_imported_first(fleet: Fleet) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE],
        cwd=TOP,
        env={**os.environ, "PYTHONPATH": str(TOP), VARIABLE: fleet.setup.encode()},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_flower_that_is_made_by_hand_is_given_the_pages(fleet: Fleet) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MADE],
        cwd=TOP,
        env={**os.environ, "PYTHONPATH": str(TOP), VARIABLE: fleet.setup.encode()},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("/jobs <jobkit.flower.layout.Templates")
