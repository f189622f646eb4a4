"""Items that fail: which of them a job may leave behind, and when it has to stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from jobkit.checkpoint import StageState
from jobkit.errors import (
    DependencyDown,
    JobkitError,
    Permanent,
    SettingsError,
    TooManyFailures,
    Transient,
)
from jobkit.verdicts import Verdict, classify

_ALONE = frozenset({Verdict.transient, Verdict.permanent, Verdict.unknown})


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipPolicy:
    """How many items of a stage may fail before the job does.

    More than ``max_failures`` (default 100), or a larger share than ``max_rate``
    (0 to 1) of at least ``min_seen`` items, and the job is dead
    (``too_many_failures``). After ``max_consecutive`` failures in a row (default
    50) what the items need is taken for down: the job waits and tries again. An
    item that meets a transient error is tried ``item_retries`` times more
    (default 3), ``item_base`` seconds later and then twice as long each time. None
    is no limit.

    Raises:
        SettingsError: An argument is ill-typed or out of range.
    """

    max_failures: int | None = 100
    max_rate: float | None = None
    min_seen: int = 200
    max_consecutive: int | None = 50
    item_retries: int = 3
    item_base: float = 0.1

    def __post_init__(self) -> None:
        for name in ("max_failures", "min_seen", "max_consecutive", "item_retries"):
            value, free = (
                getattr(self, name),
                name in ("max_failures", "max_consecutive"),
            )
            whole = (
                isinstance(value, int) and not isinstance(value, bool) and value >= 0
            )
            if not (whole or (free and value is None)):
                raise SettingsError(_expected(name, value, "a whole number from 0"))
        if self.max_rate is not None and not _is_number(self.max_rate, most=1):
            raise SettingsError(_expected("max_rate", self.max_rate, "0 to 1"))
        if not _is_number(self.item_base):
            raise SettingsError(_expected("item_base", self.item_base, "seconds"))

    @classmethod
    def of(cls, value: Any) -> SkipPolicy:
        """The policy that a task option means: a policy, a dict of its arguments, None.

        Raises:
            SettingsError: It is none of these, or an argument is wrong.
        """
        if value is None:
            return cls()
        if isinstance(value, SkipPolicy):
            return value
        names = [argument.name for argument in fields(cls)]
        if not isinstance(value, Mapping) or not set(value) <= set(names):
            raise SettingsError(
                f"A skip policy is a SkipPolicy or a dict of its arguments "
                f"({', '.join(names)}), not {value!r}.",
            )
        return cls(**value)


@dataclass(frozen=True, slots=True)
class Skipping:
    """A policy, and what the task says of errors.

    ``verdicts`` are those of its retry policy; errors of the classes ``passing``
    are the task's own way of ending, and never an item's.
    """

    policy: SkipPolicy = field(default_factory=SkipPolicy)
    verdicts: Mapping[type[BaseException], Verdict | str] = field(default_factory=dict)
    passing: tuple[type[BaseException], ...] = ()

    def verdict(self, error: Exception) -> Verdict | None:
        """What an error means for its item; None when it is the whole job's."""
        if isinstance(error, self.passing):
            return None
        if isinstance(error, JobkitError) and not isinstance(
            error, Transient | Permanent
        ):
            return None
        verdict, _ = classify(error, self.verdicts)
        return verdict if verdict in _ALONE else None

    def delay(self, attempts: int) -> float | None:
        """Seconds until an item is tried again after so many tries; None: no more."""
        if attempts > self.policy.item_retries:
            return None
        return float(self.policy.item_base * 2 ** (attempts - 1))

    def check(self, stage: str, state: StageState, seen: int) -> None:
        """Stop a stage of which too many of the items ``seen`` have failed.

        Those that had failed before a replay do not count.

        Raises:
            TooManyFailures: By number or by rate.
            DependencyDown: Too many in a row.
        """
        policy, failed = self.policy, state.failed - state.forgiven
        if policy.max_failures is not None and failed > policy.max_failures:
            raise TooManyFailures(
                f"{failed} of {seen} items of stage {stage!r} failed, "
                f"at most {policy.max_failures} may."
            )
        rate, enough = policy.max_rate, seen >= max(1, policy.min_seen)
        if rate is not None and enough and failed / seen > rate:
            raise TooManyFailures(
                f"{failed} of {seen} items of stage {stage!r} failed, "
                f"at most {rate:.1%} may."
            )
        if policy.max_consecutive and state.streak >= policy.max_consecutive:
            raise DependencyDown(
                f"{state.streak} items of stage {stage!r} failed in a row: what they "
                "need is taken for down.",
                state.streak,
            )

    def check_end(self, stage: str, state: StageState) -> None:
        """Refuse the end of a stage of which nothing went well.

        Raises:
            TooManyFailures: All items that were not skipped have failed.
        """
        if state.failed and not state.ok:
            raise TooManyFailures(
                f"All {state.failed} items of stage {stage!r} failed."
            )


def _is_number(value: Any, most: float = float("inf")) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= most


def _expected(name: str, value: Any, expected: str) -> str:
    return f"{name} of a skip policy is {value!r}, expected is {expected}."
