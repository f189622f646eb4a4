"""The demo: a sync of many orders whose workers are killed, and what became of it.

It starts a Valkey, a shop and two workers of its own, and ends them all. It
exits with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.text import Text

from examples.order_sync import tasks
from examples.order_sync.conductor import Conductor
from examples.order_sync.ledger import account, orders_in
from examples.order_sync.processes import Crew, Shop, Valkey
from examples.order_sync.promises import (
    Bounds,
    Mending,
    Promise,
    mended,
    promises,
    table,
)
from examples.order_sync.screen import Screen
from examples.order_sync.shop_client import repair
from jobkit import Job, State

PLAN = ((40.0, signal.SIGKILL), (70.0, signal.SIGTERM))
"""At which percentage the worker of the job gets which signal."""

SEED = 28
"""A shop that is well just when the workers are struck, and not always else."""

LOG_LINES = 40
"""How much of each worker's log is shown when something was broken."""

BROKEN = 1
INTERRUPTED = 130


def run(options: argparse.Namespace, console: Console, folder: Path) -> bool:
    """Run the whole demo; whether every promise was kept."""
    live = sys.stdout.isatty() and not console.is_dumb_terminal
    ledger = str(folder / "ledger.sqlite")
    mending = None
    with ExitStack() as ending, Screen(console, live=live) as screen:
        crew, shop = start(options, folder, screen, ending.callback)
        result = tasks.sync_orders.delay(shop.url, ledger)
        plan = [] if options.no_kill else list(PLAN)
        conductor = Conductor(crew, screen, plan)
        conductor.follow(result.id, seconds=60 + options.orders / 500)
        job = tasks.kit.jobs.get(result.id)
        if job.state is State.PARTIAL:
            mending = mend(crew, screen, shop.url, job, ledger)
            job = mending.after
    found = account(ledger, range(1, options.orders + 1))
    strikes, setbacks = conductor.strikes, conductor.setbacks
    lines = list(promises(found, job, strikes, setbacks, bounds()))
    if mending:
        lines += mended(mending, options.bad)
    elif options.bad:
        lines.append(Promise("state", job.state, "PARTIAL at first", kept=False))
    kept = report(console, lines, crew)
    if plan and kept:
        console.print("The job was too short to do everything to it.", style="yellow")
    if options.picture:
        draw(options.picture, screen, lines)
    return kept


def start(
    options: argparse.Namespace,
    folder: Path,
    screen: Screen,
    at_end: Callable[[Callable[[], None]], Any],
) -> tuple[Crew, Shop]:
    """Start everything; ``at_end`` is told how each is ended again."""
    valkey = Valkey(folder)
    at_end(valkey.kill)
    shop = Shop(folder, options.orders, options.seed, options.bad)
    at_end(shop.kill)
    valkey.wait_until(valkey.answers)
    tasks.app.conf.update(tasks.addresses(valkey.url))
    crew = Crew(folder, valkey.url)
    at_end(crew.kill)
    workers = [crew.hire(), crew.hire()]
    shop.wait_until(lambda: shop.url)
    for worker in workers:
        worker.wait_until(worker.ready)
    screen.say(f"Valkey, a shop with {options.orders:,} orders, and two workers are up")
    return crew, shop


def mend(crew: Crew, screen: Screen, shop_url: str, job: Job, ledger: str) -> Mending:
    """Repair the shop, and replay the orders that failed."""
    jobs = tasks.kit.jobs
    rows = jobs.failures(job.id, limit=10_000).items
    screen.say(f"{len(rows)} orders failed; the first: {rows[0].message}", "magenta")
    before = orders_in(ledger)
    repair(shop_url)
    replay = jobs.replay(job.id, "failed_items", reason="the shop is repaired")
    screen.say("the shop is repaired; a job over the failed orders alone", "magenta")
    Conductor(crew, screen, []).follow(replay, seconds=30)
    return Mending(
        before=job,
        after=jobs.get(job.id),
        replay=jobs.get(replay),
        failed=[int(row.key) for row in rows],
        replayed=orders_in(ledger) - before,
    )


def bounds() -> Bounds:
    """What is promised with the settings of this app."""
    settings = tasks.kit.settings
    return Bounds(
        settings.lease_seconds, settings.checkpoint_interval, settings.dispatch_interval
    )


def report(console: Console, lines: Sequence[Promise], crew: Crew) -> bool:
    """Print the account, and the workers' logs if something was broken."""
    console.print(table(lines))
    console.print()
    broken = [line.what for line in lines if not line.kept]
    if not broken:
        console.print("Every promise was kept: missing 0.", style="bold green")
        return True
    console.print(f"Broken: {', '.join(broken)}.", style="bold red")
    for worker in crew.workers:
        end = "\n".join(worker.log.splitlines()[-LOG_LINES:])
        console.print(Text(f"--- the log of {worker.name}\n{end}", style="dim"))
    return False


def draw(path: Path, screen: Screen, lines: Sequence[Promise]) -> None:
    """Write a picture (SVG) of how it went."""
    paper = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    for line in screen.lines:
        paper.print(line)
    paper.print(screen.render())
    paper.print(table(lines))
    paper.save_svg(str(path), title="make demo")


def main() -> int:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=SEED, help="of the shop's troubles")
    parser.add_argument("--bad", type=int, default=37, help="malformed orders")
    parser.add_argument("--no-kill", action="store_true", help="let the workers live")
    parser.add_argument("--picture", type=Path, help="write an SVG of the end here")
    options = parser.parse_args()
    if options.orders < 1:
        parser.error("--orders is at least 1")
    if not 0 <= options.bad <= min(100, options.orders - 1):
        parser.error("--bad is 0 to 100, and less than --orders")
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with TemporaryDirectory(prefix="order-sync-") as folder:
            kept = run(options, console, Path(folder))
    except KeyboardInterrupt:
        console.print("Interrupted; everything that was started is ended.")
        return INTERRUPTED
    return 0 if kept else BROKEN


if __name__ == "__main__":
    sys.exit(main())
