"""The commands ``celery -A proj jobs stats`` and ``advise``, beside those of ``cli``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import click

from jobkit.advice import advise as advice_on
from jobkit.cli import as_json, jobs, kit_for
from jobkit.errors import JobkitError
from jobkit.statistics import (
    NEWEST,
    QueueStatistics,
    Statistics,
    TaskStatistics,
    in_words,
)

try:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
except ImportError:  # the extra `cli`: without it there are plain lines
    Console = None  # type: ignore[assignment, misc]

__all__ = ["jobs"]

WIDE = 200
"""Columns of a table that no terminal shows, as in a pipe or a log."""

TASKS = ("task", "jobs", "p50", "p95", "failed", "partial")
QUEUES = (
    "queue",
    "jobs",
    "p50 wait",
    "p95 wait",
    "target",
    "late",
    "waiting",
    "oldest",
)
ADVICE = ("task", "advice", "why")

COLOURS = {"inline would do": "green", "too few": "bright_black"}

counted = click.option(
    "--jobs",
    "newest",
    type=click.IntRange(min=1),
    default=NEWEST,
    help=f"Look at so many that ended last (default {NEWEST:,}).",
)
of_task = click.option("--task", help="Look at jobs of this task alone.")


@jobs.command()
@of_task
@counted
@as_json
@click.pass_obj
def stats(celery: Any, task: str | None, newest: int, *, as_json: bool) -> None:
    """Tell how long jobs ran and waited, and how they ended.

    By task: the time from a job's start to its end (half of them and 95 % took no
    longer), and the shares that died and that ended as PARTIAL. By queue: the time in
    which jobs waited for a worker, against the queue's target.
    """
    seen = _statistics(celery, task, newest)
    if as_json:
        click.echo(json.dumps(asdict(seen), default=_moment))
        return
    _table(celery, TASKS, map(_task_row, seen.tasks))
    if seen.tasks:
        click.echo()
    _table(celery, QUEUES, map(_queue_row, seen.queues))
    click.echo(_summary(seen))


@jobs.command()
@of_task
@counted
@as_json
@click.pass_obj
def advise(celery: Any, task: str | None, newest: int, *, as_json: bool) -> None:
    """Tell which tasks belong into the background, and which would do inline.

    Work belongs into the background when it takes over 10 seconds, may fail in part,
    or has progress to show; over a minute it wants checkpoints.
    """
    seen = _statistics(celery, task, newest)
    found = advice_on(seen.tasks)
    if as_json:
        click.echo(json.dumps({"advice": [asdict(one) for one in found]}))
        return
    _table(celery, ADVICE, ((one.task, one.what, one.why) for one in found))
    click.echo(_summary(seen))


def _statistics(celery: Any, task: str | None, newest: int) -> Statistics:
    try:
        return kit_for(celery).jobs.statistics(task=task, newest=newest)
    except JobkitError as error:
        raise click.ClickException(str(error)) from error


def _task_row(seen: TaskStatistics) -> tuple[str, ...]:
    return (
        *(seen.task, f"{seen.count:,}", _time(seen.p50), _time(seen.p95)),
        *(_share(seen.failed), _share(seen.partial)),
    )


def _queue_row(seen: QueueStatistics) -> tuple[str, ...]:
    return (
        *(seen.queue or "(none)", f"{seen.count:,}", _time(seen.p50), _time(seen.p95)),
        *(_time(seen.target), _share(seen.late), f"{seen.waiting:,}"),
        _time(seen.oldest),
    )


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else in_words(seconds)


def _share(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"


def _summary(seen: Statistics) -> str:
    if seen.since is None:
        return "No job has ended yet."
    many = f"{seen.jobs:,} job{'' if seen.jobs == 1 else 's'}"
    return f"From {many} that ended since {seen.since.astimezone():%Y-%m-%d %H:%M:%S}."


def _moment(value: Any) -> str:
    return str(value.isoformat())


def _clean(text: str) -> str:
    """A text without what would steer the terminal."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def _table(celery: Any, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [[_clean(cell) for cell in row] for row in rows]
    if Console is None:
        for line in lines:
            click.echo("\t".join(line))
        return
    if not lines:
        return
    table = Table(*names, box=None, pad_edge=False)
    for line in lines:
        table.add_row(*(Text(cell, COLOURS.get(cell, "")) for cell in line))
    width = None if sys.stdout.isatty() else WIDE
    Console(width=width, no_color=celery.no_color, highlight=False).print(table)
