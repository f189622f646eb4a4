"""How those who are next are let go, though nobody told them."""

from jobkit.store.base import Store
from jobkit.store.slots import Claim
from tests.store.clocks import Clock
from tests.store.limits import LEASE, SPAN, give_back, line_up, state, take


def test_the_slot_of_a_dead_holder_is_freed_when_its_lease_has_ended(
    store: Store, clock: Clock
) -> None:
    take(store, "a")
    line_up(store, "b")
    clock.advance(LEASE - 0.001)
    assert store.grant(10, SPAN).let_go == ()
    clock.advance(0.001)
    assert store.grant(10, SPAN).let_go == ("b",)


def test_a_dead_holder_that_comes_again_is_the_next(store: Store, clock: Clock) -> None:
    take(store, "a")
    for job in "bc":
        line_up(store, job)
    clock.advance(LEASE)
    store.grant(10, SPAN)
    assert take(store, "b") == "held"
    assert take(store, "a", fence=2) == "waiting"
    assert give_back(store, "b") == ["a"]


def test_who_was_let_go_is_named_until_somebody_confirms(
    store: Store, clock: Clock
) -> None:
    take(store, "a")
    line_up(store, "b")
    assert give_back(store, "a") == ["b"]
    assert store.grant(10, SPAN).let_go == ()  # whoever released sees to it
    for _ in range(2):
        clock.advance(0.5)
        assert store.grant(10, SPAN).let_go == ("b",)
    store.confirm(["b"])
    clock.advance(0.5)
    assert store.grant(10, SPAN).let_go == ()


def test_who_has_begun_is_not_named(store: Store, clock: Clock) -> None:
    take(store, "a")
    line_up(store, "b")
    give_back(store, "a")
    take(store, "b")
    clock.advance(0.5)
    assert store.grant(10, SPAN).let_go == ()


def test_who_does_not_come_in_time_is_passed(store: Store, clock: Clock) -> None:
    for job in "abc":
        line_up(store, job)
    clock.advance(SPAN)
    assert store.grant(10, SPAN).let_go == ("b",)
    assert (state(store).promised, state(store).waiting) == (("b",), 1)


def test_lines_are_served_by_turns(store: Store, clock: Clock) -> None:
    for shop in "xyz":
        claims = (Claim(f"shop:{shop}", 2),)
        for n in range(5):
            line_up(store, f"{shop}{n}", claims)
    clock.advance(SPAN)  # nobody has come
    let_go = store.grant(10, SPAN).let_go
    assert sorted(job[0] for job in let_go[:3]) == ["x", "y", "z"]
    assert sorted(let_go) == ["x2", "x3", "y2", "y3", "z2", "z3"]


def test_with_nothing_to_wait_for_it_says_so(store: Store) -> None:
    assert store.grant(10, SPAN).wait is None
    take(store, "a")
    assert store.grant(10, SPAN).wait is None
