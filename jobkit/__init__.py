"""Turn Celery tasks into jobs that one can trust."""

from jobkit.client import Client
from jobkit.errors import (
    Cancelled,
    CodecError,
    Drained,
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
    StageError,
    StoreError,
    StoreUnavailable,
    Transient,
)
from jobkit.job import Event, Job, Page, Progress
from jobkit.kit import JobKit
from jobkit.progress import Stage
from jobkit.results import JobResult
from jobkit.retry import RetryPolicy
from jobkit.states import State
from jobkit.task import JobTask, ProgressTask

__version__ = "0.1.0"

__all__ = [
    "Cancelled",
    "Client",
    "CodecError",
    "Drained",
    "Event",
    "Interrupted",
    "Job",
    "JobKit",
    "JobNotFound",
    "JobResult",
    "JobTask",
    "JobkitError",
    "LeaseLost",
    "LimitError",
    "NotAllowed",
    "Page",
    "Paused",
    "Permanent",
    "Progress",
    "ProgressTask",
    "RateLimited",
    "RetryPolicy",
    "SchemaError",
    "SettingsError",
    "Stage",
    "StageError",
    "State",
    "StoreError",
    "StoreUnavailable",
    "Transient",
]
