"""Who may see jobs in Flower, and who may command: Flower's own rules, and no others' sites."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tornado.web import create_signed_value

from jobkit.flower.pages import ROUTES
from jobkit.states import State
from tests.store.lives import dead, enqueued
from tests.surfaces.conftest import MakeFlower
from tests.surfaces.flowers import LOGIN, USER, Flower
from tests.waiting import wait_until
from tests.worker.fleet import Fleet

SECRET = "a secret of the tests"
OAUTH = (
    "--auth=.*@example.com",
    "--auth-provider=flower.views.auth.GoogleAuth2LoginHandler",
    f"--cookie-secret={SECRET}",
    "--oauth2-key=k",
    "--oauth2-secret=s",
    "--oauth2-redirect-uri=http://localhost/login",
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def every_route(job_id: str) -> list[str]:
    """An address of each route that the code has; names of acts are all tried."""
    paths = []
    for pattern, _, _ in ROUTES:
        path = pattern.replace("(.+)", job_id).replace(r"([\w.]+)", "jobs.js")
        names = re.search(r"\(([\w|]+)\)", path)
        paths += [
            re.sub(r"\([\w|]+\)", name, path)
            for name in (names[1].split("|") if names else [""])
        ]
    return paths


def test_all_routes_are_tried() -> None:
    paths = every_route("guarded")

    assert len(paths) == len(ROUTES) + 2 * 4
    assert {"/jobs", "/jobs/guarded", "/jobs/guarded/cancel"} <= {*paths}
    assert not re.search(r"[()|\\]", "".join(paths))


@pytest.fixture(scope="module")
def flower(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    """One with a login; its client does not log in."""
    log = tmp_path_factory.mktemp("flower") / "flower.log"
    with Flower(fleet.setup, log, LOGIN).running() as shared:
        yield shared


@pytest.fixture
def job(fleet: Fleet) -> str:
    if fleet.store.get("guarded") is None:
        enqueued(fleet.store, "guarded")
    return "guarded"


def untouched(fleet: Fleet) -> bool:
    names = [event.name for event in fleet.jobs.history("guarded")]
    return fleet.jobs.get("guarded").state is State.QUEUED and names == ["queued"]


def test_without_credentials_every_route_refuses(
    fleet: Fleet, job: str, flower: Flower
) -> None:
    for path in every_route(job):
        for method in METHODS:
            for headers in ({}, {"Authorization": "Basic YTpi"}):
                answer = flower.http.request(method, path, headers=headers)
                assert answer.status_code == 401, (method, path)
                assert "guarded" not in answer.text
    assert untouched(fleet)


@pytest.mark.parametrize("value", ["Basic", "Basic !", "Bearer x", "Basic w7Y6w7Y="])
def test_credentials_that_are_none_are_refused(flower: Flower, value: str) -> None:
    for path in ("/jobs", "/jobs/api/jobs"):
        answer = flower.get(path, headers={"Authorization": value})
        assert (answer.status_code, "Traceback" in answer.text) == (401, False)


def test_without_a_login_everybody_looks_and_nobody_commands(
    fleet: Fleet, job: str, make_flower: MakeFlower
) -> None:
    flower = make_flower()

    page = flower.get("/jobs")
    assert (page.status_code, 'data-commands=""' in page.text) == (200, True)
    assert flower.json(f"/jobs/api/jobs/{job}")["state"] == "QUEUED"
    for path in every_route(job):
        if path.rsplit("/", 1)[1] in ("cancel", "pause", "resume", "replay", "discard"):
            answer = flower.post(path, {"ids": [job]})
            assert answer.status_code == 401, path
            assert "FLOWER_UNAUTHENTICATED_API" in answer.text
    assert untouched(fleet)


FORGED = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Origin": "{root}", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://127.0.0.1:1"},
]


@pytest.mark.parametrize("mode", ["open", "login"])
def test_no_other_site_commands(
    fleet: Fleet, job: str, make_flower: MakeFlower, mode: str
) -> None:
    if mode == "open":
        flower = make_flower(environment={"FLOWER_UNAUTHENTICATED_API": "yes"})
    else:
        flower = make_flower(LOGIN)
        flower.http.auth = USER

    for forged in FORGED:
        headers = {name: text.format(root=flower.root) for name, text in forged.items()}
        for path in (f"/jobs/{job}/cancel", "/jobs/api/cancel"):
            answer = flower.post(path, {"ids": [job]}, headers=headers)
            assert answer.status_code == 403, headers
        seen = flower.get("/jobs/api/jobs", headers=headers).headers
        assert not [name for name in seen if name.startswith("access-control")]
    assert untouched(fleet)
    own = {"Origin": flower.root, "Sec-Fetch-Site": "same-origin"}
    enqueued(fleet.store, f"own {mode}")
    assert flower.post(f"/jobs/own {mode}/cancel", headers=own).status_code == 200
    enqueued(fleet.store, f"curl {mode}")
    assert flower.post(f"/jobs/curl {mode}/cancel", headers={}).status_code == 200


def test_a_read_only_flower_commands_nothing(
    fleet: Fleet, job: str, make_flower: MakeFlower
) -> None:
    flower = make_flower(LOGIN, "--read-only")
    flower.http.auth = USER

    page = flower.get(f"/jobs/{job}").text
    assert 'data-commands=""' in page
    assert 'data-read-only="yes"' in page
    for name in ("cancel", "pause", "resume", "replay", "discard"):
        answer = flower.post(f"/jobs/{job}/{name}")
        assert (answer.status_code, answer.json()["error"]) == (
            403,
            "This Flower is read-only.",
        )
        assert flower.post(f"/jobs/api/{name}", {"ids": [job]}).status_code == 403
    assert untouched(fleet)


def signed(user: str) -> dict[str, str]:
    value = create_signed_value(SECRET, "user", user)
    return {"Cookie": f"user={value.decode()}"}


def test_with_oauth_one_logs_in_and_the_user_is_recorded(
    fleet: Fleet, job: str, make_flower: MakeFlower
) -> None:
    flower = make_flower(*OAUTH)
    for headers in ({}, signed("eve@evil.example"), {"Cookie": "user=forged"}):
        page = flower.get("/jobs?state=DEAD", headers=headers)
        assert page.status_code == 302
        assert page.headers["location"] == "/login?next=%2Fjobs%3Fstate%3DDEAD"
        assert flower.get("/jobs/api/jobs", headers=headers).status_code == 401
        post = flower.post(f"/jobs/{job}/cancel", headers=headers)
        assert post.status_code == 403
    assert untouched(fleet)

    page = flower.get("/jobs", headers=signed("ada@example.com"))
    assert page.status_code == 200
    token = page.cookies["_xsrf"]
    flower.http.cookies.clear()
    dead(fleet.store, "by ada")
    cookie = signed("ada@example.com")["Cookie"]
    for headers in (
        {"Cookie": cookie},
        {"Cookie": f"{cookie}; _xsrf={token}"},
        {"Cookie": f"{cookie}; _xsrf={token}", "X-XSRFToken": "2|x|y|1"},
    ):
        refused = flower.post("/jobs/by ada/discard", headers=headers)
        assert refused.status_code == 403, headers
    headers = {"Cookie": f"{cookie}; _xsrf={token}", "X-XSRFToken": token}
    assert flower.post("/jobs/by ada/discard", headers=headers).status_code == 200
    details = [event.detail for event in fleet.jobs.history("by ada")]
    assert any("ada@example.com (Flower)" in detail for detail in details)


def links(page: str) -> set[str]:
    found = re.findall(r'(?:href|src|data-root)="(/[^"]*)"', page)
    return {link.partition("?")[0] for link in found}


def test_below_a_prefix_every_link_carries_it(
    job: str, make_flower: MakeFlower
) -> None:
    flower = make_flower(LOGIN, prefix="two/parts")
    flower.http.auth = USER

    found = links(flower.get("/jobs").text) | links(flower.get(f"/jobs/{job}").text)
    found.discard(f"/two/parts/task/{job}")  # Flower has not heard of it
    assert {"/two/parts/jobs", "/two/parts/dead-letters", "/two/parts/broker"} <= found
    for link in found:
        assert link.startswith("/two/parts/") or link == "/two/parts"
        answer = httpx.get(flower.root + link, auth=USER, follow_redirects=True)
        assert answer.status_code == 200, link
    assert httpx.get(f"{flower.root}/jobs", auth=USER).status_code == 404
    assert flower.json(f"/jobs/api/jobs/{job}")["id"] == job


@pytest.mark.long
def test_they_are_there_on_a_unix_socket(
    fleet: Fleet, job: str, tmp_path: Path
) -> None:
    socket = tmp_path / "flower.sock"
    flower = Flower(fleet.setup, tmp_path / "log", LOGIN, f"--unix-socket={socket}")
    transport = httpx.HTTPTransport(uds=str(socket))
    flower.http = httpx.Client(transport=transport, base_url="http://flower")

    with flower.running():
        assert flower.get("/jobs").status_code == 401
        flower.http.auth = USER
        assert flower.json(f"/jobs/api/jobs/{job}")["id"] == job
        forged = {"Origin": "http://another"}
        refused = flower.post(f"/jobs/{job}/cancel", headers=forged)
        assert refused.status_code == 403
    assert untouched(fleet)


def test_metrics_need_no_login_and_name_no_job(job: str, flower: Flower) -> None:
    def metrics_now() -> str:
        text = flower.get("/metrics").text
        return text if 'queue="normal"' in text else ""

    metrics = wait_until(metrics_now, "the jobs are counted")
    assert f'jobkit_queue_jobs{{queue="normal",state="{State.QUEUED}"}}' in metrics
    assert job not in metrics
    labels = {
        *re.findall(r"(\w+)=", " ".join(re.findall(r"jobkit_\w+{(.*)}", metrics)))
    }
    assert labels == {"queue", "state"}
