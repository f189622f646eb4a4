"""Stages that were saved by other code are taken over, as the code says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from jobkit import SavedStage, Stage
from jobkit.checkpoint import Checkpoint, StageState
from jobkit.run import Run
from jobkit.store.memory import MemoryStore
from tests.unit.runs import ID, begin, kept, kill, new_job

OLD = ("prepare", "sync", "end")


@pytest.fixture
def store() -> MemoryStore:
    """A job whose old code prepared it and synced 2 items, of which one failed."""
    store = MemoryStore()
    run = begin(store, OLD)
    run.step("prepare", lambda: 7)

    def handler(item: int) -> None:
        if item == 2:
            raise ValueError(item)
        if item == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), run.stage("sync", total=5) as stage:
        stage.each(range(1, 6), handler, cursor=int)
    kill(store)
    return store


def left(run: Run, name: str) -> list[int]:
    with run.stage(name) as stage:
        return list(stage.iterate(lambda last: range(last + 1, 6), cursor=int))


@pytest.mark.parametrize("was", ["sync", ("import", "sync")])
def test_a_stage_has_what_was_saved_under_its_former_name(
    store: MemoryStore, was: Any
) -> None:
    run = begin(store, (Stage("prepare"), Stage("load", was=was), Stage("end")))

    assert run.misfit is None
    assert run.step("prepare", lambda: 8) == 7
    assert left(run, "load") == [3, 4, 5]
    assert (run.progress.stage, run.progress.failed) == ("load", 1)
    kill(store)
    assert begin(store, ["prepare", "load", "end"]).misfit is None


def test_former_names_mend_no_order(store: MemoryStore) -> None:
    run = begin(store, (Stage("load", was="sync"), Stage("prepare"), Stage("end")))

    assert run.misfit
    assert "the saved stages ['prepare', 'load']" in run.misfit
    assert "['load', 'prepare', 'end']" in run.misfit


def test_failed_items_of_a_former_name_are_the_stages_own(store: MemoryStore) -> None:
    stages: list[str | Stage] = ["prepare", Stage("load", was="sync"), "end"]
    run = begin(store, stages)
    with run.stage("load") as stage:
        stage.each(range(1, 6), lambda _: None, cursor=int)
        assert [row.item for row in stage.failures()] == [2]
    store.succeed(ID, run.job.fence, run.final())
    place = Checkpoint.decode(kept(store).checkpoint).over_failures().encode()
    store.replay_items(replace(new_job("child"), replay_of=ID), place)

    done: list[int] = []
    run = begin(store, stages, job_id="child")
    with run.stage("load") as stage:
        stage.each(range(1, 6), done.append, cursor=int)

    assert (done, kept(store).state) == ([2], "SUCCEEDED")


def test_a_migration_drops_a_stage_and_moves_a_cursor(store: MemoryStore) -> None:
    run = begin(store, ["sync", "end"])

    def migration(saved: dict[str, SavedStage]) -> Mapping[str, SavedStage]:
        assert saved["prepare"] == SavedStage(current=1, total=1, done=True, value=7)
        assert saved["sync"] == SavedStage(current=2, total=5, failed=1, cursor=2)
        return {"sync": replace(saved["sync"], current=3, cursor=3)}

    run.migrate(migration)

    assert run.misfit is None
    assert left(run, "sync") == [4, 5]
    assert (run.progress.current, run.progress.ok, run.progress.failed) == (5, 4, 1)
    kill(store)
    assert begin(store, ["sync", "end"]).misfit is None


def test_a_migration_may_reorder_stages(store: MemoryStore) -> None:
    run = begin(store, ["sync", "prepare"])
    run.migrate(lambda saved: saved)

    assert left(run, "sync") == [3, 4, 5]
    assert run.step("prepare", lambda: 8) == 7


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "Deploy code that fits"),
        ({"sink": SavedStage()}, "['sink'] are not among the task's stages ['sync'"),
        ({"sync": SavedStage(cursor=object())}, "cursor of stage 'sync' is of type"),
        ([], "AttributeError"),
        ({"sync": 7}, "AttributeError"),
    ],
    ids=["none", "unknown", "a cursor that is not kept", "no dict", "no stage"],
)
def test_a_migration_that_does_not_fit_holds_the_job(
    store: MemoryStore, answer: Any, told: str
) -> None:
    run = begin(store, ["sync", "end"])
    run.migrate(lambda _: answer)

    assert run.misfit
    assert run.misfit.startswith("incompatible: the saved stages ['prepare', 'sync']")
    assert told in run.misfit


def test_a_migration_that_fails_holds_the_job(store: MemoryStore) -> None:
    run = begin(store, ["sync", "end"])
    run.migrate(lambda saved: {"sync": saved["import"]})

    assert run.misfit
    assert "Its migrate failed with KeyError: 'import'" in run.misfit


def test_what_is_saved_of_a_stage_comes_back_as_it_was() -> None:
    state = StageState(current=5, total=9, failed=1, skipped=2, done=True)
    state.place(("a", 7), "import")
    state.keep({"n": 1}, "import")

    assert SavedStage.read(state).state("import") == state
