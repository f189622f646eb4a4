"""A pytest plugin for Celery's own tests: whose task class, and how they went."""

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

SETTINGS = "COMPAT_SETTINGS"
"""The ``jobkit_*`` settings as JSON; without them Celery keeps its own class."""

OUTCOMES = "COMPAT_OUTCOMES"
"""The file that gets a line of JSON for each report."""


@pytest.fixture(scope="session")
def celery_parameters() -> dict[str, Any]:
    """Celery's fixture: what its test apps are made with."""
    settings = os.environ.get(SETTINGS)
    if settings is None:
        return {}
    return {"task_cls": "jobkit:ProgressTask", "changes": json.loads(settings)}


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Give every test the same time: some of Celery's marks are tight."""
    seconds = config.getoption("timeout")
    for item in items:
        item.add_marker(pytest.mark.timeout(seconds), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Note which test is running, for the case that it ends the process."""
    _note(item.nodeid, "started")
    result = yield
    _note(item.nodeid, "finished")
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how a phase of a test went."""
    outcome = str(report.outcome)
    if hasattr(report, "wasxfail"):
        outcome = "xfailed" if report.skipped else "xpassed"
    text = "" if report.passed else report.longreprtext
    _note(report.nodeid, outcome, text)


def _note(test: str, word: str, text: str = "") -> None:
    line = json.dumps([test, word, text])
    with Path(os.environ[OUTCOMES]).open("a") as file:
        file.write(f"{line}\n")
