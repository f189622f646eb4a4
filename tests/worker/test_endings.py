"""Ends that Celery and the record must agree on, whatever is away meanwhile."""

import signal
from datetime import timedelta
from typing import Any

import pytest
from celery import chord

from jobkit import State, clock
from jobkit.retry import Budgets
from tests.servers import ValkeyServer
from tests.waiting import wait_until
from tests.worker.fleet import Fleet, FleetFactory


def test_a_copy_that_has_expired_does_not_cancel_the_run(fleet: Fleet) -> None:
    fleet.start("a", "b")
    result = fleet.send("walk", 300, expires=2)
    fleet.journal.wait_for(result.id, count=230)
    message = fleet.jobs.get(result.id).message
    assert message

    with fleet.publisher() as publisher:
        publisher.publish(message)
    job = fleet.wait_for(result.id)

    assert (job.state, job.starts) == (State.SUCCEEDED, 1)


def test_a_job_that_expires_before_it_begins_is_cancelled(fleet: Fleet) -> None:
    result = fleet.send("walk", 5, expires=0.1)
    expired = fleet.jobs.get(result.id).created_at + timedelta(seconds=0.2)
    wait_until(lambda: clock.seconds_until(expired) < 0, "it has expired")
    fleet.start("a")

    job = fleet.wait_for(result.id)

    assert (job.state, job.reason, job.starts) == (State.CANCELLED, "expired", 0)


def test_a_body_that_is_told_to_stop_and_returns_has_not_ended(fleet: Fleet) -> None:
    fleet.start("a", "b")
    result = fleet.send("patient", 100)
    fleet.journal.wait_for(result.id, count=10)

    fleet.owner(result.id).send_signal(signal.SIGTERM)
    job = fleet.wait_for(result.id)

    assert (job.state, job.interruptions) == (State.SUCCEEDED, 1)
    assert fleet.journal.items(result.id)[-1] == 100


def test_a_chord_hears_of_a_member_that_was_cancelled_from_outside(
    fleet: Fleet,
) -> None:
    body: Any = chord([fleet.task("add").s(1, 1), fleet.task("walk").s(5)])(
        fleet.task("total").s()
    )
    member = body.parent.results[1].id

    fleet.store.ask(member, "cancel", "somebody", "with a client that knows no Celery")
    fleet.start("a")

    wait_until(lambda: fleet.shown(body.id) == "FAILURE", "the chord knows", 40)


@pytest.mark.long
def test_a_chord_hears_of_a_cancelled_member_whose_message_is_gone(
    make_fleet: FleetFactory,
) -> None:
    fleet = make_fleet(jobkit_hint_seconds=1)
    body: Any = chord([fleet.task("add").s(1, 1), fleet.task("walk").s(5)])(
        fleet.task("total").s()
    )
    fleet.store.ask(body.parent.results[1].id, "cancel", "ada", "no message, no gate")
    with fleet.app.connection_for_write() as connection:
        queue = fleet.app.amqp.queues[fleet.setup.name]
        assert queue(connection.default_channel).purge() == 2

    fleet.start("a")

    wait_until(lambda: fleet.shown(body.id) == "FAILURE", "the chord knows", 40)


@pytest.mark.long
def test_a_result_that_was_not_stored_is_stored_later(
    make_fleet: FleetFactory, valkey_server: ValkeyServer
) -> None:
    fleet = make_fleet(
        result_backend=valkey_server.database_url(1),
        result_backend_transport_options={"retry_policy": {"timeout": 0.5}},
    )
    fleet.start("a")
    result = fleet.send("walk", 100)
    fleet.journal.wait_for(result.id, count=50)
    valkey_server.kill()
    again = fleet.wait_for(result.id, State.RETRYING, timeout=40)
    valkey_server.start()

    job = fleet.wait_for(result.id, timeout=40)

    assert again.attempts == job.attempts == 0
    assert Budgets.decode(again.budgets).transient == 0  # it was no error of the task's
    assert job.state is State.SUCCEEDED
    assert fleet.shown(result.id) == "SUCCESS"
    assert fleet.journal.items(result.id) == list(range(1, 101))
