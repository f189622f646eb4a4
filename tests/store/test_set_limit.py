"""How a limit is changed while its jobs run."""

from jobkit.store.base import Store
from jobkit.store.slots import Claim
from tests.store.clocks import Clock
from tests.store.limits import SPAN, give_back, line_up, state, take


def test_a_raised_limit_lets_waiters_go(store: Store) -> None:
    take(store, "a")
    for job in "bcd":
        line_up(store, job)
    store.set_limit("shop", 3)
    assert store.grant(10, SPAN).let_go == ("b", "c")
    assert (state(store).n, state(store).changed) == (3, True)


def test_a_lowered_limit_takes_nobodys_slot(store: Store) -> None:
    wide = (Claim("shop", 3),)
    for job in "abc":
        take(store, job, claims=wide)
    store.set_limit("shop", 1)
    line_up(store, "d", wide)
    assert give_back(store, "a") == []
    assert give_back(store, "b") == []
    assert give_back(store, "c") == ["d"]


def test_taken_back_the_code_is_in_force_again(store: Store) -> None:
    store.set_limit("shop", 2)
    assert state(store).n == 2  # before anybody has used it
    take(store, "a")
    store.set_limit("shop", None)
    assert (state(store).n, state(store).changed) == (1, False)
    assert take(store, "b") == "waiting"
    give_back(store, "b", 0)
    give_back(store, "a")
    assert store.limits().items == ()


def test_a_rate_is_changed_with_its_time(store: Store, clock: Clock) -> None:
    calls = (Claim("calls", 1, 60.0),)
    for job in "abc":
        line_up(store, job, calls)
    store.confirm(["a"])
    store.set_limit("calls", 1, 1.0)
    clock.advance(1)
    assert store.grant(10, SPAN).let_go == ("b",)
    shown = state(store, "calls", rate=True)
    assert (shown.n, shown.per, shown.waiting) == (1, 1.0, 1)
    assert store.limit("calls") is None


def test_sent_again_it_has_happened_once(store: Store) -> None:
    for n in (2, 2, None, None):
        store.set_limit("shop", n)
    assert store.limits().items == ()
