"""The turns of a worker's queues: exact shares, nothing starves, or strictly."""

import json
import pickle
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from kombu.utils.json import dumps
from kombu.utils.scheduling import cycle_by_name

from jobkit.order import Order, StrictTurns, WeightedTurns

WEIGHTS = (("critical", 8), ("high", 4), ("normal", 2), ("low", 1))
NAMES = [name for name, _ in WEIGHTS]


def turns(
    *, strict: bool = False, names: Iterable[str] = NAMES, weights: object = WEIGHTS
) -> StrictTurns:
    made = Order(weights, strict)()  # type: ignore[arg-type]
    made.update(names)
    return made


def serve(taken: StrictTurns, filled: Iterable[str]) -> str:
    """Serve the first queue that has a message, as BRPOP does."""
    there = set(filled)
    served = next(name for name in taken.consume(99) if name in there)
    return taken.rotate(served)


def served(taken: StrictTurns, times: int, filled: Iterable[str] = NAMES) -> list[str]:
    return [serve(taken, filled) for _ in range(times)]


def test_kombu_takes_an_order_as_a_strategy() -> None:
    order: Any = Order(WEIGHTS)
    strict: Any = Order(WEIGHTS, strict=True)

    kinds = [type(cycle_by_name(each)()).__name__ for each in (order, strict)]

    assert kinds == [WeightedTurns.__name__, StrictTurns.__name__]
    assert cycle_by_name(order)() is not cycle_by_name(order)()


def test_an_order_can_be_shown_and_sent_to_another_process() -> None:
    order = Order(WEIGHTS, strict=True)

    assert json.loads(dumps({"order": order})) == {"order": "jobkit, strict"}
    assert pickle.loads(pickle.dumps(order)) == order  # noqa: S301 - our own
    assert repr(order) == repr(Order(WEIGHTS, strict=True))


@pytest.mark.parametrize("rounds", [1, 2, 66])
def test_full_queues_get_their_exact_shares(rounds: int) -> None:
    shares = Counter(served(turns(), 15 * rounds))

    assert shares == {name: weight * rounds for name, weight in WEIGHTS}


@pytest.mark.parametrize(
    "weights",
    [
        (("a", 1), ("b", 1)),
        (("a", 3), ("b", 7)),
        (("a", 1), ("b", 100)),
        (("a", 13), ("b", 11), ("c", 7)),
    ],
)
def test_at_no_moment_is_a_queue_more_than_a_turn_from_its_share(
    weights: tuple[tuple[str, int], ...],
) -> None:
    whole = sum(weight for _, weight in weights)
    taken = turns(names=[name for name, _ in weights], weights=weights)
    counts: Counter[str] = Counter()

    for so_far in range(1, 5 * whole):
        counts[serve(taken, dict(weights))] += 1
        for name, weight in weights:
            assert abs(counts[name] - so_far * weight / whole) <= len(weights) / 2


def test_the_turns_of_a_queue_are_spread() -> None:
    assert served(turns(), 15).index("low") >= 7
    every = [i for i, name in enumerate(served(turns(), 60)) if name == "critical"]
    assert max(b - a for a, b in pairwise(every)) <= 4


def test_the_same_calls_give_the_same_turns() -> None:
    assert served(turns(), 500) == served(turns(), 500)


def test_a_worker_of_some_queues_serves_them_by_their_weights() -> None:
    shares = Counter(served(turns(names=["critical", "low"]), 90, ["critical", "low"]))

    assert shares == {"critical": 80, "low": 10}


@pytest.mark.parametrize("before", range(40))
def test_the_first_message_of_the_most_urgent_queue_is_the_next(before: int) -> None:
    taken = turns()
    served(taken, before, NAMES[1:])

    assert serve(taken, NAMES) == "critical"


@pytest.mark.parametrize("before", range(40))
def test_the_first_message_of_a_queue_that_was_empty_is_served_soon(
    before: int,
) -> None:
    taken = turns()
    served(taken, 1_000 + before, NAMES[:-1])

    assert "low" in served(taken, 4)


@pytest.mark.parametrize("name", NAMES)
def test_a_queue_that_was_empty_has_not_saved_its_turns(name: str) -> None:
    taken = turns()
    served(taken, 1_000, [other for other in NAMES if other != name])

    shares = Counter(served(taken, 150))

    assert abs(shares[name] - 10 * dict(WEIGHTS)[name]) <= 2


def test_a_message_that_comes_a_moment_late_has_not_lost_its_turn() -> None:
    taken, shares, last = turns(), Counter[str](), ""

    for number in range(1_500):
        # Each third time the next message of the same queue is still on its way.
        last = serve(taken, set(NAMES) - ({last} if number % 3 == 0 else set()))
        shares[last] += 1

    assert shares == {name: 100 * weight for name, weight in WEIGHTS}


def test_no_queue_starves_behind_an_endless_one() -> None:
    taken = turns()
    served(taken, 100, ["critical"])

    assert "low" in served(taken, 2, ["critical", "low"])
    assert served(taken, 180, ["critical", "low"]).count("low") == 20


def test_strict_serves_the_most_urgent_queue_that_has_a_message() -> None:
    taken = turns(strict=True, names=reversed(NAMES))

    assert served(taken, 3) == ["critical"] * 3
    assert served(taken, 2, ["low", "normal"]) == ["normal"] * 2
    assert served(taken, 1, ["low"]) == ["low"]
    assert served(taken, 1) == ["critical"]


@pytest.mark.parametrize("strict", [True, False])
def test_a_queue_that_is_not_in_the_map_comes_last(*, strict: bool) -> None:
    taken = turns(strict=strict, names=["celery", *NAMES])

    assert taken.consume(5)[-1] == "celery"
    assert served(taken, 160, ["celery", *NAMES]).count("celery") == (
        0 if strict else 10
    )


def test_no_more_queues_are_told_than_asked_for() -> None:
    assert turns().consume(2) == ["critical", "high"]
    assert turns(names=[]).consume(0) == []


def test_a_queue_may_be_taken_up_and_given_up_while_others_are_served() -> None:
    taken = turns(names=["critical", "high"])
    served(taken, 300, ["critical", "high"])

    taken.update(["critical", "high", "low"])
    shares = Counter(served(taken, 130, ["critical", "high", "low"]))
    taken.update(["critical", "low"])

    assert shares == {"critical": 80, "high": 40, "low": 10}
    assert set(served(taken, 20, ["critical", "low"])) == {"critical", "low"}


@pytest.mark.parametrize("strict", [True, False])
def test_a_queue_that_is_no_longer_consumed_may_still_have_been_served(
    *, strict: bool
) -> None:
    taken = turns(strict=strict, names=["critical"])

    assert taken.rotate("low") == "low"
    assert taken.consume(9) == ["critical"]
