from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery

from jobkit import Client, JobKit, NotAllowed, Permanent, ProgressTask, State
from tests.guide.conftest import Run


def test_a_dead_job_is_kept_and_can_be_replayed(
    app: Celery, jobs: Client, run: Run
) -> None:
    """A job that is given up stays as a dead letter, with all that is known of it.

    ``replay`` runs the same job again, from its checkpoint (``mode="restart"``:
    from its beginning), when what was wrong has been mended.
    """
    known = {"apple", "pear"}
    imported: list[str] = []

    @app.task(
        base=ProgressTask, bind=True, name="shop.fruit", stages=["import"], shared=False
    )
    def fruit(self: ProgressTask) -> None:
        with self.stage("import") as stage:
            for name in stage.iterate(["apple", "pear", "quince"]):
                if name not in known:
                    raise Permanent(f"nobody knows the {name}")
                imported.append(name)

    dead = run(fruit)
    (listed,) = jobs.list(state="DEAD").items
    assert listed.id == dead.id
    assert dead.error
    assert dead.error.message == "nobody knows the quince"
    assert dead.progress.current == 2

    known.add("quince")
    jobs.replay(dead.id, reason="taught it the quince", actor="ana")
    job = run(fruit, job_id=dead.id)

    assert job.state is State.SUCCEEDED
    assert imported == ["apple", "pear", "quince"]


@pytest.fixture
def dead(app: Celery, run: Run) -> list[str]:
    """The ids of three dead letters of one task."""

    @app.task(base=ProgressTask, name="shop.charge", shared=False)
    def charge(order: int) -> None:
        raise Permanent(f"order {order}: no such card")

    return [run(charge, order).id for order in range(3)]


@pytest.fixture
def kit(app: Celery) -> JobKit:
    """The kit of the app, whose jobs are done at once, here."""
    app.conf.task_always_eager = True
    return app.jobkit  # type: ignore[attr-defined, no-any-return]


def test_dead_letters_are_found_by_task_error_and_time(
    jobs: Client, dead: list[str]
) -> None:
    """A list is narrowed by any of its filters, or by several.

    There are ``state``, ``task``, ``queue``, ``owner``, ``error``,
    ``dead_letter_queue``, ``since`` and ``until``.
    """
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)  # noqa: TID251

    found = jobs.list(state="DEAD", error="Permanent", since=an_hour_ago).items

    assert sorted(job.id for job in found) == sorted(dead)
    assert jobs.list(state="DEAD", error="KeyError").items == ()


def test_dead_letters_move_to_another_store_and_are_replayed_there(
    jobs: Client, dead: list[str], kit: JobKit
) -> None:
    """An export has all that is known of each, as a line of JSON.

    ``replay_all`` replays those that match, by a job of its own in a worker, which
    is watched and cancelled as any other. ``dry_run`` tells what it would do, and
    ``expect`` refuses to do it to any other number than was seen.
    """
    lines = list(jobs.export(task="shop.charge"))
    restored = kit.jobs.restore([*lines, "not a line of an export"])
    assert (restored.restored, restored.existing) == (3, 0)
    assert [number for number, why in restored.refused] == [4]

    seen = kit.jobs.replay_all(task="shop.charge", dry_run=True)
    assert (seen.count, sorted(seen.ids)) == (3, sorted(dead))
    with pytest.raises(NotAllowed, match="3 dead letters match, and not 2"):
        kit.jobs.replay_all(task="shop.charge", expect=2)

    kit.jobs.replay_all(task="shop.charge", expect=3, reason="cards are back")

    assert kit.jobs.counts()[State.QUEUED] == 3
    assert "cards are back" in kit.jobs.history(dead[0])[-1].detail


def test_all_dead_letters_at_once_take_one_more_word(
    jobs: Client, dead: list[str], kit: JobKit
) -> None:
    kit.jobs.restore(jobs.export())
    with pytest.raises(NotAllowed, match="No filter is given"):
        kit.jobs.discard_all()

    kit.jobs.discard_all(everything=True, reason="a test order")

    assert [kit.jobs.get(job_id).state for job_id in dead] == [State.CANCELLED] * 3


def test_failed_items_are_for_a_spreadsheet(
    app: Celery, jobs: Client, run: Run
) -> None:
    """As CSV, of which no cell is taken for a formula."""

    @app.task(
        base=ProgressTask, bind=True, name="shop.names", stages=["all"], shared=False
    )
    def names(self: ProgressTask) -> None:
        def check(name: str) -> None:
            if not name.isalpha():
                raise ValueError(name)

        with self.stage("all") as stage:
            stage.each(["ada", "=1+1"], handler=check)

    job = run(names)

    (row,) = csv.DictReader(jobs.failures_csv(job.id))
    assert (row["key"], row["error"], row["open"]) == ("'=1+1", "ValueError", "yes")
