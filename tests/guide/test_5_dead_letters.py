from __future__ import annotations

from celery import Celery

from jobkit import Client, Permanent, ProgressTask, State
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
