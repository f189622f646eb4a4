"""The account at the end: what was promised, and what the ledger and the record say."""

from __future__ import annotations

import math
import signal
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from examples.order_sync.ledger import Account
from examples.order_sync.shop_client import PAGE
from jobkit import Job, State


@dataclass(slots=True)
class Strike:
    """A worker that was ended while it ran the job; times are seconds after it."""

    signal: signal.Signals
    worker: str
    fence: int
    at: float
    left_after: float | None = None
    recovered_after: float | None = None

    @property
    def is_kill(self) -> bool:
        """Whether the worker had no chance to say anything."""
        return self.signal is signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Bounds:
    """What jobkit promises, for the settings of the demo; all in seconds."""

    lease: float
    checkpoint_interval: float
    poll: float

    def recovery(self, strike: Strike) -> float:
        """The most that may pass until the job runs again."""
        return self.lease + 2 if strike.is_kill else 2 + self.poll

    def repeats(self, account: Account) -> int:
        """The most orders that one kill may repeat.

        Those of one checkpoint interval at the highest pace measured, and those
        of the page that was at hand.
        """
        return math.ceil(account.fastest_second * self.checkpoint_interval) + PAGE


@dataclass(frozen=True, slots=True)
class Promise:
    """One line of the account."""

    what: str
    found: str
    promised: str
    kept: bool


def promises(
    account: Account,
    job: Job,
    strikes: Sequence[Strike],
    setbacks: int,
    bounds: Bounds,
) -> Iterator[Promise]:
    """Compare everything that was promised with what was found."""
    kills = [strike for strike in strikes if strike.is_kill]
    stops = [strike for strike in strikes if not strike.is_kill]
    yield Promise("state", job.state, "SUCCEEDED", kept=job.state is State.SUCCEEDED)
    yield _equal("orders handled", account.handled, account.expected)
    yield _equal("orders missing", account.missing, 0)
    yield from _repeats(account, kills, bounds)
    yield _equal("recoveries", job.recoveries, len(kills))
    yield _equal("interruptions", job.interruptions, len(stops))
    waits = job.recoveries + job.interruptions + job.rate_limited
    yield _equal("percentage went back", setbacks, 0)
    yield _equal("errors counted as attempts", job.attempts, job.starts - 1 - waits)
    for strike in strikes:
        yield _recovery(strike, bounds)
    for strike in stops:
        kept = strike.left_after is not None
        what = f"{strike.worker} left after SIGTERM"
        yield Promise(what, _seconds(strike.left_after), "by itself", kept=kept)


@dataclass(frozen=True, slots=True)
class Mending:
    """The replay of the orders that had failed.

    ``before`` and ``after`` are the first job then, ``replay`` is the other one;
    ``failed`` are the orders in its ledger of failures, ``replayed`` those that were
    handled after the repair.
    """

    before: Job
    after: Job
    replay: Job
    failed: Sequence[int]
    replayed: Collection[int]


def mended(mending: Mending, bad: int) -> Iterator[Promise]:
    """Compare a replay with what was promised of ``bad`` malformed orders."""
    before, after, failed = mending.before, mending.after, mending.failed
    partial = before.state is State.PARTIAL
    yield Promise("state before the repair", before.state, "PARTIAL", kept=partial)
    yield _equal("malformed orders in its ledger", len(failed), bad)
    yield _equal("of which are there twice", len(failed) - len(set(failed)), 0)
    yield _equal("failed orders replayed", len(mending.replayed), bad)
    yield _equal("others replayed", len(set(mending.replayed) - set(failed)), 0)
    replayed = mending.replay.state is State.SUCCEEDED
    yield Promise("the replay", mending.replay.state, "SUCCEEDED", kept=replayed)
    yield _equal("failed orders left", after.open_failures, 0)


def table(lines: Sequence[Promise]) -> Table:
    """The account for people."""
    shown = Table(box=None, padding=(0, 2), header_style="dim")
    shown.add_column("")
    shown.add_column("found", justify="right")
    shown.add_column("promised", justify="right")
    shown.add_column("")
    for line in lines:
        mark = "[green]kept[/]" if line.kept else "[bold red]BROKEN[/]"
        shown.add_row(line.what, line.found, line.promised, mark)
    return shown


def _repeats(
    account: Account, kills: Sequence[Strike], bounds: Bounds
) -> Iterator[Promise]:
    killed = 0
    for strike in kills:
        share = account.by_fence.get(strike.fence)
        count = share.repeated if share else 0
        killed += count
        most = bounds.repeats(account)
        yield Promise(
            f"repeated after kill -9 of {strike.worker}",
            f"{count:,}",
            f"at most {most:,}",
            kept=count <= most,
        )
    yield _equal("repeated otherwise", account.repeated - killed, 0)


def _recovery(strike: Strike, bounds: Bounds) -> Promise:
    most = bounds.recovery(strike)
    after = strike.recovered_after
    return Promise(
        f"running again after {strike.signal.name}",
        _seconds(after),
        f"within {most:.1f} s",
        kept=after is not None and after <= most,
    )


def _equal(what: str, found: int, promised: int) -> Promise:
    return Promise(what, f"{found:,}", f"{promised:,}", kept=found == promised)


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"
