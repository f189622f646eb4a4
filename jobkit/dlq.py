"""The commands ``celery -A proj dlq ...``: dead letters seen, replayed and kept."""

from __future__ import annotations

import getpass
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import IO, Any

import click
from kombu.exceptions import OperationalError

from jobkit import clock
from jobkit.bulk import Bulk
from jobkit.cli import as_json, kit_for
from jobkit.client import Client
from jobkit.errors import JobkitError
from jobkit.filters import Filters
from jobkit.job import Job

try:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
except ImportError:  # the extra `cli`: without it there are plain lines
    Console = None  # type: ignore[assignment, misc]

WIDE = 200
"""Columns of a table that no terminal shows, as in a pipe or a log."""

SPANS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

Command = Callable[..., Any]


class Guarded(click.Group):
    """Commands whose errors are a line and not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (JobkitError, OperationalError) as error:
            raise click.ClickException(str(error)) from error


class Moment(click.ParamType):  # type: ignore[type-arg]
    """A moment, in ISO 8601 (without a zone: local time), or a time ago (``2h``)."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        """Read it; a wrong one is told with the option's name."""
        span = re.fullmatch(r"(\d+)([smhd])", value)
        if span:
            ago = int(span[1]) * SPANS[span[2]]
            return clock.from_milliseconds(round((clock.wall() - ago) * 1000))
        try:
            return clock.parse(value).astimezone()
        except ValueError:
            why = f"{value!r} is neither a time like 2026-11-24T18:00, nor 2h or 7d"
            self.fail(why, param, ctx)


def options(*added: Command) -> Callable[[Command], Command]:
    """Several options at once, in their order."""

    def decorate(command: Command) -> Command:
        for add in reversed(added):
            command = add(command)
        return command

    return decorate


filtered = options(
    click.option("--task", help="Only those of this task."),
    click.option("--queue", help="Only those of this queue."),
    click.option("--owner", help="Only those of this owner."),
    click.option("--dead-letter-queue", help="Only those under this name."),
    click.option("--error", help="Only those with an error of this class."),
    click.option("--since", type=Moment(), help="Died at this time or later: 2h, 7d."),
    click.option("--until", type=Moment(), help="Died at this time or before."),
)

told = options(
    click.option("--reason", default="", help="Why, for the history of each job."),
    click.option("--actor", default="", help="Who; by default, who you are here."),
)

in_bulk = options(
    click.option("--all", "every", is_flag=True, help="All that the filters let pass."),
    click.option("--everything", is_flag=True, help="With --all: without any filter."),
    click.option("--expect", type=int, help="Refuse if another number matches."),
    click.option("--rate", type=float, help="Jobs a second at the most."),
    click.option("--dry-run", is_flag=True, help="Only tell what would be done."),
    click.option("--yes", is_flag=True, help="Do not ask."),
)


@click.group(cls=Guarded)
def dlq(**_: Any) -> None:  # Celery hands over the options that an app has added
    """Look after dead letters: jobs that have stopped for good."""


@dlq.command("list")
@filtered
@click.option("--limit", default=50, help="How many (default 50).")
@click.option("--after", help="Go on behind an earlier list.")
@as_json
@click.pass_obj
def list_(
    celery: Any, /, limit: int, after: str, *, as_json: bool, **given: Any
) -> None:
    """Show the dead letters, the last to die first."""
    client, filters = _client(celery), {**_filters(given), "state": "DEAD"}
    found: list[Job] = []
    more = True
    while more and len(found) < limit:
        page = client.list(after=after or None, limit=limit - len(found), **filters)
        found += page.items
        more, after = page.next is not None, page.next or ""
    if as_json:
        _print_json({"items": [_plain(job) for job in found], "next": after or None})
        return
    _table(celery, ("id", "task", "died", "reason", "error"), map(_row, found))
    click.echo(f"{_number(len(found))}.{f' More: --after {after}' if after else ''}")


@dlq.command()
@click.argument("job_id")
@as_json
@click.pass_obj
def show(celery: Any, job_id: str, *, as_json: bool) -> None:
    """Show one dead letter: why it died, and what had happened before."""
    client = _client(celery)
    job, events = client.get(job_id), client.history(job_id)
    if as_json:
        past = [
            {
                "name": e.name,
                "at": e.at.isoformat(),
                "state": e.state,
                "detail": e.detail,
            }
            for e in events
        ]
        _print_json({**_plain(job), "history": past})
        return
    for name, value in _plain(job).items():
        if name not in ("error", "progress") and value not in (None, ""):
            click.echo(f"{name + ':':<19}{_clean(value)}")
    _table(
        celery,
        ("at", "event", "detail"),
        ((_time(e.at), e.name, e.detail) for e in events),
    )
    if job.error:
        click.echo(
            _clean(job.error.traceback or f"{job.error.type}: {job.error.message}")
        )


@dlq.command()
@click.argument("job_ids", nargs=-1)
@click.option("--mode", type=click.Choice(["resume", "restart"]), default="resume")
@options(in_bulk, filtered, told, as_json)
@click.pass_obj
def replay(celery: Any, /, job_ids: Sequence[str], mode: str, **given: Any) -> None:
    """Run dead jobs again: some by their ids, or with --all those that match.

    With --all a job of its own does it, in a worker; it is shown, watched and
    cancelled as any other. Ends with 1 when something was refused.
    """
    client, act = _client(celery), _words(given)
    if _chosen(job_ids, given):
        _one_by_one(
            *(given, job_ids, "replayed"),
            lambda i: client.replay(i, mode, **act),  # type: ignore[arg-type]
        )
    else:
        run = client.replay_all
        _all(given, "Replay", lambda **more: run(mode, **more, **act))  # type: ignore[arg-type]


@dlq.command()
@click.argument("job_ids", nargs=-1)
@options(in_bulk, filtered, told, as_json)
@click.pass_obj
def discard(celery: Any, /, job_ids: Sequence[str], **given: Any) -> None:
    """Give dead jobs up: some by their ids, or with --all those that match."""
    client, act = _client(celery), _words(given)
    if _chosen(job_ids, given):
        discard = client.discard
        _one_by_one(given, job_ids, "discarded", lambda i: discard(i, **act))
    else:
        run = client.discard_all
        _all(given, "Discard", lambda **more: run(**more, **act))


@dlq.command()
@filtered
@click.option("-o", "--output", type=click.File("w", encoding="utf-8"), default="-")
@click.pass_obj
def export(celery: Any, /, output: IO[str], **given: Any) -> None:
    """Write dead letters as JSON Lines, all that is known of each; they stay."""
    count = 0
    for line in _client(celery).export(**_filters(given)):
        output.write(line + "\n")
        count += 1
    click.echo(f"{_number(count)} exported.", err=True)


@dlq.command("import")
@click.argument("file", type=click.File("rb"))
@as_json
@click.pass_obj
def import_(celery: Any, file: IO[bytes], *, as_json: bool) -> None:
    """Put exported dead letters back; those that are there are left alone.

    Ends with 1 when a line was refused; the others are taken all the same.
    """
    done = _client(celery).restore(file)
    if as_json:
        refused = [{"line": number, "why": why} for number, why in done.refused]
        counts = {"restored": done.restored, "existing": done.existing}
        _print_json({**counts, "refused": refused})
    else:
        for number, why in done.refused:
            click.echo(f"Line {number} is refused: {_clean(why)}", err=True)
        click.echo(
            f"{done.restored} restored, {done.existing} there already, "
            f"{len(done.refused)} refused."
        )
    if done.refused:
        raise click.exceptions.Exit(1)


@dlq.command()
@click.argument("job_id")
@click.pass_obj
def failures(celery: Any, job_id: str) -> None:
    """Print the failed items of a job as CSV."""
    for line in _client(celery).failures_csv(job_id):
        click.echo(line, nl=False)


def _client(celery: Any) -> Client:
    return kit_for(celery).jobs


def _filters(given: dict[str, Any]) -> dict[str, Any]:
    names = Filters.__annotations__
    return {name: given[name] for name in names if given.get(name) is not None}


def _words(given: dict[str, Any]) -> dict[str, Any]:
    return {"reason": given["reason"], "actor": given["actor"] or getpass.getuser()}


def _chosen(job_ids: Sequence[str], given: dict[str, Any]) -> bool:
    """Whether jobs are named, and not chosen by filters: one of both has to be."""
    if bool(job_ids) == given["every"]:
        raise click.UsageError("Name the ids of jobs, or say --all; not both.")
    ranged = _filters(given) or any(
        given[name] for name in ("everything", "expect", "rate", "dry_run")
    )
    if job_ids and ranged:
        raise click.UsageError("Filters, --expect, --rate and --dry-run go with --all.")
    return bool(job_ids)


def _one_by_one(
    given: dict[str, Any], job_ids: Iterable[str], what: str, act: Command
) -> None:
    done, refused = [], []
    for job_id in job_ids:
        try:
            act(job_id)
        except JobkitError as error:
            refused.append({"id": job_id, "why": str(error)})
        else:
            done.append(job_id)
    if given["as_json"]:
        _print_json({what: done, "refused": refused})
    else:
        for job_id in done:
            click.echo(f"{job_id} {what}.")
        for one in refused:
            click.echo(f"Error: {_clean(one['why'])}", err=True)
    if refused:
        raise click.exceptions.Exit(1)


def _all(given: dict[str, Any], what: str, run: Callable[..., Bulk]) -> None:
    chosen = {
        **_filters(given),
        "everything": given["everything"],
        "rate": given["rate"],
    }
    expect, dry_run = given["expect"], given["dry_run"]
    if not (dry_run or given["yes"]):
        seen = run(**chosen, expect=expect, dry_run=True)
        if seen.count and not _agreed(f"{what} {_number(seen.count)}?"):
            raise click.Abort
        expect = seen.count
    done = run(**chosen, expect=expect, dry_run=dry_run)
    if given["as_json"]:
        _print_json({"count": done.count, "ids": done.ids, "job_id": done.job_id})
        return
    if dry_run:
        for job_id in done.ids:
            click.echo(job_id)
        left = done.count - len(done.ids)
        click.echo(f"{_number(done.count)}{f' ({left} not shown)' if left else ''}.")
    elif done.job_id:
        click.echo(f"{what}: {_number(done.count)}, by job {done.job_id}.")
    else:
        click.echo("No dead letter matches: nothing to do.")


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError("Nobody is there to be asked: say --yes.")
    return click.confirm(question)


def _plain(job: Job) -> dict[str, Any]:
    """A dead letter for programs: its message and its checkpoint are in an export."""
    error, progress = job.error, job.progress
    return {
        **{
            name: getattr(job, name)
            for name in (
                *("id", "task", "state", "reason", "queue", "dead_letter_queue"),
                *("owner", "attempts", "starts", "recoveries", "replays"),
                "open_failures",
            )
        },
        "created_at": job.created_at.isoformat(),
        "died_at": job.finished_at.isoformat() if job.finished_at else None,
        "error": error and {"type": error.type, "message": error.message},
        "progress": {
            "stage": progress.stage,
            "current": progress.current,
            "total": progress.total,
        },
    }


def _row(job: Job) -> tuple[str, ...]:
    error = f"{job.error.type}: {job.error.message}" if job.error else ""
    died = _time(job.finished_at) if job.finished_at else ""
    return job.id, job.task, died, job.reason, error[:80]


def _time(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def _clean(value: Any) -> str:
    """A text without what would steer the terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(value)
    )


def _table(celery: Any, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [[_clean(" ".join(cell.split())) for cell in row] for row in rows]
    if Console is None:
        for line in lines:
            click.echo("\t".join(line))
        return
    if not lines:
        return
    table = Table(*names, box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for line in lines:
        table.add_row(*map(Text, line))
    width = None if sys.stdout.isatty() else WIDE
    Console(width=width, no_color=celery.no_color, highlight=False).print(table)


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document))


def _number(count: int) -> str:
    return f"{count or 'no'} dead letter{'' if count == 1 else 's'}"
