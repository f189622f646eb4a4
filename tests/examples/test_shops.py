"""The two shops: a page starts a job, and its token shows how far it is."""

from __future__ import annotations

import ast
import re
import sqlite3
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.examples.conftest import MakeExample
from tests.examples.programs import Example
from tests.waiting import wait_until
from tests.worker.fleet import TOP

FASTAPI = "examples.fastapi_shop"
DJANGO = "examples.django_shop"
BUSINESS = ("fastapi_shop/orders.py", "django_shop/prices.py")


def source(page: str) -> str:
    """The address that the page's element reads."""
    (found,) = re.findall(r'<job-progress src="([^"]*)"', page)
    return unescape(found)


def ended(example: Example, src: str) -> Any:
    """The job's document at its end."""

    def over() -> Any:
        document = example.http.get(src).json()
        return document["finished"] and document

    return wait_until(over, "the job has ended")


def rows(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])  # noqa: S608


def change_prices(example: Example, percent: str = "10") -> httpx.Response:
    """Send the form of Django's page as a browser does."""
    form = example.http.get("/").text
    (token,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
    sent = {"percent": percent, "csrfmiddlewaretoken": token}
    return example.http.post("/changes", data=sent, follow_redirects=True)


@pytest.mark.parametrize("path", BUSINESS)
def test_the_business_knows_nothing_of_jobs(path: str) -> None:
    tree = ast.parse((TOP / "examples" / path).read_text())
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported
    assert not imported & {"celery", "django", "examples", "fastapi", "jobkit"}


def test_fastapi_starts_a_sync_and_shows_it(make_example: MakeExample) -> None:
    example = make_example(SHOP_ORDERS="30")
    example.site(f"{FASTAPI}.site:site")

    page = example.http.post("/syncs", data={"shop": "Oslo"}, follow_redirects=True)
    src = source(page.text)
    waits = example.http.get(src).json()
    assert (waits["state"], waits["actions"]) == ("QUEUED", ["cancel", "pause"])
    assert example.http.get(src.partition("?")[0]).status_code == 404
    evil = '"><script>alert(1)</script>'
    spoilt = example.http.get("/", params={"job": evil, "token": evil}).text
    assert "<script>alert" not in spoilt
    twice = example.http.post("/syncs", data={"shop": "Oslo"}, follow_redirects=True)
    assert source(twice.text).partition("?")[0] == src.partition("?")[0]

    example.worker(f"{FASTAPI}.tasks")
    end = ended(example, src)
    assert (end["state"], end["progress"]["ok"]) == ("SUCCEEDED", 30)
    assert rows(example.database, "orders") == 30


def test_django_starts_a_change_and_shows_it(make_example: MakeExample) -> None:
    example = make_example(SHOP_ARTICLES="30")
    example.site(f"{DJANGO}.asgi:site")

    src = source(change_prices(example).text)
    waits = example.http.get(src).json()
    assert (waits["state"], waits["actions"]) == ("QUEUED", ["cancel", "pause"])
    assert example.http.get(src.partition("?")[0]).status_code == 404
    assert change_prices(example, "77").status_code == 400
    assert example.http.get("/changes").status_code == 405

    example.worker(f"{DJANGO}.tasks")
    end = ended(example, src)
    assert (end["state"], end["progress"]["ok"]) == ("SUCCEEDED", 30)
    assert rows(example.database, "prices") == 30


def test_django_says_the_same_without_asgi(make_example: MakeExample) -> None:
    example = make_example()
    options = ("--noreload", f"127.0.0.1:{example.port}", "--settings")
    ready = "Starting development server"
    example.program("django", "runserver", *options, f"{DJANGO}.settings", ready=ready)

    src = source(change_prices(example).text)
    waits = example.http.get(src)
    assert (waits.json()["state"], waits.json()["actions"]) == ("QUEUED", [])
    again = example.http.get(src, headers={"If-None-Match": waits.headers["etag"]})
    assert (again.status_code, again.text) == (304, "")
    assert example.http.get(src.partition("?")[0]).status_code == 404
    script = example.http.get("/-/job-progress.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "customElements.define" in script.text
