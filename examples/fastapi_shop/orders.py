"""What the shop does: it fetches orders, one after the other, and writes them down.

Nothing here knows of Celery or of jobkit.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from zlib import crc32

DATABASE = os.environ.get("SHOP_DATABASE", "shop.sqlite3")
ORDERS = int(os.environ.get("SHOP_ORDERS", "2000"))

SECONDS = 0.01
"""How long the shop's API takes for an order."""

TABLE = """
CREATE TABLE IF NOT EXISTS orders (
    shop TEXT, number INTEGER, cents INTEGER, PRIMARY KEY (shop, number)
)
"""


@dataclass(frozen=True, slots=True)
class Order:
    """An order, as the shop's API tells it."""

    shop: str
    number: int
    cents: int


def count_orders(shop: str) -> int:  # noqa: ARG001 - all shops here have as many
    """How many orders a shop has."""
    return ORDERS


def orders_after(shop: str, number: int | None) -> Iterator[Order]:
    """The orders of a shop after one, or all (None), in the order of their numbers."""
    for following in range((number or 0) + 1, ORDERS + 1):
        time.sleep(SECONDS)
        yield Order(shop, following, 100 + crc32(f"{shop}{following}".encode()) % 9_900)


@contextmanager
def opened() -> Iterator[sqlite3.Connection]:
    """The database with the orders."""
    with closing(sqlite3.connect(DATABASE, isolation_level=None)) as database:
        database.execute(TABLE)
        yield database


def write_down(database: sqlite3.Connection, order: Order) -> None:
    """Write an order down; one that is there already stays one."""
    database.execute(
        "INSERT OR REPLACE INTO orders VALUES (?, ?, ?)",
        (order.shop, order.number, order.cents),
    )


def sales(shop: str) -> int:
    """What all orders of a shop cost together, in cents."""
    with opened() as database:
        query = "SELECT COALESCE(SUM(cents), 0) FROM orders WHERE shop = ?"
        return int(database.execute(query, (shop,)).fetchone()[0])
