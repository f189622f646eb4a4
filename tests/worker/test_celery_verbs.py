"""What Celery offers its tasks means the same for jobs."""

from typing import Any

import pytest
from celery import chain, group

from jobkit import State
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, FleetFactory


def tries(fleet: Fleet, job_id: str) -> list[str]:
    return [entry.item for entry in fleet.journal.entries(job_id)]


def test_self_retry_waits_in_the_store_and_runs_again(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("again", 2)

    assert result.get(timeout=20) == "done"
    job = fleet.wait_for(result.id)

    entries = fleet.journal.entries(job.id)
    assert [entry.item for entry in entries] == ["try-0", "try-1", "try-2"]
    assert entries[1].at - entries[0].at >= 0.2
    assert (job.state, job.starts) == (State.SUCCEEDED, 3)


def test_self_retry_beyond_its_limit_fails_and_is_dead(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("again", 99)

    job = fleet.wait_for(result.id)

    assert tries(fleet, job.id) == ["try-0", "try-1", "try-2", "try-3"]
    assert job.state is State.DEAD
    assert job.error
    assert job.error.type == "MaxRetriesExceededError"
    wait_until(lambda: fleet.shown(result.id) == "FAILURE", "Celery knows")


def test_self_retry_may_change_the_arguments(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("again_with_more", [])

    assert result.get(timeout=20) == [0, 1, 2]
    assert tries(fleet, result.id) == ["got-0", "got-1", "got-2", "got-3"]


def test_autoretry_for_retries(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("automatic", 2)

    assert result.get(timeout=20) == "done"
    assert tries(fleet, result.id) == ["try-0", "try-1", "try-2"]


def test_autoretry_for_gives_up(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("automatic", 99)

    job = fleet.wait_for(result.id)

    assert tries(fleet, result.id) == ["try-0", "try-1", "try-2"]
    assert job.state is State.DEAD
    assert job.error
    assert job.error.type == "KeyError"
    wait_until(lambda: fleet.shown(result.id) == "FAILURE", "Celery knows")


def test_a_task_that_raises_ignore_has_ended_well(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("end_as", "ignore")

    job = fleet.wait_for(result.id)

    assert (job.state, job.reason) == (State.SUCCEEDED, "ignored")
    assert fleet.shown(result.id) == "PENDING"


def test_a_rejected_task_is_dead(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("end_as", "reject")

    job = fleet.wait_for(result.id)

    assert (job.state, job.reason) == (State.DEAD, "rejected")
    wait_until(lambda: fleet.shown(result.id) == "FAILURE", "Celery knows")


def test_a_task_that_is_requeued_when_its_message_is_gone_runs_again(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_ack_after=0.1)
    (worker,) = fleet.start("a")
    result = fleet.send("end_as", "requeue late")

    job = fleet.wait_for(result.id, timeout=20)  # less than the broker's time for it

    assert "message acknowledged" in worker.log
    assert (job.state, job.starts) == (State.SUCCEEDED, 2)


def test_a_task_that_is_requeued_runs_again(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("end_as", "requeue")

    assert result.get(timeout=20) == "requeue"
    job = fleet.wait_for(result.id)

    assert (job.state, job.starts, job.attempts) == (State.SUCCEEDED, 2, 0)
    assert fleet.ends(job.id) == [State.SUCCEEDED]


def test_a_soft_time_limit_is_an_error_of_the_task(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("soft")

    job = fleet.wait_for(result.id)

    assert (job.state, job.reason) == (State.DEAD, "retries_exhausted")
    assert (job.starts, job.attempts) == (2, 2)
    assert job.error
    assert job.error.type == "SoftTimeLimitExceeded"
    assert job.error.verdict == "time_limit"


def test_a_hard_time_limit_is_the_end(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send("hard")

    job = fleet.wait_for(result.id)
    wait_until(lambda: fleet.shown(result.id) == "FAILURE", "Celery knows")

    assert (job.state, job.starts) == (State.DEAD, 1)
    assert job.error
    assert job.error.verdict == "time_limit"


def test_a_chain_hands_results_on(standing_fleet: Fleet) -> None:
    add = standing_fleet.task("add")

    result: Any = chain(add.s(1, 2), add.s(10), add.s(100)).apply_async()

    assert result.get(timeout=20) == 113
    for part in (result, result.parent, result.parent.parent):
        assert standing_fleet.wait_for(part.id).state is State.SUCCEEDED


@pytest.mark.parametrize(
    ("name", "error"), [("sell", "TypeError"), ("sole", "CodecError")]
)
def test_a_chain_that_cannot_go_on_ends_there(
    standing_fleet: Fleet, name: str, error: str
) -> None:
    """Guards `REFUSED`: the body would be repeated every 5 seconds for ever."""
    fleet = standing_fleet
    blame = fleet.task("blame").s()
    first = fleet.task("add").s(1, 2).on_error(blame)

    result: Any = chain(first, fleet.task(name).si()).apply_async()

    job = fleet.wait_for(result.parent.id)
    assert (job.state, job.reason, job.starts) == (State.DEAD, "failed_after_body", 1)
    assert job.error
    assert (job.error.type, "'shop'" in job.error.message) == (error, True)
    wait_until(lambda: fleet.shown(job.id) == "FAILURE", "Celery knows")
    wait_until(
        lambda: f"blame-{job.id}" in [e.item for e in fleet.journal.entries()],
        "the errback ran",
    )
    assert len(fleet.journal.entries(job.id)) == 1


def test_a_group_gives_all_results(standing_fleet: Fleet) -> None:
    add = standing_fleet.task("add")

    result = group(add.s(n, n) for n in range(5)).apply_async()

    assert result.get(timeout=20) == [0, 2, 4, 6, 8]


def test_a_chain_of_groups_becomes_chords(standing_fleet: Fleet) -> None:
    add, total = standing_fleet.task("add"), standing_fleet.task("total")
    both = group(add.s(1, 1), add.s(2, 2))

    result = chain(both, total.s(), add.s(100)).apply_async()

    assert result.get(timeout=20) == 106


def test_a_link_is_called_once_the_job_is_done(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    add = fleet.task("add")

    result = add.apply_async((20, 30), link=add.s(7))

    assert result.get(timeout=20) == 50
    wait_until(
        lambda: "50+7" in [entry.item for entry in fleet.journal.entries()],
        "the link ran",
    )


def test_a_link_error_is_called_when_the_job_is_dead(standing_fleet: Fleet) -> None:
    fleet = standing_fleet
    result = fleet.send(
        "stumble", 5, [2], "value", 99, link_error=fleet.task("blame").s()
    )

    fleet.wait_for(result.id, State.DEAD)
    wait_until(
        lambda: f"blame-{result.id}" in [e.item for e in fleet.journal.entries()],
        "the errback ran",
    )

    blamed = [e for e in fleet.journal.entries() if e.item == f"blame-{result.id}"]
    assert len(blamed) == 1
