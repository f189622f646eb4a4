"""What people see of limits."""

from jobkit.store.base import Store
from jobkit.store.slots import Claim, LimitState
from tests.store.limits import line_up, state, take


def test_a_limit_shows_who_holds_it_and_how_many_wait(store: Store) -> None:
    wide = (Claim("shop", 2),)
    for job in "ab":
        take(store, job, claims=wide)
    for job in "cde":
        line_up(store, job, wide)
    assert state(store) == LimitState(
        *("shop", 2, None), changed=False, waiting=3, holders=("a", "b"), promised=()
    )


def test_limits_come_in_pages_by_their_names(store: Store) -> None:
    for n in range(5):
        take(store, f"j{n}", claims=(Claim(f"shop:{n}", 1),))
    store.set_limit("calls", 3, 60.0)
    first = store.limits(limit=4)
    rest = store.limits(first.next, limit=4)
    assert [limit.key for limit in (*first.items, *rest.items)] == [
        "calls",
        *(f"shop:{n}" for n in range(5)),
    ]
    assert rest.next is None


def test_of_a_limit_that_nobody_has_used_nothing_is_known(store: Store) -> None:
    assert store.limit("shop") is None
    assert store.limits().items == ()
