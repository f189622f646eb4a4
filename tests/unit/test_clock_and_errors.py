"""The ground: time of this machine, and the tree of errors."""

import inspect
import pickle
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from jobkit import clock, errors
from jobkit.errors import (
    DuplicateJob,
    Interrupted,
    JobkitError,
    JobNotFound,
    LimitError,
    NotAllowed,
    RateLimited,
)

EVERY = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if kind.__module__ == errors.__name__
]


def test_milliseconds_of_the_store_become_a_moment_in_utc() -> None:
    assert clock.from_milliseconds(1_500) == datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC)


def test_now_is_no_seconds_away() -> None:
    now = datetime.fromtimestamp(clock.wall(), UTC)

    assert clock.seconds_until(now) == pytest.approx(0, abs=5)


def test_the_past_is_negative_seconds_away() -> None:
    ago = datetime.fromtimestamp(clock.wall() - 3600, UTC)

    assert clock.seconds_until(ago) == pytest.approx(-3600, abs=5)


def test_a_moment_means_the_same_in_every_zone_and_naive_is_utc() -> None:
    moment = datetime.fromtimestamp(clock.wall() + 60, UTC)
    elsewhere = moment.astimezone(timezone(timedelta(hours=9)))
    naive = moment.replace(tzinfo=None)

    assert clock.seconds_until(elsewhere) == pytest.approx(60, abs=5)
    assert clock.seconds_until(naive) == pytest.approx(60, abs=5)


def test_monotonic_seconds_never_go_back() -> None:
    readings = [clock.monotonic() for _ in range(1_000)]

    assert readings == sorted(readings)


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    drawn: dict[str, str] = {}
    parents: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ([ │├└─]*)([A-Z]\w+)", line):
            depth, name = len(found[1]) // 4, found[2]
            parents[depth] = name
            if depth:
                drawn[name] = parents[depth - 1]

    assert drawn == {
        kind.__name__: kind.__mro__[1].__name__
        for kind in EVERY
        if kind not in {JobkitError, Interrupted}
    }


@pytest.mark.parametrize("kind", EVERY)
def test_an_error_has_one_of_two_roots(kind: type[BaseException]) -> None:
    assert issubclass(kind, JobkitError) != issubclass(kind, Interrupted)


def test_control_flow_passes_an_except_exception() -> None:
    assert not issubclass(Interrupted, Exception)


def test_built_in_handlers_catch_their_kind() -> None:
    assert issubclass(errors.SettingsError, ValueError)
    assert issubclass(LimitError, TypeError)
    assert issubclass(JobNotFound, LookupError)


def test_an_unknown_job_is_named() -> None:
    error = JobNotFound("order-17")

    assert error.job_id == "order-17"
    assert "'order-17'" in str(error)


def test_a_refused_act_tells_the_state() -> None:
    assert NotAllowed("no", state="RUNNING").state == "RUNNING"


def test_rate_limited_carries_the_seconds_asked_for() -> None:
    assert RateLimited(retry_after=7).retry_after == 7
    assert "7 s" in str(RateLimited(retry_after=7))
    assert str(RateLimited("slow down")) == "slow down"
    assert RateLimited("slow down").retry_after is None


def made(kind: type[BaseException]) -> BaseException:
    if issubclass(kind, DuplicateJob):
        return kind("said", "job 7")
    if issubclass(kind, NotAllowed):
        return kind("said", state="DEAD")
    if issubclass(kind, RateLimited):
        return kind("said", retry_after=2.5)
    return kind("said")


@pytest.mark.parametrize("kind", EVERY)
def test_an_error_survives_the_way_between_processes(
    kind: type[BaseException],
) -> None:
    error = made(kind)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - it is our own

    assert type(copy) is kind
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
