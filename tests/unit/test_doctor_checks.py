"""What the doctor says of a setup, each check both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
from celery import Celery

from jobkit import JobKit, JobTask, Limit, ProgressTask
from jobkit.checks import (
    CHECKS,
    Check,
    Finding,
    Setup,
    Worker,
    ack_after,
    acks,
    backend,
    confirms,
    delivery_limits,
    eviction,
    lease,
    lost_children,
    persistence,
    pools,
    prefetch,
    systemd,
    unique_jobs,
    visibility_timeout,
)
from jobkit.doctor import _running, examine
from jobkit.settings import Settings
from jobkit.store.memory import MemoryStore
from tests.unit.conftest import MakeApp

GOOD = {"result_backend_always_retry": True, "worker_prefetch_multiplier": 1}

SOUND_SERVER = {"aof_enabled": "1", "maxmemory": "0", "maxmemory_policy": "noeviction"}


def sync() -> None:
    """What all the jobs here do."""


def task(app: Celery, name: str = "shop.sync", **options: Any) -> JobTask:
    decorate: Any = app.task
    decorate(base=ProgressTask, name=name, shared=False, **options)(sync)
    return cast("JobTask", app.tasks[name])


def worker(
    name: str = "w@one",
    *,
    pool: str = "prefork",
    prefetch: int = 1,
    transport_options: Mapping[str, Any] | None = None,
    conf: Mapping[str, Any] | None = None,
    **jobkit: Any,
) -> Worker:
    """What a worker with jobs would answer."""
    stats = {
        "pool": {"implementation": f"celery.concurrency.{pool}:TaskPool"},
        "broker": {"transport_options": transport_options or {}},
        "jobkit": {"prefetch_multiplier": prefetch, **jobkit},
    }
    return Worker(name, conf or {}, stats)


def stranger(**transport_options: Any) -> Worker:
    """A worker of another project at the same broker."""
    told = worker("x@two", pool="eventlet", prefetch=9).stats
    broker = {"transport_options": transport_options}
    stats = {k: v for k, v in told.items() if k != "jobkit"}
    return Worker("x@two", {}, {**stats, "broker": broker})


@pytest.fixture
def sound(make_app: MakeApp) -> Setup:
    """A setup that no check has anything against."""
    app = make_app(**GOOD)
    return Setup(
        app.conf,
        tasks=[task(app)],
        broker="redis",
        server=SOUND_SERVER,
        workers=[worker()],
    )


def conf_of(make_app: MakeApp, **settings: Any) -> Any:
    return make_app(**{**GOOD, **settings}).conf


def one(check: Check, setup: Setup) -> Finding:
    (finding,) = check(setup)
    return finding


def test_a_sound_setup_is_sound_in_every_way(sound: Setup) -> None:
    findings = [finding for check in CHECKS for finding in check(sound)]

    assert {finding.level for finding in findings} == {"ok"}
    assert not any(finding.fix for finding in findings)
    assert len(findings) == len(CHECKS) - len(
        {confirms, delivery_limits, systemd, unique_jobs}
    )


def test_what_is_not_ok_says_what_to_set(sound: Setup, make_app: MakeApp) -> None:
    bad = replace(
        sound,
        conf=conf_of(
            make_app,
            worker_pool="solo",
            worker_prefetch_multiplier=4,
            task_reject_on_worker_lost=True,
        ),
        tasks=[task(make_app(), acks_late=False, lease_seconds=1)],
        backend=False,
        server={"aof_enabled": "0", "save": "", "maxmemory_policy": "volatile-lru"},
        workers=[stranger(visibility_timeout=60)],
        settings=Settings(ack_after=3000.0, lease_seconds=2.0),
        verbose=True,
    )
    findings = [finding for check in CHECKS for finding in check(bad)]

    assert {"warning", "error", "info"} == {finding.level for finding in findings}
    assert all(finding.fix for finding in findings)
    assert all("\n" not in finding.found + finding.fix for finding in findings)


# -- the store


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        ({"aof_enabled": "1", "save": ""}, "ok"),
        ({"aof_enabled": "1"}, "ok"),
        ({"aof_enabled": "0", "save": ""}, "error"),
        ({"aof_enabled": "0", "save": "3600 1 300 100"}, "warning"),
        ({"aof_enabled": "0"}, "warning"),
    ],
    ids=["appends", "hides its settings", "neither", "snapshots", "tells nothing"],
)
def test_a_store_should_append_to_a_file(
    sound: Setup, facts: dict[str, str], level: str
) -> None:
    finding = one(persistence, replace(sound, server=facts))

    assert finding.level == level
    assert finding.fix.startswith("appendonly yes ") == (level != "ok")


@pytest.mark.parametrize(
    ("policy", "memory", "level"),
    [
        ("noeviction", "1000", "ok"),
        ("allkeys-lru", "1000", "error"),
        ("allkeys-lru", "0", "warning"),
        ("volatile-ttl", "1000", "warning"),
        ("volatile-ttl", "0", "warning"),
    ],
)
def test_a_store_must_not_evict(
    sound: Setup, policy: str, memory: str, level: str
) -> None:
    server = {"maxmemory_policy": policy, "maxmemory": memory}

    finding = one(eviction, replace(sound, server=server))

    assert finding.level == level
    assert finding.fix.startswith("maxmemory-policy noeviction ") == (level != "ok")


def test_of_a_server_that_says_nothing_nothing_is_said(sound: Setup) -> None:
    silent = replace(sound, server={})

    assert not [*persistence(silent), *eviction(silent)]


# -- Celery's settings


def test_a_result_backend_should_be_there(sound: Setup) -> None:
    assert one(backend, sound).level == "ok"
    finding = one(backend, replace(sound, backend=False))

    assert finding.level == "warning"
    assert finding.fix == "app.conf.result_backend = 'redis://HOST:6379/1'"


def test_results_should_be_tried_again(sound: Setup, make_app: MakeApp) -> None:
    conf = conf_of(make_app, result_backend_always_retry=False)

    finding = one(backend, replace(sound, conf=conf))

    assert finding.level == "warning"
    assert finding.fix == "app.conf.result_backend_always_retry = True"


def test_early_acknowledgement_is_named_with_its_tasks(
    sound: Setup, make_app: MakeApp
) -> None:
    app = make_app()
    tasks = [task(app, f"t.{n}", acks_late=n == 0) for n in range(5)]

    finding = one(acks, replace(sound, tasks=tasks))

    assert finding.level == "warning"
    assert "t.1, t.2, t.3 and 1 more" in finding.found
    assert "300 s" in finding.found
    assert "acks_late=True" in finding.fix


@pytest.mark.parametrize("name", ["reject_on_worker_lost", "retry_on_worker_lost"])
def test_a_job_must_not_come_back_beside_jobkit(
    sound: Setup, make_app: MakeApp, name: str
) -> None:
    app = make_app()
    tasks = [task(app), task(app, "shop.other", **{name: True})]

    finding = one(lost_children, replace(sound, tasks=tasks))

    assert finding.level == "error"
    assert f"{name} is set for shop.other:" in finding.found
    assert finding.fix == f"@app.task(base=ProgressTask, {name}=False, ...)"


def test_a_job_does_not_take_the_retry_from_the_settings(
    sound: Setup, make_app: MakeApp
) -> None:
    app = make_app(task_retry_on_worker_lost=True)

    setup = replace(sound, conf=app.conf, tasks=[task(app)])

    assert one(lost_children, setup).level == "ok"


def test_a_job_does_not_take_the_rejection_from_the_settings(
    sound: Setup, make_app: MakeApp
) -> None:
    app = make_app(task_reject_on_worker_lost=True)

    setup = replace(sound, conf=app.conf, tasks=[task(app)])
    finding = one(lost_children, setup)

    assert finding.level == "warning"
    assert finding.fix == "app.conf.task_reject_on_worker_lost = False"


@pytest.mark.parametrize(
    ("broker", "many", "disabled", "level"),
    [
        ("redis", 1, False, "ok"),
        ("redis", 4, True, "ok"),
        ("redis", 4, False, "warning"),
        ("redis", 0, False, "warning"),
        ("amqp", 1, False, "ok"),
        ("amqp", 4, False, "warning"),
        ("amqp", 4, True, "warning"),
    ],
)
@pytest.mark.parametrize("running", [True, False], ids=["worker", "conf"])
def test_messages_should_not_be_taken_ahead(
    sound: Setup,
    make_app: MakeApp,
    *,
    broker: str,
    many: int,
    disabled: bool,
    level: str,
    running: bool,
) -> None:
    conf = {"worker_prefetch_multiplier": many, "worker_disable_prefetch": disabled}
    setup = replace(
        sound,
        broker=broker,
        conf=make_app(**conf).conf,
        workers=[worker(prefetch=many, conf=conf)] if running else [stranger()],
    )

    finding = one(prefetch, setup)

    assert finding.level == level
    if level != "ok":
        shown = f"{'w@one' if running else 'this app'} ({many or 'without limit'})"
        assert shown in finding.found
        assert finding.fix == (
            "app.conf.worker_disable_prefetch = True"
            if broker == "redis"
            else "app.conf.worker_prefetch_multiplier = 1"
        )


def test_what_a_running_worker_was_told_counts_more_than_the_settings(
    sound: Setup, make_app: MakeApp
) -> None:
    conf = conf_of(make_app, worker_prefetch_multiplier=4)

    assert one(prefetch, replace(sound, conf=conf)).level == "ok"


# -- the broker


def test_visibility_timeouts_must_be_the_same_everywhere(sound: Setup) -> None:
    own = {"visibility_timeout": 7200}
    same = [worker(transport_options=own), stranger(visibility_timeout=7200.0)]
    setup = replace(sound, transport_options=own, workers=same)
    assert one(visibility_timeout, setup).level == "ok"

    finding = one(visibility_timeout, replace(setup, workers=[*same, worker("v@one")]))

    assert finding.level == "warning"
    assert "7200 s here, but v@one 3600 s" in finding.found
    assert finding.fix.startswith(
        "app.conf.broker_transport_options |= {'visibility_timeout': 7200.0}"
    )


def test_a_stranger_at_the_broker_counts_for_its_visibility_timeout(
    sound: Setup,
) -> None:
    setup = replace(sound, workers=[stranger(visibility_timeout=60)])
    finding = one(visibility_timeout, setup)

    assert finding.level == "warning"
    assert "3600 s here, but x@two 60 s" in finding.found


def test_rabbitmq_has_no_visibility_timeout(sound: Setup) -> None:
    workers = [stranger(visibility_timeout=60)]

    assert not [*visibility_timeout(replace(sound, broker="amqp", workers=workers))]


def test_rabbitmq_should_confirm(sound: Setup) -> None:
    rabbit = replace(sound, broker="amqp")
    finding = one(confirms, rabbit)
    assert finding.level == "warning"
    assert finding.fix == (
        "app.conf.broker_transport_options = {'confirm_publish': True}"
    )

    confirming = replace(rabbit, transport_options={"confirm_publish": True})
    assert one(confirms, confirming).level == "ok"
    assert not [*confirms(sound)]


@pytest.mark.parametrize(
    ("options", "level"),
    [
        ({}, "ok"),
        ({"type": "classic"}, "ok"),
        ({"type": "quorum"}, "info"),
        ({"type": "quorum", "delivery_limit": 5}, "warning"),
        ({"type": "quorum", "delivery_limit": 5, "collect": True}, "ok"),
    ],
)
def test_what_rabbitmq_gives_up_should_go_somewhere(
    sound: Setup, make_app: MakeApp, options: dict[str, Any], level: str
) -> None:
    app = make_app(**GOOD, jobkit_queues={"work": options}, jobkit_routes={})
    JobKit(app)
    app.finalize()
    finding = one(delivery_limits, replace(sound, conf=app.conf, broker="amqp"))

    assert finding.level == level
    assert ("work" in finding.found) is (level != "ok")
    assert not [*delivery_limits(replace(sound, conf=app.conf))]


@pytest.mark.parametrize(
    ("broker", "after", "level"),
    [
        ("amqp", 900.0, "ok"),
        ("amqp", 901.0, "warning"),
        ("redis", 1800.0, "ok"),
        ("redis", 1801.0, "warning"),
    ],
)
def test_jobs_should_be_acknowledged_long_before_their_message_comes_again(
    sound: Setup, broker: str, after: float, level: str
) -> None:
    setup = replace(sound, broker=broker, settings=Settings(ack_after=after))
    finding = one(ack_after, setup)

    assert finding.level == level
    assert finding.fix == ("" if level == "ok" else "app.conf.jobkit_ack_after = 10.0")


def test_a_short_visibility_timeout_asks_for_a_short_wait(sound: Setup) -> None:
    setup = replace(sound, transport_options={"visibility_timeout": 12})

    assert one(ack_after, setup).fix == "app.conf.jobkit_ack_after = 3.0"


def test_of_other_brokers_nothing_is_said(sound: Setup) -> None:
    other = replace(sound, broker="memory")

    assert not [*visibility_timeout(other), *confirms(other), *ack_after(other)]


# -- the workers


@pytest.mark.parametrize(("seconds", "level"), [(6.0, "ok"), (5.9, "warning")])
def test_a_lease_should_last_for_its_renewals(
    sound: Setup, make_app: MakeApp, seconds: float, level: str
) -> None:
    by_app = replace(sound, settings=Settings(lease_seconds=seconds))
    by_task = replace(sound, tasks=[task(make_app(), lease_seconds=seconds)])

    found = one(lease, by_app), one(lease, by_task)

    assert {finding.level for finding in found} == {level}
    if level != "ok":
        assert found[0].fix == "app.conf.jobkit_lease_seconds = 6.0"
        assert "of shop.sync (5.9 s)" in found[1].found
        assert found[1].fix == "@app.task(..., lease_seconds=6)"


@pytest.mark.parametrize(
    ("pool", "name", "level"),
    [
        ("prefork", "prefork", "ok"),
        ("eventlet", "eventlet", "error"),
        ("gevent", "gevent", "warning"),
        ("solo", "solo", "warning"),
        ("thread", "threads", "info"),
    ],
)
def test_a_pool_is_known_with_its_limits(
    sound: Setup, make_app: MakeApp, pool: str, name: str, level: str
) -> None:
    running = replace(sound, workers=[worker(pool=pool), stranger()])
    planned = replace(sound, conf=conf_of(make_app, worker_pool=name), workers=[])

    findings = [one(pools, setup) for setup in (running, planned)]

    assert [finding.level for finding in findings] == [level, level]
    if level != "ok":
        assert f"The {name} pool" in findings[0].found
        assert "(w@one)" in findings[0].found
        assert "(worker_pool)" in findings[1].found
        assert findings[0].fix.startswith("app.conf.worker_pool = 'prefork' ")


@pytest.mark.parametrize("option", ["time_limit", "soft_time_limit"])
@pytest.mark.parametrize("by_task", [True, False], ids=["task", "conf"])
def test_time_limits_and_threads_do_not_go_together(
    sound: Setup, make_app: MakeApp, option: str, *, by_task: bool
) -> None:
    own: dict[str, Any] = {option: 60} if by_task else {}
    app = make_app(**({} if by_task else {f"task_{option}": 60}))
    setup = replace(
        sound,
        conf=app.conf,
        tasks=[task(app, **own)],
        workers=[worker(pool="thread")],
    )
    finding = one(pools, setup)

    assert finding.level == "warning"
    assert "no time limits, but tasks have them" in finding.found


def test_each_kind_of_pool_is_told_once(sound: Setup) -> None:
    workers = [worker(f"{n}@one", pool="solo") for n in range(5)]

    assert (
        "(0@one, 1@one, 2@one and 2 more)"
        in one(pools, replace(sound, workers=workers)).found
    )


def test_of_systemd_is_spoken_where_it_is(sound: Setup) -> None:
    at_risk = worker("a@one", systemd=True, remap_sigterm="")
    remapped = worker("b@one", systemd=True, remap_sigterm="SIGQUIT")

    assert not [*systemd(replace(sound, workers=[worker(systemd=False), remapped]))]
    finding = one(systemd, replace(sound, workers=[at_risk, remapped]))

    assert finding.level == "info"
    assert "Run by systemd: a@one." in finding.found
    assert finding.fix.startswith("KillMode=mixed ")
    assert "REMAP_SIGTERM=SIGQUIT" in finding.fix


def test_of_systemd_is_spoken_to_those_who_want_to_know(sound: Setup) -> None:
    finding = one(systemd, replace(sound, verbose=True))

    assert finding.level == "info"
    assert finding.fix.startswith("KillMode=mixed ")


def test_a_worker_that_answers_nonsense_is_borne(sound: Setup) -> None:
    odd = Worker("odd@one", {}, {"pool": "N/A", "broker": "N/A", "jobkit": "N/A"})
    dumb = Worker("dumb@one", {}, {"error": "no such command"})

    setup = replace(sound, workers=[odd, dumb])

    assert not setup.job_workers
    assert {f.level for check in CHECKS for f in check(setup)} == {"ok"}


# -- the lines to set


def test_a_line_has_the_namespace_of_the_project(sound: Setup) -> None:
    class Project:
        CELERY_WORKER_PREFETCH_MULTIPLIER = 4
        CELERY_RESULT_BACKEND_ALWAYS_RETRY = False

    app = Celery("django", set_as_current=False)
    app.config_from_object(Project, namespace="CELERY")
    setup = replace(sound, conf=app.conf, broker="amqp", workers=[])

    assert one(prefetch, setup).fix == "CELERY_WORKER_PREFETCH_MULTIPLIER = 1"
    assert one(backend, setup).fix == "CELERY_RESULT_BACKEND_ALWAYS_RETRY = True"
    assert one(confirms, setup).fix == (
        "CELERY_BROKER_TRANSPORT_OPTIONS = {'confirm_publish': True}"
    )


def test_a_line_keeps_transport_options_to_itself(sound: Setup) -> None:
    secret = {"sentinel_kwargs": {"password": "hunter2"}}
    setup = replace(sound, broker="amqp", transport_options=secret)

    assert one(confirms, setup).fix == (
        "app.conf.broker_transport_options |= {'confirm_publish': True}"
    )


# -- looking, where nobody is there


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.level for finding in findings}


def test_servers_out_of_reach_are_errors_and_the_rest_is_looked_at(
    make_app: MakeApp,
) -> None:
    app = make_app(**GOOD, result_backend="redis://127.0.0.1:1/1")
    task(app)

    found = levels(examine(JobKit(app)))

    assert (found["store"], found["broker"]) == ("error", "error")
    assert (found["settings"], found["tasks"], found["acks"]) == ("ok", "ok", "ok")
    assert "workers" not in found
    assert "persistence" not in found


def test_a_store_in_memory_is_an_error(make_app: MakeApp) -> None:
    app = make_app(broker_url="memory://")

    findings = examine(JobKit(app, MemoryStore()))
    (store,) = [finding for finding in findings if finding.check == "store"]

    assert store.level == "error"
    assert "JobKit(app) without a store" in store.fix
    assert "jobkit_store_url = " in store.fix


def test_wrong_settings_are_an_error_and_the_rest_is_looked_at(
    make_app: MakeApp,
) -> None:
    app = make_app(**GOOD, broker_url="memory://", jobkit_leas_seconds=3)

    findings = examine(JobKit(app))

    assert findings[0].level == "error"
    assert "jobkit_lease_seconds" in findings[0].found
    assert levels(findings)["prefetch"] == "ok"


@pytest.mark.parametrize(
    ("name", "url", "check"),
    [
        ("broker_url", "nonsense://x", "broker"),
        ("result_backend", "nonsense://x", "backend"),
    ],
)
def test_an_address_that_means_nothing_is_an_error(
    make_app: MakeApp, name: str, url: str, check: str
) -> None:
    app = make_app(**{"broker_url": "memory://", name: url})

    (finding, *_) = [f for f in examine(JobKit(app)) if f.check == check]

    assert finding.level == "error"
    assert finding.fix.startswith(f"app.conf.{name} = ")


def test_workers_without_jobs_are_not_enough() -> None:
    assert _running([stranger(), worker()]).level == "ok"
    finding = _running([stranger()])

    assert finding.level == "warning"
    assert "without jobs: x@two" in finding.found
    assert finding.fix == "celery -A PROJECT worker"


def test_an_app_without_jobs_and_workers_is_told(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tasks of other tests' apps are shared with every app of the process.
    monkeypatch.setattr("celery._state._on_app_finalizers", set())

    findings = examine(JobKit(make_app(broker_url="memory://")))

    told = {finding.check: finding for finding in findings}
    assert told["tasks"].level == told["workers"].level == "info"
    assert "base=ProgressTask" in told["tasks"].fix
    assert told["backend"].level == "warning"
    assert "There is no result backend" in told["backend"].found


# -- unique jobs


@pytest.mark.parametrize(
    ("options", "partitions", "level"),
    [
        ({}, 1, None),
        ({}, 4, None),
        ({"unique_on": ["shop"]}, 1, "ok"),
        ({"unique_on": ["shop"]}, 4, "warning"),
        ({"limits": [Limit("shop", 1)]}, 4, None),
    ],
)
def test_unique_jobs_want_one_partition(
    make_app: MakeApp, options: Any, partitions: int, level: str | None
) -> None:
    app = make_app(**GOOD)

    def of_a_shop(shop: str) -> str:
        return shop

    decorate: Any = app.task
    decorate(base=JobTask, name="shop.sole", shared=False, **options)(of_a_shop)
    tasks = [cast("JobTask", app.tasks["shop.sole"])]
    settings = replace(Settings(), partitions=partitions)

    found = list(unique_jobs(Setup(app.conf, settings, tasks)))

    assert [finding.level for finding in found] == ([level] if level else [])
    if level == "warning":
        assert "jobkit_partitions = 4" in found[0].found
        assert "shop.sole" in found[0].found
        assert found[0].fix.startswith("TASK.delay(...)")
