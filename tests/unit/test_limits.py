"""What limits may be, and which slots a call claims by them."""

from __future__ import annotations

import uuid
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from celery import Celery

from jobkit import JobKit, JobTask, Limit, RateLimit, SettingsError
from jobkit.limits import LimitMap, claims_of, limits_of, signature_of
from jobkit.store.slots import Claim
from tests.unit.conftest import MakeApp

SHOP = Limit("shop:{shop}", 1)


class Size(Enum):
    BIG = "big"


def body(shop: Any, size: Any = "small", *more: Any, **others: Any) -> None:
    """The run of a task."""


def strict(self: Any, shop: str) -> None:
    """The run of a bound task."""


BODY, STRICT = signature_of(body, bound=False), signature_of(strict, bound=True)


def keys(key: str, *args: Any, **kwargs: Any) -> list[str]:
    claims = claims_of([Limit(key, 1)], BODY, args, kwargs)
    return [claim.key for claim in claims]


def refusal(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def task(app: Celery, **options: Any) -> Any:
    name = options.pop("name", f"t-{uuid.uuid4()}")
    options = {"base": JobTask, "shared": False, **options}
    return app.task(name=name, **options)(sell)  # type: ignore[no-untyped-call]


def sell(shop: Any) -> Any:
    """The body of all tasks."""
    return shop


# -- values


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "1", None])
def test_a_number_that_is_no_limit(n: Any) -> None:
    for make in (lambda: Limit("x", n), lambda: RateLimit("x", n, 1)):
        assert f"The limit 'x' is {n!r}, expected is a whole number" in refusal(make)


@pytest.mark.parametrize("per", [0, -1, float("nan"), float("inf"), "1", True, None])
def test_a_time_that_is_none(per: Any) -> None:
    assert "expected are seconds, 0.01 or more" in refusal(RateLimit, "x", 1, per)


def test_a_time_span_is_seconds() -> None:
    assert RateLimit("x", 1, timedelta(minutes=1)).per == 60.0  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["", None, 7])
def test_a_key_that_is_none(key: Any) -> None:
    assert f"The key of a limit is {key!r}" in refusal(Limit, key, 1)


@pytest.mark.parametrize(
    "key", ["{}", "{0}", "{shop.id}", "{args[0]}", "{shop!r}", "{shop:>9}"]
)
def test_a_template_names_arguments_and_nothing_else(key: str) -> None:
    assert "belongs the name of an argument, and nothing else" in refusal(Limit, key, 1)


def test_a_template_that_is_none() -> None:
    assert "is no template: " in refusal(Limit, "shop:{shop", 1)


@pytest.mark.parametrize(
    "value",
    [SHOP, "shop", {"shop": 1}, [("shop", 1)], [{"key": "x"}], [{"key": "x", "m": 1}]],
)
def test_limits_that_are_none(value: Any) -> None:
    assert "limit" in refusal(limits_of, value)


def test_a_limit_may_be_a_dict_of_its_arguments() -> None:
    told = [{"key": "shop:{shop}", "n": 1}, {"key": "x", "n": 5, "per": 60}]
    assert limits_of(told) == (SHOP, RateLimit("x", 5, 60))


def test_one_key_is_not_limited_twice() -> None:
    assert "'shop:{shop}' is there twice" in refusal(limits_of, [SHOP, SHOP])
    assert limits_of([Limit("x", 1), RateLimit("x", 1, 1)])


def test_a_task_has_eight_limits_at_most() -> None:
    many = [Limit(f"x{n}", 1) for n in range(9)]
    assert "at most 8 may be" in refusal(limits_of, many)


# -- claims


def test_a_template_is_filled_in_however_the_argument_is_given() -> None:
    for args, kwargs in [(("a",), {}), ((), {"shop": "a"})]:
        assert keys("shop:{shop}", *args, **kwargs) == ["shop:a"]
    assert keys("{shop}-{size}", "a") == ["a-small"]
    assert keys("{shop}-{more_of_it}", "a", more_of_it=3) == ["a-3"]
    assert keys("{{{shop}}}", "a{b}") == ["{a{b}}"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
        (Decimal("1.50"), "1.50"),
        (date(2026, 1, 2), "2026-01-02"),
        (Size.BIG, "big"),
    ],
)
def test_plain_values_have_their_text(value: Any, text: str) -> None:
    assert keys("{shop}", value) == [text]


@pytest.mark.parametrize("value", [None, ["a"], {"id": 1}, 1.5, b"a", object()])
def test_an_argument_that_has_no_plain_text(value: Any) -> None:
    told = refusal(keys, "shop:{shop}", value)
    assert f"'shop:{{shop}}' cannot use the argument 'shop': it is {value!r}" in told


def test_an_argument_that_is_not_given() -> None:
    told = refusal(keys, "shop:{country}", "a")
    assert "'shop:{country}' needs the argument 'country', which is not given" in told


def test_the_narrowest_claim_is_the_first_and_rates_are_the_last() -> None:
    limits: list[Limit | RateLimit] = [
        *(RateLimit("calls", 1, 1), Limit("api", 10), SHOP)
    ]
    claims = claims_of(limits, STRICT, ("a",), {})
    assert [claim.key for claim in claims] == ["shop:a", "api", "calls"]


def test_two_limits_that_become_one_are_the_narrower_one() -> None:
    limits = [Limit("{shop}", 3), Limit("a", 2)]
    assert claims_of(limits, STRICT, ("a",), {}) == (Claim("a", 2),)


def test_a_call_that_does_not_fit_claims_nothing_and_fails_by_itself() -> None:
    assert claims_of([SHOP], STRICT, ("a", "b"), {}) == ()


def test_a_long_key_is_cut_and_stays_different() -> None:
    one, other = (keys("shop:{shop}", "x" * 500 + end)[0] for end in "ab")
    assert len(one) == len(other) == 200
    assert one != other


def test_half_a_character_is_none_that_a_store_keeps() -> None:
    one, other = (keys("file:{shop}", f"caf{end}.csv")[0] for end in "\udce9\udcea")
    assert one != other
    assert one.startswith("file:caf?.csv~")
    assert one.isascii()


# -- tasks and settings


def test_a_template_with_an_unknown_argument_is_refused_with_the_task(
    app: Celery,
) -> None:
    told = refusal(lambda: task(app, name="t", limits=[Limit("{shp}", 1)]).name)
    assert told == (
        "Task 't': the limit '{shp}' names the argument 'shp', but its arguments are "
        "['shop']."
    )


def test_a_wrong_argument_is_refused_before_anything_is_recorded(app: Celery) -> None:
    seller = task(app, name="t", limits=[SHOP])
    # The store of this app is nowhere: it is not even asked.
    told = refusal(seller.delay, ["a"])
    assert told.startswith("Task 't': the limit 'shop:{shop}' cannot use the argument")


def test_the_setting_comes_beside_the_tasks_own_limits(make_app: MakeApp) -> None:
    app = make_app(
        jobkit_limits={
            "shop.*": [{"key": "shop:{shop}", "n": 9}, RateLimit("calls", 5, 1)],
            "shop.sell": [Limit("shop:{shop}", 3)],
            "other": [Limit("other", 1)],
        }
    )
    seller = task(app, name="shop.sell", limits=[SHOP, Limit("api", 7)])
    assert seller.claims(("a",), {}) == (
        Claim("shop:a", 3),
        Claim("api", 7),
        Claim("calls", 5, 1.0),
    )
    assert task(app, name="else", limits=[SHOP]).claims(("a",), {}) == (
        Claim("shop:a", 1),
    )


def test_a_setting_with_an_unknown_argument_stops_a_worker_at_its_start(
    make_app: MakeApp,
) -> None:
    app = make_app(jobkit_limits={"shop.*": [Limit("{shp}", 1)]})
    _ = task(app, name="shop.sell").name
    told = refusal(app.jobkit.check)  # type: ignore[attr-defined]
    assert told.startswith("Task 'shop.sell': the limit '{shp}' names the argument")


@pytest.mark.parametrize(
    "value", [[SHOP], {"shop.*": SHOP}, {"shop.*": [{"key": "x", "n": 0}]}]
)
def test_a_setting_that_is_ill_formed_is_refused(value: Any) -> None:
    assert "jobkit_limits" in refusal(LimitMap.read, value)


def test_a_limit_is_changed_to_one_that_may_be(app: Celery) -> None:
    jobs = JobKit(app).jobs
    assert "expected is a whole number from 1" in refusal(jobs.set_limit, "x", 0)
    assert "expected are seconds" in refusal(jobs.set_limit, "x", 1, 0)
    assert "room for one" in refusal(jobs.limits, limit=0)


def test_eager_runs_and_direct_calls_do_not_wait(app: Celery) -> None:
    seller = task(app, limits=[Limit("x", 1)])
    _ = seller.name
    app.jobkit.local.acquire("other", 1, [Claim("x", 1)], 30, 30)  # type: ignore[attr-defined]
    assert seller.apply(("a",)).get() == seller("a") == "a"
