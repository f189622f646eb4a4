"""What the shop does: it changes the price of all its articles, one after the other.

Nothing here knows of Celery, of Django or of jobkit.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

DATABASE = os.environ.get("SHOP_DATABASE", "shop.sqlite3")
ARTICLES = int(os.environ.get("SHOP_ARTICLES", "2000"))

SECONDS = 0.01
"""How long the till takes to learn a price."""


@dataclass(frozen=True, slots=True)
class Article:
    """An article, and what it costs in the list."""

    number: int
    cents: int


def articles_after(number: int | None) -> Iterator[Article]:
    """The articles after one, or all (None), in the order of their numbers."""
    for following in range((number or 0) + 1, ARTICLES + 1):
        yield Article(following, 100 + following % 900)


@contextmanager
def opened() -> Iterator[sqlite3.Connection]:
    """The till's prices."""
    with closing(sqlite3.connect(DATABASE, isolation_level=None)) as till:
        till.execute(
            "CREATE TABLE IF NOT EXISTS prices (number INTEGER PRIMARY KEY, cents INTEGER)"
        )
        yield till


def reprice(till: sqlite3.Connection, article: Article, percent: int) -> None:
    """Tell the till what an article costs now; told twice it is the same."""
    time.sleep(SECONDS)
    cents = round(article.cents * (100 + percent) / 100)
    till.execute("INSERT OR REPLACE INTO prices VALUES (?, ?)", (article.number, cents))
