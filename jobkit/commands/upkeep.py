"""The commands ``jobs doctor``, ``reconcile`` and ``routes``: whether all is well."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import Any

import click

from jobkit.checks import Finding
from jobkit.commands.terminal import as_json, clean, kit_for, print_json
from jobkit.dispatcher import GRACE
from jobkit.doctor import examine
from jobkit.kit import JobKit
from jobkit.rounds import RoundByHand
from jobkit.routing import Explanation, explain, overview

COLOURS = {"ok": "green", "info": "cyan", "warning": "yellow", "error": "red"}


@click.command()
@as_json
@click.pass_obj
def reconcile(celery: Any, *, as_json: bool) -> None:
    """Do by hand what every worker does all the time, once.

    Rescues jobs whose worker is gone, publishes what is due, and removes records
    that have expired. Running workers do not mind. Ends with 1 when the store or
    the broker cannot be reached or did not take a message.
    """
    # Each rescue and each refusal is reported below.
    if logging.lastResort is not None:
        logging.lastResort.setLevel(logging.ERROR)
    done = RoundByHand(kit_for(celery))
    done.go()
    if as_json:
        print_json(_document(done))
    else:
        click.echo(clean(_lines(done)))
    if done.refused:
        raise click.ClickException(
            f"The broker did not take {_number(len(done.refused), 'message')}: "
            f"{done.refused[0][1]}. Due again in {GRACE:g} seconds."
        )


@click.command()
@click.option("--verbose", is_flag=True, help="Add what can only be said in general.")
@as_json
@click.pass_obj
def doctor(celery: Any, *, verbose: bool, as_json: bool) -> None:
    """Check whether app, store, broker and workers suit the jobs.

    Each line says what was found, and what to set. Ends with 1 when there is an
    error, with 0 when there are only warnings.
    """
    findings = examine(kit_for(celery), verbose=verbose)
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            _show(celery, finding)
        click.echo(_summary(findings))
    if any(finding.level == "error" for finding in findings):
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("task", required=False)
@click.argument("args", required=False, default="[]")
@click.option("--kwargs", default="{}", help="Keyword arguments, as JSON.")
@as_json
@click.pass_obj
def routes(
    celery: Any, *, task: str | None, args: str, kwargs: str, as_json: bool
) -> None:
    """Tell which task goes to which queue, and why.

    With the name of a TASK and its ARGS (a JSON list) it explains that one call.
    The queue that a call names itself, apply_async(queue=...), always wins.
    """
    kit = kit_for(celery)
    call = _read_json(args, list, "ARGS"), _read_json(kwargs, dict, "--kwargs")
    found, unused = _routes(kit, task, call)
    if as_json:
        order = kit.settings.queue_order if kit.routing_map else None
        lines = [asdict(line) for line in found]
        print_json({"order": order, "routes": lines, "unused": unused})
    else:
        click.echo(clean("\n".join([*_table(found), *unused])))


def _routes(
    kit: JobKit, task: str | None, call: tuple[Any, Any]
) -> tuple[list[Explanation], list[str]]:
    """What is asked for, and the rules that are for no task."""
    if task is not None:
        return [explain(kit.app, kit.routing_map, task, *call)], []
    found = overview(kit.app, kit.routing_map)
    names = list(kit.app.tasks)
    return found, list(kit.routing_map.unused(names)) if kit.routing_map else []


def _table(found: list[Explanation]) -> list[str]:
    head = ("TASK", "QUEUE", "WEIGHT", "TARGET", "DEAD LETTERS", "BECAUSE OF")
    rows = [
        (
            *(line.task, line.queue or "-", str(line.weight or "-")),
            f"{line.target:g} s" if line.target else "-",
            *(line.dead_letter_queue or "-", line.rule),
        )
        for line in found
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]


_JSON: dict[type, str] = {list: "list", dict: "object"}


def _read_json(text: str, kind: type, what: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{what} is no JSON: {error}") from error
    if not isinstance(value, kind):
        raise click.BadParameter(f"{what} is {text}, expected is a JSON {_JSON[kind]}.")
    return value


def _document(done: RoundByHand) -> dict[str, Any]:
    return {
        "rescued": [asdict(job) for job in done.rescued],
        "published": [
            {"id": _id(message), "task": message.task} for message in done.published
        ],
        "refused": [
            {"id": _id(message), "task": message.task, "error": error}
            for message, error in done.refused
        ],
        "pruned": done.pruned,
    }


def _lines(done: RoundByHand) -> str:
    return "\n".join(
        [
            *(f"Rescued {job.id} ({job.task}): {job.state}" for job in done.rescued),
            *(f"Published {_id(m)} ({m.task})" for m in done.published),
            *(f"Not published {_id(m)} ({m.task}): {e}" for m, e in done.refused),
            _counted(done),
        ]
    )


def _counted(done: RoundByHand) -> str:
    return (
        f"{len(done.rescued)} rescued, {len(done.published)} published, "
        f"{done.pruned} expired records removed."
    )


def _id(message: Any) -> str:
    return str(message.headers.get("id", ""))


def _show(celery: Any, finding: Finding) -> None:
    colour = None if celery.no_color else COLOURS[finding.level]
    level = click.style(f"{finding.level:<8}", fg=colour)
    click.echo(f"{level} {finding.check}: {clean(finding.found)}")
    if finding.fix:
        click.echo(f"         fix: {clean(finding.fix)}")


def _summary(findings: list[Finding]) -> str:
    levels = [finding.level for finding in findings]
    errors, warnings = levels.count("error"), levels.count("warning")
    if not errors + warnings:
        return "All is well."
    return f"{_number(errors, 'error')}, {_number(warnings, 'warning')}."


def _number(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
