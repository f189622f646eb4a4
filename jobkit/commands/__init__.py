"""The commands of ``celery -A proj``, and ``jobkit`` for a store alone."""

from __future__ import annotations

import os
from typing import Any

import click

from jobkit.commands import jobs as single
from jobkit.commands import live, statistics, upkeep
from jobkit.commands.dlq import dlq
from jobkit.commands.terminal import Alone, Guarded

__all__ = ["dlq", "jobs", "main"]


@click.group(cls=Guarded)
def jobs(**_: Any) -> None:  # Celery hands over the options that an app has added
    """Look after durable jobs."""


for _command in (
    *(single.list_, single.show, live.watch, live.top),
    *(single.cancel, single.pause, single.resume, single.limit),
    *(statistics.stats, statistics.advise),
    *(upkeep.routes, upkeep.doctor, upkeep.reconcile),
):
    jobs.add_command(_command)


@click.group(cls=Guarded)
@click.option(
    "--store", "url", envvar="JOBKIT_STORE", metavar="URL", help="Where jobs are kept."
)
@click.option("--prefix", default="jobkit", help="What its keys begin with.")
@click.option(
    "--partitions", type=click.IntRange(min=1), default=1, help="As in the settings."
)
@click.option(
    "--no-color",
    is_flag=True,
    default=lambda: bool(os.environ.get("NO_COLOR")),  # whatever it says: no-color.org
    help="Without colours.",
)
@click.version_option(package_name="celery-jobkit")
@click.pass_context
def main(
    ctx: click.Context, url: str | None, prefix: str, partitions: int, *, no_color: bool
) -> None:
    """Look after the jobs of a store, without the app that they belong to.

    What has to enqueue or publish something wants the app: celery -A proj jobs.
    """
    ctx.obj = Alone(url, prefix, partitions, no_color)


main.add_command(jobs)
main.add_command(dlq)
