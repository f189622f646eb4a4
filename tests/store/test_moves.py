"""That a store makes the moves of the table, all of them, and no other."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from jobkit.states import MOVES, State
from jobkit.store.base import Store
from jobkit.store.values import BLOCKED_FOR, REPLACED
from tests.store.clocks import Clock
from tests.store.conftest import StoreFactory
from tests.store.lives import (
    CRASHED,
    HINT,
    LEASE,
    enqueued,
    failure,
    new_job,
    running,
    snapshot,
    started,
)

TO_COME = {State.PARTIAL}
"""States that no verb leads to yet."""

Move = tuple[State, State]


def scheduled(store: Store) -> None:
    store.enqueue(new_job(delay=60), "token", HINT)


def fragile(store: Store) -> None:
    enqueued(store, crash_limit=1)


def asked_to_pause(store: Store) -> None:
    running(store)
    store.ask("job", "pause", "", "")


def asked_to_cancel(store: Store) -> None:
    running(store)
    store.ask("job", "cancel", "", "")


def running_and_fragile(store: Store) -> None:
    running(store, crash_limit=1)


def blocked(store: Store) -> None:
    store.enqueue(replace(new_job(), blocked=True), "token", HINT)


def blocked_at_its_start(store: Store) -> None:
    running(store)
    store.interrupt("job", 1, "block")


def retrying(store: Store) -> None:
    running(store)
    store.retry("job", 1, failure(), 60)


def paused(store: Store) -> None:
    enqueued(store)
    store.ask("job", "pause", "", "")


def paused_while_running(store: Store) -> None:
    running(store)
    store.interrupt("job", 1, "pause", "incompatible")


def succeeded(store: Store) -> None:
    running(store)
    store.succeed("job", 1, snapshot(1))


def dead(store: Store) -> None:
    running(store)
    store.bury("job", 1, failure(), "permanent")


def cancelled(store: Store) -> None:
    running(store)
    store.interrupt("job", 1, "cancel")


def replayed(store: Store) -> None:
    dead(store)
    store.replay("job", "resume")
    started(store, token="second")


BEGINNINGS: list[tuple[State, Callable[[Store], object]]] = [
    (State.SCHEDULED, scheduled),
    (State.QUEUED, enqueued),
    (State.QUEUED, fragile),
    (State.RUNNING, running),
    (State.RUNNING, asked_to_pause),
    (State.RUNNING, asked_to_cancel),
    (State.RUNNING, running_and_fragile),
    (State.RUNNING, replayed),
    (State.BLOCKED, blocked),
    (State.BLOCKED, blocked_at_its_start),
    (State.RETRYING, retrying),
    (State.PAUSED, paused),
    (State.PAUSED, paused_while_running),
    (State.SUCCEEDED, succeeded),
    (State.DEAD, dead),
    (State.CANCELLED, cancelled),
]


def rescue(store: Store, clock: Clock) -> None:
    clock.advance(LEASE)
    store.rescue()


def claim_due(store: Store, clock: Clock) -> None:
    clock.advance(BLOCKED_FOR)
    store.claim_due(10, 60)


def prune(store: Store, clock: Clock) -> None:
    clock.advance(60)
    store.prune()


VERBS: list[Callable[[Store, Clock, int], object]] = [
    lambda store, _, __: store.enqueue(new_job(), "another", HINT),
    lambda store, _, __: store.amend("job", "m1", "key", "text"),
    lambda store, _, __: store.published("job", HINT),
    lambda store, _, __: store.published("job", HINT, ok=False),
    lambda store, _, fence: store.published("job", HINT, hints=0, fence=fence),
    lambda store, _, __: store.begin("job", "another", "w1/7", LEASE),
    lambda store, _, fence: store.renew("job", fence, LEASE),
    lambda store, _, fence: store.save("job", fence, 9, snapshot(9), LEASE),
    lambda store, _, fence: store.cede("job", fence),
    lambda store, _, fence: store.succeed("job", fence, snapshot(9)),
    lambda store, _, fence: store.succeed("job", fence, snapshot(9), REPLACED),
    lambda store, _, fence: store.retry("job", fence, failure(), 60),
    lambda store, _, fence: store.bury("job", fence, failure(), "permanent"),
    lambda store, _, fence: store.interrupt("job", fence, "drain"),
    lambda store, _, fence: store.interrupt("job", fence, "requeue"),
    lambda store, _, fence: store.interrupt("job", fence, "pause"),
    lambda store, _, fence: store.interrupt("job", fence, "pause", "why"),
    lambda store, _, fence: store.interrupt("job", fence, "cancel"),
    lambda store, _, fence: store.interrupt("job", fence, "block"),
    lambda store, _, __: store.unblock("job", 60),
    lambda store, _, fence: store.replace("job", fence, new_job(task="x"), 5),
    lambda store, _, __: store.crash("job", "w1", CRASHED),
    lambda store, _, __: store.crash("job", "w2", CRASHED),
    lambda store, clock, _: rescue(store, clock),
    lambda store, clock, _: claim_due(store, clock),
    lambda store, clock, _: prune(store, clock),
    lambda store, _, __: store.ask("job", "cancel", "ada", ""),
    lambda store, _, __: store.ask("job", "pause", "ada", ""),
    lambda store, _, __: store.resume("job"),
    lambda store, _, __: store.replay("job", "resume"),
    lambda store, _, __: store.replay("job", "restart"),
    lambda store, _, __: store.discard("job"),
    lambda store, _, __: store.told("job"),
    lambda store, _, __: store.untold(0),
]


def moves(make_store: StoreFactory, clock: Clock) -> Iterator[Move]:
    """Every verb, sent twice, to a job in every state: the moves it makes."""
    for state, bring in BEGINNINGS:
        for verb in VERBS:
            store = make_store()
            bring(store)
            before = store.get("job")
            assert before
            assert before.state is state
            verb(store, clock, before.fence)
            verb(store, clock, before.fence)
            after = store.get("job")
            if after and after.state is not state:
                yield state, after.state


@pytest.mark.parametrize(
    "make_store",
    ["memory", "redis", pytest.param("redis-3", marks=pytest.mark.long)],
    indirect=True,
)
def test_moves_and_table_agree(make_store: StoreFactory, clock: Clock) -> None:
    table = {(before, after) for before in MOVES for after in MOVES[before]}
    to_come = {move for move in table if TO_COME & set(move)}
    assert set(moves(make_store, clock)) == table - to_come


def test_every_state_is_in_the_table() -> None:
    assert set(MOVES) == set(State)
