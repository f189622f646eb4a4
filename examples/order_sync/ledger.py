"""A ledger of handled orders: one row for each time that an order was handled."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Self

TABLE = """
CREATE TABLE IF NOT EXISTS handled (
    order_id INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    worker INTEGER NOT NULL,
    at REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0)
)
"""


class Ledger:
    """Where a run of the sync writes down what it did; every row is committed."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, timeout=5, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(TABLE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def record(self, order_id: int, *, fence: int) -> None:
        """Write down that an order was handled, by this process, in the run of a fence."""
        self._connection.execute(
            "INSERT INTO handled (order_id, fence, worker) VALUES (?, ?, ?)",
            (order_id, fence, os.getpid()),
        )

    def count(self) -> int:
        """How many different orders were handled."""
        row = self._connection.execute("SELECT COUNT(DISTINCT order_id) FROM handled")
        return int(row.fetchone()[0])


def orders_in(path: str) -> set[int]:
    """The orders that are in a ledger."""
    return {order_id for order_id, *_ in _rows(path)}


@dataclass(frozen=True, slots=True)
class Share:
    """What one run did: its rows, those that a later run wrote again, and who it was."""

    rows: int
    repeated: int
    worker: int


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the orders.

    ``handled`` counts orders, ``repeated`` the rows beyond the first of each;
    ``by_fence`` has the share of each run. ``fastest_second`` is the most rows
    written within any second.
    """

    expected: int
    handled: int
    missing: int
    repeated: int
    by_fence: dict[int, Share]
    fastest_second: int


def account(path: str, expected: Collection[int]) -> Account:
    """Compare the ledger with the orders that it should have."""
    last: dict[int, int] = {}
    rows: Counter[int] = Counter()
    repeated: Counter[int] = Counter()
    workers: dict[int, int] = {}
    moments: list[float] = []
    for order_id, fence, worker, at in _rows(path):
        if order_id in last:
            repeated[last[order_id]] += 1
        last[order_id] = fence
        rows[fence] += 1
        workers[fence] = worker
        moments.append(at)
    missing = len(set(expected) - last.keys())
    return Account(
        expected=len(expected),
        handled=len(expected) - missing,
        missing=missing,
        repeated=repeated.total(),
        by_fence={f: Share(rows[f], repeated[f], workers[f]) for f in rows},
        fastest_second=_most_within(1.0, moments),
    )


def _rows(path: str) -> Iterator[tuple[int, int, int, float]]:
    with closing(sqlite3.connect(path)) as connection:
        yield from connection.execute(
            "SELECT order_id, fence, worker, at FROM handled ORDER BY rowid",
        )


def _most_within(seconds: float, moments: list[float]) -> int:
    most = first = 0
    for last, moment in enumerate(moments):
        while moment - moments[first] > seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
