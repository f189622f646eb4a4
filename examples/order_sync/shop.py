"""A small shop that hands out its orders by HTTP, and is not always well.

It is a program of its own: ``python -m examples.order_sync.shop --orders 50000``
prints its address. All it does follows from its seed.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypedDict
from urllib.parse import parse_qs, urlsplit
from zlib import crc32

PAGE = 250
"""The most orders that one answer has."""

USUAL = 0.04
SLOW = 0.3
"""Seconds that the shop takes for a page."""

BLOCK = 50
"""Pages of which as many as below have some trouble."""

LIMITED, BURSTS, LONG_BURSTS, SLOW_PAGES = 1, 2, 1, 8
SHORT, LONG = 1, 3
"""How many requests in a row a burst of failures answers."""

CUSTOMERS = ("Ada", "Ben", "Cleo", "Dev", "Eva", "Finn", "Gia", "Hugo", "Ida", "Jon")


class Order(TypedDict):
    """An order, as the shop tells it; a malformed one has no amount."""

    id: int
    customer: str
    cents: int | None


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with a page: its first requests fail, or it takes long."""

    failures: tuple[HTTPStatus, ...] = ()
    seconds: float = USUAL


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered, and after how many seconds."""

    status: HTTPStatus
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class Shop:
    """The orders 1 to ``orders``, and the troubles in handing them out.

    A page's troubles are its own and pass: a client that asks often enough gets it.
    ``bad`` orders are malformed until the shop is repaired.
    """

    def __init__(self, orders: int, seed: int, bad: int = 0) -> None:
        self.orders = orders
        self._seed = seed
        draw = random.Random(f"{seed}/bad")  # noqa: S311 - no secret
        self.bad = frozenset(draw.sample(range(1, orders + 1), bad))
        self._asked: Counter[int] = Counter()
        self._answered: Counter[str] = Counter()
        self._lock = threading.Lock()

    def order(self, number: int) -> Order:
        """One order; always the same for a number and a seed."""
        draw = crc32(f"{self._seed}/{number}".encode())
        customer = CUSTOMERS[draw % len(CUSTOMERS)]
        cents = None if number in self.bad else 100 + draw % 20_000
        return {"id": number, "customer": customer, "cents": cents}

    def repair(self) -> None:
        """Mend the malformed orders."""
        self.bad = frozenset()

    def trouble(self, page: int) -> Trouble:
        """What is wrong with the page of that number; for most nothing is."""
        block, place = divmod(page, BLOCK)
        draw = random.Random(f"{self._seed}/{block}")  # noqa: S311 - no secret
        places = iter(draw.sample(range(BLOCK), BLOCK))
        kinds = (
            [Trouble((HTTPStatus.TOO_MANY_REQUESTS,))] * LIMITED
            + [Trouble((HTTPStatus.SERVICE_UNAVAILABLE,) * SHORT)] * BURSTS
            + [Trouble((HTTPStatus.SERVICE_UNAVAILABLE,) * LONG)] * LONG_BURSTS
            + [Trouble(seconds=SLOW)] * SLOW_PAGES
        )
        troubles = {next(places): kind for kind in kinds}
        return troubles.get(place, Trouble())

    def answer(self, target: str) -> Answer:
        """Answer a GET of this path and query."""
        url = urlsplit(target)
        match url.path:
            case "/orders":
                answer = self._orders(parse_qs(url.query))
            case "/orders/count":
                answer = Answer(HTTPStatus.OK, {"count": self.orders})
            case "/stats":
                answer = Answer(HTTPStatus.OK, self.stats())
            case path:
                answer = self._one(path)
        return answer

    def stats(self) -> dict[str, int]:
        """How often a page was asked for, by the status of the answer."""
        with self._lock:
            return dict(self._answered)

    def _one(self, path: str) -> Answer:
        number = path.removeprefix("/orders/")
        if number.isdecimal() and 1 <= int(number) <= self.orders:
            return Answer(HTTPStatus.OK, {**self.order(int(number))})
        return Answer(HTTPStatus.NOT_FOUND, {"error": f"There is no {path}"})

    def _orders(self, query: dict[str, list[str]]) -> Answer:
        try:
            after = int(query.get("after", ["0"])[0])
            limit = int(query.get("limit", [str(PAGE)])[0])
        except ValueError as error:
            return Answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        return self._page(max(after, 0), min(max(limit, 1), PAGE))

    def _page(self, after: int, limit: int) -> Answer:
        page = after // PAGE
        trouble = self.trouble(page)
        with self._lock:
            failures = trouble.failures[self._asked[page] :]
            self._asked[page] += 1
            status = failures[0] if failures else HTTPStatus.OK
            self._answered[str(status.value)] += 1
        if failures:
            limited = status is HTTPStatus.TOO_MANY_REQUESTS
            headers = {"Retry-After": "1"} if limited else {}
            return Answer(status, {"error": status.phrase}, headers)
        last = min(after + limit, self.orders)
        orders = [self.order(number) for number in range(after + 1, last + 1)]
        return Answer(HTTPStatus.OK, {"orders": orders}, seconds=trouble.seconds)


class ShopServer(ThreadingHTTPServer):
    """The shop on a port of this machine; port 0 takes a free one."""

    daemon_threads = True

    def __init__(self, shop: Shop, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.shop = shop

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP/1.1 for the shop, over connections that stay open."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together
    disable_nagle_algorithm = True
    server: ShopServer

    def do_GET(self) -> None:
        """Answer."""
        self._send(self.server.shop.answer(self.path))

    def do_POST(self) -> None:
        """Repair the shop, whatever the path."""
        self.server.shop.repair()
        self._send(Answer(HTTPStatus.OK, {}))

    def _send(self, answer: Answer) -> None:
        time.sleep(answer.seconds)
        body = json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def main() -> None:
    """Open the shop, and print its address."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=50_000)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bad", type=int, default=0, help="malformed orders")
    options = parser.parse_args()
    shop = Shop(options.orders, options.seed, options.bad)
    with ShopServer(shop, options.port) as server:
        print(server.url, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
