"""The commands ``celery -A proj dlq ...``: dead letters seen, replayed and kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import IO, Any, get_args

import click

from jobkit import showing
from jobkit.bulk import Bulk
from jobkit.client import Client
from jobkit.commands.jobs import show
from jobkit.commands.terminal import (
    Guarded,
    Moment,
    as_json,
    at,
    clean,
    client_for,
    filters_in,
    found,
    kit_for,
    of_queue,
    one_by_one,
    options,
    paged,
    print_json,
    print_table,
    told,
    words_in,
)
from jobkit.job import Job, ReplayMode

filtered = options(
    click.option("--task", help="Only those of this task."),
    of_queue,
    click.option("--owner", help="Only those of this owner."),
    click.option("--dead-letter-queue", help="Only those under this name."),
    click.option("--error", help="Only those with an error of this class."),
    click.option("--since", type=Moment(), help="Died at this time or later: 2h, 7d."),
    click.option("--until", type=Moment(), help="Died at this time or before."),
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
@options(filtered, paged, as_json)
@click.pass_obj
def list_(
    celery: Any, /, limit: int, after: str, *, as_json: bool, **given: Any
) -> None:
    """Show the dead letters, the last to die first."""
    jobs, after = found(client_for(celery), given, ["DEAD"], after, limit)
    if as_json:
        items = [showing.dead_letter(job) for job in jobs]
        print_json({"items": items, "next": after or None})
        return
    print_table(celery, ("id", "task", "died", "reason", "error"), map(_row, jobs))
    click.echo(f"{_number(len(jobs))}.{f' More: --after {after}' if after else ''}")


dlq.add_command(show)


@dlq.command()
@click.argument("job_ids", nargs=-1)
@click.option("--mode", type=click.Choice(get_args(ReplayMode)), default="resume")
@options(in_bulk, filtered, told, as_json)
@click.pass_obj
def replay(celery: Any, /, job_ids: Sequence[str], mode: str, **given: Any) -> None:
    """Run dead jobs again: some by their ids, or with --all those that match.

    From the checkpoint, from the start, or of PARTIAL jobs the failed items, by a job
    of their own. With --all a job of its own does it, in a worker; it is shown, watched
    and cancelled as any other. Ends with 1 when something was refused.
    """
    act = words_in(given)
    if _chosen(job_ids, given):
        replay = client_for(celery).replay
        one_by_one(
            *(given, job_ids, "replayed"),
            lambda i: _done(i, replay(i, mode, **act)),  # type: ignore[arg-type]
        )
    else:
        run = _for_bulk(celery, given).replay_all
        _all(given, "Replay", lambda **more: run(mode, **more, **act))  # type: ignore[arg-type]


@dlq.command()
@click.argument("job_ids", nargs=-1)
@options(in_bulk, filtered, told, as_json)
@click.pass_obj
def discard(celery: Any, /, job_ids: Sequence[str], **given: Any) -> None:
    """Give dead jobs up: some by their ids, or with --all those that match."""
    act = words_in(given)
    if _chosen(job_ids, given):
        discard = client_for(celery).discard
        one_by_one(given, job_ids, "discarded", lambda i: discard(i, **act))
    else:
        run = _for_bulk(celery, given).discard_all
        _all(given, "Discard", lambda **more: run(**more, **act))


@dlq.command()
@filtered
@click.option("-o", "--output", type=click.File("w", encoding="utf-8"), default="-")
@click.pass_obj
def export(celery: Any, /, output: IO[str], **given: Any) -> None:
    """Write dead letters as JSON Lines, all that is known of each; they stay."""
    count = 0
    for line in client_for(celery).export(**filters_in(given)):
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
    done = client_for(celery).restore(file)
    if as_json:
        refused = [{"line": number, "why": why} for number, why in done.refused]
        counts = {"restored": done.restored, "existing": done.existing}
        print_json({**counts, "refused": refused})
    else:
        for number, why in done.refused:
            click.echo(f"Line {number} is refused: {clean(why)}", err=True)
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
    seen = sys.stdout.isatty()
    for line in client_for(celery).failures_csv(job_id):
        click.echo(clean(line.rstrip("\r\n")) + "\n" if seen else line, nl=False)


def _done(job_id: str, runs: str) -> str:
    """What to say of a replay that another job than the named one does."""
    return "" if runs == job_id else f"replayed by job {runs}"


def _for_bulk(celery: Any, given: dict[str, Any]) -> Client:
    """A client for many: it enqueues a job, unless it only tells what it would do."""
    return client_for(celery) if given["dry_run"] else kit_for(celery).jobs


def _chosen(job_ids: Sequence[str], given: dict[str, Any]) -> bool:
    """Whether jobs are named, and not chosen by filters: one of both has to be."""
    if bool(job_ids) == given["every"]:
        raise click.UsageError("Name the ids of jobs, or say --all; not both.")
    ranged = filters_in(given) or any(
        given[name] for name in ("everything", "expect", "rate", "dry_run")
    )
    if job_ids and ranged:
        raise click.UsageError("Filters, --expect, --rate and --dry-run go with --all.")
    return bool(job_ids)


def _all(given: dict[str, Any], what: str, run: Callable[..., Bulk]) -> None:
    chosen = {
        **filters_in(given),
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
        print_json({"count": done.count, "ids": done.ids, "job_id": done.job_id})
        return
    if dry_run:
        for job_id in done.ids:
            click.echo(clean(job_id))
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


def _row(job: Job) -> tuple[str, ...]:
    error = f"{job.error.type}: {job.error.message}" if job.error else ""
    return job.id, job.task, at(job.finished_at), job.reason, error[:80]


def _number(count: int) -> str:
    return f"{count or 'no'} dead letter{'' if count == 1 else 's'}"
