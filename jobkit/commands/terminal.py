"""What the commands share: errors in a line, options, times, tables and JSON."""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import click
from kombu.exceptions import OperationalError

from jobkit import clock
from jobkit.client import Client
from jobkit.errors import JobkitError
from jobkit.filters import Filters
from jobkit.job import Job
from jobkit.kit import JobKit
from jobkit.task import kit_of

try:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
except ImportError:  # the extra `cli`: without it there are plain lines
    Console = None  # type: ignore[assignment, misc]

WIDE = 200
"""Columns of a table that no terminal shows, as in a pipe or a log."""

NARROW = 110
"""Columns of a terminal below which a table leaves out what matters least."""

SPANS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

COLOURS = {
    "SUCCEEDED": "green",
    "RUNNING": "cyan",
    "PARTIAL": "yellow",
    "PAUSED": "yellow",
    "RETRYING": "yellow",
    "DEAD": "red",
    "CANCELLED": "bright_black",
}
"""Of the states that want to be seen, and of what else a whole cell may say."""

Command = Callable[..., Any]

as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, for programs."
)


class Guarded(click.Group):
    """Commands whose errors are a line and not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (JobkitError, OperationalError) as error:
            raise click.ClickException(clean(error)) from error
        except UnicodeEncodeError as error:
            why = "An argument is no text in UTF-8: no job has such a name."
            raise click.UsageError(why) from error


@dataclass(frozen=True)
class Alone:
    """What ``jobkit`` hands to the commands, where Celery hands over an app."""

    url: str | None
    prefix: str
    partitions: int
    no_color: bool

    @cached_property
    def client(self) -> Client:
        """The client of the store, made when a command needs it."""
        if not self.url:
            raise click.UsageError("Which store? Say --store URL, or set JOBKIT_STORE.")
        return Client(self.url, prefix=self.prefix, partitions=self.partitions)


def kit_for(celery: Any) -> JobKit:
    """The JobKit of the app that Celery's command was given, with all its tasks."""
    if isinstance(celery, Alone):
        command = click.get_current_context().command_path.partition(" ")[2]
        raise click.UsageError(
            f"This needs your app, and not its store alone: celery -A proj {command}"
        )
    celery.app.loader.import_default_modules()
    celery.app.finalize()
    return kit_of(celery.app)


def client_for(celery: Any) -> Client:
    """The client of the app, or of a store alone."""
    return celery.client if isinstance(celery, Alone) else kit_for(celery).jobs


class Moment(click.ParamType):  # type: ignore[type-arg]
    """A moment, in ISO 8601 (without a zone: local time), or a time ago (``2h``)."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        """Read it; a wrong one is told with the option's name."""
        span = re.fullmatch(r"(\d+)([smhd])", value)
        try:
            if span:
                ago = int(span[1]) * SPANS[span[2]]
                return clock.from_milliseconds(round((clock.wall() - ago) * 1000))
            return clock.parse(value).astimezone()
        except (ValueError, OverflowError, OSError):
            why = f"{value!r} is neither a time like 2026-11-24T18:00, nor 2h or 7d"
            self.fail(why, param, ctx)


def options(*added: Command) -> Callable[[Command], Command]:
    """Several options at once, in their order."""

    def decorate(command: Command) -> Command:
        for add in reversed(added):
            command = add(command)
        return command

    return decorate


paged = options(
    click.option(
        "--limit",
        type=click.IntRange(1, 10_000),
        default=50,
        help="How many (default 50).",
    ),
    click.option("--after", help="Go on behind an earlier list."),
)


def _queues(ctx: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The names of queues that a shell completes; none where no store is to be asked."""
    given = ctx.find_root().params  # the group is not run: it has made no client
    if not given.get("url"):
        return []
    alone = Alone(given["url"], given["prefix"], given["partitions"], no_color=True)
    with suppress(JobkitError):
        queues = {row.queue for row in alone.client.backlog()}
        return sorted(name for name in queues if name and name.startswith(begun))
    return []


of_queue = click.option(
    "--queue", shell_complete=_queues, help="Only those of this queue."
)

told = options(
    click.option("--reason", default="", help="Why, for the history of each job."),
    click.option("--actor", default="", help="Who; by default, who you are here."),
)


def filters_in(given: dict[str, Any]) -> dict[str, Any]:
    """The filters among what a command was given."""
    names = Filters.__annotations__
    return {name: given[name] for name in names if given.get(name) is not None}


def found(
    client: Client, given: dict[str, Any], states: Iterable[str], after: str, limit: int
) -> tuple[list[Job], str]:
    """Jobs up to a limit, however short the pages are, and where to go on.

    Those of several states come one state after the other, as each has an index of its
    own: the place where to go on then begins with the state.
    """
    left: list[str | None] = [*dict.fromkeys(states)] or [None]
    several = len(left) > 1
    if several and after:
        state, _, after = after.partition(":")
        if state not in left:
            raise click.BadParameter("It is of a list of other states.")
        left = left[left.index(state) :]
    jobs: list[Job] = []
    while left and len(jobs) < limit:
        page = client.list(
            **{**filters_in(given), "state": left[0]},
            after=after or None,
            limit=limit - len(jobs),
        )
        jobs += page.items
        after = page.next or ""
        if not after:
            left = left[1:]
    return jobs, f"{left[0]}:{after}" if several and left else after


def words_in(given: dict[str, Any]) -> dict[str, Any]:
    """Why, and who, of what a command was given."""
    return {"reason": given["reason"], "actor": given["actor"] or _user()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container users need not have names
        return f"uid {os.getuid()}"


def one_by_one(
    given: dict[str, Any],
    names: Iterable[str],
    what: str,
    act: Callable[[str], str | None],
    *,
    asks: bool = False,
) -> None:
    """Do something with each, tell of each, and end with 1 if one was refused.

    ``act`` may return other words; where ``asks`` is set, they are for what has not
    happened yet, but is asked for.
    """
    done: dict[str, str] = {}
    refused = []
    for name in names:
        try:
            done[name] = act(name) or ""
        except JobkitError as error:
            refused.append({"id": name, "why": str(error)})
    if given["as_json"]:
        happened = [name for name in done if not (asks and done[name])]
        asked = {"asked": [name for name in done if done[name]]} if asks else {}
        print_json({what: happened, **asked, "refused": refused})
    else:
        for name, other in done.items():
            click.echo(f"{clean(name)} {other or what}.")
        for one in refused:
            click.echo(f"Error: {clean(one['why'])}", err=True)
    if refused:
        raise click.exceptions.Exit(1)


def clean(value: Any) -> str:
    """A text without what would steer the terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(value)
    )


def at(moment: datetime | float | None) -> str:
    """A moment in the time of this place; nothing for none."""
    if moment is None:
        return ""
    if not isinstance(moment, datetime):
        moment = clock.from_milliseconds(round(moment * 1000))
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def print_json(document: Any) -> None:
    """One document, for programs."""
    click.echo(json.dumps(document, default=_iso))


def _iso(value: Any) -> str:
    return str(value.isoformat())


def print_table(
    celery: Any,
    names: Sequence[str],
    rows: Iterable[Sequence[str]],
    narrow: int | None = None,
) -> None:
    """A table for people; without rich, cells between tabs.

    A narrow terminal has the first columns alone, ``narrow`` of them.
    """
    lines = [[" ".join(clean(cell).split()) for cell in row] for row in rows]
    if Console is None:
        for line in lines:
            click.echo("\t".join(line))
        return
    where = console(celery)
    if where.width < NARROW:
        names, lines = names[:narrow], [line[:narrow] for line in lines]
    if lines:
        where.print(table_of(names, lines))


def table_of(names: Sequence[str], lines: Iterable[Sequence[Any]]) -> Table:
    """A table of cells, which are texts or what rich can show."""
    table = Table(*names, box=None, pad_edge=False)
    for line in lines:
        table.add_row(*map(_cell, line))
    table.columns[0].no_wrap = True
    for column in table.columns:
        if column.header == "state":
            column.no_wrap = not any(" " in str(cell) for cell in column.cells)
        if column.header == "task":
            column.overflow = "fold"
    return table


def _cell(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return Text(cell, COLOURS.get(cell.partition(" ")[0], ""))


def console(celery: Any) -> Console:
    """Where tables go: as wide as the terminal, or wide enough where there is none."""
    width = None if sys.stdout.isatty() else WIDE
    return Console(width=width, no_color=celery.no_color, highlight=False)
