"""Whether the work of a task belongs into a request or into the background."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from jobkit.bulk import STAGES
from jobkit.statistics import TaskStatistics, in_words

ENOUGH = 20
"""Ended jobs of a task without which nothing is said of it."""

LONG = 10.0
"""Seconds for which nobody waits in front of a page."""

VERY_LONG = 60.0
"""Seconds of work that nobody wants to see done again."""

PROMPT = 2.0
"""Seconds that ``run_or_delay`` waits for a result."""

What = Literal["inline would do", "background", "background, checkpoints", "too few"]


@dataclass(frozen=True, slots=True)
class Advice:
    """Where the work of a task should be done, and why."""

    task: str
    what: What
    why: str


def advise(tasks: Iterable[TaskStatistics]) -> list[Advice]:
    """What is best for each task of a project; jobkit's own are left out."""
    return [_advice(task) for task in tasks if task.task not in STAGES]


def _advice(seen: TaskStatistics) -> Advice:
    p95 = seen.p95
    if seen.count < ENOUGH or p95 is None:
        return Advice(
            seen.task, "too few", f"{seen.count} of the {ENOUGH} ended jobs it takes."
        )
    reasons = [*_reasons(seen, p95)]
    if not reasons:
        dead = f"; {_percent(seen.failed)} died" if seen.failed else ""
        why = f"95 % take {in_words(p95)} or less, no stages, never PARTIAL{dead}."
        return Advice(seen.task, "inline would do", why)
    if p95 > VERY_LONG:
        return Advice(seen.task, "background, checkpoints", _why(reasons, seen))
    if seen.p50 is not None and seen.p50 <= PROMPT and p95 > LONG:
        reasons.append("run_or_delay would answer the quick half at once")
    return Advice(seen.task, "background", _why(reasons))


def _reasons(seen: TaskStatistics, p95: float) -> Iterator[str]:
    if p95 > LONG:
        yield f"5 % take {in_words(p95)} or more"
    if seen.partial:
        yield f"{_percent(seen.partial)} ended as PARTIAL"
    if seen.staged:
        yield "it has stages to show"


def _why(reasons: list[str], long: TaskStatistics | None = None) -> str:
    if long and long.saved:
        reasons = [*reasons, "it saves checkpoints"]
    elif long:
        reasons = [*reasons, "it saves no checkpoint, so a kill starts it from zero"]
    return "; ".join(reasons) + "."


def _percent(share: float) -> str:
    """A share that is not nothing, in words that do not make it so."""
    return f"{share:.0%}".replace("%", " %") if share >= 0.005 else "under 1 %"  # noqa: PLR2004
