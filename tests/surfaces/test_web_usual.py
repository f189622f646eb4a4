"""How a page presents a job goes by how long the jobs of its task usually take."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from jobkit import Client, clock
from jobkit.statistics import REMEMBERED
from jobkit.store.redis import RedisStore
from jobkit.web import Showing, jobs_app, wsgi
from tests.servers import ValkeyServer
from tests.store.lives import (
    enqueued,
    kept,
    rewrite,
    running,
    snapshot,
    started,
)
from tests.surfaces.conftest import MakeFleet
from tests.surfaces.sites import Site, served


@pytest.fixture
def store(valkey: ValkeyServer) -> Iterator[RedisStore]:
    store = RedisStore(valkey.url, f"web-{uuid.uuid4().hex[:12]}")
    yield store
    store.close()


@pytest.fixture
def client(store: RedisStore) -> Client:
    return Client(store)


@pytest.fixture
def site(client: Client) -> Iterator[Site]:
    with served(jobs_app(client, authorize=lambda *_: True)) as site:
        yield site


def took(store: RedisStore, *seconds: float) -> None:
    """Jobs that succeeded after runs of this length."""
    for each in seconds:
        job_id = uuid.uuid4().hex
        run = running(store, job_id)
        store.succeed(job_id, run.fence, snapshot(1))
        end = kept(store, job_id).finished_at
        assert end
        begun = end - timedelta(seconds=each)
        rewrite(store, job_id, started_at=str(clock.milliseconds(begun)))


def shown(site: Site) -> str:
    told = site.http.get("/jobs/job").json()
    return str(told["presentation"])


@pytest.mark.parametrize(
    ("seconds", "presented"),
    [
        ([], "spinner"),
        ([1, 2, 500], "spinner"),
        ([1, 10, 500], "bar"),
        ([1, 40, 500], "stages"),
        ([1, 400, 500], "come-back-later"),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_a_job_is_presented_by_the_median_of_those_before_it(
    store: RedisStore, site: Site, seconds: list[float], presented: str, *, begun: bool
) -> None:
    took(store, *seconds)
    enqueued(store)
    if begun:
        started(store)

    assert shown(site) == presented
    with site.events("job") as events:
        assert events.next()["presentation"] == presented


def test_views_without_a_framework_know_it_too(
    store: RedisStore, client: Client
) -> None:
    took(store, 100)
    enqueued(store)

    body: Any = wsgi.status(client, "job").body
    assert body["presentation"] == "stages"
    body = wsgi.act(client, "job", "pause").body
    assert body["presentation"] == "stages"


def test_what_the_project_says_counts_more(store: RedisStore, client: Client) -> None:
    took(store, 100)
    enqueued(store)
    own = Showing(usual_seconds=lambda _: 10.0)

    body: Any = wsgi.status(client, "job", showing=own).body
    assert body["presentation"] == "bar"
    with served(jobs_app(client, public=True, showing=own)) as site:
        assert shown(site) == "bar"


def test_the_store_is_asked_once_a_minute_for_a_task(
    store: RedisStore, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards `REMEMBERED`, across the requests and the streams of a process."""
    took(store, 10)
    enqueued(store)
    asked, read = list[Any](), store.list

    def listing(**options: Any) -> Any:
        asked.append(options)
        return read(**options)

    monkeypatch.setattr(store, "list", listing)

    assert {shown(site) for _ in range(9)} == {"bar"}
    with site.events("job") as events:
        assert events.next()["presentation"] == "bar"
    assert len(asked) == 1
    took(store, *[400] * 9)
    monkeypatch.setattr(clock, "monotonic", later(clock.monotonic))
    assert {shown(site) for _ in range(9)} == {"come-back-later"}
    assert len(asked) == 2


def later(monotonic: Any) -> Any:
    return lambda: monotonic() + REMEMBERED


def test_a_store_that_refuses_to_list_is_no_error_of_the_page(
    store: RedisStore, client: Client, site: Site
) -> None:
    """Guards the `suppress(StoreError)`: the record itself can be read."""
    enqueued(store)
    store._client.set(store.keys.state(0, "SUCCEEDED"), "no index")

    answer = site.http.get("/jobs/job")

    assert (answer.status_code, answer.json()["presentation"]) == (200, "spinner")
    assert client.usual_seconds("shop.sync") is None
    store._client.delete(store.keys.state(0, "SUCCEEDED"))


def test_what_workers_did_is_what_is_usual(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    done = [fleet.send("wait_long", 5.2).id for _ in range(3)]
    fleet.worker("w", "-P", "threads", concurrency=3).start()
    for job_id in done:
        fleet.wait_for(job_id)
    waiting = fleet.send("wait_long", 5.2, countdown=3_600)

    with served(jobs_app(fleet.kit, public=True)) as site:
        told = site.http.get(f"/jobs/{waiting.id}").json()

    assert (told["state"], told["presentation"]) == ("SCHEDULED", "bar")
