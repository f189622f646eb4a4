"""What the sync asks the shop: how many orders there are, and those after one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx

from jobkit import RateLimited

PAGE = 250
PAUSES = (0.1, 0.2)
"""Seconds between two tries of a request."""


def count_orders(shop_url: str) -> int:
    """How many orders the shop has."""
    response = httpx.get(f"{shop_url}/orders/count", timeout=10)
    return int(response.raise_for_status().json()["count"])


def orders_after(shop_url: str, order_id: int | None) -> Iterator[dict[str, Any]]:
    """The orders after one, or all (None), page by page.

    Raises:
        RateLimited: The shop asks to wait.
        httpx.HTTPStatusError: It stayed out of order, or refused the request.
    """
    with httpx.Client(base_url=shop_url, timeout=10) as client:
        while orders := _page(client, order_id or 0):
            yield from orders
            order_id = orders[-1]["id"]


def _page(client: httpx.Client, after: int) -> list[dict[str, Any]]:
    # Small hiccups are sat out here. What lasts longer is the job's business: it
    # waits in the store meanwhile, and not in a worker.
    response = _ask(client, after)
    for pause in PAUSES:
        if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            break
        time.sleep(pause)
        response = _ask(client, after)
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        wait = float(response.headers["Retry-After"])
        raise RateLimited("the shop said 429", retry_after=wait)
    orders: list[dict[str, Any]] = response.raise_for_status().json()["orders"]
    return orders


def _ask(client: httpx.Client, after: int) -> httpx.Response:
    return client.get("/orders", params={"after": after, "limit": PAGE})
