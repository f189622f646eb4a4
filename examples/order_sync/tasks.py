"""The sync as a job: count the orders, import them, compare the ledger.

``celery -A examples.order_sync.tasks worker`` runs it.
"""

from __future__ import annotations

import os
from functools import partial
from operator import itemgetter
from typing import Any

from celery import Celery

from examples.order_sync.ledger import Ledger
from examples.order_sync.shop_client import amount_of, count_orders, orders_after
from jobkit import JobKit, Permanent, ProgressTask, Stage

LEASE = 5.0
"""Seconds: after a worker's death its jobs go on elsewhere, this much later."""


def addresses(server: str) -> dict[str, str]:
    """Celery's settings for a Redis or Valkey that is broker, backend and store."""
    return {
        "broker_url": f"{server}/0",
        "result_backend": f"{server}/1",
        "jobkit_store_url": f"{server}/2",
    }


app = Celery("order_sync")
app.conf.update(
    addresses(os.environ.get("ORDER_SYNC_SERVER", "redis://127.0.0.1:6379")),
    task_default_queue="order-sync",
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    jobkit_lease_seconds=LEASE,
)
kit = JobKit(app)


@app.task(
    base=ProgressTask,
    bind=True,
    name="shop.sync_orders",
    stages=["count", Stage("import", weight=8), "reconcile"],
)
def sync_orders(self: ProgressTask, shop_url: str, ledger_path: str) -> int:
    """Write every order of the shop into the ledger; returns how many were written."""
    total = self.step("count", count_orders, shop_url)
    source = partial(orders_after, shop_url)
    with (
        Ledger(ledger_path) as ledger,
        self.stage("import", total=total) as stage,
    ):
        fence = self.job.fence

        def handle(order: dict[str, Any]) -> None:
            amount_of(shop_url, order)  # a malformed order fails here, alone
            ledger.record(order["id"], fence=fence)

        stage.each(source, handle, cursor=itemgetter("id"))
        failed = sum(1 for _ in stage.failures())
    return self.step("reconcile", reconcile, ledger_path, total - failed)


def reconcile(ledger_path: str, total: int) -> int:
    """Compare the number of orders in the ledger with those that went well.

    Raises:
        Permanent: They differ.
    """
    with Ledger(ledger_path) as ledger:
        handled = ledger.count()
    if handled != total:
        raise Permanent(f"{total} orders went well, the ledger has {handled}.")
    return handled
