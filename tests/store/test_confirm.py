"""That those who are on their way are not named again."""

from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.limits import SPAN, line_up


def test_confirming_nobody_or_a_stranger_does_nothing(
    store: Store, clock: Clock
) -> None:
    line_up(store, "a")
    store.confirm([])
    store.confirm(["b"])
    clock.advance(0.5)
    assert store.grant(10, SPAN).let_go == ("a",)


def test_one_is_confirmed_alone(store: Store, clock: Clock) -> None:
    for job in "ab":
        line_up(store, job, ())
    store.confirm(["a"])
    clock.advance(0.5)
    assert store.grant(10, SPAN).let_go == ("b",)
