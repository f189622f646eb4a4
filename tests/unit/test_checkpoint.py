"""A checkpoint is what another run goes on from, and it knows when it cannot."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobkit import codec
from jobkit.checkpoint import Checkpoint, StageState
from jobkit.errors import CodecError, LimitError
from jobkit.store.memory import MemoryStore
from tests.unit.runs import begin, kill

STATES = st.builds(
    StageState,
    current=st.integers(0, 10**9),
    total=st.none() | st.integers(0, 10**9),
    failed=st.integers(0, 100),
    skipped=st.integers(0, 100),
    done=st.booleans(),
    cursor=st.none() | st.text(),
    value=st.none() | st.text(),
)

CHECKPOINTS = st.builds(
    Checkpoint,
    plan=st.lists(st.text(min_size=1), unique=True).map(tuple),
    stages=st.dictionaries(st.text(min_size=1), STATES, min_size=1),
    floor=st.floats(0, 100),
    rate=st.none() | st.floats(0, 1e9),
)


@given(CHECKPOINTS)
def test_a_checkpoint_survives_the_store(checkpoint: Checkpoint) -> None:
    assert Checkpoint.decode(checkpoint.encode()) == checkpoint


def test_before_the_first_stage_nothing_is_kept() -> None:
    assert Checkpoint(plan=("import",), floor=3.0).encode() == ""
    assert Checkpoint.decode("") == Checkpoint()


def test_a_fresh_stage_takes_no_room() -> None:
    checkpoint = Checkpoint(("a", "b"), {"a": StageState(), "b": StageState(total=2)})

    assert codec.loads(checkpoint.encode())["stages"] == {"a": {}, "b": {"total": 2}}


def test_ok_is_what_neither_failed_nor_was_skipped() -> None:
    assert StageState(current=10, failed=3, skipped=2).ok == 5


@given(CHECKPOINTS)
def test_the_position_grows_with_every_item_and_every_finished_stage(
    checkpoint: Checkpoint,
) -> None:
    before = checkpoint.position
    name = next(iter(checkpoint.stages))
    state = checkpoint.stages[name]
    checkpoint.stages[name] = replace(state, current=state.current + 1, done=True)

    assert checkpoint.position == before + 1 + (not state.done)


@pytest.mark.parametrize(
    "text", ["{}", "[]", "3", '{"plan":[],"stages":{"a":{"x":1}}}']
)
def test_a_checkpoint_that_cannot_be_read_says_so(text: str) -> None:
    with pytest.raises(CodecError, match="checkpoint cannot be read"):
        Checkpoint.decode(text)


# -- cursors and step values


@pytest.mark.parametrize("cursor", [None, 17, "id-9", ("eu", 3), {"page": 2}, b"\x00"])
def test_a_cursor_keeps_its_type(cursor: Any) -> None:
    state = StageState()
    state.place(cursor, "import")

    assert codec.loads(state.cursor or "") == cursor
    assert type(codec.loads(state.cursor or "")) is type(cursor)


def test_a_cursor_may_take_4_kib_and_not_a_byte_more() -> None:
    state = StageState()
    state.place("x" * (4096 - 2), "import")  # two quotes
    before = state.cursor

    with pytest.raises(LimitError, match=r"cursor of stage 'import'.*4097.*4096"):
        state.place("x" * (4096 - 1), "import")

    assert state.cursor == before


def test_a_step_value_may_take_64_kib_and_not_a_byte_more() -> None:
    state = StageState()
    state.keep("x" * (65536 - 2), "count")
    before = state.value

    with pytest.raises(LimitError, match=r"value of step 'count'.*65537.*65536"):
        state.keep("x" * (65536 - 1), "count")

    assert state.value == before


# -- saved stages and the code's


def misfit(begun: str, before: str, now: str) -> str | None:
    stages = {name: StageState() for name in begun.split()}
    return Checkpoint(tuple(before.split()), stages).misfit(tuple(now.split()))


@pytest.mark.parametrize(
    ("begun", "before", "now"),
    [
        ("", "", "a b"),
        ("", "a b", "c"),
        ("a", "a b c", "a b c"),
        ("a", "a b c", "a"),
        ("a", "a b c", "a c b"),
        ("a b", "a b c", "a b x y"),
        ("b", "a b", "a b"),
    ],
)
def test_stages_that_were_not_begun_may_change(
    begun: str, before: str, now: str
) -> None:
    assert misfit(begun, before, now) is None


@pytest.mark.parametrize(
    ("begun", "before", "now"),
    [
        ("a", "a b", "b a"),
        ("a", "a b", "b"),
        ("a b", "a b", "a x b"),
        ("b", "a b", "b"),
        ("a b", "a b c", "a"),
        ("a", "a", ""),
    ],
)
def test_a_begun_stage_that_was_moved_or_removed_does_not_fit(
    begun: str, before: str, now: str
) -> None:
    reason = misfit(begun, before, now)

    assert reason
    assert reason.startswith("incompatible: ")
    for name in now.split():
        assert repr(name) in reason
    assert "resume" in reason


class Part(StrEnum):
    COUNT = "count"
    IMPORT = "import"


def test_names_of_stages_may_come_from_an_enum() -> None:
    store = MemoryStore()
    run = begin(store, list(Part))
    with run.stage(Part.COUNT) as stage:
        stage.advance(2)
    kill(store)

    again = begin(store, ["count", "import"])

    assert again.misfit is None
    assert again.saved.stage("count").done
