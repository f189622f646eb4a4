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


def amount_of(shop_url: str, order: dict[str, Any]) -> int:
    """What an order costs, in cents; one that came without it is asked for again.

    Raises:
        ValueError: The shop does not know it.
    """
    if order["cents"] is None:
        response = httpx.get(f"{shop_url}/orders/{order['id']}", timeout=10)
        order = response.raise_for_status().json()
    if order["cents"] is None:
        raise ValueError(f"order {order['id']} has no amount")
    return int(order["cents"])


def repair(shop_url: str) -> None:
    """Have the shop mend its malformed orders."""
    httpx.post(f"{shop_url}/repair", timeout=10).raise_for_status()


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
