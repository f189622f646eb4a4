"""Workers shut down, warm, soft or cold: their jobs go on elsewhere at once."""

import signal
import time
from pathlib import Path

import pytest

from jobkit import Job, JobResult, State
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, FleetFactory
from tests.worker.promises import (
    HANDOVER,
    RECOVERY,
    SLACK,
    on_all_brokers,
    on_all_brokers_in_the_long_form,
)
from tests.worker.setup import LEASE

ITEMS = 200


def handed_over(
    fleet: Fleet, result: JobResult, number: signal.Signals
) -> tuple[Job, int, set[str], float]:
    """Shut the owner down in mid-job.

    The job when it ended, the worker's exit code, the states that Celery showed,
    and the seconds until another worker went on.
    """
    fleet.journal.wait_for(result.id, count=ITEMS // 2)
    owner = fleet.owner(result.id)
    asked_at = time.monotonic()
    owner.send_signal(number)
    shown: set[str] = set()

    def ended() -> bool:
        shown.add(fleet.shown(result.id))
        return fleet.jobs.get(result.id).state.finished

    wait_until(ended, "the job has ended")
    resumed = fleet.journal.wait_for(result.id, fence=2)
    return (
        fleet.wait_for(result.id),
        owner.wait(),
        shown | {fleet.shown(result.id)},
        resumed.at - asked_at,
    )


def assert_drained(fleet: Fleet, job: Job, repeated: int = 0) -> None:
    assert set(fleet.journal.items(job.id)) == set(range(1, ITEMS + 1))
    assert len(fleet.journal.repeated(job.id)) <= repeated
    assert job.state is State.SUCCEEDED
    assert (job.interruptions, job.recoveries, job.attempts) == (1, 0, 0)
    assert fleet.ends(job.id) == [State.SUCCEEDED]


@on_all_brokers
def test_a_warm_shutdown_hands_the_job_over(fleet: Fleet) -> None:
    fleet.start("a", "b")
    result = fleet.send("walk", ITEMS)

    job, code, shown, seconds = handed_over(fleet, result, signal.SIGTERM)

    assert_drained(fleet, job)
    assert seconds <= HANDOVER + SLACK
    assert code == 0
    assert shown <= {"PENDING", "PROGRESS", "SUCCESS"}


def test_a_spawned_child_hands_the_job_over(
    make_fleet: FleetFactory, tmp_path: Path
) -> None:
    spawn = {"worker_pool_start_method": "spawn", "include": ["tests.worker.app"]}
    fleet = make_fleet(**spawn)
    fleet.start("a", "b")
    result = fleet.send("walk", ITEMS)

    job, code, _, seconds = handed_over(fleet, result, signal.SIGTERM)

    assert_drained(fleet, job)
    assert seconds <= HANDOVER + SLACK
    assert code == 0
    # That of the other worker, which goes on.
    assert len(list(tmp_path.glob("jobkit-drain-*"))) == 1


def test_a_cold_shutdown_repeats_the_item_in_hand_at_most(fleet: Fleet) -> None:
    fleet.start("a", "b")
    result = fleet.send("walk", ITEMS)

    job, _, shown, seconds = handed_over(fleet, result, signal.SIGQUIT)

    assert_drained(fleet, job, repeated=1)
    assert seconds <= HANDOVER + SLACK
    assert "FAILURE" not in shown


def test_a_cold_shutdown_hands_over_a_job_whose_message_is_acknowledged(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_ack_after=0.1)
    fleet.start("a", "b")
    result = fleet.send("walk", ITEMS, 0.02)
    wait_until(
        lambda: "message acknowledged" in fleet.owner(result.id).log,
        "the broker has forgotten it",
    )

    job, _, shown, seconds = handed_over(fleet, result, signal.SIGQUIT)

    assert_drained(fleet, job)
    assert seconds <= HANDOVER + SLACK
    assert shown <= {"PENDING", "PROGRESS", "SUCCESS"}


def test_a_soft_shutdown_hands_the_job_over(make_fleet: FleetFactory) -> None:
    fleet = make_fleet(worker_soft_shutdown_timeout=8)
    fleet.start("a", "b")
    result = fleet.send("walk", ITEMS)

    job, _, shown, seconds = handed_over(fleet, result, signal.SIGQUIT)

    assert_drained(fleet, job)
    assert seconds <= HANDOVER + SLACK
    assert shown <= {"PENDING", "PROGRESS", "SUCCESS"}


def test_a_job_goes_on_though_the_leaving_worker_has_fetched_it_again(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(worker_soft_shutdown_timeout=10, jobkit_dispatch_interval=0.05)
    (leaving,) = fleet.start("a")
    # Publishes only, so that the last fetch of the other gets the message.
    publishing = fleet.worker("b", "-Q", "elsewhere").start()
    result = fleet.send("walk", ITEMS)
    fleet.journal.wait_for(result.id, count=10)

    leaving.send_signal(signal.SIGQUIT)
    wait_until(
        lambda: f"Published job {result.id}" in publishing.log, "it is handed on"
    )
    fleet.start("c")

    fleet.journal.wait_for(result.id, fence=2)
    assert leaving.running
    assert_drained(fleet, fleet.wait_for(result.id))
    assert leaving.running


def test_a_job_that_no_worker_has_begun_is_handed_over_too(fleet: Fleet) -> None:
    (worker,) = fleet.start("a")
    first, second = fleet.send("walk", 300), fleet.send("walk", 5)
    fleet.journal.wait_for(first.id, count=20)

    assert worker.stop() == 0
    fleet.start("b")

    assert fleet.wait_for(second.id).starts == 1
    assert fleet.wait_for(first.id).interruptions == 1


@on_all_brokers_in_the_long_form
@pytest.mark.parametrize(
    "signals",
    [
        "TERM",
        pytest.param("TERM QUIT", marks=pytest.mark.long),
        pytest.param("QUIT", marks=pytest.mark.long),
    ],
)
def test_a_job_that_does_not_stop_is_named_and_recovered(
    make_fleet: FleetFactory, signals: str
) -> None:
    fleet = make_fleet(jobkit_checkpoint_every=5)
    (worker,) = fleet.start("a", concurrency=2)
    deaf, other = fleet.send("stumble", 40, [13], "deaf"), fleet.send("walk", ITEMS)
    fleet.journal.wait_for(deaf.id, count=13)
    fleet.journal.wait_for(other.id, count=10)
    fetched = fleet.send("walk", 5)
    wait_until(lambda: f"[{fetched.id}] received" in worker.log, "it is fetched")
    fleet.start("b", concurrency=2)

    asked_at = time.monotonic()
    for name in signals.split():
        worker.send_signal(signal.Signals[f"SIG{name}"])
        wait_until(lambda: "worker: " in worker.log, "it has heard of it")
    wait_until(lambda: f"Job {deaf.id} has not stopped" in worker.log, "it is named")
    killed_at = worker.kill()

    assert "stage 'import', cursor 10, 10 items" in worker.log
    assert worker.log.count("has not stopped") == 1
    resumed = fleet.journal.wait_for(deaf.id, fence=2)
    assert resumed.item == "11"
    assert resumed.at - killed_at <= LEASE + RECOVERY + SLACK
    begun, resumed = (
        fleet.journal.wait_for(fetched.id),
        fleet.journal.wait_for(other.id, 2),
    )
    assert max(begun.at, resumed.at) - asked_at <= HANDOVER + SLACK
    jobs = [fleet.wait_for(result.id) for result in (deaf, other, fetched)]
    assert {job.state for job in jobs} == {State.SUCCEEDED}
    assert [job.recoveries for job in jobs] == [1, 0, 0]
    assert [job.attempts for job in jobs] == [0, 0, 0]
