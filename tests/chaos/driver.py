"""A real cluster under random faults, and whether every promise was kept.

``python -m tests.chaos.driver --seconds 600 --seed 1 --broker rabbitmq``
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tests.chaos import report, verdict
from tests.chaos.faults import Faults
from tests.chaos.producer import Producer, Sent
from tests.chaos.relay import Relay
from tests.chaos.report import Result
from tests.chaos.verdict import End, Evidence
from tests.servers import RabbitServer, Server, ValkeyServer
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, Worker, new_name, opened
from tests.worker.invariants import violations
from tests.worker.setup import Setup

LEASE = 3.0
EVERY = 50

CONF = {
    "jobkit_lease_seconds": LEASE,
    "jobkit_checkpoint_every": EVERY,
    "jobkit_store_timeout": 0.5,
    "jobkit_dispatch_interval": 0.2,
    "jobkit_ack_after": 2,
    # A message that a fault swallowed comes again after this time.
    "jobkit_hint_seconds": 2,
    # However often it is hit without progress, no job is poison here.
    "jobkit_retry_policy": {"base": 0.1, "crashes": 1_000},
}

SETTLE = 120.0
"""Seconds that all jobs have to end once the faults are over."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

    seconds: float
    seed: int
    broker: str
    folder: Path

    @property
    def command(self) -> str:
        """The command that repeats it."""
        args = f"--seconds {self.seconds:g} --seed {self.seed} --broker {self.broker}"
        return f'make chaos ARGS="{args}"'


def run(options: Options) -> Result:
    """Start everything, let faults strike for a while, heal, wait and judge."""
    started_at = time.monotonic()
    dice = Random(options.seed)  # noqa: S311 - no secret
    with ExitStack() as stack:
        # Every write that the store has confirmed is on its disk.
        always = ("--appendfsync", "always")
        store = stack.enter_context(ValkeyServer(append_only=True, options=always))
        broker = stack.enter_context(_broker(options.broker))
        fleet = stack.enter_context(
            opened(_setup(options, broker, store), _logs(options))
        )
        way = stack.enter_context(Relay(store.port))
        remote = _start(fleet, store, way)
        own = Random(dice.getrandbits(64))  # noqa: S311
        faults = Faults(fleet, store, broker, (remote, way), LEASE, own)
        producer = Producer(fleet, Random(dice.getrandbits(64)))  # noqa: S311
        _rage(faults, producer, options.seconds)
        troubles = [producer.failure] if producer.failure else []
        troubles += _settle(fleet, faults, producer.sent)
        evidence = _evidence(fleet, faults, producer.sent)
        found = verdict.judge(evidence)
        broken = {**found.broken, verdict.TROUBLE: troubles}
        broken[verdict.STORE] = _unsound(fleet)
    return Result(
        broker=options.broker,
        seed=options.seed,
        seconds=options.seconds,
        took=time.monotonic() - started_at,
        command=options.command,
        faults=Counter(blow.kind for blow in faults.blows),
        jobs=Counter(sent.kind for sent in producer.sent),
        unsure=sum(not sent.sure for sent in producer.sent),
        repeated=found.repeated,
        late=found.late,
        overtaken=found.overtaken,
        broken=broken,
    )


def _start(fleet: Fleet, store: ValkeyServer, way: Relay) -> Worker:
    """Start two workers; the second, which is returned, takes a way to the store."""
    setup = fleet.setup
    there, here = f":{store.port}/", f":{way.port}/"
    remote = replace(
        setup,
        store=setup.store.replace(there, here),
        backend=setup.backend.replace(there, here),
    )
    near, far = (fleet.worker(name, concurrency=2) for name in ("a", "b"))
    near.launch()
    far.start(remote)
    near.ready()
    return far


def _rage(faults: Faults, producer: Producer, seconds: float) -> None:
    end = time.monotonic() + seconds
    producer.start()
    try:
        faults.rest()
        while time.monotonic() < end:
            faults.strike()
            faults.rest()
    finally:
        producer.stop()


def _settle(fleet: Fleet, faults: Faults, sent: Sequence[Sent]) -> list[str]:
    """Wait until all jobs are over; what went wrong with that."""
    left = list(sent)

    def over() -> bool:
        faults.revive()
        left[:] = [one for one in left if not _is_over(fleet, one)]
        return not left

    try:
        wait_until(over, "all jobs are over", SETTLE, pause=0.5)
    except AssertionError:
        return [f"{len(left)} jobs are not over after {SETTLE:g} s"]
    return []


def _is_over(fleet: Fleet, sent: Sent) -> bool:
    job = fleet.store.get(sent.id)
    return not sent.sure if job is None else job.state.finished


def _evidence(fleet: Fleet, faults: Faults, sent: Sequence[Sent]) -> Evidence:
    ends = {one.id: _end(fleet, one.id) for one in sent}
    entries = {one.id: fleet.journal.entries(one.id) for one in sent}
    return Evidence(sent, faults.blows, entries, ends, EVERY)


def _end(fleet: Fleet, job_id: str) -> End | None:
    job = fleet.store.get(job_id)
    if job is None:
        return None
    wanted = verdict.SHOWN.get(job.state)

    def told() -> bool:
        return wanted is None or fleet.shown(job_id) == wanted

    with suppress(AssertionError):  # the verdict says so
        wait_until(told, "Celery was told", 15)
    result = fleet.app.AsyncResult(job_id)
    return End(job, fleet.ends(job_id), fleet.shown(job_id), result.result)


def _unsound(fleet: Fleet) -> list[str]:
    found: list[str] = []

    def sound() -> bool:
        found[:] = [*violations(fleet), *_limits_in_use(fleet)]
        return not found

    with suppress(AssertionError):  # what was found says it
        wait_until(sound, "the store is sound", 3 + LEASE)
    return found


def _limits_in_use(fleet: Fleet) -> list[str]:
    page = fleet.store.limits()
    return [
        f"limit {limit.key} is in use when all jobs are over: {limit}"
        for limit in page.items
        if limit.holders or limit.promised or limit.waiting
    ]


def _broker(kind: str) -> Server:
    return RabbitServer() if kind == "rabbitmq" else ValkeyServer(append_only=True)


def _setup(options: Options, broker: Server, store: ValkeyServer) -> Setup:
    if not isinstance(broker, RabbitServer | ValkeyServer):
        raise TypeError(f"{broker} is no broker.")
    return Setup(
        broker=broker.url,
        backend=store.database_url(1),
        store=store.url,
        name=new_name(),
        journal=str(options.folder / "journal"),
        conf=CONF,
    )


def _logs(options: Options) -> Path:
    logs = options.folder / "logs"
    logs.mkdir(parents=True)
    return logs


def main(arguments: Sequence[str]) -> int:
    """Run it as the command line says; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of faults")
    parser.add_argument("--seed", type=int, default=secrets.randbits(16))
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], default="redis")
    parser.add_argument("--write", type=Path, help="a page to put the result into")
    parser.add_argument(
        "--keep", type=Path, help="an empty folder for logs and journal"
    )
    chosen = parser.parse_args(arguments)
    print(f"seed {chosen.seed}", flush=True)
    with TemporaryDirectory(prefix="jobkit-chaos-") as temporary:
        folder = chosen.keep or Path(temporary)
        result = run(Options(chosen.seconds, chosen.seed, chosen.broker, folder))
    print(report.table(result))
    if chosen.write:
        report.write(chosen.write, result)
    return 0 if result.kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
