"""Every error of jobkit, and the control flow that user code cannot swallow.

::

    JobkitError
    ├── SettingsError            a jobkit_* setting or a task option is wrong
    ├── CodecError               a value cannot be stored
    │   └── LimitError           ... because it is too large
    ├── StageError               stages are used against their declaration
    ├── StoreError               the store refused
    │   ├── StoreUnavailable     ... because it cannot be reached
    │   └── SchemaError          ... because a newer jobkit wrote the record
    ├── JobNotFound              no such job (never was, or expired)
    ├── NotAllowed               the job's state does not admit this act
    │   └── DuplicateJob         ... because another job has its unique key
    ├── Transient                raised by tasks: try again with backoff
    │   └── DependencyDown       ... too many items failed in a row
    ├── RateLimited              raised by tasks: try again when told
    ├── Permanent                raised by tasks: do not try again
    │   └── TooManyFailures      ... more items failed than may
    └── SkipItem                 raised by a handler: this item is not for us

    Interrupted (BaseException)
    ├── Drained                  the worker is shutting down
    ├── Yielded                  more urgent jobs wait, and its time slice is over
    ├── Paused                   somebody paused the job
    ├── Cancelled                somebody cancelled the job
    └── LeaseLost                another owner may have the job by now
"""


class JobkitError(Exception):
    """The root of every error that jobkit raises."""


class SettingsError(JobkitError, ValueError):
    """A ``jobkit_*`` setting or a task option is unknown or ill-typed."""


class CodecError(JobkitError, TypeError):
    """A value cannot be stored; the message names its path and type."""


class LimitError(CodecError):
    """A value is larger than the store takes; the message has both sizes."""


class StageError(JobkitError):
    """A stage or step is used against the task's declaration."""


class StoreError(JobkitError):
    """The store refused a command."""


class StoreUnavailable(StoreError):  # noqa: N818 - a name of the public face
    """The store cannot be reached within its time limit."""


class SchemaError(StoreError):
    """The record was written by a newer jobkit; upgrade this process."""


class JobNotFound(JobkitError, LookupError):  # noqa: N818 - a name of the public face
    """No job has this id: it never existed, or its retention has passed."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return (
            f"No job {self.job_id!r}: it was never recorded, "
            "or its retention has passed."
        )


class NotAllowed(JobkitError):  # noqa: N818 - a name of the public face
    """The job's state does not admit this act; ``state`` says which it is in."""

    def __init__(self, message: str, state: str = "") -> None:
        super().__init__(message, state)
        self.state = state

    def __str__(self) -> str:
        return str(self.args[0])


class DuplicateJob(NotAllowed):
    """Another job has the unique key; ``job_id`` is the one that has it."""

    def __init__(self, what: str, job_id: str) -> None:
        super().__init__(what, job_id)
        self.state = ""
        self.job_id = job_id

    def __str__(self) -> str:
        return (
            f"{self.args[0]} is a duplicate: job {self.job_id!r} has its unique key. "
            "Wait until that one frees it, or cancel it."
        )


class Transient(JobkitError):  # noqa: N818 - raised by users as a verdict
    """Raise it in a task for a fault that will pass: retried with backoff."""


class RateLimited(JobkitError):  # noqa: N818 - raised by users as a verdict
    """Raise it in a task that was told to slow down.

    ``retry_after`` is the number of seconds the service asked for; without it
    the retry policy's backoff is used.
    """

    def __init__(self, message: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.args[0] or f"rate limited, retry after {self.retry_after} s"


class Permanent(JobkitError):  # noqa: N818 - raised by users as a verdict
    """Raise it in a task for a fault that no retry can mend: dead at once."""


class TooManyFailures(Permanent):
    """More items failed than the skip policy lets pass: the job is dead."""

    reason = "too_many_failures"


class DependencyDown(Transient):
    """So many items failed in a row that what they need is taken for down.

    The job tries again with backoff, from the same place. ``streak`` is how many
    it were: to have passed them is no progress.
    """

    reason = "dependency_down"

    def __init__(self, message: str = "", streak: int = 0) -> None:
        super().__init__(message, streak)
        self.streak = streak

    def __str__(self) -> str:
        return str(self.args[0])


class SkipItem(JobkitError):  # noqa: N818 - raised by users as a verdict
    """Raise it in a handler: the item is counted as skipped, and is no failure."""


class Interrupted(BaseException):
    """The run has to stop here, and not because of an error.

    It derives from ``BaseException`` so that ``except Exception`` in a task
    does not swallow it.
    """


class Drained(Interrupted):
    """The worker is shutting down; another one goes on from the checkpoint."""


class Yielded(Interrupted):
    """The job's time slice is over; it goes on behind the more urgent jobs."""


class Paused(Interrupted):
    """The job was paused; it goes on from the checkpoint when resumed."""


class Cancelled(Interrupted):
    """The job was cancelled."""


class LeaseLost(Interrupted):
    """This process may no longer own the job: its writes would be refused."""
