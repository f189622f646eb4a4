"""Flower's pages of jobs in a real browser: a bar that moves, a replay, evil text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page, expect

from jobkit import State
from jobkit.checkpoint import Checkpoint, StageState
from jobkit.codec import dumps
from jobkit.job import ErrorInfo, FailedItem, Message, Progress
from jobkit.store.values import Failure, Snapshot
from tests.browsers import chromium, shoot
from tests.store.lives import HINT, LEASE, new_job
from tests.surfaces.conftest import MakeFleet, MakeFlower
from tests.surfaces.flowers import LOGIN, USER, Flower
from tests.waiting import wait_until
from tests.worker.fleet import Fleet

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

EVIL = '"><img src=x onerror="window.xss=1;alert(1)"><script>window.xss=1</script>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@dataclass
class Seen:
    """A page of a Flower, with its dialogs and what went wrong in it."""

    page: Page
    dialogs: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def open(self, flower: Flower, path: str) -> None:
        """Open a page, and wait until it has shown what it asked for."""
        self.page.goto(f"{flower.root}{path}")
        expect(self.page.locator("#jk-status")).to_contain_text("Updated")

    def answer(self, dialog: Dialog) -> None:
        """Say yes, and remember the question."""
        self.dialogs.append(dialog.message)
        dialog.accept()

    @property
    def bar(self) -> Locator:
        """What moves."""
        return self.page.get_by_role("progressbar").first

    @property
    def value(self) -> int:
        """How far the bar is; -1 while there is none."""
        if not self.bar.count():
            return -1
        return int(self.bar.get_attribute("aria-valuenow") or -1)


@pytest.fixture
def seen(browser: Browser) -> Iterator[Seen]:
    name, password = USER
    context = browser.new_context(
        viewport={"width": 1200, "height": 700},
        http_credentials={"username": name, "password": password},
    )
    seen = Seen(context.new_page())
    seen.page.on("dialog", seen.answer)
    seen.page.on("pageerror", lambda error: seen.wrong.append(str(error)))
    yield seen
    context.close()
    assert seen.wrong == []


@pytest.fixture
def fleet(make_fleet: MakeFleet) -> Fleet:
    return make_fleet()


@pytest.fixture
def flower(make_flower: MakeFlower, fleet: Fleet) -> Flower:
    return make_flower(LOGIN, of=fleet)


def test_the_bar_of_a_running_job_moves_and_its_cancel_is_heard(
    fleet: Fleet, flower: Flower, seen: Seen
) -> None:
    fleet.start("w")
    fleet.send("walk", 10, owner="ada")
    result = fleet.send("walk", 2_000, owner="ada")
    seen.open(flower, "/jobs?state=RUNNING")
    wait_until(lambda: seen.value > 5, "the bar is beyond 5")
    reached = seen.value
    wait_until(lambda: seen.value > reached + 5, "the bar moves")
    seen.open(flower, "/jobs")
    shoot(seen.page, "flower-jobs", 560)

    seen.page.get_by_role("link", name=result.id).click()
    expect(seen.page.get_by_role("heading", name="Stages")).to_be_visible()
    shoot(seen.page, "flower-job", 820)
    seen.page.get_by_role("button", name="Cancel").click()
    expect(seen.page.locator(".jk-badge").first).to_have_text("CANCELLED")

    assert seen.dialogs == ["Cancel this job?"]
    assert fleet.jobs.get(result.id).state is State.CANCELLED


def test_a_dead_letter_that_is_replayed_by_its_button_succeeds(
    fleet: Fleet, flower: Flower, seen: Seen
) -> None:
    fleet.start("w")
    result = fleet.send("stumble", 20, [12], "permanent", 1)
    assert fleet.wait_for(result.id).state is State.DEAD

    seen.open(flower, "/dead-letters")
    expect(seen.page.locator("#jk-rows")).to_contain_text("no such order")
    shoot(seen.page, "flower-dead-letters", 560)
    seen.page.get_by_role("checkbox", name=f"Select {result.id}").check()
    seen.page.get_by_role("button", name="Replay from checkpoint").click()
    expect(seen.page.locator("#jk-rows")).to_contain_text("No dead letters.")

    job = fleet.wait_for(result.id)
    assert (job.state, job.replays) == (State.SUCCEEDED, 1)
    assert fleet.journal.items(result.id).count(11) == 1
    assert seen.dialogs == []


def evil(fleet: Fleet, job_id: str) -> None:
    """A running job that says evil things wherever it may say something."""
    message = Message(EVIL, b"", EVIL, "utf-8", {"argsrepr": EVIL}).encode()
    job = replace(new_job(job_id, EVIL, EVIL, EVIL), message=message, stages=(EVIL,))
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


def test_what_a_job_says_never_runs(fleet: Fleet, flower: Flower, seen: Seen) -> None:
    running, dead = f"running{EVIL}", f"dead{EVIL}"
    for job_id in (running, dead):
        evil(fleet, job_id)
    failure = Failure(ErrorInfo(EVIL, EVIL, EVIL, EVIL))
    assert fleet.store.bury(dead, 1, failure, EVIL)

    lists = ("/jobs", f"/jobs?text={quote(EVIL)}&owner={quote(EVIL)}", "/dead-letters")
    jobs = (f"/jobs/{quote(running, safe='')}", f"/jobs/{quote(dead, safe='')}")
    for path in (*lists, *jobs):
        seen.open(flower, path)
        expect(seen.page.locator(".jk-page")).to_contain_text(EVIL)
        assert seen.page.locator(".jk-page :is(img, script)").count() == 0
        assert seen.page.evaluate("window.xss") is None
    seen.open(flower, f"/jobs/{quote(dead, safe='')}")
    expect(seen.page.locator("#jk-failures")).to_contain_text(EVIL)
    assert seen.page.evaluate("window.xss") is None
    assert seen.dialogs == []
