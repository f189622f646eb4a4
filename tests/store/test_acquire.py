"""How a job takes the slots that it claims, or waits for them."""

from jobkit.store.base import Store
from jobkit.store.slots import Claim
from tests.store.clocks import Clock
from tests.store.conftest import RedisFactory
from tests.store.limits import LEASE, ONE, SPAN, give_back, line_up, state, take

SHOP, API = Claim("shop:a", 1), Claim("api", 2)


def test_the_first_holds_and_the_next_wait_in_their_order(store: Store) -> None:
    assert [take(store, job) for job in "abc"] == ["held", "waiting", "waiting"]
    assert give_back(store, "a") == ["b"]
    assert take(store, "b") == "held"
    assert give_back(store, "b") == ["c"]


def test_a_job_that_is_enqueued_is_promised_a_slot_before_it_runs(store: Store) -> None:
    assert [line_up(store, job) for job in "ab"] == ["promised", "waiting"]
    assert (state(store).holders, state(store).promised) == ((), ("a",))
    assert take(store, "a") == "held"
    assert (state(store).holders, state(store).waiting) == (("a",), 1)


def test_sent_again_it_has_happened_once(store: Store) -> None:
    for _ in range(2):
        assert line_up(store, "a") == "promised"
    for _ in range(2):
        assert line_up(store, "b") == "waiting"
    for _ in range(2):
        assert take(store, "a") == "held"
    assert (state(store).holders, state(store).waiting) == (("a",), 1)


def test_a_later_run_takes_over_its_jobs_own_slot(store: Store) -> None:
    take(store, "a", fence=1)
    line_up(store, "b")
    assert take(store, "a", fence=2) == "held"
    assert take(store, "a", fence=1) == "lost"
    assert give_back(store, "a", fence=1) == []
    assert state(store).holders == ("a",)
    assert give_back(store, "a", fence=2) == ["b"]


def test_a_stranger_does_not_overtake_those_who_wait(store: Store) -> None:
    take(store, "a")
    line_up(store, "b")
    give_back(store, "a")  # b is on its way
    assert take(store, "c") == "waiting"
    assert take(store, "b") == "held"


def test_all_slots_are_taken_or_none(store: Store) -> None:
    wants = (SHOP, API)
    for job in "ab":
        take(store, job, claims=(API,))
    assert line_up(store, "c", wants) == "waiting"
    assert store.limit("shop:a") is None
    assert take(store, "d", claims=(SHOP,)) == "held"
    assert give_back(store, "a") == []  # c waits for the shop now
    assert state(store, "api").holders == ("b",)
    assert give_back(store, "d") == ["c"]
    assert (state(store, "api").promised, state(store, "shop:a").promised) == (
        ("c",),
        ("c",),
    )


def test_a_shop_has_one_of_its_jobs_at_a_time_in_the_line_of_all(store: Store) -> None:
    for job in "xy":
        take(store, job, claims=(API,))
    take(store, "s", claims=(SHOP,))
    for job in "abc":
        line_up(store, job, (SHOP, API))
    assert give_back(store, "s") == []
    assert (state(store, "shop:a").waiting, state(store, "api").waiting) == (2, 1)
    assert give_back(store, "x") == ["a"]


def test_one_shops_line_does_not_stop_what_all_shops_use(store: Store) -> None:
    other = (Claim("shop:b", 1), API)
    for job in "ab":
        take(store, job, claims=(API,))
    for job in ("a1", "a2", "a3"):
        line_up(store, job, (SHOP, API))
    line_up(store, "b1", other)
    assert give_back(store, "a") == ["a1"]
    assert give_back(store, "b") == ["b1"]


def test_those_who_share_a_wider_limit_take_turns(store: Store) -> None:
    narrow = {shop: (Claim(f"shop:{shop}", 1), Claim("api", 1)) for shop in "xy"}
    take(store, "first", claims=(Claim("api", 1),))
    for n in range(4):
        line_up(store, f"x{n}", narrow["x"])
    for n in range(2):
        line_up(store, f"y{n}", narrow["y"])
    order, ends = [], give_back(store, "first")
    while ends:
        (job,) = ends
        order.append(job)
        begun = store.acquire(job, 1, narrow[job[0]], LEASE, SPAN)
        assert begun.let_go == ()
        ends = give_back(store, job)
    assert order == ["x0", "y0", "x1", "y1", "x2", "x3"]


def test_few_are_in_front_of_others_in_their_queue(store: Store) -> None:
    wide = (Claim("tenant", 8),)
    stands = [line_up(store, f"j{n}", wide) for n in range(4)]
    assert stands == ["promised", "promised", "waiting", "waiting"]
    assert store.acquire("j0", 1, wide, LEASE, SPAN).let_go == ("j2",)


def test_who_comes_with_an_older_ticket_takes_what_a_younger_one_was_promised(
    store: Store, clock: Clock
) -> None:
    line_up(store, "a")
    line_up(store, "b")
    clock.advance(SPAN)
    assert store.grant(10, SPAN).let_go == ("b",)  # a has not come in time
    assert take(store, "a") == "held"
    assert (state(store).promised, state(store).waiting) == ((), 1)
    assert take(store, "b") == "waiting"
    assert give_back(store, "a") == ["b"]


def test_a_rate_is_spaced_by_its_interval(store: Store, clock: Clock) -> None:
    calls = (Claim("calls", 2, 4.0),)
    assert [line_up(store, job, calls) for job in "abc"] == [
        "promised",
        "waiting",
        "waiting",
    ]
    assert take(store, "a", claims=calls) == "held"
    assert store.grant(10, SPAN).wait == 2
    clock.advance(2)
    assert store.grant(10, SPAN).let_go == ("b",)
    assert store.grant(10, SPAN).wait == 2


def test_a_tenth_of_a_rate_may_start_at_once(store: Store) -> None:
    calls = (Claim("calls", 30, 60.0),)
    stands = [take(store, f"j{n}", claims=calls) for n in range(5)]
    assert stands == ["held"] * 3 + ["waiting"] * 2


def test_those_who_were_let_go_and_come_together_are_spread_again(
    store: Store, clock: Clock
) -> None:
    calls = (Claim("calls", 1, 2.0),)
    for job in "abc":
        line_up(store, job, calls)
    for _ in range(2):
        clock.advance(2)
        store.grant(10, SPAN)
    stands = [take(store, job, claims=calls) for job in "abc"]
    assert stands == ["held", "held", "waiting"]
    clock.advance(4)
    assert store.grant(10, SPAN).let_go == ("c",)


def test_a_rate_and_a_slot_of_one_name_are_apart(store: Store) -> None:
    assert take(store, "a", claims=(Claim("x", 1), Claim("x", 1, 60.0))) == "held"
    assert take(store, "b", claims=(Claim("x", 1),)) == "waiting"
    assert take(store, "c", claims=(Claim("x", 1, 60.0),)) == "waiting"
    assert give_back(store, "a") == ["b"]


def test_a_run_that_has_begun_keeps_what_its_code_no_longer_claims(
    store: Store,
) -> None:
    assert take(store, "a") == "held"
    assert take(store, "a", fence=2, claims=(API,)) == "held"
    assert store.limit("shop") is None
    assert state(store, "api").holders == ("a",)
    assert take(store, "b", claims=ONE) == "held"


def test_a_limit_holds_over_all_partitions(make_redis_store: RedisFactory) -> None:
    """Guards `Keys.limits`: one place, whatever partitions the jobs are in."""
    store = make_redis_store(3)
    ids = [f"{number}" for number in range(12)]
    assert {store.keys.partition(job_id) for job_id in ids} == {0, 1, 2}

    standing = [take(store, job_id) for job_id in ids]

    assert standing == ["held", *["waiting"] * 11]
    for number, job_id in enumerate(ids[:-1]):
        assert give_back(store, job_id) == [ids[number + 1]]
        assert take(store, ids[number + 1]) == "held"
        assert state(store).holders == (ids[number + 1],)


def test_who_joins_a_line_and_is_let_go_at_once_is_told_so(
    store: Store, clock: Clock
) -> None:
    wide = Claim("wide", 3)
    for job in "abcd":
        take(store, job, claims=(wide,))
    clock.advance(LEASE + 1)  # of a, b and c: nobody has looked since

    answer = store.acquire("e", 1, (SHOP, wide), LEASE, SPAN)

    assert answer.let_go == ("d", "e")
    assert answer.standing == "promised"
