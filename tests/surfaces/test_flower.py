"""The pages of jobs in Flower: what they show, and what their buttons do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest

from jobkit.checkpoint import Checkpoint, StageState
from jobkit.codec import dumps
from jobkit.job import ErrorInfo, FailedItem, Message, Progress
from jobkit.states import State
from jobkit.store.values import Failure, Snapshot
from tests.store.lives import (
    HINT,
    LEASE,
    dead,
    enqueued,
    new_job,
    rewrite,
    running,
    snapshot,
)
from tests.surfaces.conftest import MakeFleet, MakeFlower
from tests.surfaces.flowers import LOGIN, USER, Flower
from tests.waiting import wait_until
from tests.worker.fleet import Fleet

EVIL = "<img src=x onerror=\"alert(1)\"><script>alert('x')</script>"


@pytest.fixture(scope="module")
def flower(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    log = tmp_path_factory.mktemp("flower") / "flower.log"
    with Flower(fleet.setup, log, LOGIN).running() as shared:
        shared.http.auth = USER
        yield shared


def ids(document: Any) -> list[str]:
    return [job["id"] for job in document["jobs"]]


def job_of(flower: Flower, job_id: str) -> Any:
    return flower.json(f"/jobs/api/jobs/{quote(job_id, safe='')}")


def act(flower: Flower, job_id: str, name: str, **options: str) -> Any:
    answer = flower.post(f"/jobs/{quote(job_id, safe='')}/{name}", options or None)
    return answer.json() if answer.status_code == 200 else answer.status_code


# -- what is shown


def test_jobs_are_listed_newest_first_by_the_page(fleet: Fleet, flower: Flower) -> None:
    for number in range(5):
        job = replace(new_job(f"list-{number}", task="listed"), owner="lister")
        fleet.store.enqueue(job, "token", HINT)

    first = flower.json("/jobs/api/jobs", owner="lister", limit="3")
    second = flower.json("/jobs/api/jobs", owner="lister", after=first["next"])

    assert ids(first) == ["list-4", "list-3", "list-2"]
    assert ids(second) == ["list-1", "list-0"]
    assert second["next"] is None
    assert first["counts"]["QUEUED"] >= 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task", "of its own"),
        ("queue", "quick & dirty"),
        ("owner", "<ada>"),
        ("text", "lter-me"),
        ("text", "filter-me"),
    ],
)
def test_a_list_is_narrowed(
    fleet: Fleet, flower: Flower, name: str, value: str
) -> None:
    job = new_job("filter-me", "of its own", "quick & dirty", "<ada>")
    if fleet.store.enqueue(job, "token", HINT):
        fleet.store.begin("filter-me", "token", "w1", 3600)
    running(fleet.store, f"not this one: {name} {value[0]}")

    found = flower.json("/jobs/api/jobs", state="RUNNING", **{name: value})
    assert ids(found) == ["filter-me"]
    found = flower.json("/jobs/api/jobs", state="QUEUED", **{name: value})
    assert "filter-me" not in ids(found)


def test_a_job_shows_all_that_is_known(fleet: Fleet, flower: Flower) -> None:
    run = running(fleet.store, "whole")
    stages = {
        "count": StageState(done=True, value="7"),
        "import": StageState(current=5, total=9, failed=1, cursor=dumps(("a", 5))),
    }
    progress = Progress(5, 9, 60.0, 2.5, 1.6, "halfway", "import", 1, 2, ok=4, failed=1)
    taken = Snapshot(
        5, Checkpoint(("count", "import"), stages).encode(), progress,
        failed=(FailedItem("import", "k5", "ValueError", "no", 4, "secret"),),
    )  # fmt: skip
    fleet.store.save("whole", run.fence, 1, taken, 3600)

    job = job_of(flower, "whole")

    assert (job["state"], job["stale"], job["worker"]) == ("RUNNING", False, "w1/7")
    assert job["actions"] == ["pause", "cancel"]
    assert (job["progress"]["percent"], job["progress"]["eta"]) == (60.0, 1.6)
    assert [(s["name"], s["at"], s["cursor"]) for s in job["stages"]] == [
        ("count", "done", None),
        ("import", "current", "('a', 5)"),
    ]
    assert [event["name"] for event in job["history"]] == ["queued", "started"]
    page = flower.json("/jobs/api/jobs/whole/failures")
    assert [(item["key"], item["open"]) for item in page["items"]] == [("k5", True)]
    assert "secret" not in json.dumps(page)


def test_a_job_whose_worker_is_silent_is_stale(fleet: Fleet, flower: Flower) -> None:
    enqueued(fleet.store, "silent")
    fleet.store.begin("silent", "token", "w1", 0.001)

    wait_until(lambda: job_of(flower, "silent")["stale"], "it is stale")
    (row,) = flower.json("/jobs/api/jobs", text="silent")["jobs"]
    assert row["stale"]


def test_failed_items_come_in_pages(fleet: Fleet, flower: Flower) -> None:
    run = running(fleet.store, "failing")
    items = tuple(FailedItem("import", f"{n}", "ValueError", "no") for n in range(5))
    taken = replace(snapshot(5), failed=items)
    fleet.store.save("failing", run.fence, 1, taken, LEASE)

    first = flower.json("/jobs/api/jobs/failing/failures", limit="3")
    rest = flower.json("/jobs/api/jobs/failing/failures", after=first["next"])

    found = [item["key"] for item in first["items"] + rest["items"]]
    assert found == ["0", "1", "2", "3", "4"]
    assert rest["next"] is None


def test_dead_letters_say_why(fleet: Fleet, flower: Flower) -> None:
    dead(fleet.store, "letter")
    enqueued(fleet.store, "no letter")

    letters = flower.json("/jobs/api/dead-letters", queue="normal", task="shop.sync")

    (letter,) = [job for job in letters["jobs"] if job["id"] == "letter"]
    assert (letter["reason"], letter["dead_letter_queue"]) == ("permanent", "dead")
    assert letter["error"]["traceback"] == "Traceback ..."
    assert "no letter" not in ids(letters)
    assert ids(flower.json("/jobs/api/dead-letters", queue="another")) == []


def test_arguments_are_hidden_unless_the_app_shows_them(
    fleet: Fleet, flower: Flower, make_fleet: MakeFleet, make_flower: MakeFlower
) -> None:
    result = fleet.send("add", 1, 4711)
    assert "4711" not in flower.get(f"/jobs/api/jobs/{result.id}").text
    assert "4711" not in flower.get(f"/jobs/{result.id}").text

    open_fleet = make_fleet(jobkit_show_arguments=True)
    result = open_fleet.send("add", 1, 4711)
    shown = job_of(make_flower(of=open_fleet), result.id)
    assert shown["arguments"] == {"args": "(1, 4711)", "kwargs": "{}"}


def test_markup_in_every_field_is_text(fleet: Fleet, flower: Flower) -> None:
    job_id = f"evil{EVIL}"
    message = Message(EVIL, b"", EVIL, "utf-8", {"argsrepr": EVIL}).encode()
    job = replace(new_job(job_id, EVIL, EVIL, EVIL), message=message)
    fleet.store.enqueue(job, "token", HINT)
    run = fleet.store.begin(job_id, "token", EVIL, LEASE).job
    assert run
    stages = {EVIL: StageState(3, 10, 1, cursor=dumps(EVIL))}
    taken = Snapshot(
        3,
        Checkpoint((EVIL,), stages).encode(),
        Progress(3, 10, 30.0, None, None, EVIL, EVIL, 0, 1, 2, 1),
        failed=(FailedItem(EVIL, EVIL, EVIL, EVIL),),
    )
    fleet.store.save(job_id, run.fence, 1, taken, LEASE)
    failure = Failure(ErrorInfo(EVIL, EVIL, EVIL, EVIL))
    fleet.store.bury(job_id, run.fence, failure, EVIL)

    way = quote(job_id, safe="")
    for page in (f"/jobs/{way}", f"/jobs?text={way}", "/dead-letters", f"/jobs/x{way}"):
        text = flower.get(page).text
        assert "<img" not in text.replace('<img src="/static', "")
        assert "alert('x')</script>" not in text
    for document in (way, f"{way}/failures"):
        answer = flower.get(f"/jobs/api/jobs/{document}")
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert EVIL in json.dumps(answer.json(), ensure_ascii=False).replace('\\"', '"')
    script = flower.get("/jobs/assets/jobs.js").text
    for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"):
        assert unsafe not in script


def test_pages_let_no_script_in_but_their_own(flower: Flower) -> None:
    for page in ("/jobs", "/dead-letters", "/jobs/nobody"):
        headers = flower.get(page).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["cache-control"] == "no-store"


# -- what can be done


def test_a_waiting_job_is_paused_resumed_and_cancelled(
    fleet: Fleet, flower: Flower
) -> None:
    enqueued(fleet.store, "steered")

    def now() -> tuple[str, list[str]]:
        job = job_of(flower, "steered")
        return job["state"], job["actions"]

    assert act(flower, "steered", "pause", reason="lunch") == {"id": "steered"}
    assert now() == ("PAUSED", ["resume", "cancel"])
    act(flower, "steered", "resume")
    assert now() == ("QUEUED", ["pause", "cancel"])
    act(flower, "steered", "cancel")
    assert now() == ("CANCELLED", [])
    said = [event.detail for event in fleet.jobs.history("steered")]
    assert said[1:] == ["ada (Flower): lunch", *["ada (Flower)"] * 2]
    assert act(flower, "steered", "resume") == 409


@pytest.mark.parametrize("mode", ["resume", "restart"])
def test_a_dead_letter_is_replayed(fleet: Fleet, flower: Flower, mode: str) -> None:
    job_id = f"replay {mode}"
    dead(fleet.store, job_id)
    rewrite(fleet.store, job_id, task="t.add")
    assert job_of(flower, job_id)["actions"] == ["replay", "discard"]

    assert act(flower, job_id, "replay", mode=mode) == {"id": job_id}

    job = fleet.jobs.get(job_id)
    assert (job.state, job.replays) == (State.QUEUED, 1)
    assert bool(job.checkpoint) == (mode == "resume")


def test_a_dead_letter_of_a_task_that_is_gone_is_not_replayed(
    fleet: Fleet, flower: Flower
) -> None:
    dead(fleet.store, "of no task")

    answer = flower.post("/jobs/of%20no%20task/replay")

    assert (answer.status_code, "shop.sync" in answer.text) == (409, True)
    assert fleet.jobs.get("of no task").state is State.DEAD


def test_a_dead_letter_is_discarded(fleet: Fleet, flower: Flower) -> None:
    dead(fleet.store, "given up")
    enqueued(fleet.store, "alive")

    act(flower, "given up", "discard", reason="too old")

    assert fleet.jobs.get("given up").state is State.CANCELLED
    assert act(flower, "alive", "discard") == 409


def test_many_jobs_are_told_at_once(fleet: Fleet, flower: Flower) -> None:
    enqueued(fleet.store, "many 1")
    enqueued(fleet.store, "many 2")
    dead(fleet.store, "many dead")

    wanted = ["many 1", "many 2", "many dead", "many nobody"]
    done = flower.post("/jobs/api/cancel", {"ids": wanted}).json()

    assert done["done"] == ["many 1", "many 2"]
    assert list(done["refused"]) == ["many dead", "many nobody"]
    assert fleet.jobs.get("many 2").state is State.CANCELLED


def test_what_was_done_shows_in_the_next_document(fleet: Fleet, flower: Flower) -> None:
    for number in range(10):
        job_id = f"at once {number}"
        enqueued(fleet.store, job_id)
        assert job_of(flower, job_id)["state"] == "QUEUED"
        act(flower, job_id, "cancel")
        assert job_of(flower, job_id)["state"] == "CANCELLED"


# -- bad input

LONG = "9" * 5000
BAD = [
    ("GET", "/jobs/nobody", None, 404),
    ("GET", "/jobs/api/jobs/nobody", None, 404),
    ("GET", "/jobs/api/jobs/nobody/failures", None, 404),
    ("GET", "/jobs/%ff%fe", None, 400),
    ("GET", "/jobs/assets/../pages.py", None, 404),
    ("GET", "/jobs/assets/pages.py", None, 404),
    ("GET", "/jobs/api/jobs?state=NONE", None, 400),
    ("GET", "/jobs/api/jobs?limit=0", None, 400),
    ("GET", "/jobs/api/jobs?limit=-1", None, 400),
    ("GET", "/jobs/api/jobs?limit=x", None, 400),
    ("GET", "/jobs/api/jobs?limit=%C2%B2", None, 400),
    ("GET", f"/jobs/api/jobs?limit={LONG}", None, 200),
    ("GET", "/jobs/api/jobs?after=nowhere", None, 400),
    ("GET", "/jobs/api/jobs?after=eyIwIjogWyJ4IiwgInkiXX0=", None, 400),
    ("GET", "/jobs/api/jobs?after=eyIwIjogWyJcdWQ4MDAiLCAieSJdfQ==", None, 400),
    ("GET", "/jobs/api/jobs?task=%00%01%ff", None, 400),
    ("GET", "/jobs/api/jobs?task=%00%01%0a&queue=%F0%9F%90%99&text=*%5B", None, 200),
    ("GET", "/jobs/api/jobs/nobody/failures?after=x", None, 400),
    ("POST", "/jobs/nobody/cancel", None, 404),
    ("POST", "/jobs/nobody/explode", None, 405),
    ("GET", "/jobs/nobody/cancel", None, 405),
    ("PUT", "/jobs", None, 405),
    ("DELETE", "/jobs/api/jobs", None, 405),
    ("OPTIONS", "/jobs", None, 405),
    ("POST", "/jobs/bad/replay", b"{", 400),
    ("POST", "/jobs/bad/replay", b"[" * 100_000, 400),
    ("POST", "/jobs/bad/replay", b'"text"', 400),
    ("POST", "/jobs/bad/replay", b'{"mode": 1}', 400),
    ("POST", "/jobs/bad/replay", b'{"mode": "sideways"}', 400),
    ("POST", "/jobs/bad/cancel", b'{"reason": "\\ud800"}', 400),
    ("POST", "/jobs/bad/resume", b"{}", 409),
    ("POST", "/jobs/api/cancel", b"{}", 400),
    ("POST", "/jobs/api/cancel", b'{"ids": []}', 400),
    ("POST", "/jobs/api/cancel", b'{"ids": [1]}', 400),
    ("POST", "/jobs/api/cancel", json.dumps({"ids": ["x"] * 201}).encode(), 400),
    ("POST", "/jobs/api/cancel", b'{"ids": ["\\ud800"]}', 200),
    ("POST", "/jobs/api/explode", b'{"ids": ["x"]}', 405),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body", "status"), BAD, ids=[str(n) for n in range(len(BAD))]
)
def test_bad_input_gets_its_status_and_no_traceback(
    fleet: Fleet, flower: Flower, method: str, path: str, body: bytes, status: int
) -> None:
    if fleet.store.get("bad") is None:
        dead(fleet.store, "bad")
    before = len(flower.log)

    headers = {"Content-Type": "application/json"} if body else {}
    answer = flower.http.request(method, path, content=body, headers=headers)

    assert answer.status_code == status, answer.text
    assert "Traceback" not in answer.text + flower.log[before:]
    assert fleet.jobs.get("bad").state is State.DEAD


def test_only_of_a_partial_job_failed_items_are_replayed(
    fleet: Fleet, flower: Flower
) -> None:
    result = fleet.send("add", 1, 2)

    assert act(flower, result.id, "replay", mode="failed_items") == 409


def test_a_body_that_is_no_json_is_refused(fleet: Fleet, flower: Flower) -> None:
    enqueued(fleet.store, "form")

    answer = flower.http.post("/jobs/form/cancel", data={"reason": "a form"})

    assert answer.status_code == 415
    assert fleet.jobs.get("form").state is State.QUEUED


# -- with a worker


@pytest.mark.long
def test_a_running_job_is_followed_on_flowers_page_of_its_task_too(
    make_fleet: MakeFleet, make_flower: MakeFlower
) -> None:
    fleet = make_fleet()
    flower = make_flower(LOGIN, of=fleet)
    flower.http.auth = USER
    fleet.worker("w", "-E").start()
    result = fleet.send("walk", 5_000, owner="ada")

    def far() -> bool:
        answer = flower.get(f"/jobs/api/jobs/{result.id}")
        return bool(answer.json()["progress"]["percent"])

    wait_until(far, "its progress shows")
    page = wait_until(
        lambda: "Job progress" in (p := flower.get(f"/task/{result.id}").text) and p,
        "Flower's page shows it too",
    )
    assert page
    assert "import, " in page
    assert " of 5,000, " in page
    assert 'src="/jobs/assets/task.js" data-root="/jobs"' in page

    act(flower, result.id, "cancel")
    job = fleet.wait_for(result.id)
    assert job.state is State.CANCELLED


@pytest.mark.long
def test_failed_items_are_replayed_as_another_job(
    make_fleet: MakeFleet, make_flower: MakeFlower
) -> None:
    fleet = make_fleet()
    flower = make_flower(LOGIN, of=fleet)
    flower.http.auth = USER
    fleet.start("w")
    result = fleet.send("sift", 10, [3, 7])
    assert fleet.wait_for(result.id).state is State.PARTIAL

    child = act(flower, result.id, "replay", mode="failed_items")["id"]

    assert child != result.id
    assert job_of(flower, child)["replay_of"] == result.id
