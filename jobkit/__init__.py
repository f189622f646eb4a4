"""Turn Celery tasks into jobs that one can trust."""

import jobkit.flower  # noqa: F401 - so that Flower finds it, where Flower runs
from jobkit.bulk import Bulk
from jobkit.checkpoint import SavedStage
from jobkit.client import Client
from jobkit.errors import (
    Cancelled,
    CodecError,
    DependencyDown,
    Drained,
    DuplicateJob,
    Interrupted,
    JobkitError,
    JobNotFound,
    LeaseLost,
    LimitError,
    NotAllowed,
    Paused,
    Permanent,
    RateLimited,
    SchemaError,
    SettingsError,
    SkipItem,
    StageError,
    StoreError,
    StoreUnavailable,
    TooManyFailures,
    Transient,
    Yielded,
)
from jobkit.job import Event, ItemFailure, Job, Page, Progress
from jobkit.kit import JobKit
from jobkit.limits import Limit, RateLimit
from jobkit.portable import Restored
from jobkit.progress import Stage
from jobkit.results import JobResult
from jobkit.retry import RetryPolicy
from jobkit.skip import SkipPolicy
from jobkit.states import State
from jobkit.statistics import QueueStatistics, Statistics, TaskStatistics
from jobkit.store.slots import LimitState
from jobkit.task import JobTask, ProgressTask

__version__ = "0.1.0"

__all__ = [
    "Bulk",
    "Cancelled",
    "Client",
    "CodecError",
    "DependencyDown",
    "Drained",
    "DuplicateJob",
    "Event",
    "Interrupted",
    "ItemFailure",
    "Job",
    "JobKit",
    "JobNotFound",
    "JobResult",
    "JobTask",
    "JobkitError",
    "LeaseLost",
    "Limit",
    "LimitError",
    "LimitState",
    "NotAllowed",
    "Page",
    "Paused",
    "Permanent",
    "Progress",
    "ProgressTask",
    "QueueStatistics",
    "RateLimit",
    "RateLimited",
    "Restored",
    "RetryPolicy",
    "SavedStage",
    "SchemaError",
    "SettingsError",
    "SkipItem",
    "SkipPolicy",
    "Stage",
    "StageError",
    "State",
    "Statistics",
    "StoreError",
    "StoreUnavailable",
    "TaskStatistics",
    "TooManyFailures",
    "Transient",
    "Yielded",
]
