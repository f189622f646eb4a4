"""How far a job is: stages with weights, one percentage, rate and time left."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jobkit.errors import SettingsError, StageError
from jobkit.job import Progress

SMOOTHING = 10.0
"""Seconds after which an old rate has lost two thirds of its say."""

MOST = 2**53
"""Up to here a store counts exactly: Lua's numbers are floats."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A named part of a job.

    ``weight`` is its share of the whole job's time against the other stages'
    (default 1); ``title`` is what people read (default: the name). ``was`` is a
    name that it had before, or several: what is saved under it is the stage's.
    """

    name: str
    weight: float = 1.0
    title: str | None = None
    was: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise SettingsError(f"A stage needs a name that is a text: {self.name!r}.")
        # A name out of an enum is kept as the text that it is.
        object.__setattr__(self, "name", str.__str__(self.name))
        if not _is_weight(self.weight):
            raise SettingsError(
                f"Stage {self.name!r} has weight {self.weight!r}; it must be a number "
                "above 0.",
            )
        was = (self.was,) if isinstance(self.was, str) else self.was
        if not _are_names(was):
            raise SettingsError(
                f"Stage {self.name!r} was {self.was!r}; that is a name, or a tuple of "
                "names.",
            )
        object.__setattr__(self, "was", tuple(map(str.__str__, was)))


@dataclass(frozen=True)
class Plan:
    """The stages of a task in their order; what follows from them is found once."""

    stages: tuple[Stage, ...]

    @classmethod
    def of(cls, declared: Iterable[str | Stage] | None) -> Plan:
        """Read a task's ``stages``.

        Raises:
            SettingsError: It is no list, a name comes twice, or an entry is no stage.
        """
        if declared is not None and not isinstance(declared, list | tuple):
            raise SettingsError(
                f"The stages of a task are a list of names and Stages, not {declared!r}.",
            )
        stages = tuple(_stage(entry) for entry in declared or ())
        names = [stage.name for stage in stages]
        for name in names:
            if names.count(name) > 1:
                raise SettingsError(f"Stage {name!r} is declared twice in {names}.")
        former = [(old, stage.name) for stage in stages for old in stage.was]
        for old, name in former:
            if old in names or len([one for one, _ in former if one == old]) > 1:
                raise SettingsError(
                    f"Stage {name!r} was {old!r}, which another stage is or was too.",
                )
        return cls(stages)

    @cached_property
    def former(self) -> Mapping[str, str]:
        """The name that each former name of a stage has now."""
        return {old: stage.name for stage in self.stages for old in stage.was}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names in order."""
        return tuple(stage.name for stage in self.stages)

    def index(self, name: str) -> int:
        """The place of a stage, from 0.

        Raises:
            StageError: It is not declared.
        """
        if name not in self.names:
            raise StageError(
                f"Stage {name!r} is not declared: the task's stages are "
                f"{list(self.names)}. Add it to stages=[...].",
            )
        return self.names.index(name)


def _are_names(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, str) for one in value)


def _is_weight(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value > 0 and math.isfinite(value)


def _stage(entry: str | Stage) -> Stage:
    if isinstance(entry, Stage):
        return entry
    if isinstance(entry, str):
        return Stage(entry)
    raise SettingsError(f"A stage is a name or a Stage, not {entry!r}.")


def total_of(value: object, stage: str) -> int | None:
    """A total as given by user code: a whole number from 0 on, or None.

    Raises:
        StageError: It is anything else.
    """
    if value is None:
        return None
    total = _whole(value)
    if total is None or total < 0:
        raise StageError(
            f"The total of stage {stage!r} must be a whole number from 0 on, or None "
            f"when it is not known; it is {value!r}.",
        )
    return total


def count_of(value: object, stage: str) -> int:
    """A number of items as given by user code; a float is rounded down.

    Raises:
        StageError: It is no finite number.
    """
    if isinstance(value, float) and math.isfinite(value):
        value = math.floor(value)
    count = _whole(value)
    if count is None:
        raise StageError(
            f"Stage {stage!r} counts its items in whole numbers of up to 2**53; this "
            f"is {value!r}.",
        )
    return count


def _whole(value: Any) -> int | None:
    """A whole number of any type, as numpy's or 3.0; None for all else."""
    try:
        number = int(value) if _is_whole(value) else operator.index(value)
    except TypeError:
        return None
    return None if isinstance(value, bool) or abs(number) > MOST else number


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


@dataclass(slots=True)
class Pace:
    """Items a second of running time, smoothed.

    An exponential moving average whose weight follows the time between two
    measurements: ``1 - exp(-dt / SMOOTHING)``. The first measurement counts
    whole. It only ever sees running time, so pauses do not slow it.
    """

    rate: float | None = None
    _items: int = 0
    _at: float | None = None

    def measure(self, items: int, now: float) -> None:
        """Take in that ``items`` are done at ``now`` (monotonic seconds)."""
        if self._at is None:
            self._items, self._at = items, now
            return
        span = now - self._at
        if span < 0.05:  # noqa: PLR2004 - too short to say anything
            return
        current = max(0.0, (items - self._items) / span)
        say = 1 - math.exp(-span / SMOOTHING)
        self.rate = (
            current if self.rate is None else self.rate + say * (current - self.rate)
        )
        self._items, self._at = items, now


@dataclass(frozen=True, slots=True)
class Measured:
    """The counts of the current stage."""

    index: int
    current: int
    total: int | None
    ok: int
    failed: int
    skipped: int
    done: bool
    message: str | None


def percent(stages: Sequence[Stage], now: Measured, floor: float) -> float | None:
    """The whole job's percentage, 0 to 100; never less than ``floor``.

    The weights of the stages before, and of the current one its share. None
    while the current stage's total is not known, but for the moment between two
    stages. A total that turns out too small counts as reached.
    """
    if now.done:
        share = 1.0
    elif now.total is None and now.index and not now.current:
        share = 0.0
    elif now.total is None:
        return None
    else:
        share = min(1.0, now.current / now.total) if now.total else 1.0
    whole = sum(stage.weight for stage in stages)
    before = sum(stage.weight for stage in stages[: now.index])
    reached = 100 * (before + share * stages[now.index].weight) / whole
    return max(floor, min(100.0, reached))


def eta(stages: Sequence[Stage], now: Measured, rate: float | None) -> float | None:
    """Seconds of running time left, or None without a total or a rate.

    The rest of the current stage at its rate; later stages take as long as
    their weight says, measured by the current one.
    """
    if not rate or not now.total or now.done:
        return None
    left = max(0, now.total - now.current) / rate
    by_weight = now.total / rate / stages[now.index].weight
    return left + by_weight * sum(stage.weight for stage in stages[now.index + 1 :])


def progress(plan: Plan, now: Measured, rate: float | None, floor: float) -> Progress:
    """What people see of a run at this moment."""
    stages = plan.stages
    return Progress(
        current=now.current,
        total=now.total,
        percent=_rounded(percent(stages, now, floor)),
        rate=_rounded(rate),
        eta_seconds=_rounded(eta(stages, now, rate)),
        message=now.message,
        stage=stages[now.index].name,
        stage_index=now.index,
        stage_count=len(stages),
        ok=now.ok,
        failed=now.failed,
        skipped=now.skipped,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
