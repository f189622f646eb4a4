"""The ``<job-progress>`` element in a real browser, under a strict policy."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from jobkit import Client, Job
from jobkit.job import NewJob, Progress
from jobkit.store.redis import RedisStore
from jobkit.store.values import Failure, Snapshot
from jobkit.web import jobs_app
from tests.browsers import SHOTS, chromium
from tests.servers import ValkeyServer
from tests.store.lives import LEASE, enqueued, failure, message, rewrite, started
from tests.surfaces.sites import Site, hub_threads, served
from tests.waiting import free_port, wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
POLICY += "img-src data:"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<link rel="stylesheet" href="/page.css"><script type="module" src="/page.js"></script>
<script type="module" src="/-/job-progress.js"></script><main>{}</main></html>"""
STYLE = """:root { color-scheme: light dark; font: 16px/1.4 sans-serif }
main { display: grid; gap: 2rem; padding: 1rem; max-width: 40rem }"""
SCRIPT = """window.broken = []; window.told = [];
document.addEventListener("securitypolicyviolation",
  (event) => window.broken.push(event.violatedDirective));
for (const name of ["job-update", "job-end", "job-error", "job-action"])
  document.addEventListener(name, (event) => {
    window.told.push(name);
    if (window.refuse && name === "job-action") event.preventDefault();
  });"""


def page_app(store: RedisStore) -> Starlette:
    """A page with elements for the jobs that ``?job=`` names."""

    async def page(request: Request) -> Response:
        attributes = request.query_params.get("attributes", "")
        elements = "".join(
            f'<job-progress src="/-/jobs/{job}" label="Export of {job}" {attributes}>'
            "</job-progress>"
            for job in request.query_params.getlist("job")
        )
        headers = {"Content-Security-Policy": POLICY}
        return Response(PAGE.format(elements), headers=headers, media_type="text/html")

    def text(body: str, kind: str) -> Callable[[Request], Any]:
        async def answer(_: Request) -> Response:
            return Response(body, media_type=kind)

        return answer

    return Starlette(
        routes=[
            Route("/", page),
            Route("/page.css", text(STYLE, "text/css")),
            Route("/page.js", text(SCRIPT, "text/javascript")),
            Mount("/-", jobs_app(Client(store), authorize=lambda *_: True)),
        ]
    )


@pytest.fixture
def store(valkey: ValkeyServer) -> Iterator[RedisStore]:
    store = RedisStore(valkey.url, f"web-{uuid.uuid4().hex[:12]}")
    yield store
    store.close()


@pytest.fixture
def site(store: RedisStore) -> Iterator[Site]:
    with served(page_app(store)) as site:
        yield site


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@dataclass
class Seen:
    """A page, and what its console has said."""

    page: Page
    console: list[str] = field(default_factory=list)

    def open(self, site: Site, *jobs: str, attributes: str = "") -> None:
        query = "&".join(f"job={job}" for job in jobs)
        self.page.goto(f"{site.url}/?{query}&attributes={attributes}")

    def part(self, name: str) -> Locator:
        return self.page.locator(f"job-progress [part~={name}]")

    @property
    def bar(self) -> Locator:
        return self.page.get_by_role("progressbar")


@pytest.fixture
def seen(browser: Browser) -> Iterator[Seen]:
    context = browser.new_context(viewport={"width": 900, "height": 700})
    seen = Seen(context.new_page())
    seen.page.on("console", lambda line: seen.console.append(line.text))
    seen.page.on("pageerror", lambda error: seen.console.append(str(error)))
    yield seen
    assert seen.page.evaluate("window.broken") == []
    assert [line for line in seen.console if "Failed to load" not in line] == []
    context.close()


def tell(store: RedisStore, run: Job, seq: int, **progress: Any) -> None:
    snapshot = Snapshot(seq, "", Progress(**progress))
    assert store.save(run.id, run.fence, seq, snapshot, LEASE).owner


def halfway(store: RedisStore, job_id: str = "job", **more: Any) -> Job:
    enqueued(store, job_id)
    run = started(store, job_id)
    known = {"total": 50_000, "percent": 41.7, "stage": "import", "eta_seconds": 130.0}
    tell(store, run, 1, **{"current": 20_731, "ok": 20_731, **known, **more})
    return run


def test_a_job_is_followed_to_its_end(
    store: RedisStore, site: Site, seen: Seen
) -> None:
    enqueued(store)
    seen.open(site, "job")
    expect(seen.part("state")).to_have_text("Waiting to start")
    expect(seen.part("spinner")).to_be_visible()

    run = started(store)
    expect(seen.part("state")).to_have_text("Running")
    tell(store, run, 1, current=5, total=20, percent=25.0, message="Orders")
    expect(seen.bar).to_have_attribute("aria-valuenow", "25")
    expect(seen.part("numbers")).to_have_text("25 % · 5 of 20")
    expect(seen.part("message")).to_have_text("Orders")
    expect(seen.bar).to_have_accessible_name("Export of job")
    assert seen.bar.get_attribute("aria-valuetext") == "Running, 25 % · 5 of 20"
    box = seen.part("bar").bounding_box()
    assert box
    fill = seen.part("fill")
    expect(fill).to_have_css("inline-size", f"{box['width'] / 4:g}px")

    store.succeed("job", run.fence, Snapshot(2, "", Progress(current=20, total=20)))
    expect(seen.part("state")).to_have_text("Done")
    expect(seen.bar).to_have_attribute("aria-valuenow", "100")
    expect(seen.page.get_by_role("status")).to_have_text("Export of job, Done")
    expect(seen.page.get_by_role("button")).to_have_count(0)
    told = seen.page.evaluate("window.told")
    assert (told[0], told[-1], told.count("job-end")) == ("job-update", "job-end", 1)


def test_an_unknown_total_is_no_percentage(
    store: RedisStore, site: Site, seen: Seen
) -> None:
    halfway(store, total=None, percent=None)
    seen.open(site, "job")

    expect(seen.part("numbers")).to_contain_text("20,731 so far")
    assert seen.bar.get_attribute("aria-valuenow") is None
    assert "%" not in seen.part("numbers").inner_text()


def test_stages_are_listed_when_it_takes_longer(
    store: RedisStore, site: Site, seen: Seen
) -> None:
    halfway(store)
    seen.open(site, "job")

    items = seen.page.get_by_role("listitem")
    expect(items).to_have_text(["count: done", "import: in progress"])
    expect(items.nth(1)).to_have_attribute("aria-current", "step")
    expect(seen.part("numbers")).to_contain_text("about 2 minutes left")


def test_one_is_told_to_come_back_later(
    store: RedisStore, site: Site, seen: Seen
) -> None:
    halfway(store, eta_seconds=4000.0)
    seen.open(site, "job")
    expect(seen.part("notice")).to_contain_text("come back")


def test_a_retry_and_a_silent_worker_are_told(
    store: RedisStore, site: Site, seen: Seen
) -> None:
    run = halfway(store, "retries")
    assert store.retry("retries", run.fence, failure(), 60)
    halfway(store, "silent")
    rewrite(store, "silent", lease_until="1000000")
    seen.open(site, "retries", "silent")

    expect(seen.part("notice").nth(0)).to_contain_text("Trying again in")
    expect(seen.part("notice").nth(1)).to_contain_text("No sign of life")
    expect(seen.page.get_by_role("status").nth(1)).to_contain_text("No sign of life")


def test_a_job_is_cancelled_by_keyboard(
    store: RedisStore, site: Site, seen: Seen
) -> None:
    run = halfway(store)
    seen.open(site, "job")
    cancel = seen.page.get_by_role("button", name="Cancel")
    expect(cancel).to_be_visible()

    seen.page.evaluate("window.refuse = true")
    cancel.click()
    assert store.get("job").request is None  # type: ignore[union-attr]
    seen.page.evaluate("window.refuse = false")
    seen.page.keyboard.press("Shift+Tab")
    seen.page.keyboard.press("Tab")
    expect(cancel).to_be_focused()
    seen.page.keyboard.press("Enter")

    expect(seen.part("state")).to_have_text("Cancelling…")
    expect(cancel).to_be_hidden()
    store.interrupt("job", run.fence, "cancel")
    expect(seen.part("state")).to_have_text("Cancelled")


def test_pause_and_resume_have_buttons_when_asked_for(
    store: RedisStore, site: Site, seen: Seen
) -> None:
    enqueued(store)
    seen.open(site, "job", attributes='actions="pause resume"')
    seen.page.get_by_role("button", name="Pause").click()
    expect(seen.part("state")).to_have_text("Paused")
    seen.page.get_by_role("button", name="Resume").click()
    expect(seen.part("state")).to_have_text("Waiting to start")


HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


def test_text_of_others_never_becomes_markup(
    store: RedisStore, site: Site, seen: Seen
) -> None:
    job = NewJob(
        "job", HOSTILE, message().encode(), stages=(HOSTILE, "b"), owner=HOSTILE
    )
    assert store.enqueue(job, "token", 300)
    run = started(store, worker=HOSTILE)
    told = {"message": HOSTILE, "stage": HOSTILE, "eta_seconds": 100.0}
    tell(store, run, 1, current=1, **told)
    seen.open(site, "job")
    seen.page.locator("job-progress").evaluate(
        "(element, text) => element.setAttribute('label', text)", HOSTILE
    )

    expect(seen.part("message")).to_have_text(HOSTILE)
    expect(seen.part("label")).to_have_text(HOSTILE)
    expect(seen.page.get_by_role("listitem").first).to_contain_text(HOSTILE)
    assert seen.page.locator("job-progress :is(img, script)").count() == 0
    assert not seen.page.evaluate("window.hacked")


def test_it_polls_where_streams_do_not_pass(
    store: RedisStore, site: Site, seen: Seen
) -> None:
    run = halfway(store)
    seen.page.route("**/events*", lambda route: route.fulfill(status=502))
    seen.open(site, "job")
    expect(seen.bar).to_have_attribute("aria-valuenow", "41")
    tell(store, run, 2, current=3, total=4, percent=75.0)
    expect(seen.bar).to_have_attribute("aria-valuenow", "75")
    store.succeed("job", run.fence, Snapshot(3, "", Progress()))
    expect(seen.part("state")).to_have_text("Done")


def test_it_polls_where_streams_are_held_back(
    store: RedisStore, site: Site, seen: Seen
) -> None:
    halfway(store)
    seen.page.route("**/events*", lambda _: None)
    seen.open(site, "job")
    expect(seen.bar).to_have_attribute("aria-valuenow", "41", timeout=15_000)


def test_it_lives_through_a_restart_of_the_server(
    store: RedisStore, seen: Seen
) -> None:
    run = halfway(store)
    port = free_port()
    with served(page_app(store), port) as site:
        seen.open(site, "job")
        expect(seen.bar).to_have_attribute("aria-valuenow", "41")
    expect(seen.part("notice")).to_have_text("Connection lost. Trying again…")
    tell(store, run, 2, current=3, total=4, percent=75.0)
    with served(page_app(store), port):
        expect(seen.bar).to_have_attribute("aria-valuenow", "75", timeout=20_000)
        expect(seen.part("notice")).to_be_hidden()
        tell(store, run, 3, current=4, total=4, percent=80.0)
        expect(seen.bar).to_have_attribute("aria-valuenow", "80", timeout=20_000)


def test_a_job_that_is_not_there_is_told(site: Site, seen: Seen) -> None:
    seen.open(site, "none")
    expect(seen.part("notice")).to_have_text("This job is not available.")
    expect(seen.bar).to_be_hidden()
    assert seen.page.evaluate("window.told") == ["job-error"]


def test_many_elements_leave_connections_for_the_page(
    store: RedisStore, site: Site, seen: Seen
) -> None:
    for number in range(10):
        halfway(store, f"job-{number}")
    seen.open(site, *(f"job-{number}" for number in range(10)))
    for bar in range(10):
        expect(seen.bar.nth(bar)).to_have_attribute("aria-valuenow", "41")
    assert seen.page.evaluate("fetch('/page.css').then((r) => r.status)") == 200


def test_nothing_moves_for_those_who_want_it_still(
    store: RedisStore, site: Site, seen: Seen
) -> None:
    halfway(store, total=None, percent=None)
    seen.page.emulate_media(reduced_motion="reduce")
    seen.open(site, "job")
    expect(seen.part("numbers")).to_contain_text("so far")
    expect(seen.part("fill")).to_have_css("animation-name", "none")


def test_an_element_that_left_the_page_lets_go(
    store: RedisStore, site: Site, seen: Seen
) -> None:
    run = halfway(store)
    seen.open(site, "job")
    expect(seen.bar).to_have_attribute("aria-valuenow", "41")
    element = seen.page.locator("job-progress").element_handle()
    element.evaluate("(element) => element.remove()")
    wait_until(lambda: not hub_threads(), "it has hung up")
    tell(store, run, 2, current=3, total=4, percent=75.0)
    element.evaluate("(element) => document.body.append(element)")
    expect(seen.bar).to_have_attribute("aria-valuenow", "75")


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_how_it_looks(
    store: RedisStore, site: Site, browser: Browser, look: str
) -> None:
    enqueued(store, "waits")
    halfway(store, "runs", message="Importing orders of Berlin")
    halfway(store, "unknown", total=None, percent=None, eta_seconds=20.0)
    halfway(store, "later", eta_seconds=4000.0, failed=3)
    halfway(store, "silent")
    rewrite(store, "silent", lease_until="1795500000000")
    store.retry("retries", halfway(store, "retries").fence, failure(), 600)
    store.succeed(
        "done", halfway(store, "done").fence, Snapshot(9, "", Progress(50_000, 50_000))
    )
    dead = halfway(store, "dead")
    store.bury("dead", dead.fence, Failure(failure().error), "permanent")
    jobs = ["waits", "runs", "unknown", "later", "silent", "retries", "done", "dead"]
    width = 360 if look == "phone" else 760
    page = browser.new_page(
        viewport={"width": width, "height": 1400},
        color_scheme="dark" if look == "dark" else "light",
    )
    Seen(page).open(site, *jobs, attributes='actions="cancel pause"')
    for number in range(len(jobs)):
        expect(page.locator("job-progress [part=state]").nth(number)).not_to_have_text(
            "Loading…"
        )
    page.wait_for_timeout(700)
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"element-{look}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
