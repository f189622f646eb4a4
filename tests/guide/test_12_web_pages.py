from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from jobkit import Client, Job, ProgressTask
from jobkit.web import Tokens, jobs_app
from tests.guide.conftest import Run
from tests.surfaces.sites import served


@pytest.fixture
def export(app: Celery) -> Any:
    def export(task: ProgressTask) -> None:
        with task.stage("rows", total=3) as stage:
            for _ in stage.iterate(range(3)):
                pass

    return app.task(
        base=ProgressTask,
        bind=True,
        name="shop.export",
        stages=["rows"],
        shared=False,
    )(export)


def test_a_site_says_who_may_see_a_job(jobs: Client, run: Run, export: Any) -> None:
    """``jobs_app`` is mounted in any ASGI app; ``authorize`` decides for each job.

    What one may not see is not there.
    """

    def may_see(request: Request, job: Job) -> bool:
        return job.task == "shop.export" and request.headers.get("user") == "ada"

    shop = Starlette(routes=[Mount("/-", jobs_app(jobs, authorize=may_see))])
    job = run(export)

    with served(shop) as site:
        told = site.http.get(f"/-/jobs/{job.id}", headers={"user": "ada"}).json()
        assert (told["state"], told["progress"]["current"]) == ("SUCCEEDED", 3)
        assert site.http.get(f"/-/jobs/{job.id}").status_code == 404


def test_a_link_with_a_token_shows_one_job(jobs: Client, run: Run, export: Any) -> None:
    """Who has no session, as the reader of an e-mail, brings a signed token.

    It is for one job, for a while, to ``read`` or to ``act``.
    """
    tokens = Tokens("a long secret of this site")
    job, other = run(export), run(export)

    token = tokens.sign(job.id, "read", seconds=3600)

    with served(jobs_app(jobs, tokens=tokens)) as site:
        assert site.http.get(f"/jobs/{job.id}?token={token}").is_success
        assert site.http.get(f"/jobs/{other.id}?token={token}").status_code == 404


def test_events_are_sent_up_to_the_end(jobs: Client, run: Run, export: Any) -> None:
    """``/jobs/ID/events`` begins with how the job stands; the end closes it.

    ``<job-progress src="/-/jobs/ID">`` reads it in the browser.
    """
    job = run(export)

    with (
        served(jobs_app(jobs, public=True)) as site,
        site.events(job.id) as events,
    ):
        ((kind, told),) = list(events)

    assert (kind, told["state"]) == ("end", "SUCCEEDED")
