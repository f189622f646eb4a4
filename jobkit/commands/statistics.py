"""The commands ``celery -A proj jobs stats`` and ``advise``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from jobkit.advice import advise as advice_on
from jobkit.commands.terminal import as_json, client_for, print_json, print_table
from jobkit.statistics import (
    MOST,
    NEWEST,
    QueueStatistics,
    Statistics,
    TaskStatistics,
    in_words,
)

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

counted = click.option(
    "--jobs",
    "newest",
    type=click.IntRange(1, MOST),
    default=NEWEST,
    help=f"Look at so many that ended last (default {NEWEST:,}).",
)
of_task = click.option("--task", help="Look at jobs of this task alone.")


@click.command()
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
        print_json(asdict(seen))
        return
    print_table(celery, TASKS, map(_task_row, seen.tasks))
    if seen.tasks:
        click.echo()
    print_table(celery, QUEUES, map(_queue_row, seen.queues))
    click.echo(_summary(seen))


@click.command()
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
        print_json({"advice": [asdict(one) for one in found]})
        return
    print_table(celery, ADVICE, ((one.task, one.what, one.why) for one in found))
    click.echo(_summary(seen))


def _statistics(celery: Any, task: str | None, newest: int) -> Statistics:
    return client_for(celery).statistics(task=task, newest=newest)


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
