"""The states of a job, and which one may follow which."""

from enum import StrEnum


class State(StrEnum):
    """Where a job is in its life; compares equal to its plain name."""

    SCHEDULED = "SCHEDULED"
    QUEUED = "QUEUED"
    BLOCKED = "BLOCKED"
    RUNNING = "RUNNING"
    RETRYING = "RETRYING"
    PAUSED = "PAUSED"
    SUCCEEDED = "SUCCEEDED"
    PARTIAL = "PARTIAL"
    DEAD = "DEAD"
    CANCELLED = "CANCELLED"

    @property
    def finished(self) -> bool:
        """Whether nothing but a recorded replay, resolve or discard moves it on."""
        return self in FINISHED


FINISHED = frozenset(
    {State.SUCCEEDED, State.PARTIAL, State.DEAD, State.CANCELLED},
)

WAITING = frozenset(
    {State.SCHEDULED, State.QUEUED, State.BLOCKED, State.RETRYING, State.PAUSED},
)

MOVES: dict[State, frozenset[State]] = {
    State.SCHEDULED: frozenset({State.QUEUED, State.PAUSED, State.CANCELLED}),
    State.QUEUED: frozenset(
        {State.RUNNING, State.PAUSED, State.CANCELLED, State.DEAD},
    ),
    State.BLOCKED: frozenset({State.QUEUED, State.PAUSED, State.CANCELLED}),
    State.RUNNING: frozenset(
        {
            State.SUCCEEDED,
            State.PARTIAL,
            State.RETRYING,
            State.QUEUED,
            State.BLOCKED,
            State.PAUSED,
            State.CANCELLED,
            State.DEAD,
        },
    ),
    State.RETRYING: frozenset({State.QUEUED, State.PAUSED, State.CANCELLED}),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.PARTIAL: frozenset({State.SUCCEEDED, State.PARTIAL}),
    State.DEAD: frozenset({State.QUEUED, State.CANCELLED}),
    State.CANCELLED: frozenset(),
}
