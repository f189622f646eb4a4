"""The public face is pinned: whoever changes it changes this file as well."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import fields
from importlib import resources
from typing import Any

import pytest
from celery import Task
from celery.result import AsyncResult
from celery.utils.dispatch import Signal

import jobkit
from jobkit import errors, signals, web
from jobkit.filters import Filters, Wanted
from jobkit.items import StageRun
from jobkit.job import SCHEMA, StopRequest
from jobkit.run import CurrentJob
from jobkit.store.keys import Keys
from jobkit.verdicts import Verdict
from jobkit.web import wsgi

ALL = """
Bulk Cancelled Client CodecError DependencyDown Drained DuplicateJob Event Interrupted
ItemFailure Job JobKit JobNotFound JobResult JobTask JobkitError LeaseLost Limit LimitError
LimitState NotAllowed Page Paused Permanent Progress ProgressTask QueueStatistics RateLimit
RateLimited Restored RetryPolicy SavedStage SchemaError SettingsError
SkipItem SkipPolicy Stage StageError State Statistics StoreError StoreUnavailable TaskStatistics
TooManyFailures Transient Yielded
"""


def test_what_jobkit_exports() -> None:
    assert jobkit.__all__ == ALL.split()
    assert all(hasattr(jobkit, name) for name in jobkit.__all__)


def test_what_its_web_surface_exports() -> None:
    assert web.__all__ == ["Authorize", "Scope", "Showing", "Tokens", "jobs_app"]
    assert signature(web.jobs_app).startswith(
        "(source, *, authorize=None, public=False, tokens=None, trusted_origins=(), "
    )
    assert public(web.Tokens) == {
        "sign": "(job_id, scope='read', *, seconds=86400.0)",
        "scope": "(token, job_id)",
    }
    assert signature(wsgi.status) == (
        "(jobs, job_id, *, scope='read', showing=Showing(details=False, "
        "usual_seconds=None), if_none_match='')"
    )
    assert signature(wsgi.act).startswith("(jobs, job_id, action, *, actor='web', ")
    assert signature(wsgi.progress).startswith("(jobs, job_id, *, showing=")


# -- methods


def signature(function: Any) -> str:
    """The parameters with their defaults, without their types."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    ]
    return str(inspect.Signature(parameters))


def public(kind: type) -> dict[str, str]:
    """The public methods and properties of a class, but for those it inherits."""
    found = {}
    for name, member in vars(kind).items():
        if isinstance(member, property):
            found[name] = "property"
        elif inspect.isfunction(member):
            found[name] = signature(member)
    return {name: how for name, how in found.items() if not name.startswith("_")}


PROGRESS_TASK = {
    "migrate": "(saved)",
    "stage": "(name, total=None, title=None)",
    "step": "(name, fn, /, *args, **kwargs)",
    "set_progress": "(current, total, description='')",
    "increment_progress": "(by=1)",
}

JOB_TASK = {
    "AsyncResult": "(task_id, **kwargs)",
    "apply_async": "(args=None, kwargs=None, task_id=None, producer=None, link=None, "
    "link_error=None, shadow=None, *, idempotency_key=None, owner='', **options)",
    "before_start": "(task_id, args, kwargs)",
    "backend": "property",
    "check_limits": "()",
    "claims": "(args, kwargs)",
    "job": "property",
    "kit": "property",
    "new_job": "(job_id, message, owner='', delay=None)",
    "policy": "property",
    "replace": "(sig, *args, **kwargs)",
    "retry": "(*args, **kwargs)",
    "run_or_delay": "(*args, wait=2.0, **kwargs)",
}

STAGE_RUN = {
    "advance": "(n=1, message=None)",
    "checkpoint": "(cursor)",
    "cursor": "property",
    "done": "property",
    "each": "(source, handler, key=None, total=None, cursor=None, threads=1)",
    "failures": "()",
    "iterate": "(source, total=None, cursor=None)",
    "message": "(text)",
    "set": "(current, total, message)",
}

CURRENT_JOB = {
    "attempt": "property",
    "fence": "property",
    "id": "property",
    "item_key": "(item)",
    "owner": "property",
    "recoveries": "property",
    "should_stop": "()",
}

CLIENT = {
    "backlog": "()",
    "cancel": "(job_id, *, reason='', actor='')",
    "counts": "()",
    "discard": "(job_id, *, reason='', actor='')",
    "discard_all": "(*, rate=None, expect=None, everything=False, dry_run=False, "
    "reason='', actor='', **filters)",
    "ended": "(minutes=60)",
    "export": "(**filters)",
    "failures": "(job_id, *, after=None, limit=50)",
    "failures_csv": "(job_id)",
    "get": "(job_id)",
    "history": "(job_id, after='')",
    "limit": "(key, *, rate=False)",
    "limits": "(*, after=None, limit=50)",
    "list": "(*, after=None, limit=50, **filters)",
    "pause": "(job_id, *, reason='', actor='')",
    "replay": "(job_id, mode='resume', *, reason='', actor='')",
    "replay_all": "(mode='resume', *, rate=None, expect=None, everything=False, "
    "dry_run=False, reason='', actor='', **filters)",
    "restore": "(lines)",
    "resume": "(job_id, *, actor='')",
    "set_limit": "(key, n, per=None)",
    "statistics": "(*, task=None, newest=2000, waiting=True)",
    "usual_seconds": "(task)",
    "watch": "(job_id)",
}

JOB_RESULT = {
    "cancel": "(reason='', actor='')",
    "job": "()",
    "watch": "()",
}


@pytest.mark.parametrize(
    ("kind", "pinned"),
    [
        (jobkit.ProgressTask, PROGRESS_TASK),
        (jobkit.JobTask, JOB_TASK),
        (StageRun, STAGE_RUN),
        (CurrentJob, CURRENT_JOB),
        (jobkit.Client, CLIENT),
        (jobkit.JobResult, JOB_RESULT),
    ],
)
def test_a_class_has_these_methods(kind: type, pinned: dict[str, str]) -> None:
    assert public(kind) == pinned


def test_how_things_are_made() -> None:
    made = {
        kind: signature(kind)
        for kind in (jobkit.Client, jobkit.JobKit, jobkit.Stage, jobkit.Page)
    }

    assert made == {
        jobkit.Client: "(store, cancelled=None, anew=None, *, knows=None, "
        "send=None, targets=<class 'dict'>, prefix='jobkit', partitions=1)",
        jobkit.JobKit: "(app, store=None)",
        jobkit.Stage: "(name, weight=1.0, title=None, was=())",
        jobkit.Page: "(items, next=None)",
    }


def test_the_options_of_a_task_and_their_defaults() -> None:
    task = jobkit.ProgressTask

    assert task.stages == ()
    assert task.retry_policy is None
    assert task.lease_seconds is None
    assert task.checkpoint_interval is None
    assert task.checkpoint_every is None
    assert (task.unique_on, task.unique_until) == (None, "finish")
    assert task.on_duplicate == "return"
    assert task.limits == ()
    assert (task.acks_late, task.reject_on_worker_lost) == (True, False)
    assert issubclass(task, jobkit.JobTask)
    assert issubclass(jobkit.JobTask, Task)
    assert issubclass(jobkit.JobResult, AsyncResult)


# -- values


def names(kind: Any) -> str:
    return " ".join(field.name for field in fields(kind))


def test_the_fields_of_the_values() -> None:
    assert names(jobkit.Progress) == (
        "current total percent rate eta_seconds message "
        "stage stage_index stage_count ok failed skipped"
    )
    assert names(jobkit.Event) == "id name at state detail progress"
    assert names(jobkit.Page) == "items next"
    assert names(jobkit.SavedStage) == (
        "current total failed skipped done cursor value"
    )
    assert names(jobkit.Stage) == "name weight title was"
    assert names(StopRequest) == "kind actor reason"
    assert names(jobkit.Job) == (
        "id task state reason queue priority dead_letter_queue owner fence worker "
        "attempts starts recoveries interruptions crashes_without_progress crash_limit "
        "rate_limited budgets position stages checkpoint progress error "
        "open_failures request replay_of replay_root replays message created_at published_at started_at updated_at "
        "finished_at due_at lease_until unique_key generation"
    )
    assert names(jobkit.RetryPolicy) == (
        "transient rate_limited unknown crashes total base cap verdicts never"
    )
    assert names(jobkit.SkipPolicy) == (
        "max_failures max_rate min_seen max_consecutive item_retries item_base"
    )
    assert names(jobkit.ItemFailure) == (
        "place stage key error message attempts first_at last_at open payload"
    )
    assert names(jobkit.Limit) == "key n"
    assert names(jobkit.RateLimit) == "key n per"
    assert names(jobkit.LimitState) == "key n per changed waiting holders promised"
    assert names(jobkit.Statistics) == "tasks queues jobs since"
    assert names(jobkit.TaskStatistics) == (
        "task count p50 p95 failed partial staged saved"
    )
    assert names(jobkit.QueueStatistics) == (
        "queue count p50 p95 target late waiting oldest"
    )
    assert SCHEMA == 1


@pytest.mark.parametrize(
    "kind",
    [jobkit.Progress, jobkit.Event, jobkit.Page, jobkit.Stage, jobkit.Job],
)
def test_values_are_frozen(kind: Any) -> None:
    assert kind.__dataclass_params__.frozen


def test_unknown_progress_is_none() -> None:
    assert jobkit.Progress() == jobkit.Progress(
        current=0,
        total=None,
        percent=None,
        rate=None,
        eta_seconds=None,
        message=None,
        stage=None,
        stage_index=None,
        stage_count=None,
        ok=0,
        failed=0,
        skipped=0,
    )


def test_the_states() -> None:
    plain = ["SCHEDULED", "QUEUED", "BLOCKED", "RUNNING", "RETRYING", "PAUSED"]
    finished = ["SUCCEEDED", "PARTIAL", "DEAD", "CANCELLED"]

    assert [str(state) for state in jobkit.State] == plain + finished
    assert [state for state in jobkit.State if state.finished] == finished
    assert jobkit.State.RUNNING == "RUNNING"
    assert f"{jobkit.State.RUNNING}" == "RUNNING"


def test_the_verdicts() -> None:
    assert [str(verdict) for verdict in Verdict] == [
        *("transient", "rate_limited", "unknown", "permanent"),
        *("infrastructure", "time_limit"),
    ]


# -- errors

TREE = {
    "JobkitError": ["Exception"],
    "SettingsError": ["JobkitError", "ValueError"],
    "CodecError": ["JobkitError", "TypeError"],
    "LimitError": ["CodecError"],
    "StageError": ["JobkitError"],
    "StoreError": ["JobkitError"],
    "StoreUnavailable": ["StoreError"],
    "SchemaError": ["StoreError"],
    "JobNotFound": ["JobkitError", "LookupError"],
    "NotAllowed": ["JobkitError"],
    "DuplicateJob": ["NotAllowed"],
    "Transient": ["JobkitError"],
    "DependencyDown": ["Transient"],
    "RateLimited": ["JobkitError"],
    "Permanent": ["JobkitError"],
    "TooManyFailures": ["Permanent"],
    "SkipItem": ["JobkitError"],
    "Interrupted": ["BaseException"],
    "Drained": ["Interrupted"],
    "Yielded": ["Interrupted"],
    "Paused": ["Interrupted"],
    "Cancelled": ["Interrupted"],
    "LeaseLost": ["Interrupted"],
}


def test_the_tree_of_errors() -> None:
    tree = {
        name: [base.__name__ for base in kind.__bases__]
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if kind.__module__ == errors.__name__
    }

    assert tree == TREE
    assert set(TREE) <= set(jobkit.__all__)


def test_control_flow_is_no_exception() -> None:
    kinds: list[type] = [jobkit.Interrupted, *jobkit.Interrupted.__subclasses__()]

    assert len(kinds) == 6
    for kind in kinds:
        assert issubclass(kind, BaseException)
        assert not issubclass(kind, Exception)


def test_how_errors_that_steer_are_raised() -> None:
    assert signature(jobkit.RateLimited) == "(message='', retry_after=None)"
    assert signature(jobkit.NotAllowed) == "(message, state='')"
    assert signature(jobkit.JobNotFound) == "(job_id)"


# -- signals

SIGNALS = {
    "job_queued": ["delay"],
    "job_started": ["job"],
    "job_progressed": ["progress"],
    "job_retrying": ["error", "delay"],
    "job_succeeded": ["event_id", "progress"],
    "job_partial": ["event_id", "progress"],
    "job_dead": ["event_id", "reason", "error"],
    "job_cancelled": ["event_id", "reason"],
    "job_recovered": [],
    "job_dead_letter_expiring": ["expires_at"],
}


def test_the_signals_and_what_they_tell() -> None:
    module: dict[str, Any] = vars(signals)
    found = {
        name: signal.providing_args  # type: ignore[attr-defined]
        for name, signal in module.items()
        if isinstance(signal, Signal)
    }

    assert found == {name: {"job_id", *told} for name, told in SIGNALS.items()}
    for name in SIGNALS:
        assert getattr(signals, name).name == name
        assert f"``{name}``" in (signals.__doc__ or "")


# -- the filters of lists and bulks


def test_the_filters_of_jobs() -> None:
    assert names(Wanted) == (
        "state task queue owner dead_letter_queue error since until"
    )
    assert set(names(Wanted).split()) == set(Filters.__annotations__)
    assert names(jobkit.Bulk) == "count ids job_id"
    assert names(jobkit.Restored) == "restored existing refused"


# -- the history

EVENTS = {
    *("scheduled", "queued", "started", "progressed", "retrying", "interrupted"),
    *("blocked", "recovered", "replaced", "amended", "asked", "paused", "resumed"),
    *("succeeded", "partial", "resolved", "dead", "cancelled", "replayed", "discarded"),
    "dropped",
    "restored",
}


def test_the_names_of_events() -> None:
    scripts = resources.files("jobkit.store").joinpath("lua").iterdir()
    text = "".join(script.read_text() for script in scripts)
    named = set(re.findall(r"event\(\s*\w+, '(\w+)'", text))
    ticks = set(re.findall(r"'name', '(\w+)'", text))

    # The events of a new job and of a good end have the names of their states.
    by_state = {"scheduled", "queued", "succeeded", "partial"}
    assert named | ticks | by_state == EVENTS


# -- keys


def test_the_names_of_keys() -> None:
    keys = Keys("shop")

    assert keys.tag(0) == keys.tag_of("a") == "{shop:0}"
    assert keys.job("a") == "{shop:0}:job:a"
    assert keys.events("a") == "{shop:0}:events:a"
    assert keys.ticks("a") == "{shop:0}:ticks:a"
    assert keys.limits == "{shop:limits}"
    assert keys.state(0, "DEAD") == "{shop:0}:state:DEAD"


def test_a_job_lives_in_the_partition_of_its_id() -> None:
    keys = Keys("shop", 4)

    assert keys.tags() == ["{shop:0}", "{shop:1}", "{shop:2}", "{shop:3}"]
    assert [keys.partition(f"job {n}") for n in range(8)] == CRC_32


CRC_32 = [0, 2, 0, 2, 1, 3, 1, 3]
"""The CRC-32 of the ids modulo 4: a change of it loses every job in a store."""


# -- what users read


def members() -> Iterable[tuple[str, Any]]:
    for name in jobkit.__all__:
        kind = getattr(jobkit, name)
        yield name, kind
        for method, member in vars(kind).items():
            if not method.startswith("_") and callable(member):
                yield f"{name}.{method}", member


def test_everything_public_says_what_it_is() -> None:
    for name, member in members():
        text = inspect.getdoc(member) or ""
        assert text.split("\n\n")[0].rstrip().endswith((".", ":")), name
