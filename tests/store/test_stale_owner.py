"""What a process can do to a job that is no longer its own: nothing."""

from collections.abc import Callable

import pytest

from jobkit.store.base import Store
from jobkit.store.values import Kept
from tests.store.clocks import Clock
from tests.store.lives import (
    CRASHED,
    LEASE,
    enqueued,
    failure,
    kept,
    new_job,
    running,
    snapshot,
    started,
)

LOST = Kept(owner=False)

Write = Callable[[Store, int], object]

WRITES: dict[str, tuple[Write, object]] = {
    "renew": (lambda store, fence: store.renew("job", fence, LEASE), LOST),
    "save": (
        lambda store, fence: store.save("job", fence, 99, snapshot(99), LEASE),
        LOST,
    ),
    "cede": (lambda store, fence: store.cede("job", fence), False),
    "succeed": (lambda store, fence: store.succeed("job", fence, snapshot(9)), None),
    "retry": (lambda store, fence: store.retry("job", fence, failure(), 5), None),
    "bury": (lambda store, fence: store.bury("job", fence, failure(), "dead"), False),
    "drain": (lambda store, fence: store.interrupt("job", fence, "drain"), None),
    "requeue": (lambda store, fence: store.interrupt("job", fence, "requeue"), None),
    "pause": (lambda store, fence: store.interrupt("job", fence, "pause"), None),
    "cancel": (lambda store, fence: store.interrupt("job", fence, "cancel"), None),
    "replace": (
        lambda store, fence: store.replace("job", fence, new_job(task="x"), 5),
        None,
    ),
}

every_write = pytest.mark.parametrize("name", WRITES)


def drained(store: Store, fence: int, _clock: Clock) -> None:
    store.interrupt("job", fence, "drain")


def crashed(store: Store, _fence: int, _clock: Clock) -> None:
    store.crash("job", "w1/7", CRASHED)


def silent(store: Store, _fence: int, clock: Clock) -> None:
    clock.advance(LEASE)
    store.rescue()


@pytest.mark.parametrize("lose", [drained, crashed, silent])
@every_write
def test_the_next_owner_does_not_notice(
    store: Store,
    clock: Clock,
    lose: Callable[[Store, int, Clock], None],
    name: str,
) -> None:
    stale = running(store)
    lose(store, stale.fence, clock)
    started(store, token="second", worker="w2")
    before, history = kept(store), store.history("job")

    write, answer = WRITES[name]
    assert write(store, stale.fence) == answer
    assert (kept(store), store.history("job")) == (before, history)


@every_write
def test_a_fence_that_was_never_given_is_none(store: Store, name: str) -> None:
    running(store)
    before = kept(store)
    write, answer = WRITES[name]
    assert write(store, 7) == answer
    assert kept(store) == before


@every_write
def test_a_job_that_is_gone_has_no_owner(store: Store, name: str) -> None:
    write, answer = WRITES[name]
    assert write(store, 1) == answer
    assert store.get("job") is None


@every_write
def test_the_owner_of_a_queued_job_is_to_come(store: Store, name: str) -> None:
    enqueued(store)
    before = kept(store)
    write, answer = WRITES[name]
    assert write(store, 1) == answer
    assert kept(store) == before
