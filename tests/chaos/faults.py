"""The faults that strike a cluster, and what is kept of each."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import redis

from tests.chaos.processes import freeze, members
from tests.chaos.relay import Relay
from tests.servers import Server, ValkeyServer
from tests.worker.fleet import Fleet, Worker

CHILD = "child killed"
WORKER = "worker killed"
FROZEN = "worker frozen beyond its lease"
PARTED = "worker cut off from the store"
DRAINED = "worker shut down"
ENDED = "worker ended by itself"
HUNG = "shutdown that hung"
BROKER = "broker killed"
STORE = "store killed"
BROKER_CUT = "broker's connections cut"
STORE_CUT = "store's connections cut"

CRASHES = frozenset({CHILD, WORKER, FROZEN, PARTED, ENDED, HUNG})
"""Faults that end the runs of their victims without a word."""

OUTAGES = frozenset({STORE, STORE_CUT})
"""Faults that keep every run from saving for a while."""

UNSAVED = OUTAGES | {PARTED}
"""Faults during which the runs that they reach save nothing."""

SHUTDOWN = 25.0
"""Seconds that a worker has for a warm shutdown."""

TICK = 0.2
"""Seconds between two looks whether a worker has ended."""


@dataclass(frozen=True, slots=True)
class Blow:
    """A fault that struck: which processes, and from when to when (monotonic)."""

    kind: str
    at: float
    until: float
    pids: frozenset[int] = frozenset()


class Faults:
    """Strikes a fleet and its servers, one fault after the other, by chance.

    Each kind comes once before any comes again. ``remote`` is a worker whose way to
    the store is the relay.
    """

    def __init__(
        self,
        fleet: Fleet,
        store: ValkeyServer,
        broker: Server,
        remote: tuple[Worker, Relay],
        lease: float,
        dice: Random,
    ) -> None:
        self.blows: list[Blow] = []
        self._fleet = fleet
        self._store = store
        self._broker = broker
        self._remote = remote
        self._lease = lease
        self._dice = dice
        self._bag: list[Callable[[], None]] = []
        self._seen: dict[str, tuple[float, frozenset[int]]] = {}

    def strike(self) -> None:
        """Let one fault happen, and heal what does not heal by itself."""
        if not self._bag:
            self._bag = self._kinds()
            self._dice.shuffle(self._bag)
        self._bag.pop()()

    def rest(self, least: float = 0.3, most: float = 2.5) -> None:
        """Let a random time pass, in which workers that have ended are started."""
        end = time.monotonic() + self._dice.uniform(least, most)
        while time.monotonic() < end:
            self.revive()
            time.sleep(TICK)

    def revive(self) -> None:
        """Start the workers that have ended, as what supervises them would."""
        for worker in self._fleet.workers.values():
            if worker.running:
                alive = frozenset(members(worker.pid))
                self._seen[worker.name] = time.monotonic(), alive
            else:
                at, pids = self._seen.get(worker.name, (0.0, frozenset()))
                worker.close()
                self._note(ENDED, at, pids)
                worker.launch()

    def _kinds(self) -> list[Callable[[], None]]:
        kinds = [
            self._kill_child,
            self._kill_worker,
            self._freeze_worker,
            self._part_worker,
            self._shut_down,
            self._kill_broker,
            self._kill_store,
            self._cut_store,
        ]
        return [*kinds, self._cut_broker] if self._can_cut_broker else kinds

    @property
    def _can_cut_broker(self) -> bool:
        return isinstance(self._broker, ValkeyServer)

    def _note(self, kind: str, at: float, pids: frozenset[int] = frozenset()) -> None:
        self.blows.append(Blow(kind, at, time.monotonic(), pids))

    def _victim(self) -> Worker:
        self.revive()
        return self._fleet.workers[self._dice.choice(sorted(self._fleet.workers))]

    def _kill_child(self) -> None:
        worker = self._victim()
        children = sorted(set(members(worker.pid)) - {worker.pid})
        if not children:  # it is starting
            return
        victim, at = self._dice.choice(children), time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        self._note(CHILD, at, frozenset({victim}))

    def _kill_worker(self) -> None:
        worker, at = self._victim(), time.monotonic()
        pids = members(worker.pid)
        freeze(pids)
        worker.kill()
        self._note(WORKER, at, frozenset(pids))
        worker.launch()

    def _freeze_worker(self) -> None:
        worker, at = self._victim(), time.monotonic()
        pids = members(worker.pid)
        freeze(pids)
        self._pause(self._lease + 1, self._lease + 5)
        # Before they wake: what they do from now on is theirs to answer for.
        self._note(FROZEN, at, frozenset(pids))
        worker.send_signal_to_all(signal.SIGCONT)

    def _part_worker(self) -> None:
        self.revive()
        worker, way = self._remote
        at, pids = time.monotonic(), frozenset(members(worker.pid))
        way.pause()
        self._pause(self._lease + 1, self._lease + 5)
        # A child that ended meanwhile has a successor.
        pids |= frozenset(members(worker.pid)) if worker.running else frozenset()
        self._note(PARTED, at, pids)
        way.resume()

    def _shut_down(self) -> None:
        worker, at = self._victim(), time.monotonic()
        pids = frozenset(members(worker.pid))
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(SHUTDOWN)
            self._note(DRAINED, at, pids)
        except AssertionError:
            worker.kill()
            self._note(HUNG, at, pids)
        worker.launch()

    def _kill_broker(self) -> None:
        self._restart(self._broker, BROKER)

    def _kill_store(self) -> None:
        self._restart(self._store, STORE)

    def _restart(self, server: Server, kind: str) -> None:
        at = time.monotonic()
        server.kill()
        self._pause(0.0, self._lease + 1)
        server.start()
        self._note(kind, at)

    def _cut_store(self) -> None:
        self._cut(self._store, STORE_CUT)

    def _cut_broker(self) -> None:
        self._cut(self._broker, BROKER_CUT)

    def _cut(self, server: Server, kind: str) -> None:
        at = time.monotonic()
        with redis.Redis(port=server.port) as client:
            for name in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", name, "SKIPME", "yes")
        self._note(kind, at)

    def _pause(self, least: float, most: float) -> None:
        # Nothing to wait for: the length of the fault is what is random.
        time.sleep(self._dice.uniform(least, most))
