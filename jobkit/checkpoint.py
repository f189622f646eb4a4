"""What a run has done so far, in a form that another run can go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jobkit import codec
from jobkit.errors import CodecError, StageError


@dataclass(slots=True)
class StageState:
    """What is saved of one stage; ``cursor`` and ``value`` as encoded text.

    ``streak`` is how many items failed in a row, up to the last one; ``forgiven``
    is how many had failed when the job was replayed; ``ahead`` has the keys of
    items that threads have handled beyond the cursor; ``seconds`` is its time in all runs.
    """

    current: int = 0
    total: int | None = None
    failed: int = 0
    skipped: int = 0
    streak: int = 0
    forgiven: int = 0
    done: bool = False
    cursor: str | None = None
    value: str | None = None
    ahead: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> int:
        """Items that were processed and neither failed nor skipped."""
        return self.current - self.failed - self.skipped

    def place(self, cursor: Any, stage: str) -> None:
        """Move the cursor.

        Raises:
            CodecError: Its type is not kept, or it takes more than 4 KiB.
        """
        self.cursor = codec.dumps(
            cursor, what=f"cursor of stage {stage!r}", limit=codec.CURSOR_LIMIT
        )

    def keep(self, value: Any, stage: str) -> None:
        """Keep the value of a step.

        Raises:
            CodecError: Its type is not kept, or it takes more than 64 KiB.
        """
        self.value = codec.dumps(
            value, what=f"value of step {stage!r}", limit=codec.STEP_VALUE_LIMIT
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedStage:
    """What is saved of a stage, as a task's ``migrate`` sees it.

    ``current``, ``failed`` and ``skipped`` count its items, ``cursor`` is the place
    to go on from, ``value`` that of a step.
    """

    current: int = 0
    total: int | None = None
    failed: int = 0
    skipped: int = 0
    done: bool = False
    cursor: Any = None
    value: Any = None

    @classmethod
    def read(cls, state: StageState) -> SavedStage:
        """What a state says."""
        plain = {name: getattr(state, name) for name in cls.__slots__[:5]}
        cursor, value = (
            codec.loads(text) if text else None for text in (state.cursor, state.value)
        )
        return cls(**plain, cursor=cursor, value=value)

    def state(self, name: str) -> StageState:
        """The reverse of ``read``.

        Raises:
            CodecError: Cursor or value cannot be kept.
        """
        state = StageState(*(getattr(self, name) for name in self.__slots__[:4]))
        state.done = self.done
        if self.cursor is not None:
            state.place(self.cursor, name)
        if self.value is not None:
            state.keep(self.value, name)
        return state


Migration = Callable[[dict[str, SavedStage]], Mapping[str, SavedStage] | None]
"""Fits what is saved under other stages to those of the code; None: it cannot."""


@dataclass(slots=True)
class Checkpoint:
    """Every stage that was begun, in the order of the plan it was begun under.

    ``floor`` is the highest percentage shown so far, ``rate`` the last pace,
    ``replays`` how often the job had been replayed.
    """

    plan: tuple[str, ...] = ()
    stages: dict[str, StageState] = field(default_factory=dict)
    floor: float = 0.0
    rate: float | None = None
    replays: int = 0

    def stage(self, name: str) -> StageState:
        """The state of a stage; a fresh one the first time."""
        return self.stages.setdefault(name, StageState())

    @property
    def position(self) -> int:
        """A number that grows with every item and every finished stage."""
        return sum(state.current + state.done for state in self.stages.values())

    def encode(self) -> str:
        """The text that the store keeps; empty when nothing was begun."""
        if not self.stages:
            return ""
        return codec.dumps(
            {
                "plan": list(self.plan),
                "floor": self.floor,
                "rate": self.rate,
                "replays": self.replays,
                "stages": {name: _pack(state) for name, state in self.stages.items()},
            },
        )

    @classmethod
    def decode(cls, text: str) -> Checkpoint:
        """The reverse of ``encode``."""
        if not text:
            return cls()
        saved = codec.loads(text)
        try:
            return cls(
                plan=tuple(saved["plan"]),
                stages={
                    name: StageState(**state) for name, state in saved["stages"].items()
                },
                floor=saved["floor"],
                rate=saved["rate"],
                replays=saved.get("replays", 0),
            )
        except (KeyError, TypeError) as error:
            raise CodecError(f"The saved checkpoint cannot be read: {text}") from error

    def forgive(self, replays: int) -> None:
        """Give the stages a fresh allowance of failures if there was another replay."""
        if replays > self.replays:
            for state in self.stages.values():
                state.forgiven, state.streak = state.failed, 0
        self.replays = replays

    def over_failures(self) -> Checkpoint:
        """Where a job begins that goes through the failed items of this one.

        Steps keep their values and what went well is done; stages with failed
        items are gone through again, over those alone.
        """
        stages = {
            name: StageState(total=state.failed)
            if state.failed
            else replace(state, done=True, seconds=0.0)
            for name, state in self.stages.items()
        }
        return Checkpoint(self.plan, stages)

    def rename(self, former: Mapping[str, str]) -> None:
        """Give stages the names that they have now."""
        self.plan = tuple(former.get(name, name) for name in self.plan)
        self.stages = {
            former.get(name, name): state for name, state in self.stages.items()
        }

    def opened(self) -> dict[str, SavedStage]:
        """The stages that were begun, for user code to read."""
        return {name: SavedStage.read(state) for name, state in self.stages.items()}

    def replace(self, stages: Mapping[str, SavedStage], names: tuple[str, ...]) -> None:
        """Put stages in place of those that were begun; ``names`` are the plan's.

        Raises:
            StageError: One of them is not in the plan. CodecError: It cannot be kept.
        """
        strange = [name for name in stages if name not in names]
        if strange:
            raise StageError(
                f"{strange} are not among the task's stages {list(names)}."
            )
        self.stages = {name: stage.state(name) for name, stage in stages.items()}

    def misfit(self, plan: tuple[str, ...]) -> str | None:
        """Why the saved stages do not fit the code's plan; None when they do.

        All stages up to the last one begun must be the same, in the same order.
        Later ones may have been added, removed or moved.
        """
        begun = [self.plan.index(name) for name in self.stages if name in self.plan]
        last = max(begun, default=-1) + 1
        if self.plan[:last] == plan[:last]:
            return None
        return (
            f"incompatible: the saved stages {list(self.plan[:last])} are not how the "
            f"task's stages {list(plan)} begin. Deploy code that fits (a stage under "
            "another name: Stage(new, was=old)) and resume the job, or cancel it and "
            "start it anew."
        )


def _pack(state: StageState) -> dict[str, Any]:
    # Only what differs from a fresh stage: records stay small.
    fresh = StageState()
    return {
        name: getattr(state, name)
        for name in StageState.__slots__
        if getattr(state, name) != getattr(fresh, name)
    }
