"""The sync as a job: ``celery -A examples.fastapi_shop.tasks worker`` runs it."""

from __future__ import annotations

import os
from functools import partial
from operator import attrgetter

from celery import Celery

from examples.fastapi_shop import orders
from jobkit import JobKit, ProgressTask, Stage

SERVER = os.environ.get("SHOP_SERVER", "redis://127.0.0.1:6379")

app = Celery("fastapi_shop", broker=f"{SERVER}/0", backend=f"{SERVER}/1")
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_default_queue="fastapi-shop",
    worker_prefetch_multiplier=1,
    jobkit_store_url=f"{SERVER}/2",
    jobkit_lease_seconds=5,  # so long a job stands still after a `kill -9`
)
kit = JobKit(app)


@app.task(
    base=ProgressTask,
    bind=True,
    name="fastapi_shop.sync_orders",
    stages=["count", Stage("import", weight=8)],
    unique_on=["shop"],
)
def sync_orders(self: ProgressTask, shop: str) -> int:
    """Write down all orders of a shop; returns what they cost together."""
    total = self.step("count", orders.count_orders, shop)
    with orders.opened() as database, self.stage("import", total=total) as stage:
        source = partial(orders.orders_after, shop)
        for order in stage.iterate(source, cursor=attrgetter("number")):
            orders.write_down(database, order)
    return orders.sales(shop)
