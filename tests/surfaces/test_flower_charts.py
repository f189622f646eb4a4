"""The charts in Flower's page of jobs."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from jobkit import QueueStatistics, State, clock
from jobkit.flower import charts
from tests.store.lives import failure, kept, new_job, rewrite, snapshot, started
from tests.surfaces.conftest import MakeFleet, MakeFlower
from tests.surfaces.flowers import LOGIN, USER, Flower
from tests.worker.fleet import Fleet

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<img src=x onerror=\"alert(1)\"><script>alert('x')</script>\x1b&\ud800\ufffe"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SHOTS = Path(__file__).with_name("screenshots")


def ended(**counts: list[int]) -> dict[State, list[int]]:
    """What ``Client.ended`` tells, of three minutes."""
    nothing = {state: [0, 0, 0] for state in State if state.finished}
    return {**nothing, **{State(name): row for name, row in counts.items()}}


def queue(name: str = "high", **fields: Any) -> QueueStatistics:
    usual = QueueStatistics(name, 20, 3.0, 15.0, 30.0, 0.0, 0, None)
    return replace(usual, **fields)


def drawing(chart: Mapping[str, Any] | None) -> ET.Element:
    assert chart
    return ET.fromstring(chart["svg"])  # noqa: S314 - our own


def parts(chart: Mapping[str, Any] | None, tag: str, kind: str) -> list[ET.Element]:
    return [
        part
        for part in drawing(chart).iter(SVG + tag)
        if kind in part.get("class", "").split()
    ]


def number(part: ET.Element, name: str) -> float:
    return float(part.get(name, "").rstrip("%"))


# -- jobs per minute


def test_without_an_end_there_is_no_chart() -> None:
    assert charts.minutes(ended()) is None


def test_bars_are_as_high_as_jobs_are_many_and_stand_on_one_another() -> None:
    chart = charts.minutes(ended(SUCCEEDED=[10, 0, 40], DEAD=[10, 0, 0]))

    good, bad = (parts(chart, "rect", f"jk-fill-{s}") for s in ("SUCCEEDED", "DEAD"))
    # The last minute is the one at the right.
    assert [number(bar, "height") for bar in good] == [30, 120]
    assert [number(bar, "height") for bar in bad] == [30]
    assert number(good[0], "x") > 66
    assert 0 < number(good[1], "x") < 33
    floor = charts.ABOVE + charts.HEIGHT
    assert number(good[0], "y") == floor - 30
    assert number(bad[0], "y") == floor - 60
    assert [word.text for word in drawing(chart).iter(SVG + "text")][:2] == ["40", "20"]


def test_one_among_thousands_is_seen() -> None:
    chart = charts.minutes(ended(SUCCEEDED=[90_000, 0, 0], DEAD=[0, 1, 0]))

    assert [number(bar, "height") for bar in parts(chart, "rect", "jk-fill-DEAD")] == [
        1
    ]


@pytest.mark.parametrize(
    ("most", "top"), [(1, 1), (2, 2), (3, 4), (5, 10), (41, 100), (100_001, 200_000)]
)
def test_an_axis_ends_at_a_round_number(most: int, top: int) -> None:
    chart = charts.minutes(ended(SUCCEEDED=[most, 0, 0]))

    assert next(drawing(chart).iter(SVG + "text")).text == f"{top:,}"


def test_what_is_drawn_is_said_too() -> None:
    chart = charts.minutes(ended(SUCCEEDED=[1_000, 0, 234], PARTIAL=[0, 2, 0]))

    assert chart
    assert drawing(chart).get("role") == "img"
    assert drawing(chart).get("aria-label") == (
        "Jobs ended per minute. In the last 3 minutes 1,236 jobs ended: "
        "1,234 SUCCEEDED, 2 PARTIAL."
    )
    assert chart["legend"] == [
        {"state": "SUCCEEDED", "count": 1_234},
        {"state": "PARTIAL", "count": 2},
    ]
    assert "2 min ago: 2 PARTIAL" in [
        title.text for title in drawing(chart).iter(SVG + "title")
    ]


# -- waiting time


def test_without_a_queue_there_is_no_chart() -> None:
    assert charts.waits([]) is None
    assert charts.waits([queue(count=0, p50=None, p95=None)]) is None


def test_a_queues_bar_is_as_long_as_it_waits_for_its_target() -> None:
    chart = charts.waits([queue(), queue("slow", p95=90.0), queue("free", target=None)])

    (in_time,) = parts(chart, "rect", "jk-in-time")
    (late,) = parts(chart, "rect", "jk-late")
    assert number(in_time, "width") == charts.TARGET_AT / 2
    assert number(late, "width") == 100
    assert len(parts(chart, "rect", "jk-track")) == 2
    targets = parts(chart, "line", "jk-target")
    assert [number(line, "x1") for line in targets] == [charts.TARGET_AT] * 2
    words = [word.text for word in drawing(chart).iter(SVG + "text")]
    assert words == [
        *("high", "15 s of 30 s"),
        *("slow", "late: 90 s of 30 s"),
        *("free", "15 s, no target"),
    ]


def test_who_is_late_is_said_and_not_only_coloured() -> None:
    chart = charts.waits([queue("slow", p95=90.0), queue("", target=None)])

    assert drawing(chart).get("aria-label") == (
        "Waiting time against the target. slow: 95 % of 20 jobs waited 90 s or less; the "
        "target is 30 s. It is late. no queue: 95 % of 20 jobs waited 15 s or less; it "
        "has no target."
    )


def test_of_very_many_queues_those_in_trouble_are_drawn() -> None:
    many = [queue(f"q{n}", p95=float(n), target=30.0) for n in range(40)]
    many.insert(20, queue("free", target=None))

    chart = charts.waits(many)

    assert chart
    words = [word.text for word in drawing(chart).iter(SVG + "text")]
    assert words[::2] == [f"q{n}" for n in range(28, 40)]
    assert chart["title"].endswith("(12 of 41 queues)")


def test_the_name_of_a_queue_is_text_and_short() -> None:
    chart = charts.waits([queue(EVIL)])

    assert chart
    assert {part.tag.removeprefix(SVG) for part in drawing(chart).iter()} == {
        *("svg", "g", "title", "text", "rect", "line")
    }
    assert "<img" not in chart["svg"]
    assert not {"\x1b", "\ud800", "\ufffe"} & {*chart["svg"]}
    name = next(drawing(chart).iter(SVG + "text")).text
    assert name
    assert name.startswith("<img src=x onerror=")
    assert len(name) == charts.NAME_SHOWN


# -- in Flower


@pytest.fixture
def shop(make_fleet: MakeFleet) -> Fleet:
    """A fleet with queues of which one is late."""
    return make_fleet(
        jobkit_queues={"high": {"target": 30}, "low": {"target": 3_600}, "free": {}},
        jobkit_routes={"*": "low"},
    )


@pytest.fixture
def flower(shop: Fleet, make_flower: MakeFlower) -> Flower:
    flower = make_flower(LOGIN, of=shop)
    flower.http.auth = USER
    return flower


def end(
    fleet: Fleet,
    name: str,
    finish: Callable[[str, int], Any],
    *,
    waited: float = 0,
) -> None:
    """A job of a queue that waited for so many seconds, and ended."""
    job_id = uuid.uuid4().hex
    fleet.store.enqueue(new_job(job_id, "shop.sync", name), "token", 300)
    fence = started(fleet.store, job_id).fence
    finish(job_id, fence)
    job = kept(fleet.store, job_id)
    assert job.started_at
    created = clock.milliseconds(job.started_at - timedelta(seconds=waited))
    rewrite(fleet.store, job_id, created_at=str(created))


def fill(fleet: Fleet) -> None:
    """Jobs of three queues, with three kinds of ends."""
    store = fleet.store

    def well(job_id: str, fence: int) -> None:
        store.succeed(job_id, fence, snapshot(1))

    def badly(job_id: str, fence: int) -> None:
        store.bury(job_id, fence, failure(), "permanent")

    for number in range(12):
        end(fleet, "high", badly if number % 4 == 0 else well, waited=40)
        end(fleet, "low", well, waited=600)
        end(fleet, "free", well, waited=2)


def test_an_empty_store_has_no_charts_and_no_error(flower: Flower) -> None:
    answer = flower.get("/jobs/api/charts")

    assert (answer.status_code, answer.json()["charts"]) == (200, [])
    assert "Traceback" not in flower.log


def test_ends_and_waits_of_the_store_are_drawn(shop: Fleet, flower: Flower) -> None:
    fill(shop)

    minutes, waits = flower.json("/jobs/api/charts")["charts"]

    assert minutes["legend"] == [
        {"state": "SUCCEEDED", "count": 33},
        {"state": "DEAD", "count": 3},
    ]
    assert parts(minutes, "rect", "jk-fill-DEAD")
    words = [word.text for word in drawing(waits).iter(SVG + "text")]
    assert words == [
        *("high", "late: 40 s of 30 s"),
        *("low", "10 min of 60 min"),
        *("free", "2 s, no target"),
    ]


def test_charts_are_not_drawn_anew_for_each_who_looks(
    shop: Fleet, flower: Flower
) -> None:
    """Guards `DRAWN`; a command makes them new."""
    assert flower.json("/jobs/api/charts")["charts"] == []
    fill(shop)
    flower.json("/jobs/api/jobs")
    assert flower.json("/jobs/api/charts")["charts"] == []

    shop.send("add", 1, 2, task_id="told")
    assert flower.post("/jobs/told/cancel").status_code == 200

    assert len(flower.json("/jobs/api/charts")["charts"]) == 2


def test_a_queue_of_any_name_is_drawn_as_text(shop: Fleet, flower: Flower) -> None:
    name = EVIL.replace("\ud800", "")
    end(
        shop, name, lambda job_id, fence: shop.store.succeed(job_id, fence, snapshot(1))
    )

    answer = flower.get("/jobs/api/charts")

    assert answer.headers["content-type"].startswith("application/json")
    _, waits = answer.json()["charts"]
    assert "<img" not in waits["svg"]
    assert "&lt;img" in waits["svg"]


# -- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


def spread(fleet: Fleet) -> None:
    """Let the ends lie in different minutes."""
    client = fleet.store._client
    for state in ("SUCCEEDED", "DEAD"):
        index = fleet.store.keys.state(0, state)
        for place, (job_id, at) in enumerate(
            client.zrange(index, 0, -1, withscores=True)
        ):
            client.zadd(index, {job_id: at - place * place * 2_500})


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_seen(
    shop: Fleet, flower: Flower, browser: Browser, scheme: Any, width: int
) -> None:
    fill(shop)
    spread(shop)
    end(
        shop,
        EVIL.replace("\ud800", ""),
        lambda job_id, fence: shop.store.succeed(job_id, fence, snapshot(1)),
    )
    said = list[str]()
    context = browser.new_context(
        color_scheme=scheme,
        viewport={"width": width, "height": 900},
        http_credentials={"username": USER[0], "password": USER[1]},
    )
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{flower.root}/jobs")
    details = page.locator("#jk-charts")
    expect(details.locator("summary")).to_be_visible()
    if width == 390:
        details.locator("summary").click()
    expect(details.locator("svg.jk-chart")).to_have_count(2)
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"charts-{scheme}-{width}.png")

    check_words(page, width)
    assert page.locator("#jk-charts img, #jk-charts script").count() == 0
    assert page.get_by_role("img", name="In the last 60 minutes 37 jobs").count() == 1
    assert not [
        text for text in said if "securitypolicy" in text.lower() or "Error" in text
    ]
    context.close()


def check_words(page: Page, width: int) -> None:
    """Words are large enough, within the page, and none lies on another."""
    boxes = page.locator("#jk-charts svg text").evaluate_all(
        "all => all.map(one => { const box = one.getBoundingClientRect();"
        " return [box.left, box.top, box.right, box.bottom]; })"
    )
    assert len(boxes) > 8
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width
        assert bottom - top >= 11
    for place, one in enumerate(boxes):
        for other in boxes[:place]:
            beside = one[2] <= other[0] or other[2] <= one[0]
            assert beside or one[3] <= other[1] or other[3] <= one[1], (one, other)
