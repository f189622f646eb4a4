"""The change of prices as a job: ``celery -A examples.django_shop.tasks worker``."""

from __future__ import annotations

import os
from operator import attrgetter

from celery import Celery

from examples.django_shop import prices
from jobkit import JobKit, ProgressTask

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "examples.django_shop.settings")

app = Celery("django_shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
kit = JobKit(app)


@app.task(
    base=ProgressTask, bind=True, name="django_shop.change_prices", stages=["prices"]
)
def change_prices(self: ProgressTask, percent: int) -> None:
    """Change the price of all articles."""
    with (
        prices.opened() as till,
        self.stage("prices", total=prices.ARTICLES) as stage,
    ):
        source = prices.articles_after
        for article in stage.iterate(source, cursor=attrgetter("number")):
            prices.reprice(till, article, percent)
