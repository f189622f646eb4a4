"""``celery -A ... jobs doctor``, with real servers and real workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis
from celery import group

from jobkit import SettingsError, State
from jobkit.checks import Finding, Setup, eviction, persistence
from jobkit.doctor import examine
from jobkit.store.redis import RedisStore
from tests.servers import RabbitServer, ValkeyServer
from tests.surfaces.conftest import Done, MakeFleet, jobs, run
from tests.waiting import free_port, wait_until
from tests.worker.fleet import Fleet

SOUND = {
    "result_backend_always_retry": True,
    "worker_prefetch_multiplier": 1,
    "jobkit_lease_seconds": 30,
}


def read(done: Done) -> dict[str, Finding]:
    """The findings of a run with ``--json``, by the names of their checks."""
    findings = [Finding(**values) for values in json.loads(done.stdout)["findings"]]
    return {finding.check: finding for finding in findings}


def examined(fleet: Fleet) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(fleet.kit)}


@pytest.fixture
def durable() -> Iterator[ValkeyServer]:
    """A store as it should be."""
    with ValkeyServer(append_only=True) as server:
        yield server


# -- unique jobs and partitions


def by_name(fleet: Fleet) -> list[str]:
    """Jobs of one shop that were sent by the task's name, and may run; their ids."""
    sent = [fleet.app.send_task("t.sole", ("berlin",)).id for _ in range(12)]
    return [i for i in sent if fleet.jobs.get(i).state is State.QUEUED]


def test_what_partitions_take_from_unique_jobs_is_told(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(jobkit_partitions=3)

    # What the doctor warns of does happen: two of a shop run at the same time ...
    first, second, *_ = by_name(fleet)
    for job_id in (first, second):
        assert fleet.store.begin(job_id, job_id, "w", 30).outcome == "run"
    # ... and a group is refused.
    sole = fleet.task("sole")
    with pytest.raises(SettingsError, match="without a task_id"):
        group(sole.si(f"shop {number}") for number in range(12)).apply_async()
    assert len({sole.delay("rome").id for _ in range(12)}) == 1

    finding = examined(fleet)["unique jobs"]
    assert finding.level == "warning"
    assert "t.newest, t.next_up, t.raising and 3 more" in finding.found


def test_in_one_partition_jobs_are_unique_however_enqueued(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet()

    assert len(by_name(fleet)) == 1
    sole = fleet.task("sole")
    group(sole.si(f"shop {number}") for number in range(12)).apply_async()

    assert examined(fleet)["unique jobs"].level == "ok"


# -- the command


def test_a_sound_setup_is_told_so(make_fleet: MakeFleet, durable: ValkeyServer) -> None:
    fleet = make_fleet(store=durable.url, **SOUND)

    done = jobs(fleet, "doctor")

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "All is well."
    assert {line.split()[0] for line in lines[:-1]} == {"ok", "info"}
    assert f"ok       store: The store at {durable.url} answers." in lines
    assert "systemd" not in done.stdout


def test_warnings_do_not_make_it_fail(
    make_fleet: MakeFleet, durable: ValkeyServer
) -> None:
    conf = {**SOUND, "worker_prefetch_multiplier": 4}
    fleet = make_fleet(store=durable.url, **conf)

    done = jobs(fleet, "doctor")

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    (number,) = [n for n, line in enumerate(lines) if line.startswith("warning ")]
    assert "prefetch: Messages taken ahead" in lines[number]
    fix = "         fix: app.conf.worker_disable_prefetch = True"
    assert lines[number + 1] == fix
    assert lines[-1] == "no errors, 1 warning."


def test_an_error_makes_it_fail(make_fleet: MakeFleet) -> None:
    done = jobs(make_fleet(**SOUND), "doctor")  # the shared store keeps nothing

    assert (done.returncode, done.stderr) == (1, "")
    assert "error    persistence: The store writes nothing to disk" in done.stdout
    assert "         fix: appendonly yes " in done.stdout
    assert done.stdout.splitlines()[-1] == "1 error, no warnings."


def test_findings_can_be_read_by_programs(make_fleet: MakeFleet) -> None:
    done = jobs(make_fleet(**SOUND), "doctor", "--json")

    found = read(done)
    assert done.returncode == 1
    assert found["persistence"].level == "error"
    assert found["eviction"] == Finding("eviction", "ok", "The store evicts nothing.")
    assert len(done.stdout.splitlines()) == 1


def test_what_can_only_be_said_in_general_is_said_when_asked_for(
    make_fleet: MakeFleet,
) -> None:
    done = jobs(make_fleet(**SOUND), "doctor", "--verbose", "--json")

    assert read(done)["systemd"].fix.startswith("KillMode=mixed ")


def test_wrong_settings_are_an_error_beside_the_other_findings(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet()
    fleet.setup = replace(fleet.setup, conf={"jobkit_leas_seconds": 30})

    done = jobs(fleet, "doctor")

    assert done.returncode == 1
    assert "error    settings: There is no setting jobkit_leas_seconds." in done.stdout
    assert "warning  prefetch: " in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_no_colour_where_nobody_looks(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(**SOUND)

    assert "\x1b" not in run(fleet, "jobs", "doctor").stdout


# -- running workers


def test_running_workers_are_asked(
    make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVOCATION_ID", "of-systemd")
    fleet = make_fleet(**SOUND)
    worker = fleet.worker("w", "-P", "threads", "--prefetch-multiplier", "3")
    other = {**SOUND, "broker_transport_options": {"visibility_timeout": 60}}
    worker.start(replace(fleet.setup, conf=other))

    found = examined(fleet)

    assert found["workers"].found == "Running: w@test."
    assert "The threads pool has no time limits" in found["pool"].found
    assert "w@test (3)" in found["prefetch"].found
    assert "3600 s here, but w@test 60 s" in found["visibility timeout"].found
    assert "Run by systemd: w@test." in found["systemd"].found
    assert "WARNING" not in worker.log


def test_a_running_worker_with_all_in_order_is_no_finding(
    make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    conf = {**SOUND, "worker_prefetch_multiplier": 4}
    fleet = make_fleet(**conf)
    fleet.worker("w", "--disable-prefetch").start()

    found = examined(fleet)

    names = ("workers", "pool", "prefetch", "visibility timeout", "ack after")
    assert {found[name].level for name in names} == {"ok"}
    assert "systemd" not in found


@pytest.mark.parametrize(
    ("on_rabbit", "order"),
    [
        (False, ("ok", "Workers keep to the strict order.")),
        (True, ("info", "On RabbitMQ a worker of several queues keeps to the order")),
    ],
)
def test_the_order_of_a_running_workers_queues_is_looked_at(
    make_fleet: MakeFleet,
    request: pytest.FixtureRequest,
    order: tuple[str, str],
    *,
    on_rabbit: bool,
) -> None:
    url = request.getfixturevalue("rabbit").url if on_rabbit else ""
    conf = {"jobkit_routes": {"t.ad": "high"}, "jobkit_queue_order": "strict"}
    fleet = make_fleet(url, **conf)
    worker = fleet.worker("w").start()

    found = examined(fleet)

    assert found["workers"].found == "Running: w@test."
    assert found["prefetch"].level == "ok"
    assert "Did you mean 't.add'?" in found["routes"].found
    level, text = order
    assert found["queue order"].level == level
    assert found["queue order"].found.startswith(text)
    assert "WARNING" not in worker.log


# -- RabbitMQ


@pytest.mark.parametrize("sound", [True, False], ids=["sound", "default"])
def test_rabbitmq_is_asked_for_what_it_has(
    make_fleet: MakeFleet, rabbit: RabbitServer, *, sound: bool
) -> None:
    conf = {
        **SOUND,
        "broker_transport_options": {"confirm_publish": True},
        "jobkit_ack_after": 10,
    }
    default = {"worker_disable_prefetch": True, "jobkit_ack_after": 1200}
    fleet = make_fleet(rabbit.url, **(conf if sound else default))
    fleet.worker("w").start()

    found = examined(fleet)

    level = "ok" if sound else "warning"
    names = ("confirms", "prefetch", "ack after", "backend")
    assert {name: found[name].level for name in names} == dict.fromkeys(names, level)
    assert found["broker"].level == found["workers"].level == "ok"
    assert "visibility timeout" not in found
    if not sound:
        assert found["prefetch"].fix == "app.conf.worker_prefetch_multiplier = 1"


# -- the store's server


@pytest.mark.parametrize(
    ("options", "kept", "evicts"),
    [
        (("--save", "3600 1"), "warning", "ok"),
        (("--appendonly", "yes"), "ok", "ok"),
        (("--maxmemory", "100mb"), "error", "ok"),
        (("--maxmemory-policy", "allkeys-lru"), "error", "warning"),
        (
            ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"),
            "error",
            "error",
        ),
        (
            ("--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"),
            "error",
            "warning",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_a_server_tells_how_it_keeps_jobs(
    options: tuple[str, ...], kept: str, evicts: str
) -> None:
    with ValkeyServer(options=options) as server:
        store = RedisStore(server.url)
        setup = Setup({}, server=store.server())
        store.close()

    assert [finding.level for finding in persistence(setup)] == [kept]
    assert [finding.level for finding in eviction(setup)] == [evicts]


@pytest.mark.parametrize(
    ("denied", "found", "level"),
    [
        ("-config", "persistence", "warning"),
        ("-info", "store", "warning"),
    ],
)
def test_a_server_that_hides_its_settings_is_borne(
    make_fleet: MakeFleet, durable: ValkeyServer, denied: str, found: str, level: str
) -> None:
    with redis.Redis(port=durable.port) as client:
        client.config_set("appendonly", "no")
        client.execute_command(
            *("ACL", "SETUSER", "ada", "on", ">pw", "~*", "&*", "+@all", denied)
        )
    url = f"redis://ada:pw@127.0.0.1:{durable.port}/0"

    findings = examine(make_fleet(store=url).kit)

    (finding,) = [f for f in findings if f.check == found and f.level != "ok"]
    assert finding.level == level
    assert "pw" not in "".join(f.found + f.fix for f in findings)
    if denied == "-info":
        assert finding.fix == "ACL SETUSER name +info +config|get"
    else:
        assert "hides whether it snapshots" in finding.found


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("redis://127.0.0.1:{port}/99", "DB index is out of range"),
        ("redis://ada:secret@127.0.0.1:{port}/0", "invalid username-password pair"),
        ("redis://127.0.0.1:{port}/0?username=mute&password=secret", "no permissions"),
    ],
    ids=["no such database", "wrong password", "not allowed"],
)
def test_a_store_that_refuses_is_reported_and_does_not_stop_a_worker(
    make_fleet: MakeFleet,
    durable: ValkeyServer,
    caplog: pytest.LogCaptureFixture,
    address: str,
    why: str,
) -> None:
    with redis.Redis(port=durable.port) as client:
        client.execute_command("ACL", "SETUSER", "mute", "on", ">secret", "-@all")
    fleet = make_fleet(store=address.format(port=durable.port))

    fleet.kit.check()

    (record,) = [each for each in caplog.records if each.name == "jobkit.kit"]
    told = record.getMessage()
    assert record.levelname == "ERROR"
    assert not record.exc_info
    assert why in told
    assert "Jobs wait until it" in told
    assert "secret" not in told
    assert "\n" not in told
    finding = examined(fleet)["store"]
    assert finding.level == "error"
    assert why in finding.found


def test_a_wrong_store_url_is_reported(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    fleet.setup = replace(fleet.setup, store="redis://:secret@127.0.0.1:abc/0")

    for command in ("doctor", "reconcile"):
        done = jobs(fleet, command)

        assert done.returncode == 1
        assert "'redis://:***@127.0.0.1:abc/0' is no address" in (
            done.stdout + done.stderr
        )
        assert "secret" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_a_cluster_tells_it_too() -> None:
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with (
        ValkeyServer(options=options) as server,
        redis.Redis(port=server.port, decode_responses=True) as client,
    ):
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        wait_until(
            lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok",
            "the cluster has all its slots",
        )
        store = RedisStore(f"redis+cluster://127.0.0.1:{server.port}")
        told = store.server()
        store.close()

    assert (told["aof_enabled"], told["save"]) == ("0", "")
    assert told["maxmemory_policy"] == "noeviction"
