"""Dead letters: what is copied, what is announced, and what a message says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery.signals import before_task_publish
from kombu.exceptions import OperationalError

from jobkit import JobKit, JobTask, State
from jobkit.collector import read
from jobkit.dead_letters import (
    BATCH,
    DEATH,
    GRACE,
    LONGEST,
    Copies,
    bring_back,
    copy_of,
    name_of,
)
from jobkit.job import ErrorInfo, Message, Unique
from jobkit.rounds import PRUNE_BATCH, Rounds
from jobkit.signals import job_dead, job_dead_letter_expiring
from jobkit.store.memory import MemoryStore
from jobkit.store.values import Failure, Retention
from tests.unit.conftest import MakeApp, Now
from tests.unit.runs import kept, new_job

DAY = 86_400


@pytest.fixture
def store(now: Now) -> MemoryStore:
    return MemoryStore(Retention(dead=30 * DAY), now=now)


def die(store: MemoryStore, job_id: str = "job", queue: str = "graves") -> None:
    store.enqueue(new_job(job_id), "enqueue", 300)
    store._jobs[job_id].fields["dead_letter_queue"] = queue
    fence = store.begin(job_id, job_id, "w", 30)
    assert fence.job
    failure = Failure(ErrorInfo("Permanent", "no"))
    assert store.bury(job_id, fence.job.fence, failure, "permanent")


class Broker:
    """Takes messages while it is up."""

    def __init__(self) -> None:
        self.taken: list[Message] = []
        self.tries = 0
        self.down = False

    def publish(self, message: Message) -> None:
        self.tries += 1
        if self.down:
            raise OperationalError("no route to the broker")
        self.taken.append(message)


def test_all_copies_go_in_one_round(store: MemoryStore) -> None:
    broker = Broker()
    for number in range(BATCH + 1):
        die(store, f"job {number}")

    assert Copies(store, broker.publish).round() == BATCH + 1
    assert Copies(store, broker.publish).round() == 0
    assert {message.routing_key for message in broker.taken} == {"graves"}
    assert {message.exchange for message in broker.taken} == {""}


def test_with_the_broker_down_copies_wait(store: MemoryStore, now: Now) -> None:
    broker = Broker()
    broker.down = True
    copies = Copies(store, broker.publish)
    for number in range(2 * BATCH):
        die(store, f"job {number}")
    assert copies.round() == 0
    assert broker.tries == BATCH

    broker.down = False
    now.advance(GRACE)
    assert copies.round() == 2 * BATCH


def test_a_message_that_cannot_be_read_stops_no_other_copy(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker()
    die(store, "bad")
    die(store, "good")
    store._jobs["bad"].fields["message"] = "{"

    assert Copies(store, broker.publish).round() == 1
    assert "Dead letter bad cannot be copied" in caplog.text


def test_a_copy_lasts_no_longer_than_rabbitmq_can_count(store: MemoryStore) -> None:
    die(store)
    job = kept(store)
    assert job.message
    assert copy_of(job, job.message, 60.0).properties["expiration"] == 60.0
    assert copy_of(job, job.message, 1e9).properties["expiration"] == LONGEST
    assert LONGEST * 1000 < 2**32
    assert name_of(job) == "1.1000000"


@pytest.fixture
def kit(make_app: MakeApp, store: MemoryStore) -> Iterator[JobKit]:
    made = JobKit(make_app(broker_url="memory://", result_backend="cache+memory://"))
    made = JobKit(made.app, store=store)
    yield made
    before_task_publish.disconnect(made._sent_by_name)


def test_a_dead_letter_is_announced_once_before_it_goes(
    kit: JobKit, store: MemoryStore, now: Now
) -> None:
    told: list[tuple[str, str, Any]] = []

    def note(sender: str, job_id: str, expires_at: Any, **_: Any) -> None:
        told.append((sender, job_id, expires_at))

    job_dead_letter_expiring.connect(note)
    rounds = Rounds(kit)
    die(store)
    job = kept(store)
    assert job.finished_at
    now.advance(29 * DAY - 1)
    rounds.prune()
    assert told == []

    now.advance(1)
    rounds.prune()
    now.advance(3600)
    rounds.prune()

    expires_at = job.finished_at + timedelta(days=30)
    assert told == [("shop.sync", "job", expires_at)]
    now.advance(DAY)
    assert (rounds.prune(), len(told)) == (1, 1)


def test_one_whose_time_is_over_already_is_announced_all_the_same(
    kit: JobKit, store: MemoryStore, now: Now
) -> None:
    told: list[str] = []

    def note(job_id: str, **_: Any) -> None:
        told.append(job_id)

    job_dead_letter_expiring.connect(note)
    die(store)
    now.advance(31 * DAY)

    assert Rounds(kit).prune() == 1
    assert told == ["job"]


def given_up(headers: dict[str, Any], body: bytes = b"[[], {}, null]") -> Any:
    death = {"queue": "work", "reason": "expired", "time": "12:00", "count": 1}
    return SimpleNamespace(
        body=body,
        headers={"x-death": [death], **headers},
        properties={"priority": 3, "expiration": "5", "application_headers": {}},
        content_type="application/json",
        content_encoding="utf-8",
    )


def sync() -> None:
    """What all the tasks here do."""


def add_task(kit: JobKit, name: str, base: Any) -> None:
    decorate: Any = kit.app.task
    decorate(base=base, name=name, shared=False)(sync)


def test_what_is_given_up_is_told_by_its_headers(kit: JobKit) -> None:
    add_task(kit, "plain", None)
    message = given_up({"id": "a", "task": "plain", "x-first-death-queue": "work"})
    message.headers[DEATH] = "1.1000"
    new, dropped = read(kit, message)

    assert (new.id, new.task, new.queue) == ("a", "plain", "work")
    found = Message.decode(new.message)
    assert (found.headers, found.properties) == (
        *({"id": "a", "task": "plain"},),
        {"priority": 3},
    )
    assert (found.exchange, found.routing_key) == ("", "work")
    assert (dropped.reason, dropped.token) == ("expired", "work:expired:12:00")
    assert (dropped.foreign, dropped.tell) == (True, True)
    assert not read(kit, given_up({"id": "a", "task": "plain"}, b"{"))[1].tell


def test_a_job_of_the_app_is_its_own(kit: JobKit) -> None:
    add_task(kit, "shop.sync", JobTask)

    assert not read(kit, given_up({"id": "a", "task": "shop.sync"}))[1].foreign


@pytest.mark.parametrize("headers", [{}, {"id": 7, "task": None}, {"x-death": 3}])
def test_what_says_nothing_of_itself_gets_an_id(
    kit: JobKit, headers: dict[str, Any]
) -> None:
    (one, dropped), (other, _) = read(kit, given_up(headers)), read(kit, given_up({}))

    assert one.id != other.id
    assert (one.task, dropped.foreign, dropped.tell) == ("unknown", True, False)
    if headers.get("x-death"):
        assert (one.queue, dropped.reason) == ("jobkit.dead_letters", "unknown")


def test_a_message_of_any_size_is_filed(kit: JobKit, store: MemoryStore) -> None:
    told: list[str] = []

    def note(job_id: str, **_: Any) -> None:
        told.append(job_id)

    job_dead.connect(note)
    body = bytes(2 * 1024 * 1024)
    Rounds(kit).collected(*read(kit, given_up({"id": "big", "task": "x"}, body)))

    job = kept(store, "big")
    assert job.state is State.DEAD
    assert job.message
    assert job.message.body == body
    assert told == ["big"]


def test_a_letter_that_comes_back_while_another_job_has_its_key_changes_nothing(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    unique = Unique("7")
    store.enqueue(replace(new_job("job"), unique=unique), "enqueue", 300)
    run = store.begin("job", "token", "w", 30)
    assert run.job
    store.bury("job", run.job.fence, Failure(ErrorInfo("Permanent", "no")), "permanent")
    store.enqueue(replace(new_job("other"), unique=unique), "enqueue", 300)

    assert bring_back(store, "job", name_of(kept(store))) is False

    assert kept(store).state is State.DEAD
    assert "Job job stays dead, its letter came back" in caplog.text


def test_a_dead_letter_of_a_newer_jobkit_keeps_no_other_from_going(
    kit: JobKit, store: MemoryStore, now: Now, caplog: pytest.LogCaptureFixture
) -> None:
    for job_id in ("new", "old"):
        die(store, job_id)
    store._jobs["new"].fields["schema"] = "99"
    now.advance(31 * DAY)

    assert Rounds(kit).prune() == 2
    assert "No word that job new goes" in caplog.text


def test_all_that_has_expired_goes_in_one_round(
    kit: JobKit, store: MemoryStore, now: Now
) -> None:
    for number in range(2 * PRUNE_BATCH + 1):
        die(store, f"job {number}")
    now.advance(31 * DAY)

    assert Rounds(kit).prune() == 2 * PRUNE_BATCH + 1
