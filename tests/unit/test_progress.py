"""Progress is honest: weights, one percentage, a smoothed rate, the time left."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobkit.errors import SettingsError, StageError
from jobkit.progress import (
    SMOOTHING,
    Measured,
    Pace,
    Plan,
    Stage,
    eta,
    percent,
    progress,
    total_of,
)
from jobkit.store.memory import MemoryStore
from tests.unit.runs import ID, Time, begin, stop_the_clock

THREE = Plan.of(["count", Stage("import", weight=8), "reconcile"]).stages


def measured(
    index: int = 1, current: int = 0, total: int | None = None, *, done: bool = False
) -> Measured:
    return Measured(index, current, total, current, 0, 0, done, None)


# -- the percentage


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (measured(0, 0, 4), 0.0),
        (measured(0, 2, 4), 5.0),
        (measured(0, 4, 4), 10.0),
        (measured(1, 0, 100), 10.0),
        (measured(1, 50, 100), 50.0),
        (measured(0, 9, 4), 10.0),
        (measured(2, 0, 1), 90.0),
        (measured(2, 1, 1), 100.0),
    ],
)
def test_a_stage_counts_by_its_weight(now: Measured, expected: float) -> None:
    assert percent(THREE, now, floor=0.0) == pytest.approx(expected)


def test_there_is_no_percentage_without_a_total() -> None:
    assert percent(THREE, measured(1, 50), floor=0.0) is None
    assert percent(THREE, measured(1, 50), floor=10.0) is None
    assert percent(THREE, measured(0, 0), floor=0.0) is None


def test_between_two_stages_the_percentage_stays() -> None:
    assert percent(THREE, measured(1, 0), floor=0.0) == 10.0


def test_a_finished_stage_is_whole_even_without_a_total() -> None:
    assert percent(THREE, measured(1, 7, done=True), floor=0.0) == 90.0


def test_a_stage_without_items_is_whole() -> None:
    assert percent(THREE, measured(1, 0, 0), floor=0.0) == 90.0


def test_a_total_that_was_too_small_counts_as_reached() -> None:
    assert percent(THREE, measured(2, 5, 1), floor=0.0) == 100.0


def test_a_total_that_grows_does_not_take_percent_back() -> None:
    assert percent(THREE, measured(1, 50, 1000), floor=50.0) == 50.0


class Journey:
    """A job that does what Hypothesis wants, and shows its progress."""

    def __init__(self, weights: list[float], time: Time) -> None:
        self.stages = [Stage(f"s{i}", weight) for i, weight in enumerate(weights)]
        self.left = iter(self.stages[1:])
        self.time = time
        self.store = MemoryStore()
        self.run = begin(self.store, self.stages)
        self.stage = self.run.stage("s0").__enter__()

    def advance(self, items: int) -> None:
        self.stage.advance(items)

    def set_total(self, total: int | None) -> None:
        self.stage.set(0, total, None)

    def wait(self, seconds: float) -> None:
        self.time.advance(seconds)

    def next_stage(self, total: int | None) -> None:
        if following := next(self.left, None):
            self.stage.__exit__(None, None, None)
            self.stage = self.run.stage(following.name, total=total).__enter__()

    def take_over(self, _: None) -> None:
        self.run.save()
        self.store.interrupt(ID, self.run.lease.fence, "drain")
        self.run = begin(self.store, self.stages)
        self.stage = self.run.stage(self.stage.name).__enter__()


TOTALS = st.none() | st.integers(0, 500)
ACTS = st.lists(
    st.tuples(st.just(Journey.advance), st.integers(0, 400))
    | st.tuples(st.just(Journey.set_total), TOTALS)
    | st.tuples(st.just(Journey.wait), st.floats(0.0, 30.0))
    | st.tuples(st.just(Journey.next_stage), TOTALS)
    | st.tuples(st.just(Journey.take_over), st.none()),
    max_size=40,
)


@given(weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=5), acts=ACTS)
def test_percent_is_never_over_100_and_never_goes_down(
    weights: list[float], acts: list[tuple[Callable[..., None], Any]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        journey = Journey(weights, stop_the_clock(patch))
        highest = 0.0
        for act, value in acts:
            act(journey, value)
            shown = journey.run.snapshot().progress
            assert shown.ok + shown.failed + shown.skipped == shown.current
            between = shown.stage_index and not shown.current
            if not between:
                assert (shown.percent is None) == (shown.total is None)
            assert highest <= (shown.percent or highest) <= 100
            assert (shown.eta_seconds or 0) >= 0
            highest = shown.percent or highest
        final = journey.run.final().progress

    assert (final.percent, final.eta_seconds) == (100.0, None)


# -- the rate


def test_the_first_measurement_counts_whole() -> None:
    pace = Pace()
    pace.measure(0, now=100.0)
    assert pace.rate is None

    pace.measure(20, now=102.0)

    assert pace.rate == 10.0


@given(
    st.lists(
        st.tuples(st.integers(0, 1000), st.floats(0.05, 60)), min_size=2, max_size=20
    )
)
def test_the_rate_follows_the_formula_in_the_docstring(
    steps: list[tuple[int, float]],
) -> None:
    pace, items, now = Pace(), 0, 50.0
    pace.measure(items, now)
    expected: float | None = None
    for done, wait in steps:
        before = now
        items, now = items + done, now + wait
        span = now - before
        pace.measure(items, now)
        if span < 0.05:
            return
        current = done / span
        say = 1 - math.exp(-span / SMOOTHING)
        expected = (
            current if expected is None else expected + say * (current - expected)
        )
        assert pace.rate == pytest.approx(expected)


def test_an_old_rate_has_lost_two_thirds_of_its_say_after_ten_seconds() -> None:
    pace = Pace(rate=100.0)
    pace.measure(0, now=0.0)
    for second in range(1, 11):
        pace.measure(0, now=float(second))

    assert SMOOTHING == 10.0
    assert pace.rate == pytest.approx(100 * math.exp(-1))


def test_a_measurement_right_after_another_waits_for_the_next() -> None:
    pace = Pace()
    pace.measure(0, now=0.0)
    pace.measure(5, now=0.01)
    assert pace.rate is None

    pace.measure(10, now=1.0)

    assert pace.rate == 10.0


def test_time_between_two_runs_does_not_slow_the_rate() -> None:
    pace = Pace(rate=10.0)
    pace.measure(100, now=7200.0)
    pace.measure(110, now=7201.0)

    assert pace.rate == pytest.approx(10.0)


# -- the time left


def test_the_time_left_is_the_rest_of_the_stage_and_later_ones_by_weight() -> None:
    # 50 items at 10 a second; "reconcile" has an eighth of the weight of the
    # 100 items that "import" takes 10 seconds for.
    assert eta(THREE, measured(1, 50, 100), rate=10.0) == pytest.approx(5 + 1.25)


def test_the_last_stage_has_only_its_own_rest() -> None:
    assert eta(THREE, measured(2, 1, 4), rate=2.0) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("now", "rate"),
    [
        (measured(1, 50), 10.0),
        (measured(1, 0, 0), 10.0),
        (measured(1, 50, 100), None),
        (measured(1, 50, 100), 0.0),
        (measured(1, 100, 100, done=True), 10.0),
    ],
    ids=["no total", "empty", "no rate", "stands still", "done"],
)
def test_there_is_no_time_left_without_a_total_or_a_rate(
    now: Measured, rate: float | None
) -> None:
    assert eta(THREE, now, rate) is None


def test_more_items_than_the_total_leave_no_negative_time() -> None:
    assert eta(THREE, measured(2, 9, 4), rate=2.0) == 0.0


def test_progress_says_where_the_job_is() -> None:
    now = Measured(1, 50, 100, 45, 3, 2, done=False, message="page 5")

    shown = progress(Plan(THREE), now, rate=12.3456, floor=0.0)

    assert (shown.stage, shown.stage_index, shown.stage_count) == ("import", 1, 3)
    assert (shown.current, shown.total, shown.percent) == (50, 100, 50.0)
    assert (shown.ok, shown.failed, shown.skipped) == (45, 3, 2)
    assert shown.message == "page 5"
    assert shown.rate == 12.35
    assert shown.eta_seconds == pytest.approx(
        50 / 12.3456 + 100 / 12.3456 / 8, abs=0.01
    )


# -- the plan


def test_a_plan_is_made_of_names_and_stages() -> None:
    plan = Plan.of(["count", Stage("import", weight=8, title="Importing")])

    assert plan.names == ("count", "import")
    assert plan.stages[0] == Stage("count", weight=1.0, title=None)
    assert plan.index("import") == 1


def test_a_task_may_have_no_stages() -> None:
    assert Plan.of(None) == Plan.of(()) == Plan(())


def test_a_stage_that_is_not_declared_is_named_with_those_that_are() -> None:
    with pytest.raises(StageError, match=r"'imprt'.*\['count', 'import'\].*stages="):
        Plan.of(["count", "import"]).index("imprt")


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf, "8", None, True, [8]])
def test_a_weight_is_a_number_above_0(weight: Any) -> None:
    with pytest.raises(SettingsError, match=r"'import'.*weight.*above 0"):
        Stage("import", weight=weight)


@pytest.mark.parametrize("name", ["", None, 5, b"import"])
def test_a_stage_has_a_name(name: Any) -> None:
    with pytest.raises(SettingsError, match="name"):
        Stage(name)


@pytest.mark.parametrize(
    "declared", ["import", 5, [("import", 8)], [None], [["a"]], {"import": 8}, b"ab"]
)
def test_what_is_no_list_of_stages_is_refused(declared: Any) -> None:
    with pytest.raises(SettingsError, match=r"[Ss]tage"):
        Plan.of(declared)


def test_a_stage_is_declared_once() -> None:
    with pytest.raises(SettingsError, match="'import' is declared twice"):
        Plan.of(["import", Stage("import", weight=2)])


@pytest.mark.parametrize("total", [None, 0, 1, 10**12])
def test_a_total_is_a_whole_number_or_unknown(total: int | None) -> None:
    assert total_of(total, "import") == total


@pytest.mark.parametrize("total", [-1, 1.5, "10", True, [1]])
def test_any_other_total_is_refused_by_the_stage_and_the_value(total: Any) -> None:
    with pytest.raises(StageError, match="total of stage 'import'") as caught:
        total_of(total, "import")

    assert repr(total) in str(caught.value)
