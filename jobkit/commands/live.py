"""The commands ``jobs watch`` and ``jobs top``: what happens now, until it has ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import click

from jobkit import clock, showing
from jobkit.client import Client
from jobkit.commands import terminal
from jobkit.commands.jobs import COLUMNS, NARROW, left, row_of, state_of
from jobkit.commands.terminal import as_json, clean, client_for, print_json, print_table
from jobkit.errors import StoreUnavailable
from jobkit.job import Job
from jobkit.states import State
from jobkit.statistics import in_words

try:
    from rich.console import Group
    from rich.constrain import Constrain
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.text import Text
except ImportError:  # the extra `cli`: without it there are lines
    Live = None  # type: ignore[assignment, misc]

DEAD, PARTIAL, INTERRUPTED = 1, 3, 130
"""Exit codes of ``watch``; Click has 2 for a wrong call."""

BAR = 24
"""Columns of a bar."""

ECHO = len("^C")
"""Columns that stay free: where Ctrl-C's echo began a line, the table would slip."""

MOST = 20
"""Running jobs that ``top`` shows."""

PATIENCE = 60.0
"""Seconds for which a store may be away that has answered before."""

seconds = click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    help="Seconds between two looks (default 1).",
)


@click.command()
@click.argument("job_ids", nargs=-1, required=True)
@seconds
@click.option(
    "--json", "as_json", is_flag=True, help="A JSON document for each change, a line."
)
@click.pass_obj
def watch(
    celery: Any, job_ids: Sequence[str], interval: float, *, as_json: bool
) -> None:
    """Watch jobs until all of them have ended.

    With a bar for each; where no terminal is, with a line for each change. A store that
    is away for less than a minute is waited for. Ends with 0
    when all have succeeded, with 1 when one is DEAD or CANCELLED, with 3 when
    one is PARTIAL, and with 130 by Ctrl-C, which does nothing to the jobs.
    """
    client, names = client_for(celery), dict.fromkeys(job_ids)
    seen = _looks(client, names, interval)
    try:
        jobs = _watch_with(as_json=as_json)(celery, seen)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(INTERRUPTED) from None
    code = _exit_code(job.state for job in jobs)
    if code:
        raise click.exceptions.Exit(code)


def _watch_with(*, as_json: bool) -> Callable[[Any, Iterable[list[Job]]], list[Job]]:
    if as_json:
        return _print_documents
    return _show_bars if _is_live() else _print_lines


def _looks(
    client: Client, job_ids: Iterable[str], interval: float
) -> Iterator[list[Job]]:
    """The jobs again and again, the last time when all have ended."""
    jobs = [client.get(job_id) for job_id in job_ids]
    yield jobs
    while not all(job.state.finished for job in jobs):
        time.sleep(interval)
        jobs = _look_again(client, jobs, interval)
        yield jobs


def _look_again(client: Client, jobs: Sequence[Job], interval: float) -> list[Job]:
    """The jobs now; a store that restarts must not look like the end of a job."""
    until = clock.monotonic() + PATIENCE
    while True:
        try:
            return [job if job.state.finished else client.get(job.id) for job in jobs]
        except StoreUnavailable:
            if clock.monotonic() > until:
                raise
            time.sleep(interval)


def _exit_code(states: Iterable[State]) -> int:
    ends = set(states)
    if ends & {State.DEAD, State.CANCELLED}:
        return DEAD
    return PARTIAL if State.PARTIAL in ends else 0


def _print_lines(_: Any, looks: Iterable[list[Job]]) -> list[Job]:
    def tell(job: Job) -> None:
        click.echo(clean(f"{job.id}  {_in_a_line(job)}".replace("\n", " ")))

    return _tell_changes(looks, tell)


def _print_documents(_: Any, looks: Iterable[list[Job]]) -> list[Job]:
    return _tell_changes(looks, lambda job: print_json(showing.row(job)))


def _tell_changes(looks: Iterable[list[Job]], tell: Callable[[Job], None]) -> list[Job]:
    said: dict[str, str] = {}
    jobs: list[Job] = []
    for jobs in looks:
        for job in jobs:
            line = _in_a_line(job)
            if said.get(job.id) != line:
                said[job.id] = line
                tell(job)
    return jobs


def _in_a_line(job: Job) -> str:
    told = f": {job.reason}" if job.reason and job.state.finished else ""
    return f"{state_of(job)}{told}  {showing.in_words(job)}"


def _show_bars(celery: Any, looks: Iterable[list[Job]]) -> list[Job]:
    jobs: list[Job] = []
    where = terminal.console(celery)
    with Live(console=where, auto_refresh=False) as live:
        for jobs in looks:
            shown = Constrain(_bars(jobs), where.width - ECHO)
            live.update(shown, refresh=True)
    return jobs


def _bars(jobs: Sequence[Job]) -> Any:
    names = ("job", "task", "state", "", "progress", "left")
    return terminal.table_of(names, map(_bar_row, jobs))


def _bar_row(job: Job) -> tuple[Any, ...]:
    words = " ".join(clean(showing.in_words(job)).split())
    where = clean(job.id), clean(job.task), state_of(job)
    return (*where, _bar(job), words, left(job))


def _bar(job: Job) -> Any:
    percent = 100.0 if job.state is State.SUCCEEDED else job.progress.percent
    unknown = percent is None and job.state is State.RUNNING
    # Pulsing, where something goes on and nobody knows how far it is.
    return ProgressBar(100, percent or 0, BAR, pulse=unknown)


@click.command()
@seconds
@click.option("--once", is_flag=True, help="Print it once, as where no terminal is.")
@as_json
@click.pass_obj
def top(celery: Any, interval: float, *, once: bool, as_json: bool) -> None:
    """Show what runs and what waits, again and again, until Ctrl-C."""
    client = client_for(celery)
    if as_json:
        print_json(_document(client))
    elif once or not _is_live():
        _print_overview(celery, client)
    else:
        try:
            _show_overview(celery, client, interval)
        except KeyboardInterrupt:
            click.echo()


def _document(client: Client) -> dict[str, Any]:
    return {
        "counts": {str(state): n for state, n in client.counts().items()},
        "backlog": [
            {
                "queue": row.queue,
                "state": str(row.state),
                "jobs": row.jobs,
                "oldest": row.oldest,
            }
            for row in client.backlog()
        ],
        "running": [showing.row(job) for job in _running(client)],
    }


def _running(client: Client) -> tuple[Job, ...]:
    return client.list(state=State.RUNNING, limit=MOST).items


def _counted(client: Client) -> str:
    counts = client.counts()
    seen = [f"{state} {n:,}" for state, n in counts.items() if n]
    return "  ".join(seen) or "There are no jobs."


def _queues(client: Client) -> list[tuple[str, ...]]:
    return [
        (row.queue or "(none)", str(row.state), f"{row.jobs:,}", in_words(row.oldest))
        for row in client.backlog()
        if row.state is not State.RUNNING
    ]


QUEUES = ("queue", "state", "jobs", "oldest")


def _print_overview(celery: Any, client: Client) -> None:
    click.echo(_counted(client))
    for names, rows in (
        (COLUMNS, [*map(row_of, _running(client))]),
        (QUEUES, _queues(client)),
    ):
        if rows:
            click.echo()
            print_table(celery, names, rows, narrow=NARROW)


def _show_overview(celery: Any, client: Client, interval: float) -> None:
    where = terminal.console(celery)
    with Live(console=where, screen=True, auto_refresh=False) as live:
        live.update(_overview(client), refresh=True)
        while True:
            time.sleep(interval)
            try:
                shown = _overview(client)
            except StoreUnavailable as error:  # it may come back, as it was there
                shown = Text(f"{_now()}  {error}")
            live.update(shown, refresh=True)


def _now() -> str:
    return f"{clock.from_milliseconds(round(clock.wall() * 1000)).astimezone():%X}"


def _overview(client: Client) -> Any:
    parts: list[Any] = [Text(f"{_now()}  {_counted(client)}"), Text()]
    jobs, queues = _running(client), _queues(client)
    if jobs:
        parts += [_bars(jobs), Text()]
    if queues:
        lines = ([clean(cell) for cell in row] for row in queues)
        parts.append(terminal.table_of(QUEUES, lines))
    return Group(*parts)


def _is_live() -> bool:
    return Live is not None and sys.stdout.isatty()
