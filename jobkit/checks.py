"""Whether a setup suits jobs: one function a question, over plain facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from jobkit.queues import RoutingMap
from jobkit.settings import Settings

if TYPE_CHECKING:
    from jobkit.task import JobTask

CONSUMER_TIMEOUT = 1800.0
"""Seconds after which RabbitMQ, by default, gives up a consumer that does not
acknowledge."""

VISIBILITY = {"redis": 3600.0, "sqs": 1800.0}
"""Seconds after which a broker, by default, delivers again what is not
acknowledged."""

Level = Literal["ok", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; ``fix`` is the line to set, where there is one."""

    check: str
    level: Level
    found: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Worker:
    """What a running worker answers to ``inspect`` about conf and stats."""

    name: str
    conf: Mapping[str, Any]
    stats: Mapping[str, Any]

    @property
    def jobkit(self) -> Mapping[str, Any]:
        """What jobkit tells in it; nothing in a worker without jobs."""
        return mapping(self.stats.get("jobkit"))

    @property
    def pool(self) -> str:
        """The name of its pool, as ``worker -P`` takes it."""
        kind = str(mapping(self.stats.get("pool")).get("implementation", ""))
        return _pool(kind.partition(":")[0].rpartition(".")[2])

    @property
    def transport_options(self) -> Mapping[str, Any]:
        """The options of its broker connection."""
        return mapping(mapping(self.stats.get("broker")).get("transport_options"))


@dataclass(frozen=True, slots=True)
class Setup:
    """What the checks look at.

    ``names`` are those of all tasks, ``tasks`` the ones that are jobs.
    ``broker`` is kombu's name of the broker's kind, ``server`` what the store's
    server says of itself; both are empty while it is not known.
    """

    conf: Any
    settings: Settings = field(default_factory=Settings)
    tasks: Sequence[JobTask] = ()
    broker: str = ""
    transport_options: Mapping[str, Any] = field(default_factory=dict)
    backend: bool = True
    server: Mapping[str, str] = field(default_factory=dict)
    workers: Sequence[Worker] = ()
    verbose: bool = False
    routing_map: RoutingMap | None = None
    names: Sequence[str] = ()

    @property
    def job_workers(self) -> list[Worker]:
        """The running workers that have jobs."""
        return [worker for worker in self.workers if worker.jobkit]


Check = Callable[[Setup], Iterable[Finding]]


# -- checks of the store ----------------------------------------------------------


def persistence(setup: Setup) -> Iterator[Finding]:
    """Whether the store's jobs survive a restart of its server."""
    appends, saves = setup.server.get("aof_enabled"), setup.server.get("save")
    fix = (
        "appendonly yes   (in valkey.conf or redis.conf; or CONFIG SET appendonly yes)"
    )
    if not setup.server:
        return
    if appends == "1":
        yield Finding("persistence", "ok", "The store appends every write to a file.")
    elif saves == "":
        found = "The store writes nothing to disk: a restart of it loses all jobs."
        yield Finding("persistence", "error", found, fix)
    elif saves:
        found = "The store only makes snapshots: a crash of it loses what came later."
        yield Finding("persistence", "warning", found, fix)
    else:
        found = "The store has no append-only file, and hides whether it snapshots."
        yield Finding("persistence", "warning", found, fix)


def eviction(setup: Setup) -> Iterator[Finding]:
    """Whether the store's server throws jobs away when its memory is full."""
    policy = setup.server.get("maxmemory_policy")
    limited = setup.server.get("maxmemory", "0") != "0"
    if policy is None:
        return
    if policy == "noeviction":
        yield Finding("eviction", "ok", "The store evicts nothing.")
        return
    running = policy.startswith("allkeys-")
    what = "jobs, also waiting and running ones" if running else "finished jobs early"
    when = "when its memory is full" if limited else "once maxmemory is set"
    yield Finding(
        "eviction",
        "error" if running and limited else "warning",
        f"The store throws away {what}, {when} (maxmemory-policy {policy}).",
        "maxmemory-policy noeviction   (in valkey.conf or redis.conf; or CONFIG SET "
        "maxmemory-policy noeviction)",
    )


def unique_jobs(setup: Setup) -> Iterator[Finding]:
    """Whether unique jobs are unique however they are enqueued.

    A job lives in the partition of its id, and has its unique key there: where the id
    is given, that need not be the partition of the key. Limits have a place of their
    own, and hold over all partitions.
    """
    unique = [task.name for task in setup.tasks if task.uniqueness is not None]
    partitions = setup.settings.partitions
    if not unique:
        return
    if partitions == 1:
        yield Finding("unique jobs", "ok", "Unique jobs are so however enqueued.")
        return
    yield Finding(
        "unique jobs",
        "warning",
        f"With jobkit_partitions = {partitions} jobs are unique only where jobkit chooses "
        f"their id: {listed(unique)}. By send_task they may run without their unique "
        "key; with a task_id or an idempotency_key, and in chains, groups and chords, "
        "they may be refused, and the job before them in a chain is then dead.",
        "TASK.delay(...)   (or apply_async without an id); or jobkit_partitions = 1, "
        "for an empty store",
    )


# -- checks of Celery's settings --------------------------------------------------


def backend(setup: Setup) -> Iterator[Finding]:
    """Whether results have a place, and are kept while it is away."""
    if not setup.backend:
        yield Finding(
            "backend",
            "warning",
            "There is no result backend: result.get() and chords do not work.",
            setting(setup.conf, "result_backend", "redis://HOST:6379/1"),
        )
    elif not setup.conf.result_backend_always_retry:
        yield Finding(
            "backend",
            "warning",
            "While the result backend is away, tasks that succeed end as FAILURE.",
            setting(setup.conf, "result_backend_always_retry", value=True),
        )
    else:
        yield Finding("backend", "ok", "Results are stored again until it succeeds.")


def acks(setup: Setup) -> Iterator[Finding]:
    """Whether jobs are acknowledged late."""
    early = [task.name for task in setup.tasks if not task.acks_late]
    if not early:
        yield Finding("acks", "ok", "Jobs are acknowledged late.")
        return
    yield Finding(
        "acks",
        "warning",
        f"Acknowledged before they begin: {listed(early)}. After a worker's death "
        f"they may wait {setup.settings.hint_seconds:g} s for a new message.",
        "@app.task(base=ProgressTask, acks_late=True, ...)",
    )


def lost_children(setup: Setup) -> Iterator[Finding]:
    """Whether Celery meddles with jobs whose process died: that is jobkit's part."""
    good = True
    for name in ("reject_on_worker_lost", "retry_on_worker_lost"):
        concerned = [task.name for task in setup.tasks if getattr(task, name, False)]
        if concerned:
            good = False
            yield _meddling(name, concerned)
    if setup.conf.task_reject_on_worker_lost:
        good = False
        yield Finding(
            "lost children",
            "warning",
            "task_reject_on_worker_lost is set: jobs do without it, but every other "
            "task that kills its process comes back for ever.",
            setting(setup.conf, "task_reject_on_worker_lost", value=False),
        )
    if good:
        found = "What becomes of jobs whose process dies is left to jobkit."
        yield Finding("lost children", "ok", found)


def _meddling(name: str, tasks: Sequence[str]) -> Finding:
    return Finding(
        "lost children",
        "error",
        f"{name} is set for {listed(tasks)}: where jobkit ends a job as poison, "
        "Celery sends it again, and its chord and errbacks never hear of its end.",
        f"@app.task(base=ProgressTask, {name}=False, ...)",
    )


def prefetch(setup: Setup) -> Iterator[Finding]:
    """Whether jobs wait behind a long one while another worker idles."""
    told = [
        (worker.name, worker.jobkit.get("prefetch_multiplier", 1), worker.conf)
        for worker in setup.job_workers
    ] or [("this app", setup.conf.worker_prefetch_multiplier, setup.conf)]
    hoarding = [
        f"{name} ({many or 'without limit'})"
        for name, many, conf in told
        if many != 1 and not (setup.broker == "redis" and _disabled(conf))
    ]
    if not hoarding:
        yield Finding("prefetch", "ok", "A worker takes a message when it has time.")
        return
    yield Finding(
        "prefetch",
        "warning",
        f"Messages taken ahead for each process: {listed(hoarding)}. Those behind a "
        "long job wait there, though other workers may be idle.",
        setting(setup.conf, "worker_disable_prefetch", value=True)
        if setup.broker == "redis"
        else setting(setup.conf, "worker_prefetch_multiplier", 1),
    )


def _disabled(conf: Mapping[str, Any]) -> bool:
    return bool(conf.get("worker_disable_prefetch"))


# -- checks of the broker ---------------------------------------------------------


def visibility_timeout(setup: Setup) -> Iterator[Finding]:
    """Whether all agree on when a message that is not acknowledged comes again."""
    usual = VISIBILITY.get(setup.broker)
    if usual is None:
        return
    mine = _visibility(setup.transport_options, usual)
    theirs = {w.name: _visibility(w.transport_options, usual) for w in setup.workers}
    others = {name: value for name, value in theirs.items() if value != mine}
    if not others:
        found = f"Everybody's visibility_timeout is {mine:g} s."
        yield Finding("visibility timeout", "ok", found)
        return
    shown = listed(f"{name} {value:g} s" for name, value in others.items())
    yield Finding(
        "visibility timeout",
        "warning",
        f"visibility_timeout is {mine:g} s here, but {shown}: the shortest one "
        "delivers everybody's messages again.",
        _transport_line(setup, "visibility_timeout", max(mine, *others.values()))
        + "   (everywhere, and restart the workers)",
    )


def confirms(setup: Setup) -> Iterator[Finding]:
    """Whether RabbitMQ confirms that it has a message."""
    if setup.broker != "amqp":
        return
    if setup.transport_options.get("confirm_publish"):
        yield Finding("confirms", "ok", "RabbitMQ confirms each message.")
        return
    yield Finding(
        "confirms",
        "warning",
        "RabbitMQ does not confirm messages: a job whose message it loses in a crash "
        f"waits {setup.settings.hint_seconds:g} s for another.",
        _transport_line(setup, "confirm_publish", value=True),
    )


def ack_after(setup: Setup) -> Iterator[Finding]:
    """Whether running jobs are acknowledged well before their message comes again."""
    usual = VISIBILITY.get(setup.broker)
    if usual is not None:
        limit = _visibility(setup.transport_options, usual)
    elif setup.broker == "amqp":
        limit = CONSUMER_TIMEOUT
    else:
        return
    after = setup.settings.ack_after
    if after <= limit / 2:
        found = f"Running jobs are acknowledged after {after:g} s."
        yield Finding("ack after", "ok", found)
        return
    yield Finding(
        "ack after",
        "warning",
        f"Running jobs are acknowledged after {after:g} s, which is too near to the "
        f"{limit:g} s after which the broker takes their message back.",
        setting(setup.conf, "jobkit_ack_after", min(Settings().ack_after, limit / 4)),
    )


def delivery_limits(setup: Setup) -> Iterator[Finding]:
    """Whether RabbitMQ brings a message back for ever, or gives it up and drops it."""
    if setup.broker != "amqp":
        return
    declared = {queue.name: queue for queue in setup.conf.task_queues or ()}
    arguments = {name: queue.queue_arguments or {} for name, queue in declared.items()}
    quorum = {
        name: given
        for name, given in arguments.items()
        if given.get("x-queue-type") == "quorum"
    }
    limited = [name for name, given in quorum.items() if "x-delivery-limit" in given]
    dropping = [n for n in limited if "x-dead-letter-exchange" not in arguments[n]]
    endless = quorum.keys() - limited
    if dropping:
        yield _limits(
            *(setup, "warning", dropping),
            "What reaches the delivery limit of these queues may be dropped",
        )
    if endless:
        yield _limits(
            *(setup, "info", endless),
            "Before RabbitMQ 4 a task that is no job, and kills its worker, may come "
            "back for ever in quorum queues without a delivery limit",
        )
    if not dropping and not endless:
        found = "RabbitMQ drops no message at a delivery limit."
        yield Finding("delivery limits", "ok", found)


def _limits(setup: Setup, level: Level, queues: Iterable[str], found: str) -> Finding:
    options = {"type": "quorum", "delivery_limit": 20, "collect": True}
    example = setting(setup.conf, "jobkit_queues", {min(queues): options})
    return Finding("delivery limits", level, f"{found}: {listed(queues)}.", example)


# -- checks of the workers --------------------------------------------------------


def lease(setup: Setup) -> Iterator[Finding]:
    """Whether a lease is long enough for the renewal at its third."""
    timeout = setup.settings.store_timeout
    least = 3 * timeout
    short = [
        (f"of {task.name}", task.lease_seconds, "@app.task(..., lease_seconds={:g})")
        for task in setup.tasks
        if task.lease_seconds is not None
    ]
    by_app = setting(setup.conf, "jobkit_lease_seconds", least)
    short.append(("of the app", setup.settings.lease_seconds, by_app))
    good = True
    for whose, seconds, fix in short:
        if seconds < least:
            good = False
            yield Finding(
                "lease",
                "warning",
                f"The lease {whose} ({seconds:g} s) is renewed every {seconds / 3:.2g} s, "
                f"but one try may take {timeout:g} s (jobkit_store_timeout).",
                fix.format(least),
            )
    if good:
        yield Finding("lease", "ok", "Leases are long enough for their renewals.")


POOLS: Mapping[str, tuple[Level, str]] = {
    "eventlet": ("error", "is not supported"),
    "gevent": ("warning", "renews a lease only while its job yields (I/O, sleep)"),
    "solo": ("warning", "acknowledges nothing, and answers nobody, while a job runs"),
    "threads": ("info", "has no time limits"),
}


def pools(setup: Setup) -> Iterator[Finding]:
    """Whether the workers' pools can do all that jobs need."""
    kinds: dict[str, list[str]] = {}
    for worker in setup.job_workers:
        kinds.setdefault(worker.pool, []).append(worker.name)
    if not setup.job_workers:
        kinds[_pool(str(setup.conf.worker_pool))] = ["worker_pool"]
    odd = [kind for kind in kinds if kind in POOLS]
    if not odd:
        yield Finding("pool", "ok", "The workers' pools are supported in full.")
    for kind in odd:
        level, why = POOLS[kind]
        limited = kind == "threads" and _have_limits(setup)
        yield Finding(
            "pool",
            "warning" if limited else level,
            f"The {kind} pool {why}{', but tasks have them' if limited else ''} "
            f"({listed(kinds[kind])}).",
            setting(setup.conf, "worker_pool", "prefork") + "   (or worker -P prefork)",
        )


def _have_limits(setup: Setup) -> bool:
    conf = setup.conf
    return bool(
        conf.task_time_limit
        or conf.task_soft_time_limit
        or any(task.time_limit or task.soft_time_limit for task in setup.tasks)
    )


def systemd(setup: Setup) -> Iterator[Finding]:
    """Whether systemd signals the processes of a pool, which end their jobs."""
    there = [
        worker.name
        for worker in setup.job_workers
        if worker.jobkit.get("systemd") and not worker.jobkit.get("remap_sigterm")
    ]
    if there:
        where = f"Run by systemd: {listed(there)}. "
    elif setup.verbose:
        where = ""
    else:
        return
    yield Finding(
        "systemd",
        "info",
        f"{where}By default systemd signals every process of a worker that it stops.",
        "KillMode=mixed   (in [Service]; or Environment=REMAP_SIGTERM=SIGQUIT, which "
        "also cuts off running tasks that are no jobs)",
    )


CHECKS: tuple[Check, ...] = (
    *(persistence, eviction, unique_jobs, backend, acks, lost_children, prefetch),
    *(visibility_timeout, confirms, ack_after, delivery_limits),
    *(lease, pools, systemd),
)


# -- words ------------------------------------------------------------------------


def listed(names: Iterable[str], most: int = 3) -> str:
    """Some names, and how many more there are."""
    several = sorted(names)
    more = len(several) - most
    return ", ".join(several[:most]) + (f" and {more} more" if more > 0 else "")


def setting(conf: Any, name: str, value: Any) -> str:
    """The line that sets a setting, with the namespace of the project (Django's)."""
    space = getattr(conf, "prefix", None) or ""
    if not space:
        return f"app.conf.{name} = {value!r}"
    return f"{(space + name).upper() if space.isupper() else space + name} = {value!r}"


def _transport_line(setup: Setup, name: str, value: Any) -> str:
    line = setting(setup.conf, "broker_transport_options", {name: value})
    # What is set there already may be secret.
    return line.replace(" = ", " |= ", 1) if setup.transport_options else line


def mapping(value: Any) -> Mapping[str, Any]:
    """The mapping that a worker answers, or an empty one where it is none."""
    return value if isinstance(value, Mapping) else {}


def _pool(name: str) -> str:
    return "threads" if name == "thread" else name


def _visibility(options: Mapping[str, Any], usual: float) -> float:
    return float(options.get("visibility_timeout") or usual)
