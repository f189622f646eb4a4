"""What jobkit takes of Flower for granted, on each version that it supports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobkit.flower.pages import ROUTES
from tests.store.lives import enqueued, running, snapshot
from tests.surfaces.flowers import LOGIN, USER, Flower
from tests.surfaces.test_flower_rules import every_route
from tests.waiting import wait_until
from tests.worker.fleet import TOP, Fleet

VERSIONS = [
    "installed",
    pytest.param("2.0.1", marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    pytest.param("2.1.0", marks=[pytest.mark.long, pytest.mark.timeout(900)]),
]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jobkit-tests"
PAGES = ("/workers", "/tasks", "/broker", "/jobs", "/dead-letters", "/no-such-page")


def python_with(version: str) -> str:
    """An interpreter with that Flower; one that is not installed gets a venv."""
    if version == "installed":
        return sys.executable
    folder = CACHE / f"flower-{version}"
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        lines = (TOP / "constraints.txt").read_text().splitlines()
        pins = folder / "constraints.txt"
        pins.write_text("\n".join(line for line in lines if "flower==" not in line))
        wanted = (f"flower=={version}", "celery[redis]", "-c", pins)
        subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
        (folder / "complete").touch()
    return str(python)


@pytest.fixture(scope="module", params=VERSIONS)
def flower(
    request: pytest.FixtureRequest,
    fleet: Fleet,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Flower]:
    log = tmp_path_factory.mktemp("flower") / "flower.log"
    python = python_with(request.param)
    with Flower(fleet.setup, log, LOGIN, python=python).running() as shared:
        shared.http.auth = USER
        yield shared


def items(page: str, href: str) -> list[str]:
    """The entries of the navigation bar that lead somewhere."""
    found = re.findall(r"<li\b(?:(?!<li\b).)*?</li>", page, re.DOTALL)
    return [item for item in found if f'href="{href}"' in item]


def classes(item: str) -> set[str]:
    return {*" ".join(re.findall(r'class="([^"]*)"', item)).split()} - {"active"}


@pytest.mark.parametrize("path", PAGES)
def test_each_page_links_to_jobs_as_it_does_to_the_broker(
    flower: Flower, path: str
) -> None:
    page = flower.get(path).text

    (broker,) = items(page, "/broker")
    for href, label in (("/jobs", "Jobs"), ("/dead-letters", "Dead letters")):
        (ours,) = items(page, href)
        assert f">{label}</a>" in ours
        assert classes(ours) == classes(broker)
        assert ("active" in ours) == (path == href)


def test_our_pages_are_inside_of_flowers_layout(flower: Flower) -> None:
    for path in ("/jobs", "/dead-letters"):
        page = flower.get(path).text
        order = [
            "bootstrap.min.css",
            '<nav class="',
            'href="/jobs/assets/jobs.css"',
            'data-root="/jobs"',
            'id="jk-rows"',
            "/static/js/flower.js",
            'src="/jobs/assets/jobs.js"',
            "</html>",
        ]
        places = [page.find(part) for part in order]
        assert -1 not in places, order[places.index(-1)]
        assert places == sorted(places)


def test_a_page_that_is_not_there_is_a_page_of_flowers(flower: Flower) -> None:
    answer = flower.get("/jobs/nobody")

    assert answer.status_code == 404
    assert "bootstrap.min.css" in answer.text
    assert "it was never recorded" in answer.text


def test_flowers_own_pages_are_as_they_were(flower: Flower) -> None:
    for path in ("/", "/workers", "/tasks", "/broker", "/healthcheck", "/metrics"):
        assert flower.get(path).status_code == 200, path
    assert flower.get("/no-such-page").status_code == 404
    assert "Error" not in flower.log


def test_every_route_refuses_without_credentials(fleet: Fleet, flower: Flower) -> None:
    job_id = uuid.uuid4().hex  # all versions have one store
    enqueued(fleet.store, job_id)
    paths = every_route(job_id)
    assert len(paths) > len(ROUTES)

    for path in paths:
        for method in ("GET", "POST"):
            answer = flower.http.request(method, path, auth=("eve", "x"))
            assert answer.status_code == 401, (method, path)
    assert flower.post(f"/jobs/{job_id}/cancel").status_code == 200


def test_another_site_is_refused(fleet: Fleet, flower: Flower) -> None:
    enqueued(fleet.store, "here")

    for headers in ({"Origin": "http://evil"}, {"Sec-Fetch-Site": "same-site"}):
        assert flower.post("/jobs/here/cancel", headers=headers).status_code == 403
    seen = flower.get("/jobs/api/jobs/here", headers={"Origin": "http://evil"})
    assert not [name for name in seen.headers if name.startswith("access-control")]


def test_metrics_are_beside_flowers_own(flower: Flower) -> None:
    def metrics() -> str:
        text = flower.get("/metrics").text
        return text if "jobkit_jobs{" in text else ""

    text = wait_until(metrics, "the jobs are counted")
    assert "jobkit_store_up 1.0" in text
    assert "flower_events_total" in text


@pytest.mark.long
def test_a_tasks_page_has_a_row_and_a_link_for_its_job(
    fleet: Fleet, flower: Flower
) -> None:
    run = running(fleet.store, "seen")
    fleet.store.save("seen", run.fence, 1, snapshot(1234), 3600)
    with fleet.app.events.default_dispatcher() as dispatcher:
        wait_until(
            lambda: (
                dispatcher.send(
                    "task-received", uuid="seen", name="t.add", args="()", kwargs="{}"
                )
                or flower.get("/task/seen").status_code == 200
            ),
            "Flower hears of the task",
        )

    page = wait_until(
        lambda: "Job progress" in (p := flower.get("/task/seen").text) and p,
        "the row is there",
    )
    assert page
    assert "1,234 done" in page
    assert '<script src="/jobs/assets/task.js" data-root="/jobs">' in page
    assert flower.get("/jobs/assets/task.js").status_code == 200
    assert 'id="taskid"' in page
    assert 'href="/task/seen"' in flower.get("/jobs/seen").text
