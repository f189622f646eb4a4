"""The task classes: the order of calls around the user's code."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from inspect import (
    Signature,
    getattr_static,
    isasyncgenfunction,
    iscoroutinefunction,
)
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from celery import Celery, Task, states
from celery._state import _task_stack  # type: ignore[attr-defined]
from celery.backends.base import DisabledBackend
from celery.exceptions import Ignore, Reject, Retry
from celery.result import EagerResult
from celery.signals import task_postrun, task_success

from jobkit import endings, execution
from jobkit.backend import for_a_run
from jobkit.checkpoint import SavedStage
from jobkit.entry import ENTERING, KEYS, Entry, asked, delay_of, with_eta
from jobkit.errors import JobkitError, SettingsError
from jobkit.execution import Execution
from jobkit.gate import Gate
from jobkit.items import StageRun
from jobkit.job import Message, NewJob, Unique
from jobkit.limits import AnyLimit, check_names, claims_of, limits_of, signature_of
from jobkit.progress import Plan, Stage, total_of
from jobkit.publishing import (
    MessageCatcher,
    queue_of,
)
from jobkit.recording import unique_in
from jobkit.results import JobResult, ends_within
from jobkit.retry import RetryPolicy
from jobkit.run import CurrentJob
from jobkit.settings import KEY, Settings
from jobkit.skip import Skipping, SkipPolicy
from jobkit.store.slots import Claim
from jobkit.unique import OnDuplicate, Uniqueness, Until

if TYPE_CHECKING:
    from jobkit.kit import JobKit

    BaseTask = Task[..., Any]
else:
    BaseTask = Task

T = TypeVar("T")

LIKE_SETTINGS = ("lease_seconds", "checkpoint_interval", "checkpoint_every")
"""Options of a task that take what the settings of the same names take."""


class JobTask(BaseTask):
    """A task that is a job: recorded, leased, retried by the kind of error.

    Options, as class attributes or as keywords of ``@app.task``:

    * ``retry_policy``: a ``RetryPolicy``, a dict of its arguments, or ``"never"``;
      default: the setting ``jobkit_retry_policy``.
    * ``lease_seconds``: how long a silent worker keeps the job (default 30 s).
    * ``unique_on``: names of arguments, or ``"*"`` for all of them; of jobs that
      agree in them there is one at a time. An empty list: one of the task.
    * ``unique_until``: for how long; ``"finish"`` (default: until it has ended),
      ``"start"`` (until it begins: one may run and one wait), or a number of seconds
      from when it was enqueued, ended or not. One that died or was cancelled is no
      hindrance in any case.
    * ``on_duplicate``: what enqueueing another one does: ``"return"`` (default) the
      job that is there, ``"raise"`` ``DuplicateJob``, or ``"replace_queued"``: return
      it, with the newest arguments as long as it has not begun; all else of it, its
      time and its place in the queue too, stays as it was.
    * ``limits``: ``Limit(key, n)`` and ``RateLimit(key, n, per)``, whose keys may name
      arguments of the task; those of the setting ``jobkit_limits`` come beside them.
    """

    abstract = True
    acks_late = True
    reject_on_worker_lost = False
    retry_on_worker_lost = False
    Request = "jobkit.worker:JobRequest"

    stages: ClassVar[Iterable[str | Stage]] = ()
    retry_policy: RetryPolicy | dict[str, Any] | str | None = None
    lease_seconds: float | None = None
    checkpoint_interval: float | None = None
    checkpoint_every: int | None = None
    skip_policy: SkipPolicy | dict[str, Any] | None = None
    unique_on: Sequence[str] | None = None
    unique_until: Until | float | timedelta = "finish"
    on_duplicate: OnDuplicate = "return"
    limits: Iterable[AnyLimit | dict[str, Any]] = ()

    tells_started: ClassVar[bool] = False
    uniqueness: ClassVar[Uniqueness | None] = None
    make_kit: ClassVar[Callable[[Celery], JobKit]]
    plan: ClassVar[Plan] = Plan(())

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Check the options as soon as the task belongs to an app.

        Raises:
            SettingsError: One of them is wrong.
        """
        try:
            cls._check_options()
        except SettingsError as error:
            raise SettingsError(f"Task {cls.name!r}: {error}") from None
        kit_of(app)

    @classmethod
    def _check_options(cls) -> None:
        # Celery says STARTED of a message that the gate then refuses.
        mine = vars(cls)
        inherited = "tells_started" in mine or "track_started" not in mine
        cls.tells_started = bool(cls.track_started) or (cls.tells_started and inherited)
        cls.track_started = False
        awaited = super().__call__ is not Task.__call__
        if not awaited and (
            iscoroutinefunction(cls.run) or isasyncgenfunction(cls.run)
        ):
            raise SettingsError(
                "its body is async, and Celery would not await it. Call "
                "asyncio.run(...) in a plain one.",
            )
        cls.plan = Plan.of(cls.stages)
        if cls.retry_policy is not None:
            RetryPolicy.of(cls.retry_policy)
        cls.skip_policy = SkipPolicy.of(cls.skip_policy)
        cls.uniqueness = Uniqueness.of(cls)
        cls.limits = limits_of(cls.limits)
        check_names(cls.limits, cls._signature())
        own = [name for name in LIKE_SETTINGS if getattr(cls, name) is not None]
        checked = Settings.read({KEY + name: getattr(cls, name) for name in own})
        for name in own:
            setattr(cls, name, getattr(checked, name))

    @classmethod
    def _signature(cls) -> Signature:
        bound = not isinstance(getattr_static(cls, "run"), staticmethod)
        return signature_of(cls.run, bound=bound)

    @cached_property
    def _limits(self) -> tuple[tuple[AnyLimit, ...], Signature]:
        merged = self.kit.limit_map.merged(self.name, limits_of(self.limits))
        signature = self._signature()
        try:
            check_names(merged, signature)
        except SettingsError as error:
            raise SettingsError(f"Task {self.name!r}: {error}") from None
        return merged, signature

    def check_limits(self) -> None:
        """Check the limits that the settings add to the task's own.

        Raises:
            SettingsError: One of them names an argument that the task does not have.
        """
        _ = self._limits

    def claims(self, args: Any, kwargs: Any) -> tuple[Claim, ...]:
        """What a call of the task wants of its limits.

        Raises:
            SettingsError: An argument is missing, or has no plain text.
        """
        try:
            return claims_of(*self._limits, tuple(args or ()), kwargs or {})
        except SettingsError as error:
            raise SettingsError(f"Task {self.name!r}: {error}") from None

    @property
    def kit(self) -> JobKit:
        """The JobKit of the task's app."""
        return kit_of(self.app)

    @property
    def backend(self) -> Any:
        """Celery's result backend of the task."""
        backend = super().backend
        current = execution.of(self.request)
        return backend if current is None else for_a_run(backend)

    @backend.setter
    def backend(self, backend: Any) -> None:
        self._backend = backend

    @property
    def job(self) -> CurrentJob:
        """The job that is running.

        Raises:
            JobkitError: Nothing is running.
        """
        return CurrentJob(self._execution.run)

    @property
    def _execution(self) -> Execution:
        current = execution.of(self.request)
        if current is None:
            raise JobkitError(f"Task {self.name} is not running: there is no job.")
        return current

    # -- entering -----------------------------------------------------------------

    def AsyncResult(self, task_id: str, **kwargs: Any) -> JobResult:  # noqa: N802
        """The handle on a job of this task."""
        return JobResult(
            task_id, backend=self.backend, task_name=self.name, app=self.app, **kwargs
        )

    def apply_async(  # noqa: PLR0913 - Celery's own, and two
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        *,
        idempotency_key: str | None = None,
        owner: str = "",
        **options: Any,
    ) -> Any:
        """Record the job, and publish its message; see Celery for the options.

        With the broker out of reach the job is recorded all the same, and its
        message is published by a worker later. ``countdown`` and ``eta`` wait
        in the store. A ``task_id`` may be used again once its job has ended, as in
        Celery. ``idempotency_key`` makes the job's id: enqueued again
        while its record lasts, the same job comes back (``.existing``).
        ``owner`` is a free text to find jobs by. Of a task with ``unique_on`` the
        job that is there comes back (``.existing``), and nothing is enqueued; where
        the ``task_id`` is given, or is a chain's, group's or chord's, it is recorded
        as CANCELLED, so that nobody waits for it.

        Raises:
            DuplicateJob: Another job has its unique key, with ``on_duplicate="raise"``.
            CodecError: The unique key cannot be made of these arguments.
            SettingsError: The task is unique, and ``jobkit_partitions`` above 1 admit
                no id but jobkit's own.
            StoreUnavailable: Nothing was published; the job may have been recorded
                all the same, if only the answer was lost: with an
                ``idempotency_key`` a second call is safe.
            LimitError: The message takes more than 1 MiB.
            SettingsError: A limit needs an argument that is not given, or has no
                plain text.
        """
        app = self.app
        if app.conf.task_always_eager:
            return super().apply_async(
                args, kwargs, task_id, producer, link, link_error, shadow, **options
            )
        known = task_id is not None and idempotency_key is None
        serializer = options.get("serializer")
        unique = asked(self, args, kwargs, serializer, known=known)
        if idempotency_key is not None:
            task_id = str(uuid.uuid5(KEYS, f"{self.name}:{idempotency_key}"))
        task_id = task_id or self._new_id(unique)
        delay = delay_of(app, options.pop("countdown", None), options.pop("eta", None))
        options["headers"] = with_eta(app, options.get("headers"), delay)
        claims = self.claims(args, kwargs)
        connection = options.pop("connection", None)
        if connection is not None:
            producer = app.amqp.Producer(connection, auto_declare=False)
        with app.producer_or_acquire(producer) as real:
            once = idempotency_key is not None
            entry = Entry(self, task_id, owner, delay, real, unique, once=once)
            entry.claims = claims
            catcher: Any = MessageCatcher(real, task_id, self.name, entry.decide)
            entering = ENTERING.set(task_id)
            try:
                result = super().apply_async(
                    args,
                    kwargs,
                    task_id=task_id,
                    producer=catcher,
                    link=link,
                    link_error=link_error,
                    shadow=shadow,
                    **options,
                )
            finally:
                ENTERING.reset(entering)
        if entry.there != task_id:
            result = self._instead(result, entry.there)
        cast("JobResult", result).existing = entry.existing
        return result

    def _new_id(self, unique: Unique | None) -> str:
        # The record must be where its unique key is.
        return self.kit.store.partner(unique.key) if unique else str(uuid.uuid4())

    def _instead(self, result: Any, there: str) -> JobResult:
        """The result of the job that is there, also for the task that enqueued it."""
        found = self.AsyncResult(there)
        parent: Any = self.app.current_worker_task
        if parent is not None and result in (parent.request.children or ()):
            children = parent.request.children
            children[children.index(result)] = found
        return found

    def run_or_delay(self, *args: Any, wait: float = 2.0, **kwargs: Any) -> Any:
        """Enqueue as ``delay`` does, and return the result if it is there soon.

        For handlers of requests, in any number of threads. After ``wait`` seconds,
        or at once where no result is kept, the ``JobResult`` is returned instead, and
        the job goes on. The end is pushed by the store, and the result is not polled for.

        Raises:
            Exception: What the job ended with within that time.
        """
        wait = float(wait)  # refused before anything is enqueued
        result = self.apply_async(args, kwargs)
        kept = not (self.ignore_result or isinstance(self.backend, DisabledBackend))
        is_local = isinstance(result, EagerResult)
        if is_local or (kept and ends_within(self, result.id, wait)):
            return result.get(disable_sync_subtasks=False)
        return result

    def new_job(
        self, job_id: str, message: Message, owner: str = "", delay: float | None = None
    ) -> NewJob:
        """The record of a job of this task before it has run.

        It asks for the unique key that its message asks for.
        """
        queue = queue_of(message)
        return NewJob(
            id=job_id,
            task=self.name,
            message=message.encode(),
            queue=queue,
            priority=_whole(message.properties.get("priority")),
            dead_letter_queue=self.kit.dead_letter_queue(self.name, queue),
            owner=owner or "",
            stages=self.plan.names,
            crash_limit=self.policy.crashes,
            delay=delay,
            unique=unique_in(self, message),
        )

    # -- running ------------------------------------------------------------------

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """The gate: begin the run, or leave the message to what the record says."""
        current = Gate(self).enter()
        if current.arguments and isinstance(args, list):
            # Celery's other hooks and signals get the same objects.
            args[:], newest = current.arguments
            kwargs.clear()
            kwargs.update(newest)
        super().before_start(task_id, args, kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body, and turn what it ends with into the job's ending."""
        request = self.request
        current = execution.of(request)
        if request.called_directly or (current and current.entered):
            return self._directly(args, kwargs)
        if current is None:  # a before_start that did not call super()
            current = Gate(self).enter()
        current.entered = True
        if current.arguments:
            args, kwargs = current.arguments
        beneath = super().__call__
        # Celery's own would push the request once more where nothing guards it
        # against that: in eager mode, and in workers that a process embeds.
        is_own = getattr(beneath, "__func__", None) is Task.__call__
        body = self.run if is_own else beneath
        try:
            result = body(*args, **kwargs)
        except BaseException as error:
            endings.ended_by(current, error)
            raise
        endings.returned(current)
        return result

    def _directly(self, args: Any, kwargs: Any) -> Any:
        _task_stack.push(self)
        self.push_request(args=args, kwargs=kwargs, called_directly=True)
        try:
            current = Gate(self).enter()
            try:
                result = self.run(*args, **kwargs)
            except Exception as error:
                endings.failed(current, error)
                endings.settle(current, "FAILURE", error)
                raise
            endings.settle(current, "SUCCESS", result)
            return result
        finally:
            self.pop_request()
            _task_stack.pop()

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """Celery's ``retry``: the wait is kept in the store, not in a worker."""
        current = execution.of(self.request)
        if current is None:
            return super().retry(*args, **kwargs)
        current.retrying = True
        try:
            return super().retry(*args, **kwargs)
        except (Retry, Reject):
            raise
        except Exception as error:
            current.given_up = error
            raise
        finally:
            current.retrying = False

    def replace(self, sig: Any, *args: Any, **kwargs: Any) -> Any:
        """Celery's ``replace``: the job's id goes on as another task's."""
        current = execution.of(self.request)
        if current is not None:
            current.replacing = True
            if self.request.is_eager:
                endings.ignored(current)
            elif hasattr(sig, "tasks"):  # a chain, group or chord
                current.cede()
        return super().replace(sig, *args, **kwargs)

    @property
    def policy(self) -> RetryPolicy:
        """The retry policy in force: the task's own, or the app's."""
        if self.retry_policy is None:
            return self.kit.retry_policy
        return RetryPolicy.of(self.retry_policy)

    @cached_property
    def skipping(self) -> Skipping:
        """What the items of a stage may cost, as far as the task knows."""
        policy = SkipPolicy.of(self.skip_policy)
        return Skipping(policy, self.policy.verdicts, (Ignore, Reject, Retry))


class ProgressTask(JobTask):
    """A job with stages, progress and checkpoints.

    Options beside those of ``JobTask``:

    * ``stages``: names or ``Stage(name, weight=1)``, in their order;
    * ``checkpoint_interval``: seconds between two saves of a running stage
      (default 1), which is also the most that a killed worker repeats;
    * ``checkpoint_every``: a number of items after which to save besides;
    * ``skip_policy``: a ``SkipPolicy``, or a dict of its arguments: how many items of
      ``stage.each`` may fail before the job does.
    """

    abstract = True

    def stage(
        self, name: str, total: int | None = None, title: str | None = None
    ) -> StageRun:
        """Begin a declared stage: ``with self.stage("import") as stage: ...``.

        ``total`` is the number of its items, None while it is not known; ``title``
        is its first message, in place of the one it is declared with. At the
        end of the block the stage is finished, and saved; a later run of the
        job skips it.

        Raises:
            StageError: It is not declared, used a second time, out of order or
                inside another; or the total is not a number from 0 on.
        """
        return self._execution.run.stage(name, total_of(total, name), title)

    def step(self, name: str, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call ``fn`` once in the life of the job; later runs get the saved value.

        Raises:
            CodecError: The value's type is not kept, or it takes over 64 KiB.
            StageError: As for ``stage``.
        """
        return self._execution.run.step(name, lambda: fn(*args, **kwargs))

    def migrate(self, saved: dict[str, SavedStage]) -> Mapping[str, SavedStage] | None:
        """Fit what older code has saved to the stages of this one; None: it cannot be.

        Called before a run whose saved stages are not how the task's stages begin;
        ``saved`` has those that were begun, in their order. What is returned takes
        their place: ``{"import": saved["import"]}`` without a stage that is gone, or
        ``replace(saved["import"], cursor=...)`` with another cursor. A stage that is
        left out begins anew. With None, as by default, and with an error the job is
        paused (``incompatible``). For another name ``Stage(new, was=old)`` is enough.
        """
        del saved
        return None

    def set_progress(self, current: int, total: int, description: str = "") -> None:
        """Report ``current`` of ``total``, in the words of celery-progress."""
        self._execution.run.current().set(current, total, description or None)

    def increment_progress(self, by: int = 1) -> None:
        """Report ``by`` more items as done."""
        self._execution.run.current().advance(by)


def _whole(priority: Any) -> int | None:
    return None if priority is None else int(priority)


def kit_of(app: Celery) -> JobKit:
    """The JobKit of an app; made with the defaults when there is none."""
    kit: JobKit | None = getattr(app, "jobkit", None)
    return kit if kit is not None else JobTask.make_kit(app)


@task_success.connect(weak=False, dispatch_uid="jobkit.stored")
def stored(sender: Any = None, **_: Any) -> None:
    """Note that Celery has stored the result, and counted it for a chord."""
    if isinstance(sender, JobTask):
        current = execution.of(sender.request)
        if current is not None:
            current.stored = True


@task_postrun.connect(weak=False, dispatch_uid="jobkit.settle")
def settle(
    sender: Any = None, state: str | None = None, retval: Any = None, **_: Any
) -> None:
    """End the job when Celery is through with its task.

    By this signal and not by ``on_success`` and ``on_failure``, which users
    override without calling super().
    """
    if isinstance(sender, JobTask):
        request = sender.request
        current = execution.of(request)
        if current is None and state == states.FAILURE and not request.called_directly:
            current = _begun_late(sender)
        if current is not None:
            endings.settle(current, state, retval)
            execution.leave(request)


def _begun_late(task: JobTask) -> Execution | None:
    """The run of a job whose own ``before_start`` failed before it called ours."""
    try:
        return Gate(task).enter()
    except Exception:  # noqa: BLE001 - what has begun all the same is to be ended
        return execution.of(task.request)
