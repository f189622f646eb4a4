"""How a run keeps its slots."""

from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.limits import LEASE, SPAN, give_back, line_up, state, take


def test_a_slot_lasts_as_long_as_it_is_renewed(store: Store, clock: Clock) -> None:
    take(store, "a")
    line_up(store, "b")
    for _ in range(10):
        clock.advance(LEASE - 1)
        assert store.renew_slots("a", 1, LEASE)
        assert store.grant(10, SPAN).let_go == ()
    clock.advance(LEASE)
    assert store.grant(10, SPAN).let_go == ("b",)
    assert not store.renew_slots("a", 1, LEASE)


def test_only_the_owner_renews(store: Store, clock: Clock) -> None:
    take(store, "a", fence=2)
    line_up(store, "b")
    for fence in (0, 1, 3):
        assert not store.renew_slots("a", fence, 10 * LEASE)
    assert not store.renew_slots("b", 0, LEASE)
    assert not store.renew_slots("c", 1, LEASE)
    clock.advance(LEASE)
    store.grant(10, SPAN)
    assert state(store).promised == ("b",)


def test_what_was_given_back_is_not_renewed(store: Store) -> None:
    take(store, "a")
    give_back(store, "a", keep=True)
    assert not store.renew_slots("a", 1, LEASE)
