"""How a run makes its job another task's."""

import pytest

from jobkit.clock import from_milliseconds
from jobkit.job import NewJob, RequestKind
from jobkit.states import State
from jobkit.store.base import Store
from tests.store.clocks import Clock
from tests.store.lives import (
    HINT,
    LEASE,
    failure,
    kept,
    last_event,
    message,
    names,
    new_job,
    running,
    snapshot,
    started,
)

OTHER = NewJob(
    id="job",
    task="shop.other",
    message=message("shop.other").encode(),
    queue="high",
    priority=9,
    dead_letter_queue="other.dead",
    stages=("all",),
    crash_limit=5,
)


def test_the_job_is_the_other_task_from_its_beginning(
    store: Store, clock: Clock
) -> None:
    store.enqueue(new_job(owner="ada"), "token", HINT)
    run = started(store)
    store.save("job", run.fence, 1, snapshot(5), LEASE)
    store.retry("job", run.fence, failure(), 0)
    store.claim_due(10, 60)
    run = started(store, token="second")
    clock.advance(2)

    assert store.replace("job", run.fence, OTHER, 5) is State.QUEUED
    job = kept(store)
    assert (job.task, job.message) == ("shop.other", message("shop.other"))
    assert (job.queue, job.priority, job.dead_letter_queue) == ("high", 9, "other.dead")
    assert (job.stages, job.crash_limit, job.owner) == (("all",), 5, "ada")
    assert (job.position, job.checkpoint, job.progress.current) == (0, "", 0)
    assert (job.attempts, job.budgets, job.error) == (0, "", None)
    assert job.due_at == from_milliseconds(clock.now + 5_000)
    assert job.lease_until is None
    assert (last_event(store).name, last_event(store).detail) == (
        "replaced",
        "shop.other",
    )


def test_it_is_listed_as_what_it_is_now(store: Store) -> None:
    run = running(store)
    store.replace("job", run.fence, OTHER, 5)

    assert [job.id for job in store.list(task="shop.other").items] == ["job"]
    assert [job.id for job in store.list(queue="high").items] == ["job"]
    assert store.list(task="shop.sync").items == ()
    assert store.list(queue="normal").items == ()


def test_told_again_it_is_replaced_once(store: Store, clock: Clock) -> None:
    run = running(store)
    store.replace("job", run.fence, OTHER, 5)
    before = kept(store)
    clock.advance(1)

    assert store.replace("job", run.fence, OTHER, 5) is State.QUEUED
    assert kept(store) == before
    assert names(store).count("replaced") == 1


def test_a_stale_owner_replaces_nothing(store: Store) -> None:
    stale = running(store)
    store.interrupt("job", stale.fence, "drain")
    started(store, token="second")
    before = kept(store)

    assert store.replace("job", stale.fence, OTHER, 5) is None
    assert kept(store) == before


@pytest.mark.parametrize(
    ("kind", "state"), [("cancel", State.CANCELLED), ("pause", State.PAUSED)]
)
def test_what_was_asked_of_the_run_holds_for_the_other_task(
    store: Store, kind: RequestKind, state: State
) -> None:
    run = running(store)
    store.ask("job", kind, "ada", "enough")

    assert store.replace("job", run.fence, OTHER, 5) is state
    job = kept(store)
    assert (job.task, job.reason, job.request) == ("shop.other", "enough", None)
