"""Looks at an app, its store, its broker and its workers, and has all checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

from celery import Celery
from celery.backends.base import DisabledBackend

from jobkit.bulk import STAGES
from jobkit.checks import CHECKS, Finding, Setup, Worker, listed, mapping, setting
from jobkit.errors import JobkitError, SettingsError, StoreError
from jobkit.kit import JobKit
from jobkit.queue_checks import QUEUE_CHECKS
from jobkit.rounds import reach
from jobkit.settings import Settings
from jobkit.store.address import safe_url
from jobkit.store.base import Store
from jobkit.store.memory import MemoryStore
from jobkit.store.redis import RedisStore
from jobkit.task import JobTask

ANSWER = 1.0
"""Seconds within which running workers must answer."""

Tell = Callable[[Finding], None]


def examine(kit: JobKit, *, verbose: bool = False) -> list[Finding]:
    """Everything that was looked at, in the order of a job's way.

    It takes some seconds: running workers are asked, too. ``verbose`` adds what
    can only be said in general.
    """
    findings: list[Finding] = []
    tell = findings.append
    app = kit.app
    settings = _settings(kit, tell)
    tasks = _tasks(app, tell)
    server = {} if settings is None else _server(kit, tell)
    broker, options, there = _broker(app, tell)
    setup = Setup(
        conf=app.conf,
        settings=settings or Settings(),
        tasks=tasks,
        broker=broker,
        transport_options=options,
        backend=_backend(app, tell),
        server=server,
        workers=_workers(app, tell) if there else (),
        verbose=verbose,
        routing_map=kit.routing_map if settings else None,
        names=list(app.tasks),
    )
    checks = (*CHECKS, *QUEUE_CHECKS)
    return findings + [finding for check in checks for finding in check(setup)]


def _settings(kit: JobKit, tell: Tell) -> Settings | None:
    try:
        settings = kit.settings
        kit.check_settings()
    except SettingsError as error:
        tell(Finding("settings", "error", str(error)))
        return None
    tell(Finding("settings", "ok", "The jobkit_* settings are valid."))
    return settings


def _tasks(app: Celery, tell: Tell) -> list[JobTask]:
    tasks = [
        task
        for task in app.tasks.values()
        if isinstance(task, JobTask) and task.name not in STAGES
    ]
    if tasks:
        tell(Finding("tasks", "ok", f"Jobs: {listed(task.name for task in tasks)}."))
    else:
        fix = "@app.task(base=ProgressTask, bind=True)"
        tell(Finding("tasks", "info", "No task of this app is a job.", fix))
    return tasks


def _server(kit: JobKit, tell: Tell) -> Mapping[str, str]:
    fix = setting(kit.app.conf, "jobkit_store_url", "redis://HOST:6379/0")
    try:
        store = kit.open_store()
        with closing(store):
            store.ping()
            return _asked(store, fix, tell)
    except JobkitError as error:
        tell(Finding("store", "error", str(error), fix))
        return {}


def _asked(store: Store, fix: str, tell: Tell) -> Mapping[str, str]:
    """What the server of a store that answers says of itself."""
    if isinstance(store, MemoryStore):
        found = "The jobs are kept in the memory of each process: no other sees them."
        tell(Finding("store", "error", found, f"JobKit(app) without a store; {fix}"))
        return {}
    if not isinstance(store, RedisStore):
        tell(Finding("store", "ok", "The store answers."))
        return {}
    tell(Finding("store", "ok", f"The store at {safe_url(store.url)} answers."))
    try:
        return store.server()
    except StoreError as error:
        fix = "ACL SETUSER name +info +config|get"
        tell(Finding("store", "warning", f"Its settings are hidden: {error}", fix))
        return {}


def _broker(app: Celery, tell: Tell) -> tuple[str, Mapping[str, Any], bool]:
    """Its kind and options, and whether it is there."""
    kind, options = "", {}
    try:
        connection: Any = app.connection_for_write()
        with connection:
            kind = connection.transport.driver_type
            options = dict(connection.transport_options or {})
        reach(app)
    except Exception as error:  # noqa: BLE001 - any transport, any error
        there = "amqp://USER:PASSWORD@HOST//" if kind == "amqp" else "redis://HOST/0"
        fix = setting(app.conf, "broker_url", there)
        tell(Finding("broker", "error", str(error), fix))
        return kind, options, False
    tell(Finding("broker", "ok", f"The broker at {connection.as_uri()} answers."))
    return kind, options, True


def _backend(app: Celery, tell: Tell) -> bool:
    try:
        return not isinstance(app.backend, DisabledBackend)
    except Exception as error:  # noqa: BLE001 - any backend, any error
        fix = setting(app.conf, "result_backend", "redis://HOST:6379/1")
        tell(Finding("backend", "error", f"The result backend: {error}", fix))
        return True


def _workers(app: Celery, tell: Tell) -> Sequence[Worker]:
    inspect: Any = app.control.inspect(timeout=ANSWER)
    try:
        stats = inspect.stats() or {}
        confs = (inspect.conf() or {}) if stats else {}
    except Exception as error:  # noqa: BLE001 - any transport, any error
        tell(Finding("workers", "warning", f"Workers cannot be asked: {error}"))
        return ()
    workers = [
        Worker(name, mapping(confs.get(name)), mapping(stats[name]))
        for name in sorted(stats)
    ]
    tell(_running(workers))
    return workers


def _running(workers: Sequence[Worker]) -> Finding:
    names = listed(worker.name for worker in workers)
    if any(worker.jobkit for worker in workers):
        return Finding("workers", "ok", f"Running: {names}.")
    if not workers:
        found = "No worker answers: only the settings of this app were looked at."
        return Finding("workers", "info", found)
    found = f"Running, but without jobs: {names}. Jobs wait for one that has them."
    return Finding("workers", "warning", found, "celery -A PROJECT worker")
