"""Errors have verdicts: another try, a longer wait, or a dead letter to replay."""

import pytest

from jobkit import NotAllowed, State
from jobkit.retry import Budgets
from tests.waiting import wait_until
from tests.worker.fleet import Fleet
from tests.worker.promises import backend_writes_here


def event_times(fleet: Fleet, job_id: str, name: str) -> list[float]:
    events = fleet.jobs.history(job_id)
    return [event.at.timestamp() for event in events if event.name == name]


def test_a_permanent_error_is_a_dead_letter_after_one_run(
    standing_fleet: Fleet,
) -> None:
    fleet = standing_fleet
    result = fleet.send("stumble", 20, [10], "permanent", 99)

    job = fleet.wait_for(result.id)

    assert (job.state, job.reason) == (State.DEAD, "permanent")
    assert (job.starts, job.attempts) == (1, 1)
    assert job.error
    assert (job.error.type, job.error.verdict) == ("Permanent", "permanent")
    assert "no such order" in job.error.message
    assert "in stumble" in job.error.traceback
    assert job.progress.current == 9
    assert (job.progress.stage, job.progress.total) == ("import", 20)
    assert job.message
    wait_until(lambda: fleet.shown(result.id) == "FAILURE", "Celery knows")
    assert fleet.ends(job.id) == [State.DEAD]


def test_a_transient_error_costs_an_attempt_and_repeats_no_other_item(
    standing_fleet: Fleet,
) -> None:
    fleet = standing_fleet
    result = fleet.send("stumble", 20, [10], "connection", pause=0.01)

    assert result.get(timeout=20) == 20
    job = fleet.wait_for(result.id)

    # The item that raised was not done, so it comes again; no other does.
    assert fleet.journal.items(job.id) == [*range(1, 11), *range(10, 21)]
    assert (job.state, job.attempts, job.starts) == (State.SUCCEEDED, 1, 2)
    assert [event.name for event in fleet.jobs.history(job.id)].count("retrying") == 1


def test_a_rate_limit_is_waited_for_and_costs_no_attempt(
    standing_fleet: Fleet,
) -> None:
    fleet = standing_fleet
    result = fleet.send("stumble", 5, [3], "limited")

    job = fleet.wait_for(result.id, State.RETRYING)
    assert job.error
    assert job.error.verdict == "rate_limited"
    assert result.get(timeout=20) == 5
    job = fleet.wait_for(result.id)

    before, after = (
        fleet.journal.entries(job.id, 1)[-1],
        fleet.journal.entries(job.id, 2),
    )
    assert after[0].at - before.at >= 1.0
    assert (job.attempts, job.rate_limited) == (0, 1)


@backend_writes_here
def test_a_service_that_asks_for_two_minutes_gets_them(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("stumble", 5, [3], "limited_long")

    job = fleet.wait_for(result.id, State.RETRYING)

    assert job.due_at
    assert 120 <= (job.due_at - job.updated_at).total_seconds() <= 132
    assert (job.attempts, job.rate_limited) == (0, 1)
    assert Budgets.decode(job.budgets) == Budgets(rate_limited=1, position=2)
    fleet.jobs.cancel(job.id)


def test_an_error_that_the_task_calls_permanent_is_a_dead_letter_at_once(
    standing_fleet: Fleet,
) -> None:
    fleet = standing_fleet
    result = fleet.send("strict", 5, [3], "value", 99)

    job = fleet.wait_for(result.id)

    assert (job.state, job.reason, job.starts) == (State.DEAD, "permanent", 1)
    assert job.error
    assert (job.error.type, job.error.verdict) == ("ValueError", "permanent")


def test_an_unknown_error_uses_up_its_budget(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("stumble", 5, [3], "value", 99)

    job = fleet.wait_for(result.id)

    assert (job.state, job.reason) == (State.DEAD, "retries_exhausted")
    assert (job.starts, job.attempts) == (3, 3)
    assert job.error
    assert (job.error.type, job.error.verdict) == ("ValueError", "unknown")
    assert fleet.journal.items(job.id) == [1, 2, 3, 3, 3]


@pytest.mark.parametrize("how", ["memory", "exit"])
def test_a_process_that_gives_up_is_a_crash_and_no_error(
    standing_fleet: Fleet, how: str
) -> None:
    fleet = standing_fleet
    result = fleet.send("stumble", 20, [10], how)

    assert result.get(timeout=20) == 20
    job = fleet.wait_for(result.id)

    assert set(fleet.journal.items(job.id)) == set(range(1, 21))
    assert (job.state, job.recoveries, job.attempts) == (State.SUCCEEDED, 1, 0)


@pytest.mark.parametrize(("mode", "first"), [("resume", 3), ("restart", 1)])
def test_a_dead_job_is_replayed_from_where_it_is_asked(
    standing_fleet: Fleet, mode: str, first: int
) -> None:
    fleet = standing_fleet
    result = fleet.send("stumble", 5, [3], "permanent", 1)
    dead = fleet.wait_for(result.id)
    assert dead.state is State.DEAD

    replays = {fleet.jobs.replay(dead.id, mode) for _ in range(2)}  # type: ignore[arg-type]
    job = fleet.wait_for(dead.id, State.SUCCEEDED)

    assert replays == {dead.id}
    assert fleet.journal.items(job.id, fence=2) == list(range(first, 6))
    assert (job.replays, job.starts) == (1, 2)
    assert fleet.ends(job.id) == [State.DEAD, State.SUCCEEDED]
    wait_until(lambda: fleet.shown(result.id) == "SUCCESS", "Celery knows")
    with pytest.raises(NotAllowed):
        fleet.jobs.replay(job.id)


def test_a_replay_has_the_whole_budget_again(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("stumble", 5, [3], "value", 5)
    assert fleet.wait_for(result.id).reason == "retries_exhausted"

    fleet.jobs.replay(result.id)
    job = fleet.wait_for(result.id, State.SUCCEEDED)

    assert job.starts == 6


def test_a_discarded_dead_letter_is_cancelled(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("stumble", 5, [3], "permanent", 99)
    fleet.wait_for(result.id, State.DEAD)

    fleet.jobs.discard(result.id, reason="gone", actor="ann")

    assert fleet.jobs.get(result.id).state is State.CANCELLED
    assert fleet.ends(result.id) == [State.DEAD, State.CANCELLED]
