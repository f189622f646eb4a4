"""The broker delivers a message more than once; user code runs once."""

from typing import Any

from jobkit import State
from tests.waiting import wait_until
from tests.worker.fleet import Fleet
from tests.worker.promises import on_all_brokers_at_length

COPIES = 30


def refusals(fleet: Fleet) -> int:
    logs = [worker.log for worker in fleet.workers.values()]
    return sum(log.count("is not started:") for log in logs)


@on_all_brokers_at_length
def test_user_code_runs_once_whatever_is_delivered(fleet: Fleet) -> None:
    fleet.start("a", "b")
    result = fleet.send("walk", 200)
    fleet.journal.wait_for(result.id, count=10)
    message = fleet.jobs.get(result.id).message
    assert message

    with fleet.publisher() as publisher:
        for _ in range(COPIES):
            publisher.publish(message)
        wait_until(lambda: refusals(fleet) > COPIES / 2, "the other one has had most")
        assert fleet.jobs.get(result.id).state is State.RUNNING
        fleet.wait_for(result.id)
        wait_until(lambda: refusals(fleet) == COPIES, "all copies are done with")
        job, stored = fleet.jobs.get(result.id), raw_result(fleet, result.id)
        publisher.publish(message)
        wait_until(lambda: refusals(fleet) == COPIES + 1, "the last is done with")

    assert fleet.journal.items(result.id) == list(range(1, 201))
    assert (job.starts, job.attempts, job.recoveries) == (1, 0, 0)
    assert fleet.jobs.get(result.id) == job
    assert raw_result(fleet, result.id) == stored
    assert fleet.ends(result.id) == [State.SUCCEEDED]


def raw_result(fleet: Fleet, job_id: str) -> object:
    backend: Any = fleet.app.backend
    return backend.get(backend.get_key_for_task(job_id))
