"""The order in which a worker serves its queues: by their weights, or strictly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

STRATEGY = "queue_order_strategy"
"""The option of kombu's Redis transport that an order is given to."""

LAST = 1
"""The weight of a queue that is not in the map; it comes behind those that are."""


@dataclass(frozen=True, slots=True)
class Order:
    """What makes the turns of one worker, which are kombu's ``queue_order_strategy``.

    ``weights`` are the queues of the map with their weights, from urgent to patient.
    """

    weights: tuple[tuple[str, int], ...]
    strict: bool = False

    def __call__(self) -> StrictTurns:
        """New turns: each connection of a worker has its own."""
        kind = StrictTurns if self.strict else WeightedTurns
        return kind(self.weights)

    def __json__(self) -> str:
        """How ``celery inspect`` shows it among the options of the broker."""
        return f"jobkit, {'strict' if self.strict else 'weighted'}"


class StrictTurns:
    """The most urgent queue that has a message is always the next.

    It is a strategy of kombu: ``update`` tells which queues are consumed,
    ``consume`` is asked for their order, ``rotate`` hears which one had a message.
    """

    def __init__(self, weights: Iterable[tuple[str, int]]) -> None:
        self.names: list[str] = []
        self._weights = dict(weights)
        self._ranks = {name: rank for rank, name in enumerate(self._weights)}

    def update(self, names: Iterable[str]) -> None:
        """Take turns between these queues from now on."""
        self.names = list(names)

    def consume(self, n: int) -> list[str]:
        """The first ``n`` queues, in the order in which to look for a message."""
        return sorted(self.names, key=self._place)[:n]

    def rotate(self, last_used: str) -> str:
        """Note that this queue was served."""
        return last_used

    def _place(self, name: str) -> tuple[int, int]:
        return 0, self._ranks.get(name, len(self._ranks))


class WeightedTurns(StrictTurns):
    """Each queue that has messages gets its share, and none starves.

    Stride scheduling (Waldspurger and Weihl, 1995): a queue moves on by one over
    its weight when it is served, and the one that is least far is the next. One
    that was passed over had no message: it comes along, so that its next message
    is soon served, but it saves no turns.
    """

    def __init__(self, weights: Iterable[tuple[str, int]]) -> None:
        super().__init__(weights)
        self._whole = math.lcm(LAST, *self._weights.values())
        self._far: dict[str, int] = {}
        self._now = 0

    def update(self, names: Iterable[str]) -> None:
        """Take turns between these queues; a new one begins where the others are."""
        super().update(names)
        known = self._far
        self._far = {
            name: known.get(name, self._now + self._stride(name)) for name in self.names
        }

    def rotate(self, last_used: str) -> str:
        """Note that this queue was served, and that those before it were empty."""
        if last_used in self._far:
            place = self._place(last_used)
            self._now = place[0]
            for name in self.names:
                if self._place(name) < place:
                    self._far[name] = self._now
            self._far[last_used] = self._now + self._stride(last_used)
        return last_used

    def _stride(self, name: str) -> int:
        return self._whole // self._weights.get(name, LAST)

    def _place(self, name: str) -> tuple[int, int]:
        return self._far[name], super()._place(name)[1]
