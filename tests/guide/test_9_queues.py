from __future__ import annotations

from typing import Any

from celery import Celery

from jobkit import ProgressTask


def test_a_map_says_which_task_goes_to_which_queue(app: Celery) -> None:
    """Queues have weights, from urgent to patient; routes have tasks or patterns.

    A worker that has all of them at hand gives each queue its share, so that none
    starves; with ``jobkit_queue_order = "strict"`` the most urgent job is always the
    next. An exact name comes before the patterns, a function may decide by the
    arguments, and the queue that a call names itself wins over all.
    ``celery -A proj jobs routes`` shows what goes where, and why.
    """

    def by_size(_: Any, kwargs: Any) -> str | None:
        return "slow" if kwargs.get("lines", 0) > 1_000 else None

    app.conf.jobkit_queues = {
        "fast": {"weight": 3, "target": 60},
        "slow": {"weight": 1, "dead_letter_queue": "slow.dead"},
    }
    app.conf.jobkit_routes = {
        "shop.sync": {"queue": "fast", "dead_letter_queue": "orders.dead"},
        "shop.import_*": by_size,
        "shop.*": "fast",
    }

    def work(**_: Any) -> None: ...

    def queue_of(name: str, **call: Any) -> str:
        decorate: Any = app.task(base=ProgressTask, name=name, shared=False)
        result = decorate(work).apply_async(**call)
        return str(app.jobkit.jobs.get(result.id).queue)  # type: ignore[attr-defined]

    assert queue_of("shop.sync") == "fast"
    assert queue_of("shop.import_csv", kwargs={"lines": 5}) == "fast"
    assert queue_of("shop.import_xml", kwargs={"lines": 50_000}) == "slow"
    assert queue_of("shop.report", queue="slow") == "slow"
