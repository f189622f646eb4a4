"""The two shops as a person sees them: in a browser, while programs are killed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browsers import shoot
from tests.examples.conftest import MakeExample
from tests.examples.programs import Example
from tests.waiting import wait_until
from tests.worker.promises import ANSWER

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

ITEMS = 1500
"""At 10 ms each: long enough to kill something meanwhile."""

WATCH = """() => {
  window.values = [];
  const meter = document.querySelector("job-progress").shadowRoot
    .querySelector("[role=progressbar]");
  new MutationObserver(() => window.values.push(Number(meter.getAttribute("aria-valuenow"))))
    .observe(meter, { attributeFilter: ["aria-valuenow"] });
}"""


@dataclass(frozen=True)
class Shop:
    """One of the shops: its modules, its button, and where its work is counted."""

    name: str
    site: str
    tasks: str
    button: str
    table: str


SHOPS = [
    Shop(
        *("fastapi", "examples.fastapi_shop.site:site", "examples.fastapi_shop.tasks"),
        *("Sync orders", "orders"),
    ),
    Shop(
        *("django", "examples.django_shop.asgi:site", "examples.django_shop.tasks"),
        *("Change prices", "prices"),
    ),
]
each_shop = pytest.mark.parametrize("shop", SHOPS, ids=lambda shop: shop.name)


@dataclass
class Seen:
    """A page, and what went wrong in it."""

    page: Page
    wrong: list[str] = field(default_factory=list)

    def part(self, name: str) -> Locator:
        """A part of the element."""
        return self.page.locator(f"job-progress [part~={name}]")

    @property
    def bar(self) -> Locator:
        """What moves."""
        return self.page.get_by_role("progressbar")

    @property
    def value(self) -> int:
        """How far the bar is; -1 while nobody knows."""
        return int(self.bar.get_attribute("aria-valuenow") or -1)

    def passes(self, value: int, seconds: float = 30) -> None:
        """Wait until the bar is beyond a value."""
        wait_until(lambda: self.value > value, f"the bar is beyond {value}", seconds)

    def start(self, example: Example, shop: Shop) -> None:
        """Open the page, and press the button."""
        self.page.goto(example.url)
        self.page.get_by_role("button", name=shop.button).click()
        expect(self.part("state")).to_be_visible()


@pytest.fixture
def seen(browser: Browser) -> Iterator[Seen]:
    context = browser.new_context(viewport={"width": 900, "height": 700})
    seen = Seen(context.new_page())
    seen.page.on("pageerror", lambda error: seen.wrong.append(str(error)))
    yield seen
    context.close()
    assert seen.wrong == []


@pytest.fixture
def make_shop(make_example: MakeExample) -> Callable[[], Example]:
    return lambda: make_example(SHOP_ORDERS=str(ITEMS), SHOP_ARTICLES=str(ITEMS))


def count(example: Example, shop: Shop) -> int:
    with closing(sqlite3.connect(example.database)) as database:
        query = f"SELECT COUNT(*) FROM {shop.table}"  # noqa: S608 - a name of ours
        return int(database.execute(query).fetchone()[0])


@each_shop
def test_the_bar_goes_on_after_a_kill_and_a_restart(
    make_shop: Callable[[], Example], seen: Seen, shop: Shop
) -> None:
    example = make_shop()
    first, site = example.worker(shop.tasks, "a"), example.site(shop.site)
    seen.start(example, shop)
    seen.page.evaluate(WATCH)
    seen.passes(25)
    expect(seen.part("state")).to_have_text("Running")
    shoot(seen.page, f"{shop.name}-shop")

    first.kill()
    site.kill()
    expect(seen.part("notice")).to_have_text("Connection lost. Trying again…")
    shoot(seen.page, f"{shop.name}-shop-lost")
    reached = seen.value
    example.worker(shop.tasks, "b")
    site.start("Uvicorn running on")
    seen.passes(reached + 5, 60)
    expect(seen.part("notice")).not_to_have_text("Connection lost. Trying again…")

    expect(seen.part("state")).to_have_text("Done", timeout=60_000)
    assert seen.value == 100
    expect(seen.page.get_by_role("button", name="Cancel")).to_be_hidden()
    shoot(seen.page, f"{shop.name}-shop-done")
    values = seen.page.evaluate("window.values")
    assert values == sorted(values)
    assert len(set(values)) > 10
    assert count(example, shop) == ITEMS


@each_shop
def test_a_click_stops_the_job(
    make_shop: Callable[[], Example], seen: Seen, shop: Shop
) -> None:
    example = make_shop()
    example.worker(shop.tasks)
    example.site(shop.site)
    seen.start(example, shop)
    seen.passes(5)

    clicked = time.monotonic()
    seen.page.get_by_role("button", name="Cancel").click()
    expect(seen.part("state")).to_have_text("Cancelled")
    seconds = time.monotonic() - clicked

    assert seconds < ANSWER
    stopped = count(example, shop)
    shoot(seen.page, f"{shop.name}-shop-cancelled")
    assert count(example, shop) == stopped < ITEMS
