"""What web pages are told of jobs, who may see them, and who may steer them."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from jobkit import Client, Job, SettingsError, State, StoreUnavailable
from jobkit.job import ErrorInfo, Message, NewJob, Progress
from jobkit.store.redis import RedisStore
from jobkit.store.values import Failure, Snapshot
from jobkit.web import Showing, Tokens, jobs_app, wsgi
from tests.servers import ValkeyServer
from tests.store.lives import dead, enqueued, message, rewrite, running, started
from tests.surfaces.sites import raw, served
from tests.waiting import free_port

SECRET = "a secret of the shop's own"
HOSTILE = "<script>alert(1)</script>\"'&\u2028\n\x00\x1b[31m\u202e"


@pytest.fixture
def store(valkey: ValkeyServer) -> Iterator[RedisStore]:
    store = RedisStore(valkey.url, f"web-{uuid.uuid4().hex[:12]}")
    yield store
    store.close()


@pytest.fixture
def client(store: RedisStore) -> Client:
    return Client(store)


Answer = httpx.Response
Ask = Callable[..., Answer]


def asking(app: Any, host: str = "shop.example") -> Ask:
    """Send requests to an app without a server; errors of ours are answers."""

    def ask(path: str, method: str = "GET", **options: Any) -> Answer:
        async def send() -> Answer:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(
                transport=transport, base_url=f"https://{host}"
            ) as http:
                return await http.request(method, path, **options)

        return asyncio.run(send())

    return ask


@pytest.fixture
def everybody(client: Client) -> Ask:
    """Everybody may do everything."""
    return asking(jobs_app(client, authorize=lambda *_: True))


def tell(store: RedisStore, run: Job, seq: int = 1, **progress: Any) -> None:
    snapshot = Snapshot(seq, "", Progress(**progress))
    assert store.save(run.id, run.fence, seq, snapshot, 30).owner


def since(store: RedisStore, job_id: str, seconds: float) -> None:
    """Make a job look as if it had been started earlier."""
    job = store.get(job_id)
    assert job
    begun = job.updated_at - timedelta(seconds=seconds)
    rewrite(store, job_id, started_at=str(int(begun.timestamp() * 1000)))


# -- the document


def test_a_running_job_is_told_whole(store: RedisStore, everybody: Ask) -> None:
    run = running(store)
    tell(store, run, current=3, total=10, percent=30.0, stage="import", ok=3)

    answer = everybody("/jobs/job")

    assert answer.status_code == 200
    told = answer.json()
    assert (told["id"], told["task"], told["state"]) == ("job", "shop.sync", "RUNNING")
    assert told["progress"]["current"] == 3
    assert told["stages"] == [
        {"name": "count", "state": "done"},
        {"name": "import", "state": "current"},
    ]
    assert (told["finished"], told["stale"], told["poll_after"]) == (False, False, 1.0)
    assert told["actions"] == ["cancel", "pause"]
    assert answer.headers["cache-control"] == "private, no-cache"


def test_only_safe_fields_are_shown(store: RedisStore, everybody: Ask) -> None:
    secret = "hunter2"
    sent = Message("t", secret.encode(), "application/json", "utf-8", {"a": secret})
    job = NewJob("job", "t", sent.encode(), queue=secret, owner=secret)
    assert store.enqueue(job, "token", 300)
    run = started(store, worker=secret)
    error = ErrorInfo("ValueError", f"bad {secret}", f"Traceback {secret}", "unknown")
    store.save("job", run.fence, 1, Snapshot(1, secret, Progress()), 30)
    store.retry("job", run.fence, Failure(error), 60)
    assert store.ask("job", "cancel", secret, secret)[0] == "done"

    answer = everybody("/jobs/job")

    assert secret not in answer.text
    assert secret not in everybody("/progress/job/").text
    assert answer.json()["state"] == "CANCELLED"


def test_the_staff_may_be_shown_the_error(store: RedisStore, client: Client) -> None:
    dead(store)
    ask = asking(jobs_app(client, public=True, showing=Showing(details=True)))

    told = ask("/jobs/job").json()

    assert told["error"] == {
        "type": "ValueError",
        "message": "no",
        "verdict": "unknown",
    }
    assert told["worker"] == "w1/7"
    assert "Traceback" not in json.dumps(told)
    assert ask("/progress/job/").json()["result"] == "no"


def test_a_silent_owner_is_shown_as_stale(store: RedisStore, everybody: Ask) -> None:
    run = running(store)
    tell(store, run, current=4, total=10, percent=40.0, rate=2.0, eta_seconds=3.0)
    assert everybody("/jobs/job").json()["progress"]["eta_seconds"] == 3.0
    rewrite(store, "job", lease_until="1000")

    told = everybody("/jobs/job").json()

    assert (told["stale"], told["stale_since"]) == (
        True,
        "1970-01-01T00:00:01.000+00:00",
    )
    assert told["progress"]["percent"] == 40.0
    assert told["progress"]["eta_seconds"] is None
    assert "silent" in everybody("/progress/job/").json()["progress"]["description"]


@pytest.mark.parametrize(
    ("usual", "shown", "pause"),
    [
        (4.9, "spinner", 1),
        (5, "bar", 1),
        (29, "bar", 1),
        (30, "stages", 1),
        (299, "stages", 1),
        (300, "come-back-later", 5),
    ],
)
def test_a_page_is_told_how_to_present_a_job(
    store: RedisStore, client: Client, usual: float, shown: str, pause: float
) -> None:
    running(store)
    tasks: list[str] = []

    def usual_seconds(task: str) -> float:
        tasks.append(task)
        return usual

    ask = asking(
        jobs_app(client, public=True, showing=Showing(usual_seconds=usual_seconds))
    )
    told = ask("/jobs/job").json()

    assert (told["presentation"], told["poll_after"]) == (shown, pause)
    assert set(tasks) == {"shop.sync"}


@pytest.mark.parametrize(
    ("elapsed", "left", "shown"),
    [
        (0, None, "spinner"),
        (3, 1, "spinner"),
        (3, 9, "bar"),
        (40, None, "stages"),
        (10, 60, "stages"),
        (10, 600, "come-back-later"),
        (400, None, "come-back-later"),
    ],
)
def test_without_statistics_the_jobs_own_progress_decides(
    store: RedisStore, everybody: Ask, elapsed: float, left: float | None, shown: str
) -> None:
    run = running(store)
    tell(store, run, current=1, eta_seconds=left)
    since(store, "job", elapsed)

    assert everybody("/jobs/job").json()["presentation"] == shown


def test_what_has_not_changed_is_not_sent_again(
    store: RedisStore, everybody: Ask
) -> None:
    run = running(store)
    first = everybody("/jobs/job")
    tag = first.headers["etag"]

    same = everybody("/jobs/job", headers={"If-None-Match": f'"x", W/{tag}'})
    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["etag"] == tag

    tell(store, run, current=1)
    other = everybody("/jobs/job", headers={"If-None-Match": tag})
    assert (other.status_code, other.headers["etag"] != tag) == (200, True)


def test_hostile_text_stays_text(store: RedisStore, everybody: Ask) -> None:
    job = NewJob("job", HOSTILE, message().encode(), stages=(HOSTILE,))
    assert store.enqueue(job, "token", 300)
    run = started(store)
    tell(store, run, current=1, message=HOSTILE, stage=HOSTILE)

    answer = everybody("/jobs/job")

    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json()["progress"]["message"] == HOSTILE
    assert answer.json()["stages"][0]["name"] == HOSTILE
    assert all(32 <= byte < 127 for byte in answer.content)


# -- who may see


def test_nothing_starts_that_does_not_say_who_may_see(client: Client) -> None:
    with pytest.raises(SettingsError, match=r"authorize=.*tokens=.*public=True"):
        jobs_app(client)


def test_public_and_authorize_contradict_each_other(client: Client) -> None:
    with pytest.raises(SettingsError, match="not both"):
        jobs_app(client, public=True, authorize=lambda *_: True)


@pytest.mark.parametrize(
    "origins", ["https://a.example", ["a.example"], ["https://a/"]]
)
def test_an_origin_that_is_none_is_refused(client: Client, origins: Any) -> None:
    with pytest.raises(SettingsError, match="Origins are a list"):
        jobs_app(client, public=True, trusted_origins=origins)


def test_public_jobs_are_seen_and_not_steered(
    store: RedisStore, client: Client
) -> None:
    running(store)
    ask = asking(jobs_app(client, public=True))

    assert ask("/jobs/job").json()["actions"] == []
    answer = ask("/jobs/job/cancel", "POST")
    assert (answer.status_code, code(answer)) == (403, "read_only")
    assert client.get("job").request is None


async def _is_adas(request: Request, job: Job) -> bool:
    return request.headers.get("user") == "ada" and job.id == "adas"


def _is_adas_too(request: Request, job: Job) -> bool:
    return request.headers.get("user") == "ada" and job.id == "adas"


@pytest.mark.parametrize("authorize", [_is_adas, _is_adas_too], ids=["async", "sync"])
@pytest.mark.parametrize("path", ["/jobs/{}", "/jobs/{}/events", "/progress/{}/"])
def test_what_one_may_not_see_is_not_there(
    store: RedisStore, client: Client, authorize: Any, path: str
) -> None:
    enqueued(store, "adas")
    enqueued(store, "bobs")
    store.ask("adas", "cancel", "", "")  # so that its events end
    ask = asking(jobs_app(client, authorize=authorize))

    assert ask(path.format("adas"), headers={"user": "ada"}).status_code == 200
    hidden = ask(path.format("bobs"), headers={"user": "ada"})
    absent = ask(path.format("none"), headers={"user": "ada"})
    assert (hidden.status_code, hidden.json()) == (404, absent.json())
    assert ask(path.format("adas")).status_code == 404


@pytest.mark.parametrize("action", ["cancel", "pause", "resume"])
def test_what_one_may_not_see_one_may_not_steer(
    store: RedisStore, client: Client, action: str
) -> None:
    enqueued(store, "bobs")
    ask = asking(jobs_app(client, authorize=_is_adas))

    answer = ask(f"/jobs/bobs/{action}", "POST", headers={"user": "ada"})

    assert answer.status_code == 404
    assert client.get("bobs").state is State.QUEUED


def test_who_may_only_read_is_offered_nothing(
    store: RedisStore, client: Client
) -> None:
    running(store)
    ask = asking(jobs_app(client, authorize=lambda *_: "read"))

    assert ask("/jobs/job").json()["actions"] == []
    assert ask("/jobs/job/pause", "POST").status_code == 403


def test_an_error_of_authorize_is_no_permission(
    store: RedisStore, client: Client
) -> None:
    def authorize(*_: Any) -> bool:
        raise RuntimeError("hunter2")

    running(store)
    answer = asking(jobs_app(client, authorize=authorize))("/jobs/job")

    assert (answer.status_code, code(answer)) == (500, "error")
    assert "hunter2" not in answer.text


# -- tokens


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(SECRET)


def test_a_token_opens_one_job(
    store: RedisStore, client: Client, tokens: Tokens
) -> None:
    running(store)
    running(store, "other")
    ask = asking(jobs_app(client, tokens=tokens))
    token = tokens.sign("job")

    for options in (
        {"params": {"token": token}},
        {"headers": {"Authorization": f"Bearer {token}"}},
    ):
        assert ask("/jobs/job", **options).status_code == 200
        assert ask("/jobs/other", **options).status_code == 404
    assert ask("/jobs/job").status_code == 404


def test_a_token_has_a_scope(store: RedisStore, client: Client, tokens: Tokens) -> None:
    running(store)
    ask = asking(jobs_app(client, tokens=tokens))

    read = ask("/jobs/job/pause", "POST", params={"token": tokens.sign("job")})
    acts = ask("/jobs/job/pause", "POST", params={"token": tokens.sign("job", "act")})

    assert (read.status_code, acts.status_code) == (403, 200)
    assert acts.json()["asked"] == "pause"


def test_a_token_adds_to_what_authorize_allows(
    store: RedisStore, client: Client, tokens: Tokens
) -> None:
    running(store)
    ask = asking(jobs_app(client, authorize=lambda *_: "read", tokens=tokens))

    act = {"token": tokens.sign("job", "act")}
    assert ask("/jobs/job", params=act).json()["actions"] == ["cancel", "pause"]
    assert ask("/jobs/job", params={"token": "x"}).json()["actions"] == []


def test_expired_tampered_and_foreign_tokens_open_nothing(
    store: RedisStore, client: Client, tokens: Tokens
) -> None:
    running(store)
    ask = asking(jobs_app(client, tokens=tokens))
    good = tokens.sign("job", "act")
    bad = [
        tokens.sign("job", seconds=0),
        Tokens("another secret, of somebody else").sign("job"),
        good[:-2] + ("AA" if good[-2:] != "AA" else "BB"),
        "A" + good[1:],
        good.split(".")[0],
        ".".join(reversed(good.split("."))),
        "",
        ".",
        "ü\x00",
        tokens._serializer.dumps({"id": "job"}),
        tokens._serializer.dumps(["job", "act", "tomorrow"]),
    ]

    for token in bad:
        assert ask("/jobs/job", params={"token": token}).status_code == 404, token
    assert ask("/jobs/job", params={"token": good}).status_code == 200


def test_a_secret_can_be_changed(tokens: Tokens) -> None:
    old = tokens.sign("job")
    both = Tokens([SECRET, "a newer secret of the shop"])

    assert both.scope(old, "job") == "read"
    assert Tokens("a newer secret of the shop").scope(both.sign("job"), "job") == "read"
    assert tokens.scope(both.sign("job"), "job") is None


@pytest.mark.parametrize("secret", ["", "short", [], [SECRET, "short"]])
def test_a_weak_secret_is_refused(secret: Any) -> None:
    with pytest.raises(SettingsError, match="16 characters"):
        Tokens(secret)


def test_an_unknown_scope_is_refused(tokens: Tokens) -> None:
    wrong: Any = "write"
    with pytest.raises(SettingsError, match="read or act"):
        tokens.sign("job", wrong)


# -- steering


def test_a_job_is_paused_resumed_and_cancelled(
    store: RedisStore, everybody: Ask, client: Client
) -> None:
    enqueued(store)

    paused = everybody("/jobs/job/pause", "POST").json()
    assert (paused["state"], paused["actions"]) == ("PAUSED", ["cancel", "resume"])
    assert everybody("/jobs/job/resume", "POST").json()["state"] == "QUEUED"
    cancelled = everybody("/jobs/job/cancel", "POST").json()
    assert (cancelled["state"], cancelled["actions"]) == ("CANCELLED", [])
    assert [event.detail for event in client.history("job")][1:] == ["web"] * 3


def test_a_running_job_is_asked(store: RedisStore, everybody: Ask) -> None:
    running(store)

    asked = everybody("/jobs/job/cancel", "POST").json()

    assert (asked["state"], asked["asked"], asked["actions"]) == (
        "RUNNING",
        "cancel",
        [],
    )


def test_who_steered_is_told(store: RedisStore, client: Client) -> None:
    enqueued(store)
    app = jobs_app(client, authorize=_is_anyone, actor=lambda r: r.headers["user"])

    assert asking(app)("/jobs/job/pause", "POST", headers={"user": "ada"}).is_success
    assert client.history("job")[-1].detail == "ada"


async def _is_anyone(*_: Any) -> bool:
    return True


@pytest.mark.parametrize("action", ["cancel", "pause", "resume"])
def test_what_has_ended_cannot_be_steered(
    store: RedisStore, everybody: Ask, action: str
) -> None:
    dead(store)
    answer = everybody(f"/jobs/job/{action}", "POST")
    assert (answer.status_code, code(answer)) == (409, "not_allowed")
    assert "DEAD" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://shop.example.evil.example"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://shop.example", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "nonsense"},
    ],
)
def test_pages_of_other_sites_may_not_steer(
    store: RedisStore, everybody: Ask, client: Client, headers: dict[str, str]
) -> None:
    enqueued(store)

    answer = everybody("/jobs/job/cancel", "POST", headers=headers)

    assert (answer.status_code, code(answer)) == (403, "cross_site")
    assert client.get("job").state is State.QUEUED


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "https://shop.example"},
        {"Origin": "https://shop.example", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_pages_of_ones_own_and_trusted_sites_may(
    store: RedisStore, client: Client, headers: dict[str, str]
) -> None:
    enqueued(store)
    app = jobs_app(
        client, authorize=_is_anyone, trusted_origins=["https://app.example"]
    )
    assert asking(app)("/jobs/job/cancel", "POST", headers=headers).is_success


# -- bad input


def code(answer: Answer) -> str:
    """What an error says to programs; every error is JSON."""
    assert answer.headers["content-type"] == "application/json"
    return str(answer.json()["error"]["code"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/jobs/none", 404),
        ("GET", "/jobs/none/events", 404),
        ("GET", "/progress/none/", 404),
        ("POST", "/jobs/none/cancel", 404),
        ("GET", "/jobs/%00%ff%fe", 404),
        ("GET", "/jobs/%ed%a0%80/events", 404),
        ("GET", "/jobs/" + "x" * 2000, 404),
        ("GET", "/jobs/..%2f..%2fetc", 404),
        ("GET", "/jobs/", 404),
        ("GET", "/nothing", 404),
        ("GET", "/jobs/job?" + "x" * 5000, 414),
        ("POST", "/jobs/job", 405),
        ("DELETE", "/jobs/job", 405),
        ("GET", "/jobs/job/cancel", 405),
        ("POST", "/jobs/job/discard", 404),
        ("PUT", "/jobs/job/events", 405),
    ],
)
def test_bad_requests_get_the_right_error(
    store: RedisStore, everybody: Ask, method: str, path: str, status: int
) -> None:
    enqueued(store)

    answer = everybody(path, method, follow_redirects=True)

    assert answer.status_code == status
    assert code(answer)
    assert "Traceback" not in answer.text
    if status == 405:
        assert answer.headers["allow"]


def test_bytes_that_are_no_text_are_answered_by_a_real_server(
    store: RedisStore, client: Client
) -> None:
    enqueued(store)
    with served(jobs_app(client, authorize=_is_anyone)) as site:
        for path in (
            b"/jobs/\xff\xfe",
            b"/jobs/%80%ff/events",
            b"/jobs/job?token=\xff",
        ):
            request = b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            answer = raw(site.url, request % path)
            assert answer.split()[1] in {b"200", b"400", b"404"}
            assert b"Traceback" not in answer


def test_any_last_event_id_is_answered(store: RedisStore, everybody: Ask) -> None:
    dead(store)
    for last in ("x", "1-1.1-1", "\xff".encode("latin1"), "9" * 3000, "-", "0-0.0-0"):
        answer = everybody("/jobs/job/events", headers={"Last-Event-ID": last})
        assert answer.status_code == 200
        assert "event: end" in answer.text


# -- the store is away


def test_a_store_that_is_away_is_a_503(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(f"redis://127.0.0.1:{free_port()}/0")
    ask = asking(jobs_app(client, authorize=_is_anyone))
    caplog.set_level(logging.INFO, "jobkit")

    for method, path in (
        ("GET", "/jobs/job"),
        ("GET", "/jobs/job/events"),
        ("GET", "/progress/job/"),
        ("POST", "/jobs/job/cancel"),
    ):
        answer = ask(path, method)
        assert (answer.status_code, code(answer)) == (503, "unavailable")
        assert answer.headers["retry-after"] == "5"
        assert "127.0.0.1" not in answer.text
    assert [r for r in caplog.records if r.name.startswith("jobkit")] == []


def test_a_record_of_a_newer_jobkit_is_no_traceback(
    store: RedisStore, everybody: Ask
) -> None:
    enqueued(store)
    rewrite(store, "job", schema="99")
    answer = everybody("/jobs/job")
    assert (answer.status_code, code(answer)) == (500, "store_error")


# -- mounted, and described


def test_it_can_be_mounted_and_says_where_it_is(
    store: RedisStore, client: Client
) -> None:
    enqueued(store)
    app = Starlette(routes=[Mount("/-", jobs_app(client, public=True))])
    ask = asking(app)

    assert ask("/-/jobs/job").status_code == 200
    assert ask("/-/openapi.json").json()["servers"] == [{"url": "/-"}]
    assert code(ask("/-/nothing")) == "not_found"


def test_every_route_is_described(store: RedisStore, everybody: Ask) -> None:
    running(store)
    told = everybody("/openapi.json").json()

    assert told["openapi"] == "3.1.0"
    assert set(told["paths"]) == {
        "/jobs/{id}",
        "/jobs/{id}/events",
        "/jobs/{id}/cancel",
        "/jobs/{id}/pause",
        "/jobs/{id}/resume",
        "/progress/{id}/",
    }
    schemas = told["components"]["schemas"]
    assert set(schemas["Job"]["required"]) == set(everybody("/jobs/job").json())
    required = set(schemas["CeleryProgress"]["required"])
    assert required == set(everybody("/progress/job/").json())


def test_the_element_is_served(everybody: Ask) -> None:
    answer = everybody("/job-progress.js")
    assert answer.headers["content-type"].startswith("text/javascript")
    assert "customElements.define" in answer.text
    again = {"If-None-Match": answer.headers["etag"]}
    assert everybody("/job-progress.js", headers=again).status_code == 304


# -- for other frameworks


def test_plain_functions_say_the_same(
    store: RedisStore, client: Client, everybody: Ask
) -> None:
    running(store)
    status, body, headers = wsgi.status(client, "job", scope="act")

    answer = everybody("/jobs/job")
    assert (status, body) == (200, answer.json())
    assert headers["ETag"] == answer.headers["etag"]
    known = wsgi.status(client, "job", scope="act", if_none_match=headers["ETag"])
    assert known.flask == ("", 304, {**headers})
    assert wsgi.status(client, "none").status == 404
    assert wsgi.status(client, "\udcff").status == 404
    assert wsgi.progress(client, "job").body == everybody("/progress/job/").json()


def test_plain_functions_steer(store: RedisStore, client: Client) -> None:
    running(store)
    body, status, _ = wsgi.act(client, "job", "pause", actor="ada").flask
    assert (status, body["asked"]) == (200, "pause")
    assert wsgi.act(client, "job", "explode").status == 404
    nowhere = Client(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(StoreUnavailable):
        nowhere.get("job")
    away = wsgi.act(nowhere, "job", "cancel")
    assert (away.status, away.headers["Retry-After"]) == (503, "5")


@pytest.mark.parametrize("answer", ["Read", "none", 1, object()])
def test_an_answer_of_authorize_that_is_none_shows_nothing(
    store: RedisStore, client: Client, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    running(store)
    ask = asking(jobs_app(client, authorize=lambda *_: answer))

    assert ask("/jobs/job").status_code == 404
    assert ask("/jobs/job/cancel", "POST").status_code == 404
    assert f"authorize answered {answer!r}" in caplog.text


def test_an_answer_of_authorize_may_say_act(store: RedisStore, client: Client) -> None:
    running(store)
    ask = asking(jobs_app(client, authorize=lambda *_: "act"))

    assert ask("/jobs/job").json()["actions"] == ["cancel", "pause"]
