"""The result of one run, as a table to read and as a row of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import verdict

SHOWN = 10
"""Breaches of one promise that are told one by one."""

HEAD = """\
# Under random faults

A real cluster: two Celery workers with two processes each, a producer, a broker, and
a Valkey as store and result backend that answers only for what is on its disk. One of
the workers reaches it by a relay that can be blocked, as between two hosts.
Faults strike one after the other at random moments; meanwhile long and short jobs,
chords, retries, cancels and delayed jobs are sent, limited ones (one of a shop at a
time, or so many a second) and unique ones. Then everything is healed, and
when all jobs are over the promises are held against what the tasks themselves wrote
down. *Repeated* is what was done twice within the bound: after the last checkpoint
before a crash. *Taken over* are runs that got another owner while theirs was frozen;
*late* is what those wrote on waking, before they found out.

| broker | seed | seconds | jobs | faults | lost | double owners | two of one key | repeats beyond the bound | all else | repeated | taken over | late | command |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What struck, what was sent, and what was broken, by promise."""

    broker: str
    seed: int
    seconds: float
    took: float
    command: str
    faults: Mapping[str, int]
    jobs: Mapping[str, int]
    unsure: int
    repeated: int
    late: int
    overtaken: int
    broken: Mapping[str, Sequence[str]]

    @property
    def kept(self) -> bool:
        """Whether every promise was."""
        return not any(self.broken.values())


def table(result: Result) -> str:
    """All of it for a person, with the first breaches of each promise."""
    broken = result.broken
    rows = [
        *_block("faults", result.faults),
        *_block("jobs", result.jobs),
        ("  refused while a server was away", str(result.unsure)),
        ("items repeated within the bound", str(result.repeated)),
        ("frozen runs taken over", str(result.overtaken)),
        ("items that they wrote on waking", str(result.late)),
        ("broken promises", str(sum(map(len, broken.values())))),
        *((f"  {promise}", str(len(broken[promise]))) for promise in verdict.PROMISES),
        ("seconds of faults, and in all", f"{result.seconds:g}, {result.took:.0f}"),
        ("seed", str(result.seed)),
        ("command", result.command),
    ]
    lines = [f"{name:38} {value}" for name, value in rows]
    for promise, breaches in broken.items():
        lines += [f"{promise.upper()}: {breach}" for breach in breaches[:SHOWN]]
    return "\n".join(lines)


def _block(name: str, counts: Mapping[str, int]) -> list[tuple[str, str]]:
    lines = [(f"  {kind}", str(count)) for kind, count in sorted(counts.items())]
    return [(name, str(sum(counts.values()))), *lines]


def write(page: Path, result: Result) -> None:
    """Put the result's row into the page, in place of one of its broker and seed."""
    text = page.read_text() if page.exists() else ""
    mine = _row(result)
    key = _key(mine)
    rows = [
        line for line in text.splitlines() if line.startswith(("| redis", "| rabbit"))
    ]
    rows = sorted([*(row for row in rows if _key(row) != key), mine], key=_key)
    page.write_text(HEAD + "\n".join(rows) + "\n")


def _key(row: str) -> tuple[str, int]:
    _, broker, seed, *_ = row.split("|")
    return broker.strip(), int(seed)


def _row(result: Result) -> str:
    counts = {promise: len(result.broken[promise]) for promise in verdict.PROMISES}
    named = (verdict.LOST, verdict.OWNERS, verdict.HOLDERS, verdict.REPEATS)
    cells = [
        *(result.broker, result.seed, f"{result.seconds:g}"),
        *(_cell(result.jobs), _cell(result.faults)),
        *(counts.pop(promise) for promise in named),
        *(sum(counts.values()), result.repeated, result.overtaken, result.late),
        f"`{result.command}`",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _cell(counts: Mapping[str, int]) -> str:
    each = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
    return f"{sum(counts.values())}: {each}"
