"""Which task belongs into the background, by rules with known numbers."""

from __future__ import annotations

from typing import Any

import pytest

from jobkit.advice import advise
from jobkit.statistics import TaskStatistics


def seen(**fields: Any) -> TaskStatistics:
    """Statistics of a short task, but for some fields."""
    short = {
        "task": "t",
        "count": 20,
        "p50": 0.1,
        "p95": 0.4,
        "failed": 0.0,
        "partial": 0.0,
        "staged": False,
        "saved": False,
    }
    return TaskStatistics(**{**short, **fields})


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({}, "inline would do"),
        ({"p95": 10.0}, "inline would do"),
        ({"p95": 10.1}, "background"),
        ({"p95": 60.0}, "background"),
        ({"p95": 60.1}, "background, checkpoints"),
        ({"partial": 0.01}, "background"),
        ({"staged": True}, "background"),
        ({"failed": 0.5}, "inline would do"),
        ({"count": 19}, "too few"),
        ({"count": 19, "p95": 900.0}, "too few"),
        ({"p50": None, "p95": None}, "too few"),
    ],
)
def test_the_rule_of_thumb(fields: Any, what: str) -> None:
    (advice,) = advise([seen(**fields)])

    assert (advice.task, advice.what) == ("t", what)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "95 % take 400 ms or less, no stages, never PARTIAL."),
        (
            {"failed": 0.25},
            "95 % take 400 ms or less, no stages, never PARTIAL; 25 % died.",
        ),
        ({"count": 7}, "7 of the 20 ended jobs it takes."),
        (
            {"p50": 5.0, "p95": 30.0, "partial": 0.1},
            "5 % take 30 s or more; 10 % ended as PARTIAL.",
        ),
        ({"partial": 0.001}, "under 1 % ended as PARTIAL."),
        (
            {"p50": 2.0, "p95": 30.0},
            "5 % take 30 s or more; run_or_delay would answer the quick half at once.",
        ),
        (
            {"p95": 600.0, "staged": True, "saved": True},
            "5 % take 10 min or more; it has stages to show; it saves checkpoints.",
        ),
        (
            {"p95": 10_800.0},
            "5 % take 3 h or more; it saves no checkpoint, so a kill starts it from zero.",
        ),
    ],
)
def test_advice_says_why(fields: Any, why: str) -> None:
    (advice,) = advise([seen(**fields)])

    assert advice.why == why


def test_jobkits_own_tasks_need_no_advice() -> None:
    assert advise([seen(task="jobkit.replay_all")]) == []
