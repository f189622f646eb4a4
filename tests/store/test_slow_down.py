"""How a service that asks to wait is left alone."""

from jobkit.store.base import Store
from jobkit.store.slots import Claim
from tests.store.clocks import Clock
from tests.store.limits import SPAN, line_up, take

CALLS = (Claim("shop", 3), Claim("calls", 20, 1.0))


def test_nobody_starts_before_the_time(store: Store, clock: Clock) -> None:
    assert take(store, "a", claims=CALLS) == "held"
    line_up(store, "b", CALLS)  # is on its way
    store.slow_down(CALLS, 30)
    assert take(store, "b", claims=CALLS) == "waiting"
    assert line_up(store, "c", CALLS) == "waiting"
    clock.advance(29.999)
    assert store.grant(10, SPAN).let_go == ()
    clock.advance(0.001)
    assert store.grant(10, SPAN).let_go == ("b", "c")


def test_a_shorter_time_does_not_open_it_sooner(store: Store, clock: Clock) -> None:
    store.slow_down(CALLS, 30)
    store.slow_down(CALLS, 5)
    clock.advance(10)
    assert take(store, "a", claims=CALLS) == "waiting"


def test_what_is_done_meanwhile_does_not_open_it(store: Store, clock: Clock) -> None:
    store.slow_down(CALLS, 30)
    store.set_limit("calls", 50, 1.0)
    assert take(store, "a", claims=CALLS) == "waiting"
    store.set_limit("calls", None)
    clock.advance(29)
    store.grant(10, SPAN)
    assert take(store, "b", claims=CALLS) == "waiting"


def test_slots_and_other_rates_are_not_concerned(store: Store) -> None:
    store.slow_down(CALLS, 30)
    assert take(store, "a", claims=CALLS[:1]) == "held"
    assert take(store, "b", claims=(Claim("else", 20, 1.0),)) == "held"
