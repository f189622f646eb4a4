"""A producer that enqueues a mix of jobs, and cancels some of them, until stopped."""

from __future__ import annotations

import threading
import traceback
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

import redis
from celery import chord
from kombu.exceptions import OperationalError

from jobkit import JobNotFound, StoreUnavailable
from tests.worker.fleet import Fleet

LONG = "long"
SHORT = "short"
CHORD = "chord"
MEMBER = "chord member"
BODY = "chord body"
RETRIED = "retried"
CANCELLED = "cancelled"
DELAYED = "delayed"
LIMITED = "limited to one"
PACED = "limited in rate"
UNIQUE = "unique"

MIX = {
    LONG: 4,
    SHORT: 4,
    CHORD: 2,
    RETRIED: 2,
    CANCELLED: 1,
    DELAYED: 2,
    LIMITED: 2,
    PACED: 1,
    UNIQUE: 2,
}
"""How often each kind comes, beside the others."""

ROOM = 7
"""Jobs that are not over, above which it waits: the workers keep up."""

PAUSE = 0.01
"""Seconds that an item takes."""

STROLLS = {
    LIMITED: "stroll_limited",
    PACED: "stroll_paced",
    UNIQUE: "stroll_unique",
}
"""The tasks of the kinds that have a shop."""

SHOPS = ("berlin", "paris")

RIVALS = 3
"""Jobs of one shop that are sent at once."""

REFUSALS = (StoreUnavailable, OperationalError, redis.RedisError, OSError)
"""What enqueueing may answer with while a server is away."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A job that was sent: what its tasks must write down, and whether it is sure.

    It is not sure when enqueueing raised: it may have been recorded all the same.
    ``shop`` is for the kinds of which one job may run for each of them.
    """

    id: str
    kind: str
    work: frozenset[str]
    sure: bool
    value: int | None = None
    shop: str = ""


class Producer:
    """Sends jobs from a thread of its own, by chance."""

    def __init__(self, fleet: Fleet, dice: Random) -> None:
        self.sent: list[Sent] = []
        self.failure = ""
        self._fleet = fleet
        self._dice = dice
        self._to_cancel: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()
        self._thread.join()

    def _go(self) -> None:
        self._leave_results_alone()
        try:
            while not self._stop.wait(0.05):
                self._cancel_what_runs()
                if self._has_room():
                    kind = self._dice.choices(list(MIX), list(MIX.values()))[0]
                    self._send(kind)
        except Exception:  # noqa: BLE001 - whatever it is, it must not pass unseen
            self.failure = traceback.format_exc()

    def _leave_results_alone(self) -> None:
        # Nobody waits for a result here. Celery's subscriptions to them (one set a
        # thread) would hold the producer up for as long as the backend is away.
        backend: Any = self._fleet.app.backend
        consumer = backend.result_consumer
        consumer.consume_from = consumer.cancel_for = lambda _: None

    def _has_room(self) -> bool:
        try:
            counts = self._fleet.jobs.counts()
        except StoreUnavailable:
            self._stop.wait(0.2)
            return True
        waiting = sum(n for state, n in counts.items() if not state.finished)
        return waiting < ROOM

    def _send(self, kind: str) -> None:
        if kind == CHORD:
            self._chord()
        elif kind in STROLLS:
            shop = self._dice.choice(SHOPS)
            for _ in range(RIVALS):
                self._stroll(kind, shop)
        elif kind in (SHORT, DELAYED):
            x, y = self._dice.randrange(1000), self._dice.randrange(1000)
            wait = self._dice.uniform(0.5, 3) if kind == DELAYED else None
            self._one(kind, {f"{x}+{y}"}, "add", x, y, countdown=wait)
        else:
            items = self._dice.randrange(150, 400)
            work = map(str, range(1, items + 1))
            if kind == RETRIED:
                at = [self._dice.randrange(1, items)]
                how = {"at": at, "how": "connection", "pause": PAUSE}
                self._one(kind, work, "stumble", items, kwargs=how)
            else:
                self._one(kind, work, "walk", items, PAUSE)
            if kind == CANCELLED:
                self._to_cancel[self.sent[-1].id] = self._dice.randrange(1, items)

    def _one(
        self, kind: str, work: Iterable[str], task: str, *args: Any, **options: Any
    ) -> None:
        job_id = self._id()
        kwargs = options.pop("kwargs", {})
        signature = self._fleet.task(task).s(*args, **kwargs)
        sure = self._apply(lambda: signature.apply_async(task_id=job_id, **options))
        self.sent.append(Sent(job_id, kind, frozenset(work), sure))

    def _stroll(self, kind: str, shop: str) -> None:
        items = self._dice.randrange(50, 150)
        task, job_id = self._fleet.task(STROLLS[kind]), self._id()
        answers: list[Any] = []
        sure = self._apply(
            lambda: answers.append(
                task.apply_async((shop, items, PAUSE), task_id=job_id)
            )
        )
        if sure and answers[0].existing:
            self._must_know(answers[0].id)
            return
        alone = "" if kind == PACED else shop
        work = frozenset(map(str, range(1, items + 1)))
        self.sent.append(Sent(job_id, kind, work, sure, shop=alone))

    def _must_know(self, job_id: str) -> None:
        if job_id not in {sent.id for sent in self.sent if sent.kind == UNIQUE}:
            raise AssertionError(f"{job_id} was returned as existing, and never sent.")

    def _chord(self) -> None:
        member, total = self._fleet.task("member"), self._fleet.task("total")
        numbers = self._dice.sample(range(1000), 5)
        ids = [self._id() for _ in numbers]
        header = [
            member.s(number).set(task_id=job_id)
            for number, job_id in zip(numbers, ids, strict=True)
        ]
        body = self._id()
        sure = self._apply(lambda: chord(header)(total.s().set(task_id=body)))
        for number, job_id in zip(numbers, ids, strict=True):
            self.sent.append(Sent(job_id, MEMBER, frozenset({str(number)}), sure))
        work = frozenset({f"total-{len(numbers)}"})
        self.sent.append(Sent(body, BODY, work, sure, value=sum(numbers)))

    def _apply(self, send: Any) -> bool:
        try:
            send()
        except REFUSALS:
            return False
        return True

    def _cancel_what_runs(self) -> None:
        for job_id, items in list(self._to_cancel.items()):
            if len(self._fleet.journal.entries(job_id)) < items:
                continue
            try:
                self._fleet.jobs.cancel(job_id, actor="chaos")
            except REFUSALS:  # asked again: it is the same cancel
                continue
            except JobNotFound:  # it was never recorded
                pass
            del self._to_cancel[job_id]

    def _id(self) -> str:
        return str(uuid.UUID(int=self._dice.getrandbits(128), version=4))
