"""How users write it, checked by mypy and never run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import attrgetter
from typing import Any, assert_type

from celery import Celery
from starlette.applications import Starlette
from starlette.requests import Request
from typing_extensions import override

from jobkit import (
    Client,
    Event,
    Job,
    JobKit,
    JobNotFound,
    JobResult,
    JobTask,
    NotAllowed,
    Page,
    Permanent,
    Progress,
    ProgressTask,
    RateLimited,
    RetryPolicy,
    SavedStage,
    Stage,
    State,
    Statistics,
    Transient,
)
from jobkit.items import StageRun
from jobkit.job import ErrorInfo, Message, StopRequest
from jobkit.run import CurrentJob
from jobkit.signals import job_dead
from jobkit.store.base import Store
from jobkit.web import Showing, Tokens, jobs_app, wsgi

app = Celery("shop", broker="redis://localhost/0", backend="redis://localhost/1")
app.conf.jobkit_lease_seconds = 30
kit = JobKit(app)


@dataclass
class Order:
    """An order of the shop."""

    id: int


def orders_after(last: int | None) -> Iterator[Order]:
    """A source: the orders after the last one handled."""
    yield Order((last or 0) + 1)


def count(shop: str, *, closed: bool = False) -> int:
    """How many orders there are."""
    return len(shop) + closed


def note(order: Order) -> None:
    """A handler."""


def by_id(order: Order) -> int:
    """The cursor of an order."""
    return order.id


@app.task(
    base=ProgressTask,
    bind=True,
    name="shop.sync_orders",
    stages=["count", Stage("import", weight=8, title="Importing"), "reconcile"],
    retry_policy=RetryPolicy(transient=9, verdicts={KeyError: "permanent"}),
    checkpoint_every=100,
    unique_on=["shop"],
    unique_until="start",
)
def sync_orders(self: ProgressTask, shop: str) -> int:
    """The task of the guide."""
    total = self.step("count", count, shop, closed=True)
    assert_type(total, int)
    with self.stage("import", total=total, title="Orders") as stage:
        assert_type(stage, StageRun)
        for order in stage.iterate(orders_after, cursor=attrgetter("id")):
            assert_type(order, Order)
            stage.message(f"order {order.id}")
        stage.advance(0, message="all")
        stage.checkpoint({"page": 3})
        stage.each(orders_after, note, key=attrgetter("id"), cursor=by_id, threads=8)
        assert_type(stage.done, bool)
        assert_type(stage.cursor, Any)
    return self.step("reconcile", lambda: total)


class SyncOrders(ProgressTask):
    """The same as a class."""

    name = "shop.sync_orders_again"
    stages = (Stage("import", was=("load", "sync")),)
    retry_policy = "never"
    lease_seconds = 60.0
    checkpoint_interval = 5

    @override
    def migrate(self, saved: dict[str, SavedStage]) -> Mapping[str, SavedStage] | None:
        assert_type(saved["import"].current, int)
        return {"import": replace(saved["import"], cursor=0)}

    @override
    def run(self, orders: list[Order]) -> list[int]:
        with self.stage("import") as stage:
            return [order.id for order in stage.iterate(orders)]


class SendMail(JobTask):
    """A job that shows no progress."""

    name = "shop.send_mail"
    unique_on = ("address",)
    unique_until = 60
    on_duplicate = "raise"

    @override
    def run(self, address: str) -> None:
        job = self.job
        assert_type(job, CurrentJob)
        assert_type(job.fence, int)
        assert_type(job.attempt, int)
        assert_type(job.recoveries, int)
        assert_type(job.owner, str)
        assert_type(job.item_key(address), str)
        if job.should_stop():
            raise Transient("later")
        if not address:
            raise Permanent("nobody to write to")
        raise RateLimited("slow down", retry_after=30)


class OldReport(ProgressTask):
    """Code that comes from celery-progress."""

    name = "shop.report"

    @override
    def run(self) -> None:
        self.set_progress(1, 10)
        self.set_progress(2, 10, description="two")
        self.increment_progress()
        self.increment_progress(by=3)


def enqueue(task: SyncOrders) -> None:
    """What callers do."""
    result: JobResult = task.apply_async(
        (["acme"],), idempotency_key="acme-2026-11-24", owner="acme", countdown=60
    )
    assert_type(result.existing, bool)
    assert_type(result.job(), Job)
    assert_type(result.cancel(reason="wrong shop", actor="ana"), bool)
    for event in result.watch():
        assert_type(event, Event)
        assert_type(event.state, State)
        assert_type(event.at, datetime)
        assert_type(event.progress, Progress | None)
    assert_type(task.kit, JobKit)


def steer(client: Client, job_id: str) -> None:
    """What operators do."""
    try:
        assert_type(client.replay(job_id, "restart", reason="fixed", actor="ana"), str)
        client.resume(job_id)
        client.discard(job_id)
    except NotAllowed as refused:
        assert_type(refused.state, str)
    except JobNotFound as unknown:
        assert_type(unknown.job_id, str)
    assert_type(client.cancel(job_id), bool)
    assert_type(client.pause(job_id, reason="holidays"), bool)
    page = client.list(state="DEAD", task="shop.sync_orders", limit=10)
    assert_type(page, Page[Job])
    assert_type(page.next, str | None)
    assert_type(client.list(state=State.DEAD, after=page.next).items, tuple[Job, ...])
    assert_type(client.counts(), dict[State, int])
    assert_type(client.history(job_id), Sequence[Event])
    assert_type(client.statistics(task="shop.sync_orders"), Statistics)
    assert_type(client.usual_seconds("shop.sync_orders"), float | None)


def read(job: Job) -> None:
    """What a page shows."""
    assert_type(job.state, State)
    assert_type(job.state.finished, bool)
    assert_type(job.progress, Progress)
    assert_type(job.progress.percent, float | None)
    assert_type(job.progress.eta_seconds, float | None)
    assert_type(job.error, ErrorInfo | None)
    assert_type(job.request, StopRequest | None)
    assert_type(job.message, Message | None)
    assert_type(job.created_at, datetime)
    assert_type(job.finished_at, datetime | None)


def bring_a_store(store: Store) -> None:
    """What a project with a store of its own does."""
    assert_type(JobKit(app, store=store).jobs, Client)
    assert_type(Client(store), Client)
    assert_type(Client("redis://localhost/0", prefix="shop", partitions=4), Client)


async def may_see(request: Request, job: Job) -> bool:
    """Who may see a job."""
    return job.owner == request.headers["user"]


def show_on_web_pages(jobs: Client) -> None:
    """What a web site does, with and without a framework."""
    tokens = Tokens(["an old secret of this site", "the secret that signs now"])
    assert_type(tokens.sign("id", "act", seconds=60), str)
    assert_type(jobs_app(jobs, authorize=may_see, tokens=tokens), Starlette)
    assert_type(jobs_app(JobKit(app), authorize=lambda *_: "read"), Starlette)
    jobs_app(jobs, public=True, showing=Showing(usual_seconds=lambda _: None))
    status, body, headers = wsgi.status(jobs, "id", if_none_match="x")
    assert_type(status, int)
    assert_type(body, dict[str, Any] | None)
    assert_type(headers, Mapping[str, str])


@job_dead.connect
def page_somebody(
    sender: str, job_id: str, reason: str, error: ErrorInfo | None, **_: Any
) -> None:
    """What a receiver takes."""
