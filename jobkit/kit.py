"""JobKit: everything of jobkit that belongs to one Celery app."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cached_property, partial
from typing import Any, cast

from celery import Celery, current_app
from celery.signals import before_task_publish
from kombu.exceptions import OperationalError

from jobkit import ends, results, routing
from jobkit.bulk import STAGES, carry_out
from jobkit.client import Client
from jobkit.dispatcher import Dispatcher
from jobkit.drain import DrainFlag
from jobkit.entry import ENTERING, may_repeat
from jobkit.errors import CodecError, SettingsError, StoreError, StoreUnavailable
from jobkit.lease import Keeper, Slice
from jobkit.limits import LimitMap
from jobkit.lookahead import LookaheadStep
from jobkit.order import Order
from jobkit.publishing import anew, catch, publish_from_pool
from jobkit.queues import RoutingMap
from jobkit.recording import adopt
from jobkit.retry import RetryPolicy
from jobkit.settings import Settings, store_url
from jobkit.states import State
from jobkit.store.base import Store
from jobkit.store.memory import MemoryStore
from jobkit.store.redis import RedisStore
from jobkit.store.values import Retention
from jobkit.task import JobTask, ProgressTask
from jobkit.turns import Turns
from jobkit.worker import JobStep

logger = logging.getLogger(__name__)

BULK_OPTIONS: dict[str, Any] = {
    "base": ProgressTask,
    "bind": True,
    "shared": False,
    "checkpoint_interval": 0.5,  # a cancel is heard of within a second
    "retry_policy": {"transient": 25, "verdicts": {StoreUnavailable: "transient"}},
}
"""The options of the tasks that replay and discard in bulk."""


class JobKit:
    """Settings, store and client of one app; ``app.jobkit`` afterwards.

    ``base=ProgressTask`` alone makes one. Made by hand, it may be given a
    ``store`` of one's own. Nothing is read and nobody is called until it is
    needed, so it may be made before the app is configured.
    """

    def __init__(self, app: Celery, store: Store | None = None) -> None:
        self.app = app
        self.drain = DrainFlag()
        self.keeper = Keeper(self.drain.is_set)
        self.ends_with_results = True
        self._given = store
        earlier: JobKit | None = getattr(app, "jobkit", None)
        if earlier is not None:
            before_task_publish.disconnect(earlier._sent_by_name)  # noqa: SLF001 - our own
        cast("Any", app).jobkit = self
        app.steps["worker"].add(JobStep)
        for name, stage in STAGES.items():
            cast("Any", app).task(carry_out, name=name, stages=[stage], **BULK_OPTIONS)
        app.steps["consumer"].add(LookaheadStep)
        before_task_publish.connect(self._sent_by_name, weak=False)
        if cast("Any", app).finalized:
            self._install_routes()
            return
        # A producer's first message is routed before its app is finalized.
        app.on_after_configure.connect(self._install_early, weak=False)
        app.on_after_finalize.connect(self._install_routes, weak=False)
        if cast("Any", app).configured:
            self._install_early()

    @cached_property
    def settings(self) -> Settings:
        """The ``jobkit_*`` settings, read once.

        Raises:
            SettingsError: One is unknown or ill-typed.
        """
        return Settings.read(self.app.conf)

    @cached_property
    def retry_policy(self) -> RetryPolicy:
        """The policy of tasks that do not name their own."""
        return RetryPolicy.of(self.settings.retry_policy)

    @cached_property
    def routing_map(self) -> RoutingMap | None:
        """The map of queues and routes; None when the project has none."""
        return _read_map(self.settings)

    @property
    def order(self) -> Order | None:
        """The order in which workers serve the map's queues; None without a map."""
        routing_map = self.routing_map
        return None if routing_map is None else _order(routing_map, self.settings)

    @cached_property
    def limit_map(self) -> LimitMap:
        """The limits of the setting, beside those of the tasks."""
        return LimitMap.read(self.settings.limits)

    @cached_property
    def turns(self) -> Turns:
        """Slots for the runs of this process; not for the main process of a worker."""
        publish = partial(publish_from_pool, self.app)
        hint, span = self.settings.hint_seconds, self.settings.lease_seconds
        dispatcher = Dispatcher(self.store, publish, hint, (OperationalError,))
        return Turns(self.store, dispatcher, span)

    @cached_property
    def store(self) -> Store:
        """Where the jobs are.

        Raises:
            SettingsError: No URL is set, and none can be derived.
        """
        return self.open_store()

    @cached_property
    def local(self) -> MemoryStore:
        """Where the jobs of eager mode and of direct calls are: in this process."""
        return MemoryStore(self.retention)

    @cached_property
    def jobs(self) -> Client:
        """The client of the app's jobs."""
        return Client(
            *(self.store, self.tell_cancelled, partial(anew, self.app)),
            knows=self._knows,
            send=self._send,
            targets=self._targets,
        )

    @property
    def retention(self) -> Retention:
        """How long finished records stay."""
        settings = self.settings
        return Retention(
            succeeded=settings.keep_succeeded,
            partial=settings.keep_partial,
            cancelled=settings.keep_cancelled,
            dead=settings.keep_dead,
        )

    def open_store(self) -> Store:
        """A store with connections of its own, for a thread beside the others."""
        if self._given is not None:
            return self._given
        settings = self.settings
        return RedisStore(
            store_url(settings, self.app.conf),
            prefix=settings.prefix,
            partitions=settings.partitions,
            retention=self.retention,
            timeout=settings.store_timeout,
        )

    def check(self) -> None:
        """Read all settings, and look whether the store is there.

        A store that cannot be reached, or refuses, is logged only: it may come
        later, and be mended without the workers.

        Raises:
            SettingsError: A setting is wrong.
        """
        self.check_settings()
        try:
            self.store.ping()
        except StoreUnavailable as error:
            logger.error("%s Jobs wait until it can be reached.", error)  # noqa: TRY400
        except StoreError as error:
            logger.error("%s. Jobs wait until it is mended.", error)  # noqa: TRY400

    def check_settings(self) -> None:
        """Read all settings, and those of all tasks.

        Raises:
            SettingsError: One is wrong, or was changed after its first use.
        """
        _ = self.retry_policy, self.routing_map
        now = Settings.read(self.app.conf)
        late = [
            f"jobkit_{field.name}"
            for field in fields(Settings)
            if getattr(self.settings, field.name) != getattr(now, field.name)
        ]
        if late:
            raise SettingsError(
                f"{', '.join(late)} came too late: jobkit had read its settings, as it "
                "does when the app's first task is used or a task class is registered. "
                "Configure the app before that.",
            )
        if self.limit_map.limits:
            for task in self.app.tasks.values():
                if isinstance(task, JobTask):
                    task.check_limits()

    def dead_letter_queue(self, task: str, queue: str) -> str:
        """The broker queue that gets a copy of such a dead job; empty for none."""
        if self.routing_map is None:
            return ""
        return self.routing_map.dead_letter_queue(task, queue)

    @property
    def collected(self) -> str:
        """The broker queue where RabbitMQ puts the messages that it gives up."""
        return _collected(self.settings)

    def slice_in(self, queue: str) -> Slice | None:
        """The time slice of a job in this queue; None where it may go on."""
        seconds, routing_map = self.settings.time_slice, self.routing_map
        if seconds is None or routing_map is None:
            return None
        # What no process of this worker would take is not worth to stop for.
        consumed = self.app.amqp.queues.consume_from
        urgent = [name for name in routing_map.before(queue) if name in consumed]
        return Slice(seconds, tuple(urgent)) if urgent else None

    def _install_early(self, **_: Any) -> None:
        """Use the map as it is now; what is set later counts when all is read."""
        with suppress(SettingsError):
            settings = Settings.read(self.app.conf)
            routing_map = _read_map(settings)
            if routing_map is not None:
                order, pile = _order(routing_map, settings), _collected(settings)
                routing.install(self.app, routing_map, order, pile)

    def _install_routes(self, **_: Any) -> None:
        try:
            routing_map = self.routing_map
        except SettingsError:
            # Told by `check` at a worker's start, and by the first use elsewhere:
            # there somebody sees it who can mend it.
            return
        if routing_map is not None:
            routing.install(self.app, routing_map, self.order, self.collected)

    def _knows(self, task: str) -> bool:
        if task not in self.app.tasks:
            self.app.loader.import_default_modules()  # as a worker does
        return task in self.app.tasks

    def _targets(self) -> Mapping[str, float | None]:
        queues = self.routing_map.queues if self.routing_map else {}
        return {name: spec.target for name, spec in queues.items()}

    def _send(self, task: str, argument: str) -> str:
        return str(self.app.tasks[task].apply_async((argument,)).id)

    def tell_cancelled(self, job_id: str, reason: str) -> None:
        """Tell Celery and receivers of a job that was cancelled as it waited."""
        job = self.store.get(job_id)
        if job is not None:
            results.announce_cancelled(self.app, job, reason)
            self.store.told(job_id)
            ends.tell(self.store, job_id, State.CANCELLED)

    def _is_anothers(self, task: str) -> bool:
        # The signal does not say whose message it is. Where two apps of a process
        # have a job of this name, it is taken for the current app's.
        app: Any = current_app
        return app != self.app and isinstance(app.tasks.get(task), JobTask)

    def _sent_by_name(
        self,
        sender: str = "",
        body: Any = None,
        headers: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Record a job of ours that ``send_task`` publishes, before it is gone."""
        task = self.app.tasks.get(sender)
        job_id = (headers or {}).get("id", "")
        # Messages of Celery's first protocol have no id among their headers.
        known = not job_id or ENTERING.get() == job_id or self._is_anothers(sender)
        if not isinstance(task, JobTask) or known:
            return
        message = catch(
            sender,
            body,
            {
                "headers": headers,
                "serializer": self.app.conf.task_serializer,
                "exchange": options.get("exchange"),
                "routing_key": options.get("routing_key"),
                **(options.get("properties") or {}),
            },
        )
        try:
            adopt(self.store, task, job_id, message, again=may_repeat())
        except (CodecError, StoreUnavailable) as error:
            logger.warning("Job %s is recorded when it begins: %s", job_id, error)


def _collected(settings: Settings) -> str:
    return f"{settings.prefix}.dead_letters"


def _read_map(settings: Settings) -> RoutingMap | None:
    routing_map = RoutingMap.read(settings.queues, settings.routes)
    if routing_map is None:
        return None
    pile = _collected(settings)
    if pile in routing_map.queues or pile in routing_map.dead_letter_queues():
        raise SettingsError(
            f"{pile!r} in jobkit_queues or jobkit_routes is jobkit's own: workers take "
            "from it what RabbitMQ gives up. Choose another name.",
        )
    return routing_map


def _order(routing_map: RoutingMap, settings: Settings) -> Order:
    return routing.order_of(routing_map, strict=settings.queue_order == "strict")


JobTask.make_kit = JobKit
