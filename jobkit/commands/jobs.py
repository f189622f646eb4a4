"""The commands ``jobs list``, ``show``, ``cancel``, ``pause``, ``resume`` and ``limit``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote, unquote

import click

from jobkit import clock, showing
from jobkit.commands.terminal import (
    Moment,
    as_json,
    at,
    clean,
    client_for,
    found,
    of_queue,
    one_by_one,
    options,
    paged,
    print_json,
    print_table,
    told,
    words_in,
)
from jobkit.errors import NotAllowed
from jobkit.job import Job
from jobkit.states import State
from jobkit.statistics import in_words
from jobkit.store.slots import LimitState

COLUMNS = ("id", "task", "state", "progress", "left", "attempt", "queue", "age")

NARROW = COLUMNS.index("left") + 1
"""Columns that a narrow terminal has."""

LIMITS = ("key", "limit", "running", "let go", "waiting")


_states = click.Choice([*map(str, State)], case_sensitive=False)

filtered = options(
    click.option(
        "--state",
        "states",
        type=_states,
        multiple=True,
        help="Only those in this state; of several, one after the other.",
    ),
    click.option("--task", help="Only those of this task."),
    of_queue,
    click.option("--owner", help="Only those of this owner."),
    click.option("--error", help="Only those with an error of this class."),
    click.option(
        "--since",
        type=Moment(),
        help="In that state, or without one recorded, at this time or later: 2h, 7d.",
    ),
    click.option("--until", type=Moment(), help="Likewise, at this time or before."),
)

job_ids = click.argument("job_ids", nargs=-1, required=True)


@click.command("list")
@options(filtered, paged, as_json)
@click.pass_obj
def list_(
    celery: Any,
    /,
    limit: int,
    after: str,
    states: Sequence[str],
    *,
    as_json: bool,
    **given: Any,
) -> None:
    """Show jobs, the newest first."""
    jobs, after = found(client_for(celery), given, states, after, limit)
    if as_json:
        items = [showing.row(job) for job in jobs]
        print_json({"items": items, "next": after or None})
        return
    print_table(celery, COLUMNS, map(row_of, jobs), narrow=NARROW)
    more = f" More: --after {after}" if after else ""
    click.echo(f"{_number(len(jobs), 'job')}.{more}")


@click.command()
@click.argument("job_id")
@as_json
@click.pass_obj
def show(celery: Any, job_id: str, *, as_json: bool) -> None:
    """Show all that is known of one job."""
    client = client_for(celery)
    job, events = client.get(job_id), client.history(job_id)
    shown = showing.detail(job, events, arguments=True)
    if as_json:
        print_json(shown)
        return
    for name, value in _facts(job, shown):
        if value:
            click.echo(f"{name + ':':<15}{clean(value)}")
    heads = ("stage", "", "items", "ok", "failed", "skipped", "time")
    stages = [_stage_row(stage) for stage in shown["stages"]]
    past = [(at(e.at), e.name, str(e.state), e.detail) for e in events]
    for names, rows in ((heads, stages), (("at", "event", "state", "detail"), past)):
        if rows:
            click.echo()
            print_table(celery, names, rows)
    if job.error:
        said = job.error.traceback or f"{job.error.type}: {job.error.message}"
        click.echo(f"\n{clean(said)}")


@click.command()
@options(job_ids, told, as_json)
@click.pass_obj
def cancel(celery: Any, /, job_ids: Sequence[str], **given: Any) -> None:
    """Cancel jobs: at once those that wait, at their next item those that run.

    Ends with 1 when one of them had ended before, or is not there.
    """
    client, act = client_for(celery), words_in(given)
    ask = _asked(client.cancel, client.get, act, State.CANCELLED)
    one_by_one(given, job_ids, "cancelled", ask, asks=True)


@click.command()
@options(job_ids, told, as_json)
@click.pass_obj
def pause(celery: Any, /, job_ids: Sequence[str], **given: Any) -> None:
    """Let jobs stop at their next item, and wait until they are resumed."""
    client, act = client_for(celery), words_in(given)
    ask = _asked(client.pause, client.get, act, State.PAUSED)
    one_by_one(given, job_ids, "paused", ask, asks=True)


@click.command()
@options(job_ids, told, as_json)
@click.pass_obj
def resume(celery: Any, /, job_ids: Sequence[str], **given: Any) -> None:
    """Let paused jobs go on from where they stopped."""
    client, actor = client_for(celery), words_in(given)["actor"]
    one_by_one(given, job_ids, "resumed", lambda i: client.resume(i, actor=actor))


def _asked(
    ask: Callable[..., bool],
    get: Callable[[str], Job],
    words: dict[str, Any],
    wanted: State,
) -> Callable[[str], str]:
    def act(job_id: str) -> str:
        taken, state = ask(job_id, **words), get(job_id).state
        if not taken:
            raise NotAllowed(f"Job {job_id!r} had ended before: it is {state}.", state)
        return "" if state is wanted else "is asked: it stops at its next item"

    return act


@click.group()
def limit() -> None:
    """See how many jobs run at once for a key, and change it while they run."""


@limit.command("list")
@options(paged, as_json)
@click.pass_obj
def list_limits(
    celery: Any, /, limit: int, after: str | None, *, as_json: bool
) -> None:
    """Show the limits that are in use, or were changed."""
    # A cursor is a key, which is made of what callers have sent.
    page = client_for(celery).limits(after=unquote(after or ""), limit=limit)
    following = quote(page.next) if page.next else None
    if as_json:
        names = ("key", "n", "per", "changed", "waiting", "holders", "promised")
        items = [{name: getattr(one, name) for name in names} for one in page.items]
        print_json({"items": items, "next": following})
        return
    print_table(celery, LIMITS, map(_limit_row, page.items))
    more = f" More: --after {following}" if following else ""
    click.echo(f"{_number(len(page.items), 'limit')}.{more}")


@limit.command("set")
@click.argument("key")
@click.argument("n", type=int)
@click.option("--per", type=float, help="Of a rate: in so many seconds.")
@click.pass_obj
def set_limit(celery: Any, key: str, n: int, per: float | None) -> None:
    """Let N jobs with this KEY run at once, or start in a time; at once, for all."""
    client_for(celery).set_limit(key, n, per)
    click.echo(f"{clean(key)} is limited to {n}{f' in {per:g} s' if per else ''}.")


@limit.command("reset")
@click.argument("key")
@click.pass_obj
def reset_limit(celery: Any, key: str) -> None:
    """Take a change back: what the code says is in force again."""
    client_for(celery).set_limit(key, None)
    click.echo(f"{clean(key)} is limited as the code says.")


def row_of(job: Job) -> tuple[str, ...]:
    """A job as a line of a table; see ``COLUMNS``."""
    return (
        *(job.id, job.task, state_of(job), showing.in_words(job), left(job)),
        *(str(showing.attempt(job)), job.queue, age(job)),
    )


def state_of(job: Job) -> str:
    """Its state, and what it is asked for."""
    asked = f" ({job.request.kind} asked)" if job.request else ""
    return f"{job.state}{asked}"


def left(job: Job) -> str:
    """How long it will still run, if that can be told."""
    eta = job.progress.eta_seconds
    return in_words(eta) if eta is not None and job.state is State.RUNNING else ""


def age(job: Job) -> str:
    """How long it has been there."""
    return in_words(max(0.0, -clock.seconds_until(job.created_at)))


def _facts(job: Job, shown: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What there is to say of a job, by name; what is not known is empty."""
    arguments = shown["arguments"]
    yield "id", job.id
    yield "task", f"{job.task}  {arguments['args']} {arguments['kwargs']}".rstrip()
    yield "state", f"{state_of(job)}{f': {job.reason}' if job.reason else ''}"
    yield "progress", showing.in_words(job)
    yield "says", job.progress.message or ""
    yield "left", left(job)
    yield "queue", job.queue
    yield "owner", job.owner
    yield "worker", job.worker
    yield "attempt", f"{showing.attempt(job)}, {_number(job.starts, 'start')}"
    yield "recovered", _times(job.recoveries)
    yield "replayed", _times(job.replays)
    yield "replay of", job.replay_of
    yield "failed items", str(job.open_failures or "")
    yield "recorded", at(job.created_at)
    yield "started", at(job.started_at)
    yield "due", at(None if job.state.finished else job.due_at)
    yield "ended", at(job.finished_at)


def _stage_row(stage: dict[str, Any]) -> tuple[str, ...]:
    total = "" if stage["total"] is None else f" of {stage['total']:,}"
    counts = (f"{stage[name]:,}" for name in ("ok", "failed", "skipped"))
    items = f"{stage['current']:,}{total}"
    took = in_words(stage["seconds"]) if stage["seconds"] else ""
    return (stage["name"], stage["at"], items, *counts, took)


def _limit_row(limit: LimitState) -> tuple[str, ...]:
    what = f"{limit.n} in {limit.per:g} s" if limit.per else str(limit.n)
    counts = (len(limit.holders), len(limit.promised), limit.waiting)
    changed = " (changed)" if limit.changed else ""
    return (limit.key, what + changed, *map(str, counts))


def _times(count: int) -> str:
    return _number(count, "time") if count else ""


def _number(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
