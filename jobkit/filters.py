"""Which jobs are meant: what a list, a bulk replay and an export go by."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import TypedDict, Unpack

from jobkit.errors import SettingsError
from jobkit.states import State


class Filters(TypedDict, total=False):
    """The keywords; see ``Wanted`` for what each means."""

    state: State | str | None
    task: str | None
    queue: str | None
    owner: str | None
    dead_letter_queue: str | None
    error: str | None
    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Jobs that match all that is given.

    ``error`` is the name of the class of the job's last error. ``since`` and
    ``until`` are moments, both included: at which a job entered its state when
    ``state`` is given (of a dead letter: when it died), else at which it was
    created.

    Raises:
        SettingsError: There is no such state, or a moment has no time zone.
    """

    state: State | None = None
    task: str | None = None
    queue: str | None = None
    owner: str | None = None
    dead_letter_queue: str | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        if self.state:
            object.__setattr__(self, "state", _state(self.state))
        for name in ("since", "until"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise SettingsError(
                    f"{name}={moment} has no time zone: add one, as in "
                    f"datetime.now(UTC).",
                )

    @classmethod
    def of(cls, **filters: Unpack[Filters]) -> Wanted:
        """What the keywords mean."""
        return cls(**filters)  # type: ignore[arg-type]

    @property
    def narrow(self) -> bool:
        """Whether anything but the state is given."""
        return any(
            getattr(self, field.name) for field in fields(self) if field.name != "state"
        )


def _state(name: str) -> State:
    if name not in set(State):
        raise SettingsError(
            f"There is no state {name!r}: use one of {[*map(str, State)]}."
        )
    return State(name)
