"""Errors get the right verdict, budget and delay."""

import email.message
import errno
import io
import json
import pickle
import random
import socket
import sqlite3
import ssl
import statistics
import urllib.error
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any

import celery.exceptions
import httpx
import kombu.exceptions
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from jobkit import clock
from jobkit.errors import (
    CodecError,
    Permanent,
    RateLimited,
    SettingsError,
    StageError,
    StoreUnavailable,
    Transient,
)
from jobkit.retry import Budgets, Decision, RetryPolicy, decide
from jobkit.verdicts import Verdict, classify

DEFAULT = RetryPolicy()


def http_error(status: int, **headers: str) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://service.test/")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx.Response(status, headers=named, request=request)
    return httpx.HTTPStatusError(f"{status}", request=request, response=response)


class FalseResponse:
    """The response of a failed call, false as those of requests are."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.status_code = status
        self.headers = headers or {}

    def __bool__(self) -> bool:
        return False


def error_with(**attributes: Any) -> Exception:
    error = Exception(f"with {', '.join(attributes)}")
    vars(error).update(attributes)
    return error


def stranger(module: str, *names: str) -> Exception:
    """An error of a library that is not installed here, with its ancestors."""
    kind: type[Exception] = Exception
    for name in reversed(names):
        kind = type(name, (kind,), {"__module__": module})
    return kind("from far away")


def caused_by(cause: BaseException, error: Exception | None = None) -> Exception:
    error = error or Exception("wrapped")
    error.__cause__ = cause
    return error


def named(error: Any) -> str:
    kind = type(error)
    cause = f" from {error.__cause__!r}" if error.__cause__ else ""
    extra = f" {error.code!r}" if hasattr(error, "code") else ""
    return f"{kind.__module__}.{kind.__name__} {error}{extra}{cause}"


def urllib_error(status: int, **headers: str) -> urllib.error.HTTPError:
    message = email.message.Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return urllib.error.HTTPError("http://x/", status, "no", message, io.BytesIO())


TRANSIENT: list[BaseException] = [
    Transient("busy"),
    StoreUnavailable("down"),
    ConnectionError(),
    ConnectionResetError(),
    BrokenPipeError(),
    TimeoutError(),
    socket.gaierror(socket.EAI_AGAIN, "again"),
    ssl.SSLError("handshake"),
    OSError(errno.EHOSTUNREACH, "no route"),
    OSError(errno.ENETUNREACH, "no net"),
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("cut off"),
    redis.ConnectionError(),
    redis.TimeoutError(),
    redis.exceptions.BusyLoadingError(),
    redis.exceptions.ReadOnlyError(),
    kombu.exceptions.OperationalError(),
    celery.exceptions.TimeoutError(),
    sqlite3.OperationalError("database is locked"),
    urllib.error.URLError(ConnectionRefusedError()),
    stranger("requests.exceptions", "ConnectTimeout", "ConnectionError"),
    stranger("requests.exceptions", "ReadTimeout", "Timeout"),
    stranger("urllib3.exceptions", "ReadTimeoutError", "TimeoutError"),
    stranger("urllib3.exceptions", "NewConnectionError"),
    stranger(
        "aiohttp.client_exceptions", "ServerDisconnectedError", "ClientConnectionError"
    ),
    stranger("psycopg", "OperationalError"),
    stranger("psycopg2.errors", "DeadlockDetected", "OperationalError"),
    stranger("psycopg2", "InterfaceError"),
    stranger("sqlalchemy.exc", "OperationalError"),
    stranger("django.db.utils", "OperationalError"),
    stranger("botocore.exceptions", "ReadTimeoutError", "HTTPClientError"),
    stranger("botocore.exceptions", "EndpointConnectionError", "ConnectionError"),
    caused_by(TimeoutError()),
    caused_by(http_error(502), ValueError("no JSON")),
]

UNKNOWN: list[BaseException] = [
    Exception(),
    ValueError("?"),
    TypeError("?"),
    KeyError("?"),
    FileNotFoundError(errno.ENOENT, "no file"),
    PermissionError(errno.EACCES, "not yours"),
    OSError("without a number"),
    OSError(errno.ENOSPC, "disk full"),
    ssl.SSLCertVerificationError("wrong name"),
    redis.exceptions.AuthenticationError(),
    httpx.InvalidURL("?"),
    http_error(501),
    urllib.error.URLError("unknown url type"),
    stranger("shop.errors", "ConnectionError"),
    stranger("redis_like.errors", "TimeoutError"),
    error_with(code=1006),
    error_with(code="e3q8"),
    error_with(status_code=True),
    error_with(status=HTTPStatus.OK),
    caused_by(caused_by(TimeoutError())),
    caused_by(ValueError()),
]

PERMANENT: list[BaseException] = [
    Permanent("no such shop"),
    CodecError("not kept"),
    StageError("undeclared"),
    *map(http_error, (400, 401, 403, 404, 409, 410, 422, 451)),
    error_with(response=FalseResponse(404)),
    stranger("pydantic_core._pydantic_core", "ValidationError"),
    stranger("django.core.exceptions", "ValidationError"),
    stranger("shop.forms", "AddressError", "ValidationError"),
    caused_by(http_error(404)),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=named)
def test_what_will_pass_is_transient(error: BaseException) -> None:
    assert classify(error, {}) == (Verdict.transient, None)


@pytest.mark.parametrize("error", UNKNOWN, ids=named)
def test_what_tells_nothing_is_unknown(error: BaseException) -> None:
    assert classify(error, {}) == (Verdict.unknown, None)


@pytest.mark.parametrize("error", PERMANENT, ids=named)
def test_what_no_retry_mends_is_permanent(error: BaseException) -> None:
    assert classify(error, {}) == (Verdict.permanent, None)


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504, 521, 529])
def test_a_service_in_trouble_is_transient(status: int) -> None:
    assert classify(http_error(status), {}) == (Verdict.transient, None)


@pytest.mark.parametrize(
    "place",
    [
        lambda status: error_with(response=FalseResponse(status)),
        lambda status: error_with(response=error_with(status=status)),
        lambda status: error_with(status_code=status),
        lambda status: error_with(status=HTTPStatus(status)),
        lambda status: error_with(code=status),
        lambda status: error_with(getcode=lambda: status),
        lambda status: error_with(
            response={"ResponseMetadata": {"HTTPStatusCode": status}}
        ),
        urllib_error,
        http_error,
    ],
    ids=[
        "requests",
        "the response's status",
        "the error's status code",
        "the error's status",
        "the error's code",
        "a method",
        "boto",
        "urllib",
        "httpx",
    ],
)
def test_the_status_is_found_wherever_a_library_keeps_it(
    place: Callable[[int], Exception],
) -> None:
    assert classify(place(503), {})[0] is Verdict.transient
    assert classify(place(404), {})[0] is Verdict.permanent


def test_a_property_that_fails_is_no_answer() -> None:
    class Broken(Exception):  # noqa: N818 - it only stands for one
        @property
        def response(self) -> Any:
            raise RuntimeError("there is none")

    assert classify(Broken(), {}) == (Verdict.unknown, None)


@pytest.mark.parametrize("status", [429, 503, 403])
def test_a_service_that_says_how_long_to_wait_limits_the_rate(status: int) -> None:
    assert classify(http_error(status, retry_after="120"), {}) == (
        Verdict.rate_limited,
        120.0,
    )


def test_too_many_requests_limit_the_rate_without_a_time_too() -> None:
    assert classify(http_error(429), {}) == (Verdict.rate_limited, None)


@pytest.mark.parametrize(
    "error",
    [
        RateLimited(retry_after=120),
        caused_by(http_error(429, retry_after="120"), RateLimited("slow down")),
        http_error(429, RETRY_AFTER="120.0"),
        urllib_error(429, Retry_After="120"),
        error_with(status=429, headers={"retry-After": 120}),
        error_with(code=429, retry_after=timedelta(minutes=2)),
        error_with(response=FalseResponse(429, {"Server": "7", "Retry-After": "120"})),
        error_with(
            response={
                "Error": {"Code": "ThrottlingException"},
                "ResponseMetadata": {
                    "HTTPStatusCode": 400,
                    "HTTPHeaders": {"retry-after": "120"},
                },
            }
        ),
    ],
    ids=[
        "our own",
        "its cause",
        "httpx",
        "urllib",
        "headers of the error",
        "a time span",
        "requests",
        "boto",
    ],
)
def test_the_time_to_wait_is_found_wherever_it_is(error: Exception) -> None:
    assert classify(error, {}) == (Verdict.rate_limited, 120.0)


def test_the_time_to_wait_may_be_a_date() -> None:
    moment = datetime.fromtimestamp(clock.wall() + 120, UTC)
    text = format_datetime(moment, usegmt=True)

    verdict, wait = classify(http_error(429, retry_after=text), {})

    assert verdict is Verdict.rate_limited
    assert wait == pytest.approx(120, abs=30)


def test_a_date_that_has_passed_means_now() -> None:
    error = http_error(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")

    assert classify(error, {}) == (Verdict.rate_limited, 0.0)


@pytest.mark.parametrize("text", ["", "soon", "-5", "nan", "Wed, 99 Oct 2015 07:28:00"])
def test_a_time_that_makes_no_sense_is_no_time(text: str) -> None:
    assert classify(http_error(429, retry_after=text), {})[1] is None
    assert classify(http_error(503, retry_after=text), {})[0] is Verdict.transient


@pytest.mark.parametrize("text", ["1e300", "inf", "9" * 500, "2592001"])
def test_nobody_is_made_to_wait_for_ever(text: str) -> None:
    assert classify(http_error(429, retry_after=text), {})[1] == 2_592_000.0


def test_celerys_soft_time_limit_is_a_time_limit() -> None:
    error = celery.exceptions.SoftTimeLimitExceeded()

    assert classify(error, {}) == (Verdict.time_limit, None)


def test_no_memory_is_a_matter_of_infrastructure() -> None:
    assert classify(MemoryError(), {}) == (Verdict.infrastructure, None)


class ShopError(Exception):
    pass


class ClosedError(ShopError):
    pass


def test_the_nearest_class_of_the_policy_wins() -> None:
    policy = RetryPolicy(
        verdicts={
            Exception: "unknown",
            ShopError: "transient",
            ClosedError: "permanent",
        }
    )

    assert classify(ClosedError(), policy.verdicts)[0] is Verdict.permanent
    assert classify(ShopError(), policy.verdicts)[0] is Verdict.transient
    assert classify(TimeoutError(), policy.verdicts)[0] is Verdict.unknown


def test_the_policy_comes_before_the_defaults() -> None:
    policy = RetryPolicy(verdicts={httpx.HTTPStatusError: Verdict.rate_limited})

    assert classify(http_error(404, retry_after="7"), policy.verdicts) == (
        Verdict.rate_limited,
        7.0,
    )


def test_the_policy_judges_causes_too() -> None:
    policy = RetryPolicy(verdicts={ClosedError: "permanent"})

    assert classify(caused_by(ClosedError()), policy.verdicts)[0] is Verdict.permanent


def test_what_the_policy_calls_unknown_is_not_judged_by_its_cause() -> None:
    policy = RetryPolicy(verdicts={ShopError: "unknown"})

    assert (
        classify(caused_by(TimeoutError(), ShopError()), policy.verdicts)[0]
        == "unknown"
    )


def test_an_error_that_steers_is_nearer_than_a_general_rule() -> None:
    policy = RetryPolicy(verdicts={Exception: "permanent"})

    assert classify(Transient(), policy.verdicts)[0] is Verdict.transient


def after(errors: list[Exception], policy: RetryPolicy, position: int = 0) -> Decision:
    """The last decision on these errors, all at one position."""
    budgets = Budgets()
    decision = None
    for error in errors:
        assert decision is None or decision.retry, "it was final too early"
        decision = decide(error, policy, budgets, position)
        budgets = decision.budgets
    assert decision is not None
    return decision


@pytest.mark.parametrize(
    ("error", "budget"),
    [
        (TimeoutError(), 5),
        (RateLimited(), 10),
        (ValueError(), 3),
        (celery.exceptions.SoftTimeLimitExceeded(), 3),
        (MemoryError(), 3),
    ],
    ids=["transient", "rate_limited", "unknown", "time_limit", "infrastructure"],
)
def test_a_budget_is_a_number_of_retries(error: Exception, budget: int) -> None:
    last = after([error] * (budget + 1), DEFAULT, position=7)

    assert after([error] * budget, DEFAULT, position=7).retry
    assert not last.retry
    assert (last.reason, last.delay) == ("retries_exhausted", 0.0)


def test_each_verdict_has_a_budget_of_its_own() -> None:
    errors = [TimeoutError(), ValueError(), celery.exceptions.SoftTimeLimitExceeded()]

    decision = after([*errors * 3, TimeoutError(), TimeoutError()], DEFAULT)

    assert decision.retry
    assert decision.budgets == Budgets(
        transient=5, unknown=3, time_limit=3, total=11, position=0
    )


def test_a_permanent_error_is_final_at_once() -> None:
    decision = decide(Permanent("no"), DEFAULT, Budgets(), 3)

    assert (decision.verdict, decision.retry) == (Verdict.permanent, False)
    assert (decision.reason, decision.delay) == ("permanent", 0.0)
    assert decision.attempt
    assert decision.budgets == Budgets(total=1, position=3)


@pytest.mark.parametrize(
    "error", [ValueError(), TimeoutError(), Transient()], ids=named
)
def test_with_never_an_error_is_final(error: Exception) -> None:
    decision = decide(error, RetryPolicy(never=True), Budgets(), 0)

    assert (decision.retry, decision.reason) == (False, "never")


def test_a_budget_of_zero_allows_no_retry() -> None:
    decision = decide(TimeoutError(), RetryPolicy(transient=0), Budgets(), 0)

    assert (decision.retry, decision.reason) == (False, "retries_exhausted")


def test_progress_renews_the_budgets() -> None:
    used = Budgets(5, 10, 3, 3, total=21, position=100)

    here = decide(TimeoutError(), DEFAULT, used, 100)
    further = decide(TimeoutError(), DEFAULT, used, 101)

    assert (here.retry, here.reason) == (False, "retries_exhausted")
    assert further.retry
    assert further.budgets == Budgets(transient=1, total=22, position=101)


def test_going_back_is_no_progress() -> None:
    used = Budgets(transient=5, total=5, position=100)

    decision = decide(TimeoutError(), DEFAULT, used, 50)

    assert not decision.retry
    assert decision.budgets.position == 100


def test_a_rate_limit_does_not_end_a_job_that_gets_on() -> None:
    budgets = Budgets()
    for position in range(1, 100):
        decision = decide(RateLimited(), DEFAULT, budgets, position)
        assert decision.retry
        budgets = decision.budgets

    assert budgets == Budgets(rate_limited=1, total=0, position=99)


def test_progress_does_not_renew_the_number_of_all_errors() -> None:
    budgets = Budgets()
    for position in range(1, 26):
        decision = decide(TimeoutError(), DEFAULT, budgets, position)
        assert decision.retry
        budgets = decision.budgets

    last = decide(TimeoutError(), DEFAULT, budgets, 26)

    assert (last.retry, last.reason) == (False, "too_many_errors")


def test_rate_limits_are_no_errors() -> None:
    spent = Budgets(total=25, position=9)

    decision = decide(http_error(429), DEFAULT, spent, 9)

    assert decision.retry
    assert decision.budgets == Budgets(rate_limited=1, total=25, position=9)
    assert (decision.attempt, decision.rate_limited) == (False, True)


def test_errors_are_no_rate_limits() -> None:
    decision = decide(TimeoutError(), DEFAULT, Budgets(), 0)

    assert (decision.attempt, decision.rate_limited) == (True, False)


@pytest.fixture
def dice() -> random.Random:
    seed = random.randrange(2**32)  # noqa: S311 - no secret
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    return random.Random(seed)  # noqa: S311 - likewise


def test_a_rate_limit_waits_what_the_service_says_and_a_little_more(
    dice: random.Random,
) -> None:
    error = http_error(429, retry_after="120")

    delays = [
        decide(error, DEFAULT, Budgets(), 0, dice.random).delay for _ in range(1000)
    ]

    assert all(120 <= delay <= 132 for delay in delays)
    assert statistics.stdev(delays) > 0


@pytest.mark.parametrize("n", range(12))
def test_the_backoff_is_the_upper_half_of_a_doubled_delay(
    n: int, dice: random.Random
) -> None:
    policy = RetryPolicy(transient=50)
    whole = min(300.0, 2.0**n)

    delays = [
        decide(TimeoutError(), policy, Budgets(transient=n), 0, dice.random).delay
        for _ in range(1000)
    ]

    assert all(whole / 2 <= delay <= whole for delay in delays)
    assert statistics.stdev(delays) > 0
    assert statistics.mean(delays) == pytest.approx(0.75 * whole, rel=0.05)


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 4.0), (1.0, 8.0)])
def test_the_bounds_of_the_backoff_can_be_reached(chance: float, delay: float) -> None:
    policy = RetryPolicy(base=2.0, cap=100.0)

    decision = decide(ValueError(), policy, Budgets(unknown=2), 0, lambda: chance)

    assert decision.delay == delay


@pytest.mark.parametrize(
    "error", [RateLimited(), RateLimited(retry_after=0)], ids=["none", "zero"]
)
def test_a_rate_limit_without_a_time_backs_off(error: Exception) -> None:
    decision = decide(error, DEFAULT, Budgets(rate_limited=3), 0, lambda: 0.0)

    assert decision.delay == 4.0


def test_a_delay_after_very_many_errors_is_the_cap() -> None:
    policy = RetryPolicy(transient=10**6, total=10**6)

    decision = decide(TimeoutError(), policy, Budgets(transient=10**5), 0, lambda: 1.0)

    assert decision.delay == 300.0


@given(st.builds(Budgets, *[st.integers(0, 2**53)] * 6))
def test_budgets_come_back_as_they_were(budgets: Budgets) -> None:
    assert Budgets.decode(budgets.encode()) == budgets


def test_nothing_stored_means_nothing_used() -> None:
    assert Budgets.decode("") == Budgets()


def test_stored_budgets_are_readable() -> None:
    assert json.loads(Budgets(transient=2, position=8).encode())["transient"] == 2


def test_a_policy_has_pinned_defaults() -> None:
    assert (DEFAULT.transient, DEFAULT.rate_limited, DEFAULT.unknown) == (5, 10, 3)
    assert (DEFAULT.crashes, DEFAULT.total) == (3, 25)
    assert (DEFAULT.base, DEFAULT.cap, DEFAULT.never) == (1.0, 300.0, False)
    assert DEFAULT.verdicts == {}


@pytest.mark.parametrize(
    ("value", "policy"),
    [
        (None, DEFAULT),
        ({}, DEFAULT),
        ("never", RetryPolicy(never=True)),
        ({"transient": 9, "cap": 60}, RetryPolicy(transient=9, cap=60)),
        (RetryPolicy(unknown=0), RetryPolicy(unknown=0)),
    ],
)
def test_a_policy_is_written_in_several_ways(value: Any, policy: RetryPolicy) -> None:
    assert RetryPolicy.of(value) == policy


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("sometimes", "'sometimes'"),
        (5, "not 5"),
        ({"transients": 9}, "did you mean transient?"),
        ({"zzz": 9}, "transient or rate_limited"),
        ({"transient": -1}, "transient of a retry policy is -1"),
        ({"transient": 1.5}, "a whole number from 0"),
        ({"unknown": True}, "unknown of a retry policy is True"),
        ({"crashes": 0}, "a whole number from 1"),
        ({"total": "25"}, "'25'"),
        ({"base": -0.1}, "base of a retry policy"),
        ({"base": "1"}, "seconds, 0 or more"),
        ({"cap": float("inf")}, "cap of a retry policy is inf"),
        ({"cap": True}, "cap of a retry policy is True"),
        ({"never": 1}, "True or False"),
        ({"verdicts": [ValueError]}, "a dict of classes"),
        ({"verdicts": {"ValueError": "permanent"}}, "exception classes as keys"),
        ({"verdicts": {int: "permanent"}}, "exception classes as keys"),
        ({"verdicts": {ValueError: "fatal"}}, "verdicts[ValueError]"),
        ({"verdicts": {ValueError: None}}, "transient, rate_limited, unknown"),
    ],
)
def test_a_wrong_policy_is_refused(value: Any, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        RetryPolicy.of(value)

    assert told in str(caught.value)


def test_a_policy_keeps_its_own_copy_of_the_verdicts() -> None:
    verdicts: dict[type[BaseException], str] = {ValueError: "permanent"}
    policy = RetryPolicy(verdicts=verdicts)
    verdicts.clear()

    assert classify(ValueError(), policy.verdicts)[0] is Verdict.permanent


def test_a_policy_can_be_sent_to_another_process() -> None:
    policy = RetryPolicy(verdicts={ShopError: "permanent"})

    assert pickle.loads(pickle.dumps(policy)) == policy  # noqa: S301 - our own


def test_a_verdict_is_its_plain_name() -> None:
    names = "transient rate_limited unknown permanent infrastructure time_limit"

    assert " ".join(Verdict) == names


def test_progress_does_not_renew_the_tasks_own_retries() -> None:
    used = Budgets(transient=2, total=3, position=4, own=2)
    assert used.renewed(5) == Budgets(total=3, own=2)
    assert Budgets.decode(used.encode()) == used
