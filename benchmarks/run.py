"""Measure jobkit against tqdm and against plain Celery, as ratios of one run.

Every comparison is interleaved, round by round: on a machine that others use too,
only ratios mean anything.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from tqdm import tqdm

from benchmarks import tasks
from jobkit import JobKit, ProgressTask
from jobkit.job import NewJob, Progress
from jobkit.store.values import Snapshot
from tests.servers import ValkeyServer
from tests.waiting import wait_until

CHILDREN = 4
"""Processes of the worker's pool: enough that its main process is never idle."""

WORKERS = 8
"""Workers that do the short jobs."""

WARM = 100
"""Jobs of each kind that a worker does before anything counts."""

PAUSE = 0.01
"""Seconds between two looks at how far a worker is: less than the differences."""


def seconds(work: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rounds(count: int, **works: Callable[[], float]) -> dict[str, float]:
    """The median of each, measured in turn, each second round in reverse order."""
    seen: dict[str, list[float]] = {name: [] for name in works}
    order = list(works)
    for _ in range(count):
        for name in order:
            seen[name].append(works[name]())
        order.reverse()
    return {name: statistics.median(values) for name, values in seen.items()}


def show(what: str, ratio: float, budget: str, *, kept: bool) -> bool:
    """One line of the report."""
    print(f"{what:58} {ratio:6.2f}   {budget:10} {'ok' if kept else 'MISSED'}")
    return kept


def per_item(items: int, count: int) -> bool:
    """What going through a stage costs beside tqdm, per item."""

    class Through(ProgressTask):
        name = "bench.through"
        stages = ("items",)

        def run(self, loop: Callable[[Any], None]) -> None:
            with self.stage("items", total=items) as stage:
                loop(stage.iterate(range(items), cursor=lambda item: item))

    task = tasks.app.register_task(Through())

    def loop(source: Any) -> None:
        for _ in source:
            pass

    with Path(os.devnull).open("w") as nowhere:
        cost = rounds(
            count,
            bare=lambda: seconds(lambda: loop(range(items))),
            tqdm=lambda: seconds(lambda: loop(tqdm(range(items), file=nowhere))),
            jobkit=lambda: seconds(lambda: task(loop)),
        )
    ours, theirs = cost["jobkit"] - cost["bare"], cost["tqdm"] - cost["bare"]
    print(
        f"  per item: bare {cost['bare'] / items * 1e9:.0f} ns, "
        f"tqdm +{theirs / items * 1e9:.0f} ns, iterate +{ours / items * 1e9:.0f} ns",
    )
    ratio = ours / theirs
    return show("iterate / tqdm, cost per item", ratio, "<= 0.5", kept=ratio <= 0.5)


@contextmanager
def worker(url: str) -> Iterator[None]:
    """A worker that runs, and stops at the end."""
    process = subprocess.Popen(  # noqa: S603 - our own worker
        [
            *(sys.executable, "-W", "ignore", "-m", "celery"),
            *("-A", "benchmarks.tasks", "worker", "-Q", tasks.QUEUE),
            *("-c", str(CHILDREN), "-l", "ERROR", "--without-mingle"),
        ],
        env={**os.environ, "BENCH_VALKEY": url},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        tasks.job.delay(1, 1).get(timeout=60)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def time_of(task: Any, jobs: int, broker: redis.Redis) -> float:
    """How long a worker takes for so many, all of which wait when it begins."""

    def none_left() -> bool:
        return not broker.llen(tasks.QUEUE) and not broker.hlen("unacked")

    control = tasks.app.control
    if not control.cancel_consumer(tasks.QUEUE, reply=True, timeout=5, limit=1):
        raise RuntimeError("The worker did not stop taking jobs: start it again.")
    *_, last = [task.delay(number, 1) for number in range(jobs)]
    start = time.perf_counter()
    control.add_consumer(tasks.QUEUE, reply=False)
    wait_until(none_left, "acknowledgements", 120, pause=PAUSE)
    took = time.perf_counter() - start
    if last.get(timeout=10) != jobs:
        raise RuntimeError(f"{task.name} does not add: its time says nothing.")
    return took


def short_jobs(url: str, jobs: int) -> bool:
    """How many short jobs workers do, beside plain tasks.

    Several workers do thousands of each, one after the other: workers differ by a tenth
    among themselves, and a burst is slower in its first second or two. That is mostly
    the system's doing: plain tasks that make two empty calls to the store show it too.
    """
    broker = redis.Redis.from_url(f"{url}/0")
    order = [tasks.plain, tasks.job]
    spent = dict.fromkeys(order, 0.0)
    for _ in range(WORKERS):
        with worker(url):
            for task in order:
                time_of(task, WARM, broker)
            for task in order:
                spent[task] += time_of(task, jobs, broker)
        order.reverse()
    plain, job = (WORKERS * jobs / spent[task] for task in (tasks.plain, tasks.job))
    print(
        f"  short jobs a second: plain late-ack {plain:.0f}, job {job:.0f}, "
        f"on {os.cpu_count()} cores",
    )
    ratio = job / plain
    return show(
        "short jobs / plain late-ack tasks, throughput",
        ratio,
        ">= 0.85",
        kept=ratio >= 0.85,
    )


def one_report(count: int) -> bool:
    """What one save of progress and checkpoint costs, beside update_state."""
    store = JobKit(tasks.app).store
    store.enqueue(NewJob("bench", tasks.progress.name, ""), "token", 300)
    store.begin("bench", "token", "bench/1", 300)
    seen = Progress(current=412, total=50_000, percent=0.8, stage="items")
    calls = 500
    number = iter(range(1, 10**9))
    meta = {"current": 412, "total": 50_000, "percent": 0.8, "description": "items"}

    def save() -> None:
        for _ in range(calls):
            n = next(number)
            store.save("bench", 1, n, Snapshot(n, '{"cursor": 412}', seen), 300)

    def update() -> None:
        for _ in range(calls):
            tasks.progress.update_state("bench-plain", "PROGRESS", meta)

    cost = rounds(count, save=lambda: seconds(save), update=lambda: seconds(update))
    print(
        f"  one report: save {cost['save'] / calls * 1e6:.0f} us, "
        f"update_state {cost['update'] / calls * 1e6:.0f} us",
    )
    ratio = cost["save"] / cost["update"]
    return show("save / update_state, one call", ratio, "<= 1", kept=ratio <= 1)


def main() -> int:
    """Run all of it; 1 if a budget was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="of items and reports")
    parser.add_argument("--jobs", type=int, default=5000, help="a worker, of each kind")
    parser.add_argument("--items", type=int, default=1_000_000, help="a round")
    options = parser.parse_args()
    with ValkeyServer() as server:
        url = server.url.removesuffix("/0")
        tasks.use(url)
        kept = [
            per_item(options.items, options.rounds),
            short_jobs(url, options.jobs),
            one_report(options.rounds),
        ]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
