"""An app whose ends are told: ``celery -A examples.notices.tasks worker``."""

from __future__ import annotations

import os
import time

from celery import Celery

from examples.notices import mail, webhook
from jobkit import JobKit, ProgressTask

SERVER = os.environ.get("SHOP_SERVER", "redis://127.0.0.1:6379")

app = Celery("notices", broker=f"{SERVER}/6", backend=f"{SERVER}/7")
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_default_queue="notices",
    jobkit_store_url=f"{SERVER}/8",
    jobkit_lease_seconds=5,
)
kit = JobKit(app)
mail.connect(kit)
if webhook.URL:
    webhook.connect(kit)


@app.task(base=ProgressTask, bind=True, name="shop.report", stages=["pages"])
def report(self: ProgressTask, pages: int, seconds: float) -> None:
    """Write a report, of which each page takes some seconds."""
    with self.stage("pages", total=pages) as stage:
        for _ in stage.iterate(range(pages)):
            time.sleep(seconds)
