"""Jobs in Flower: plain ``celery -A proj flower`` shows them.

Flower has no plugins, so a Flower that starts in a process where jobkit is imported
is handed over before its loop runs. Celery imports Flower into every process that
it starts: a worker gets nothing of this but a look whether Flower is there.
"""

from __future__ import annotations

import functools
import logging
import sys
from typing import Any

import click
from celery.signals import import_modules

logger = logging.getLogger(__name__)

MARK = "_jobkit"

CLOSE = "jobkit_close"
"""The setting of a Flower that has our pages: what ends them."""


def attach(flower: Any) -> None:
    """Add the pages of jobs to a Flower that is made by hand, before it starts.

    Raises:
        SettingsError: A ``jobkit_*`` setting of its Celery app is wrong.
    """
    from jobkit.flower import attaching  # noqa: PLC0415 - a worker has no use for it

    attaching.attach(flower)


def install(**_: Any) -> None:
    """Have every Flower that starts in this process show jobs; never raises."""
    try:
        module: Any = sys.modules.get("flower.app")
        if module is not None:
            _wrap(module.Flower)
    except Exception as error:  # noqa: BLE001 - a Flower we do not know stops nobody
        _complain(error)


def _wrap(kind: Any) -> None:
    start = kind.start
    if hasattr(start, MARK):
        return

    @functools.wraps(start)
    def start_with_jobs(flower: Any, *arguments: Any, **options: Any) -> Any:
        try:
            if _has_jobs(flower.capp):
                attach(flower)
        except Exception as error:  # noqa: BLE001 - likewise
            _complain(error)
        try:
            return start(flower, *arguments, **options)
        finally:
            flower.settings.get(CLOSE, int)()

    setattr(start_with_jobs, MARK, True)
    kind.start = start_with_jobs


def _has_jobs(app: Any) -> bool:
    """Whether an app uses jobkit: then it has a JobKit once its tasks are there."""
    app.finalize()
    return getattr(app, "jobkit", None) is not None


def _complain(error: Exception) -> None:
    context = click.get_current_context(silent=True)
    command = getattr(context, "invoked_subcommand", None)
    parent = getattr(context, "info_name", None)
    level = logging.WARNING if "flower" in (command, parent) else logging.DEBUG
    logger.log(level, "This Flower shows no jobs: %s: %s", type(error).__name__, error)


install()
# Celery may have imported jobkit, for `celery jobs`, before it imports Flower.
import_modules.connect(install, weak=False, dispatch_uid="jobkit.flower")
