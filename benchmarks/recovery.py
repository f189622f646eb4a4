"""Measure how long a job stands still when its process is killed or shut down.

Each run is a kill of its own: of the owner's whole worker, of the child that runs
the job, or a SIGTERM, with a second worker beside it. What is measured goes from
the signal until another process handles an item of the job.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import amqp
import redis

from tests.servers import RabbitServer, ValkeyServer
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, Worker, new_name, opened
from tests.worker.journal import Entry
from tests.worker.setup import QUORUM_CONF, Broker, Setup

DOCUMENT = Path(__file__).parents[1] / "docs" / "recovery.md"

LEASE = 5.0
"""Seconds: shorter than the default of 30, which would only lengthen the waiting."""

PATIENCE = 20.0
"""Seconds after which a run is given up."""

ITEMS = 200
PAUSE = 0.02
KILL_AT = 100
"""An item after the first save, which comes after a second."""


Brokers = dict[str, Callable[[str], Broker]]
"""Each for a fleet of a name: the workers of two fleets have the same names."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to lose the process that runs a job; ``bound`` is jobkit's."""

    title: str
    bound: float
    act: Callable[[Worker, int], None]


WAYS = (
    Way("kill -9 of the worker", LEASE + 2, lambda worker, _: _kill(worker)),
    Way("kill -9 of the child", 5, lambda _, pid: os.kill(pid, signal.SIGKILL)),
    Way(
        "SIGTERM of the worker", 2, lambda worker, _: worker.send_signal(signal.SIGTERM)
    ),
)

KINDS = {
    "jobkit": "t.walk",
    "Celery, defaults": "plain.default",
    "Celery, late + reject": "plain.late",
}
"""Who runs the loop, and the name of its task there."""


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table."""

    way: Way
    broker: str
    kind: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run: ``seconds`` and ``item`` if another process went on.

    ``again`` is how many items the other process did that had been done.
    """

    seconds: float | None
    item: int = 0
    again: int = 0
    why: str = ""


class Lane:
    """Fleets that one thread uses, opened when they are needed."""

    def __init__(self, brokers: Brokers, valkey: ValkeyServer) -> None:
        self._brokers = brokers
        self._valkey = valkey
        self._fleets: dict[tuple[str, bool], Fleet] = {}
        self._stack = ExitStack()

    def run(self, cases: Sequence[Case]) -> list[tuple[Case, Outcome]]:
        """One run of each case."""
        return [(case, self._measure(case)) for case in cases]

    def close(self) -> None:
        """End all workers."""
        self._stack.close()

    def _measure(self, case: Case) -> Outcome:
        fleet = self._fleet(case.broker, case.kind == "jobkit")
        for worker in fleet.workers.values():
            if not worker.running:
                worker.close()
                worker.start()
        result = fleet.app.send_task(KINDS[case.kind], (ITEMS, PAUSE))
        victim = fleet.journal.wait_for(result.id, count=KILL_AT)
        owner = _owner(fleet, victim.pid)
        killed_at = time.monotonic()
        case.way.act(owner, victim.pid)
        outcome = _outcome(fleet, result.id, victim.pid, killed_at)
        if outcome.seconds is not None:
            wait_until(lambda: fleet.journal.items(result.id)[-1] == ITEMS, "it ends")
        if owner.running and "Warm shutdown" in owner.log:
            owner.wait()
        return outcome

    def _fleet(self, broker: str, is_job: bool) -> Fleet:  # noqa: FBT001
        if (broker, is_job) not in self._fleets:
            folder = Path(self._stack.enter_context(TemporaryDirectory()))
            name = new_name()
            place = self._brokers[broker](name)
            setup = Setup(
                broker=place.url,
                backend=self._valkey.database_url(1),
                store=self._valkey.database_url(2),
                name=name,
                journal=str(folder / "journal"),
                conf={"jobkit_lease_seconds": LEASE, **place.conf},
            )
            if not is_job:
                setup = replace(setup, app="benchmarks.plain_loop")
            fleet = self._stack.enter_context(opened(setup, folder))
            fleet.start("a", "b")
            self._fleets[broker, is_job] = fleet
        return self._fleets[broker, is_job]


def _kill(worker: Worker) -> None:
    worker.kill()


def _owner(fleet: Fleet, pid: int) -> Worker:
    group = os.getpgid(pid)
    return next(w for w in fleet.workers.values() if w.running and w.pid == group)


def _outcome(fleet: Fleet, job_id: str, pid: int, killed_at: float) -> Outcome:
    """Wait until another process goes on, or it is sure that none does."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        entries = fleet.journal.entries(job_id)
        other = next((entry for entry in entries if entry.pid != pid), None)
        if other is not None:
            return _resumed(entries, other, killed_at)
        if fleet.shown(job_id) in {"SUCCESS", "FAILURE"}:
            ended = fleet.shown(job_id) == "SUCCESS"
            why = "the worker waits for the task's end" if ended else "fails for good"
            return Outcome(None, why=why)
        time.sleep(0.02)
    return Outcome(None, why=f"not within {PATIENCE:g} s")


def _resumed(entries: list[Entry], other: Entry, killed_at: float) -> Outcome:
    done = max(int(entry.item) for entry in entries if entry.pid != other.pid)
    item = int(other.item)
    return Outcome(other.at - killed_at, item, again=done + 1 - item)


def measure(
    brokers: Brokers, valkey: ValkeyServer, options: argparse.Namespace
) -> dict[Case, list[Outcome]]:
    """All runs, round by round, in several lanes at once."""
    rounds = [
        _cases(list(brokers), plain=n < options.plain) for n in range(options.runs)
    ]
    lanes = [Lane(brokers, valkey) for _ in range(options.lanes)]

    def work(number: int) -> list[tuple[Case, Outcome]]:
        mine = rounds[number :: options.lanes]
        return list(chain.from_iterable(map(lanes[number].run, mine)))

    found: dict[Case, list[Outcome]] = defaultdict(list)
    try:
        with ThreadPoolExecutor(options.lanes) as pool:
            for case, outcome in chain.from_iterable(
                pool.map(work, range(options.lanes))
            ):
                found[case].append(outcome)
    finally:
        for lane in lanes:
            lane.close()
    return found


def _cases(brokers: list[str], *, plain: bool) -> list[Case]:
    kinds = list(KINDS) if plain else ["jobkit"]
    return [
        Case(way, broker, kind) for way in WAYS for kind in kinds for broker in brokers
    ]


def table(found: dict[Case, list[Outcome]]) -> Iterator[str]:
    """The lines of the report."""
    yield "| | broker | | runs | median | maximum | bound | the other process |"
    yield "|---|---|---|--:|--:|--:|--:|---|"
    for case in sorted(found, key=_order):
        outcomes = found[case]
        bound = f"{case.way.bound:g} s" if case.kind == "jobkit" else ""
        yield (
            f"| {case.way.title} | {case.broker} | {case.kind} | {len(outcomes)} "
            f"| {_times(outcomes)} | {bound} | {_place(outcomes)} |"
        )


def _order(case: Case) -> tuple[int, bool, str, int]:
    kind = list(KINDS).index(case.kind)
    return WAYS.index(case.way), case.broker != "Redis", case.broker, kind


def _times(outcomes: list[Outcome]) -> str:
    times = [o.seconds for o in outcomes if o.seconds is not None]
    if not times:
        return "- | -"
    return f"{statistics.median(times):.2f} s | {max(times):.2f} s"


def _place(outcomes: list[Outcome]) -> str:
    said = {o.why for o in outcomes if o.seconds is None}
    resumed = [o for o in outcomes if o.seconds is not None]
    if any(o.item == 1 for o in resumed):
        said.add("starts from zero")
    elif resumed:
        said.add(f"goes on, at most {max(o.again for o in resumed)} items again")
    return ", ".join(sorted(said))


def missed(found: dict[Case, list[Outcome]]) -> list[str]:
    """What jobkit did not hold."""
    return [
        f"{case.way.title} on {case.broker}: {outcome.seconds or outcome.why}"
        for case, outcomes in found.items()
        for outcome in outcomes
        if case.kind == "jobkit"
        and (outcome.seconds is None or outcome.seconds > case.way.bound)
    ]


def versions(valkey: ValkeyServer, rabbit: RabbitServer | None) -> str:
    """What it was measured with."""
    names = ("celery", "kombu", "billiard", "redis", "amqp")
    said = [f"Python {platform.python_version()}"]
    said += [f"{name} {version(name)}" for name in names]
    with redis.Redis(port=valkey.port) as client:
        said.append(f"Valkey {client.info('server')['valkey_version']}")
    if rabbit is not None:
        with amqp.Connection(f"127.0.0.1:{rabbit.port}") as connection:
            about: Any = connection
            said.append(f"RabbitMQ {about.server_properties['version']}")
    return ", ".join(said)


def document(options: argparse.Namespace, with_what: str, lines: list[str]) -> str:
    """The page in ``docs``."""
    runs = f"--runs {options.runs} --plain {options.plain} --lanes {options.lanes}"
    return f"""# How long a job stands still

Measured by `python -m benchmarks.recovery {runs}`
({with_what}).

A job goes through {ITEMS} items of {PAUSE * 1000:g} ms. In each run its process is killed, or its worker
asked to end, after item {KILL_AT}; a second worker idles beside. The time goes from the signal
until another process handles an item. The lease is {LEASE:g} s here (`jobkit_lease_seconds`, 30 by
default): after `kill -9` of a whole worker the job waits for what is left of it. The same loop
runs beside it as a plain Celery task, with the default settings, and with `acks_late` and
`reject_on_worker_lost`; a run without a successor is given up after {PATIENCE:g} s.

{chr(10).join(lines)}

On Redis plain Celery brings a message of a killed worker back after `visibility_timeout`, an hour
by default.
"""


def main() -> int:
    """Run all of it; 1 if jobkit missed a bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of each case of jobkit")
    parser.add_argument("--plain", type=int, default=2, help="of each of plain Celery")
    parser.add_argument("--lanes", type=int, default=3, help="runs at the same time")
    parser.add_argument(
        "--broker", choices=["redis", "rabbitmq", "both"], default="both"
    )
    parser.add_argument("--write", action="store_true", help=f"to {DOCUMENT.name}")
    options = parser.parse_args()
    with ExitStack() as stack:
        valkey = stack.enter_context(ValkeyServer())
        rabbit, brokers = None, cast("Brokers", {})
        if options.broker != "rabbitmq":
            brokers["Redis"] = lambda _: Broker(valkey.database_url(0))
        if options.broker != "redis":
            rabbit = stack.enter_context(RabbitServer())
            vhost = rabbit.add_vhost
            brokers["RabbitMQ"] = lambda name: Broker(vhost(name))
            brokers["RabbitMQ, quorum"] = lambda name: Broker(vhost(name), QUORUM_CONF)
        found = measure(brokers, valkey, options)
        with_what = versions(valkey, rabbit)
    lines = list(table(found))
    print(with_what, *lines, sep="\n")
    print(*(f"MISSED: {line}" for line in missed(found)), sep="\n")
    if options.write:
        DOCUMENT.write_text(document(options, with_what, lines))
    return 1 if missed(found) else 0


if __name__ == "__main__":
    sys.exit(main())
