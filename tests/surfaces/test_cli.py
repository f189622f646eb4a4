"""The commands by which people look after their jobs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import redis

from jobkit import State
from jobkit.clock import seconds_until
from jobkit.dispatcher import GRACE
from jobkit.job import Progress
from jobkit.store.values import Snapshot
from tests.servers import ValkeyServer
from tests.surfaces.conftest import MakeFleet, jobs, run
from tests.waiting import wait_until
from tests.worker.fleet import Fleet

NOWHERE = ["redis://127.0.0.1:1/0", "amqp://guest:secret@127.0.0.1:1//"]


def lose(fleet: Fleet) -> str:
    """Send a job whose owner begins it, and is gone; its id."""
    result = fleet.send("add", 1, 2)
    assert fleet.store.begin(result.id, "token", "gone@test/1", 0.05).job
    wait_until(lambda: lease_left(fleet, result.id) < 0, "its lease has ended")
    return result.id


def lease_left(fleet: Fleet, job_id: str) -> float:
    until = fleet.jobs.get(job_id).lease_until
    assert until
    return seconds_until(until)


def waiting_messages(fleet: Fleet) -> int:
    with fleet.app.connection_for_read() as connection:
        queue = fleet.app.amqp.queues[fleet.setup.name](connection.default_channel)
        declared: Any = queue.queue_declare()
        return int(declared.message_count)


@pytest.fixture(params=["redis", "rabbit"])
def broker(request: pytest.FixtureRequest) -> str:
    if request.param == "rabbit":
        return str(request.getfixturevalue("rabbit").url)
    return ""


def test_the_commands_are_found_by_celery(make_fleet: MakeFleet) -> None:
    done = jobs(make_fleet(), "--help")

    assert done.returncode == 0
    assert "reconcile" in done.stdout
    assert "doctor" in done.stdout


# -- reconcile


def test_a_job_that_lost_its_owner_is_rescued_and_published(
    make_fleet: MakeFleet, broker: str
) -> None:
    fleet = make_fleet(broker)
    job_id = lose(fleet)

    done = jobs(fleet, "reconcile")

    assert done.stdout.splitlines() == [
        f"Rescued {job_id} (t.add): QUEUED",
        f"Published {job_id} (t.add)",
        "1 rescued, 1 published, 0 expired records removed.",
    ]
    assert (done.returncode, done.stderr) == (0, "")
    job = fleet.jobs.get(job_id)
    assert (job.state, job.recoveries) == (State.QUEUED, 1)
    wait_until(lambda: waiting_messages(fleet) == 2, "both messages are there")


def test_what_was_done_can_be_read_by_programs(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    job_id = lose(fleet)

    done = jobs(fleet, "reconcile", "--json")

    assert done.returncode == 0
    assert json.loads(done.stdout) == {
        "rescued": [{"id": job_id, "task": "t.add", "state": "QUEUED"}],
        "published": [{"id": job_id, "task": "t.add"}],
        "refused": [],
        "pruned": 0,
    }


def test_a_second_round_finds_nothing_to_do(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    lose(fleet)
    jobs(fleet, "reconcile")
    fleet.send("add", 1, 2, countdown=1000)

    done = jobs(fleet, "reconcile")

    assert done.stdout == "0 rescued, 0 published, 0 expired records removed.\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_a_worker_runs_what_was_published(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(jobkit_dispatch_interval=1000)
    job_id = lose(fleet)
    with redis.Redis.from_url(fleet.setup.broker) as client:
        client.delete(fleet.setup.name)  # its message is lost as well
    fleet.start("w")

    assert jobs(fleet, "reconcile").returncode == 0

    assert fleet.wait_for(job_id).state is State.SUCCEEDED
    assert [entry.item for entry in fleet.journal.entries(job_id)] == ["1+2"]


def test_a_job_that_dies_by_it_is_announced_to_celery(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(jobkit_retry_policy={"crashes": 1})
    job_id = lose(fleet)

    done = jobs(fleet, "reconcile")

    assert f"Rescued {job_id} (t.add): DEAD\n" in done.stdout
    assert "1 rescued, 0 published" in done.stdout
    assert done.returncode == 0
    assert fleet.shown(job_id) == "FAILURE"


def test_records_that_have_expired_are_removed(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(jobkit_keep_succeeded=0.001)
    result = fleet.send("add", 1, 2)
    job = fleet.store.begin(result.id, "token", "w@test/1", 30).job
    assert job
    assert fleet.store.succeed(result.id, job.fence, Snapshot(0, "", Progress()))

    def removed() -> int:
        return int(json.loads(jobs(fleet, "reconcile", "--json").stdout)["pruned"])

    assert wait_until(removed, "its record is removed") == 1


@pytest.mark.parametrize("command", ["reconcile", "doctor"])
def test_a_store_out_of_reach_is_an_error_without_traceback(
    make_fleet: MakeFleet, command: str
) -> None:
    done = jobs(make_fleet(store="redis://:secret@127.0.0.1:1/0"), command)

    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "The job store at redis://:***@127.0.0.1:1/0 cannot be reached" in said
    assert "Traceback" not in said
    assert "secret" not in said


@pytest.mark.parametrize("command", ["reconcile", "doctor"])
@pytest.mark.parametrize("broker", NOWHERE, ids=["redis", "rabbit"])
def test_a_broker_out_of_reach_is_an_error_without_traceback(
    make_fleet: MakeFleet, broker: str, command: str
) -> None:
    fleet = make_fleet(broker)

    done = jobs(fleet, command)

    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "The broker at " in said
    assert "cannot be reached" in said
    assert "Traceback" not in said
    assert "secret" not in said


def test_without_a_broker_nothing_is_done(make_fleet: MakeFleet) -> None:
    whole = make_fleet()
    job_id = lose(whole)
    broken = make_fleet(NOWHERE[0], jobkit_prefix=whole.setup.name)

    done = jobs(broken, "reconcile")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: The broker at ")
    assert whole.jobs.get(job_id).state is State.RUNNING


def test_a_message_that_the_broker_does_not_take_is_named(
    make_fleet: MakeFleet,
) -> None:
    with ValkeyServer() as full:
        fleet = make_fleet(full.url)
        job_id = lose(fleet)
        with redis.Redis.from_url(full.url) as client:
            client.config_set("maxmemory", "1")

        done = jobs(fleet, "reconcile")

        assert f"Not published {job_id} (t.add): " in done.stdout
        assert "1 rescued, 0 published" in done.stdout
        assert done.stderr.startswith("Error: The broker did not take 1 message: ")
        assert done.returncode == 1
        assert 0 < (fleet.store.next_due() or 0) <= GRACE


def test_wrong_settings_are_an_error_without_traceback(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    fleet.setup = replace(fleet.setup, conf={"jobkit_hint_second": 3})

    done = jobs(fleet, "reconcile")

    assert done.returncode == 1
    assert done.stderr.startswith("Error: There is no setting jobkit_hint_second.")
    assert "Traceback" not in done.stderr


def test_the_options_of_celery_itself_are_borne(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet()

    assert run(fleet, "--no-color", "--quiet", "jobs", "reconcile").returncode == 0


# -- routes

MAP = {
    "jobkit_queues": {"fast": {"weight": 4, "target": 30}, "slow": {}},
    "jobkit_routes": {
        "t.add": {"queue": "fast", "dead_letter_queue": "add.graves"},
        "t.w*": "slow",
        "t.ad": "slow",
    },
}


def test_each_task_is_shown_with_its_queue_and_why(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(**MAP)

    done = jobs(fleet, "routes")

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    shown = [" ".join(line.split()) for line in lines]
    assert shown[0] == "TASK QUEUE WEIGHT TARGET DEAD LETTERS BECAUSE OF"
    assert "t.add fast 4 30 s add.graves jobkit_routes['t.add']" in shown
    assert "t.walk slow 1 - slow.dead jobkit_routes['t.w*']" in shown
    name = fleet.setup.name
    assert f"t.doom {name} - - {name}.dead task_default_queue" in shown
    assert lines[-1] == (
        "jobkit_routes['t.ad'] is for no task of this app. Did you mean 't.add'?"
    )


def test_the_routes_are_one_document_for_programs(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(**MAP, jobkit_queue_order="strict")

    document = json.loads(jobs(fleet, "routes", "--json").stdout)

    assert document["order"] == "strict"
    assert [line[:22] for line in document["unused"]] == ["jobkit_routes['t.ad'] "]
    (add,) = [line for line in document["routes"] if line["task"] == "t.add"]
    assert add == {
        "task": "t.add",
        "queue": "fast",
        "rule": "jobkit_routes['t.add']",
        "weight": 4,
        "target": 30.0,
        "dead_letter_queue": "add.graves",
    }


def test_one_call_is_explained(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(**MAP)

    done = jobs(fleet, "routes", "t.walk", "[3]", "--kwargs", '{"pause": 1}', "--json")

    (told,) = json.loads(done.stdout)["routes"]
    assert (told["task"], told["queue"]) == ("t.walk", "slow")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("t.add", "{"), "ARGS is no JSON"),
        (("t.add", "{}"), "ARGS is {}, expected is a JSON list"),
        (("t.add", "[]", "--kwargs", "[]"), "expected is a JSON object"),
    ],
)
def test_arguments_that_are_none_are_refused(
    make_fleet: MakeFleet, arguments: tuple[str, ...], told: str
) -> None:
    done = jobs(make_fleet(**MAP), "routes", *arguments)

    assert done.returncode == 2
    assert told in done.stderr


def test_a_map_that_is_wrong_is_told_with_its_line(make_fleet: MakeFleet) -> None:
    done = jobs(make_fleet(jobkit_routes={"*": "norml"}), "routes")

    assert done.returncode == 1
    assert "jobkit_routes['*']: there is no queue 'norml'" in done.stderr
    assert "Did you mean 'normal'?" in done.stderr


def test_an_app_without_a_map_has_routes_too(make_fleet: MakeFleet) -> None:
    document = json.loads(jobs(make_fleet(), "routes", "--json").stdout)

    assert document["order"] is None
    assert {line["rule"] for line in document["routes"]} == {"task_default_queue"}
