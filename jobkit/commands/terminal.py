"""What the commands share: errors in a line, options, times, tables and JSON."""

from __future__ import annotations

import getpass
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
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
            raise click.ClickException(str(error)) from error


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


paged = options(
    click.option(
        "--limit", type=click.IntRange(min=1), default=50, help="How many (default 50)."
    ),
    click.option("--after", help="Go on behind an earlier list."),
)

told = options(
    click.option("--reason", default="", help="Why, for the history of each job."),
    click.option("--actor", default="", help="Who; by default, who you are here."),
)


def filters_in(given: dict[str, Any]) -> dict[str, Any]:
    """The filters among what a command was given."""
    names = Filters.__annotations__
    return {name: given[name] for name in names if given.get(name) is not None}


def words_in(given: dict[str, Any]) -> dict[str, Any]:
    """Why, and who, of what a command was given."""
    return {"reason": given["reason"], "actor": given["actor"] or getpass.getuser()}


def one_by_one(
    given: dict[str, Any], names: Iterable[str], what: str, act: Callable[[str], Any]
) -> None:
    """Do something with each, tell of each, and end with 1 if one was refused."""
    done, refused = [], []
    for name in names:
        try:
            act(name)
        except JobkitError as error:
            refused.append({"id": name, "why": str(error)})
        else:
            done.append(name)
    if given["as_json"]:
        print_json({what.replace(" ", "_"): done, "refused": refused})
    else:
        for name in done:
            click.echo(f"{clean(name)} {what}.")
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
    celery: Any, names: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    """A table for people; without rich, cells between tabs."""
    lines = [[" ".join(clean(cell).split()) for cell in row] for row in rows]
    if Console is None:
        for line in lines:
            click.echo("\t".join(line))
        return
    if lines:
        console(celery).print(table_of(names, lines))


def table_of(names: Sequence[str], lines: Iterable[Sequence[Any]]) -> Table:
    """A table of cells, which are texts or what rich can show."""
    table = Table(*names, box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for line in lines:
        table.add_row(*map(_cell, line))
    return table


def _cell(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return Text(cell, COLOURS.get(cell.partition(" ")[0], ""))


def console(celery: Any) -> Console:
    """Where tables go: as wide as the terminal, or wide enough where there is none."""
    width = None if sys.stdout.isatty() else WIDE
    return Console(width=width, no_color=celery.no_color, highlight=False)
