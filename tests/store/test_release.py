"""How slots are given back: once, and by their owner only."""

import pytest

from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.limits import SPAN, give_back, line_up, state, take


def test_a_second_release_changes_nothing(store: Store) -> None:
    take(store, "a")
    for job in "bc":
        line_up(store, job)
    assert give_back(store, "a") == ["b"]
    assert give_back(store, "a") == []
    assert take(store, "b") == "held"
    assert give_back(store, "a") == []
    assert (state(store).holders, state(store).waiting) == (("b",), 1)


def test_a_stale_run_frees_nothing(store: Store) -> None:
    take(store, "a", fence=2)
    line_up(store, "b")
    for fence in (0, 1, 3):
        assert give_back(store, "a", fence) == []
    assert state(store).holders == ("a",)


def test_a_job_leaves_the_line(store: Store) -> None:
    take(store, "a")
    for job in "bc":
        line_up(store, job)
    assert give_back(store, "b", 0) == []
    assert give_back(store, "a") == ["c"]


def test_what_was_promised_goes_to_the_next(store: Store) -> None:
    for job in "ab":
        line_up(store, job)
    assert give_back(store, "a", 0) == ["b"]


def test_a_run_that_goes_on_elsewhere_keeps_its_slot(
    store: Store, clock: Clock
) -> None:
    take(store, "a")
    line_up(store, "b")
    assert give_back(store, "a", keep=True) == []
    assert (state(store).holders, state(store).promised) == ((), ("a",))
    assert take(store, "a", fence=2) == "held"
    assert give_back(store, "a", 2, keep=True) == []
    clock.advance(SPAN)  # but not for ever
    assert store.grant(10, SPAN).let_go == ("b",)


@pytest.mark.parametrize("fence", [0, 1])
def test_of_an_unknown_job_there_is_nothing_to_give_back(
    store: Store, fence: int
) -> None:
    assert give_back(store, "a", fence) == []


def test_what_nobody_uses_is_forgotten(store: Store) -> None:
    take(store, "a")
    line_up(store, "b")
    give_back(store, "a")
    take(store, "b")
    give_back(store, "b")
    assert store.limits().items == ()
    assert store.limit("shop") is None
