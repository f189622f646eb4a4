"""How jobs enter: by name or by task, at once or at a time."""

from typing import Any

import pytest

from jobkit import JobNotFound, State
from tests.waiting import wait_until
from tests.worker import stranger
from tests.worker.fleet import Fleet
from tests.worker.promises import (
    backend_writes_here,
    on_all_brokers_at_length,
    on_quorum_queues,
)


def waiting_messages(fleet: Fleet) -> int:
    """How many messages lie in the fleet's queue."""
    with fleet.app.connection_for_read() as connection:
        queue = fleet.app.amqp.queues[fleet.setup.name](connection.default_channel)
        declared: Any = queue.queue_declare()
        return int(declared.message_count)


@on_all_brokers_at_length
def test_a_job_that_a_stranger_sends_by_name_is_recorded_when_it_begins(
    fleet: Fleet,
) -> None:
    job_id = stranger.send(fleet.setup, "t.add", 1, 2, headers={"shop_id": "7"})
    with pytest.raises(JobNotFound):
        fleet.jobs.get(job_id)

    fleet.start("a")
    job = fleet.wait_for(job_id)

    assert (job.state, job.starts, job.task) == (State.SUCCEEDED, 1, "t.add")
    assert job.queue == fleet.setup.name
    assert job.message
    assert job.message.headers["shop_id"] == "7"
    assert len(fleet.journal.entries(job_id)) == 1


def test_a_job_that_a_stranger_sends_is_as_durable_as_any(fleet: Fleet) -> None:
    fleet.start("a", "b")
    job_id = stranger.send(fleet.setup, "t.walk", 100)
    fleet.journal.wait_for(job_id, count=20)

    fleet.owner(job_id).kill()
    job = fleet.wait_for(job_id)

    assert (job.state, job.recoveries) == (State.SUCCEEDED, 1)
    assert set(fleet.journal.items(job_id)) == set(range(1, 101))


def test_a_job_of_ours_that_is_sent_by_name_is_recorded_before_its_message(
    fleet: Fleet,
) -> None:
    result = fleet.app.send_task("t.add", (1, 2))

    job = fleet.jobs.get(result.id)
    assert (job.state, job.task, job.starts) == (State.QUEUED, "t.add", 0)
    assert waiting_messages(fleet) == 1
    fleet.start("a")
    assert result.get(timeout=20) == 3
    assert len(fleet.journal.entries(result.id)) == 1


@on_all_brokers_at_length
@backend_writes_here
def test_a_job_for_later_waits_in_the_store_alone(fleet: Fleet) -> None:
    later = fleet.send("add", 1, 2, countdown=3.0)
    never = fleet.send("add", 3, 4, countdown=3.0)

    job = fleet.jobs.get(later.id)
    assert job.due_at
    assert job.state is State.SCHEDULED
    assert 2.9 <= (job.due_at - job.created_at).total_seconds() <= 3.0
    assert waiting_messages(fleet) == 0
    assert fleet.jobs.cancel(never.id)
    fleet.start("a")
    assert later.get(timeout=20) == 3

    began = fleet.wait_for(later.id).started_at
    assert began
    assert 0 <= (began - job.due_at).total_seconds() <= 2.0
    assert fleet.jobs.get(never.id).state is State.CANCELLED
    assert not fleet.journal.entries(never.id)


@pytest.mark.long
@on_quorum_queues
def test_a_job_that_celery_delays_itself_is_kept_without_the_delay(
    fleet: Fleet,
) -> None:
    (worker,) = fleet.start("a")
    worker.stop()
    result = fleet.app.send_task("t.add", (1, 2), countdown=4)
    job = fleet.jobs.get(result.id)
    assert job.message
    assert job.queue == fleet.setup.name
    assert waiting_messages(fleet) == 0

    with fleet.publisher() as publisher:
        publisher.publish(job.message)
    wait_until(lambda: waiting_messages(fleet) == 1, "its hint is there at once", 2)
    worker.start()

    assert result.get(timeout=20) == 3
    wait_until(lambda: "is not started: finished" in worker.log, "the other came too")
    assert fleet.wait_for(result.id).starts == 1


def test_a_job_with_a_key_is_there_once(fleet: Fleet) -> None:
    first, second = (
        fleet.send("add", 1, 2, idempotency_key="order-1") for _ in range(2)
    )

    assert (first.id, first.existing) == (second.id, False)
    assert second.existing
    assert waiting_messages(fleet) == 1
    fleet.start("a")
    assert second.get(timeout=20) == 3
    wait_until(lambda: fleet.wait_for(first.id).starts == 1, "it ran once")


@backend_writes_here
def test_a_message_that_no_broker_can_take_is_no_job(fleet: Fleet) -> None:
    with pytest.raises(TypeError, match="keys must be str"):
        fleet.task("add").apply_async((1, 2), headers={"by": {("a", "b"): 1}})

    (job,) = fleet.jobs.list().items
    assert job.state is State.CANCELLED
    assert job.reason.startswith("not published: keys must be str")


@backend_writes_here
def test_a_key_is_free_again_if_no_broker_could_take_the_message(fleet: Fleet) -> None:
    add = fleet.task("add")
    with pytest.raises(TypeError):
        add.apply_async((1, 2), headers={"by": {(1, 2): 3}}, idempotency_key="k")

    result = add.apply_async((1, 2), idempotency_key="k")
    fleet.start("a")

    assert not result.existing
    assert fleet.wait_for(result.id).state is State.SUCCEEDED
    assert add.apply_async((1, 2), idempotency_key="k").existing
