"""The shop's jobs as staff see them: in Flower, started as its documentation says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsers import shoot
from tests.examples.conftest import MakeExample
from tests.examples.programs import Example
from tests.waiting import wait_until
from tests.worker.fleet import TOP

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

APP = "examples.fastapi_shop.tasks"


def call(example: Example, *arguments: str) -> str:
    """Enqueue a job from the command line; its id."""
    command = (sys.executable, "-m", "celery", "-A", APP, "call")
    done = subprocess.run(
        [*command, "fastapi_shop.sync_orders", *arguments],
        cwd=TOP,
        env=example.child_environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(
        viewport={"width": 900, "height": 600},
        http_credentials={"username": "ada", "password": "secret"},
    )
    yield context.new_page()
    context.close()


def test_staff_see_what_runs_what_waits_and_what_is_dead(
    make_example: MakeExample, page: Page
) -> None:
    example = make_example(SHOP_ORDERS="1500")
    options = (f"--port={example.port}", "--address=127.0.0.1")
    login = "--basic-auth=ada:secret"
    example.program(*("celery", "-A", APP, "flower", *options, login), ready="Visit me")
    example.worker(APP)
    dead = call(example)  # its argument is missing
    page.goto(f"{example.url}/dead-letters")
    letters = page.locator("#jk-rows")
    expect(letters).to_contain_text("missing 1 required", timeout=40_000)
    expect(letters).to_contain_text(dead)
    shoot(page, "shop-dead-letters", 480)

    ids = [call(example, "--args", f'["{shop}"]') for shop in ("Berlin", "Oslo")]
    page.goto(f"{example.url}/jobs")
    bar = page.locator("tr", has_text=ids[0]).get_by_role("progressbar")

    def value() -> int:
        there = bar.get_attribute("aria-valuenow") if bar.count() else None
        return int(there or -1)

    wait_until(lambda: value() > 35, "the bar is beyond 35")
    states = page.locator("#jk-rows .jk-badge")
    expect(states).to_have_text(["QUEUED", "RUNNING", "DEAD"])
    shoot(page, "shop-jobs", 620)
