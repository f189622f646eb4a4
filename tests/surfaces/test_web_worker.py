"""A job of a real worker, watched and cancelled from a web page."""

from __future__ import annotations

from jobkit.web import jobs_app
from tests.surfaces.conftest import MakeFleet
from tests.surfaces.sites import served
from tests.waiting import wait_until
from tests.worker.promises import backend_writes_here


def test_a_page_watches_a_job_and_cancels_it(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    result = fleet.send("walk", 100_000)
    with (
        served(jobs_app(fleet.kit, authorize=lambda *_: True)) as site,
        site.events(result.id) as events,
    ):
        assert events.next()["state"] == "QUEUED"
        fleet.start("w")
        assert events.wait_for("started")["state"] == "RUNNING"
        while not (told := events.wait_for("progressed"))["progress"]["current"]:
            assert told["progress"]["stage"] in {"count", "import"}

        assert site.http.post(f"/jobs/{result.id}/cancel").json()["asked"] == "cancel"

        kind, end = list(events)[-1]
        assert (kind, end["state"]) == ("end", "CANCELLED")
    assert fleet.jobs.history(result.id)[-1].detail == "web"


@backend_writes_here
def test_celery_hears_of_a_job_that_a_page_cancelled(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    result = fleet.send("walk", 100)
    with served(jobs_app(fleet.kit, authorize=lambda *_: True)) as site:
        answer = site.http.post(f"/jobs/{result.id}/cancel")
    assert answer.json()["state"] == "CANCELLED"
    wait_until(lambda: str(result.state) == "REVOKED", "the result backend knows")
