"""The rounds of a worker: what is due is published, what lost its owner is rescued."""

from __future__ import annotations

import pytest

from jobkit.dispatcher import BATCH, GRACE, Dispatcher
from jobkit.job import Message, NewJob
from jobkit.rescue import Rescue
from jobkit.states import State
from jobkit.store.memory import MemoryStore
from jobkit.store.values import Released
from tests.unit.conftest import Now
from tests.unit.runs import WORKER, begin, kept, new_job

HINT = 300.0


class Broker:
    """Takes messages, but for those of the tasks that it refuses."""

    def __init__(self) -> None:
        self.taken: list[Message] = []
        self.refused: set[str] = set()
        self.down = False
        self.tries = 0

    def publish(self, message: Message) -> None:
        self.tries += 1
        if self.down or message.task in self.refused:
            raise ConnectionError("no route to the broker")
        self.taken.append(message)


@pytest.fixture
def store(now: Now) -> MemoryStore:
    return MemoryStore(now=now)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def dispatcher(store: MemoryStore, broker: Broker) -> Dispatcher:
    return Dispatcher(store, broker.publish, HINT, (ConnectionError,))


def due(store: MemoryStore, *job_ids: str) -> None:
    """Enqueue jobs whose first message was never published."""
    for job_id in job_ids:
        store.enqueue(new_job(job_id), "enqueue", HINT)
        store.published(job_id, 0, ok=False)


def test_what_is_due_is_published_as_it_was_kept(
    store: MemoryStore, broker: Broker, dispatcher: Dispatcher
) -> None:
    due(store, "a", "b")

    assert dispatcher.round() == 2

    assert broker.taken == [Message.decode(new_job().message)] * 2
    assert kept(store, "a").published_at
    assert dispatcher.round() == 0


def test_what_is_not_due_waits(
    store: MemoryStore, broker: Broker, dispatcher: Dispatcher, now: Now
) -> None:
    later = NewJob("later", "t", new_job().message, delay=60.0)
    store.enqueue(later, "enqueue", HINT)
    assert dispatcher.round() == 0

    now.advance(60)

    assert dispatcher.round() == 1
    assert kept(store, "later").state is State.QUEUED
    assert len(broker.taken) == 1


def test_a_hint_that_was_lost_is_published_again_ever_more_rarely(
    store: MemoryStore, dispatcher: Dispatcher, now: Now
) -> None:
    due(store, "a")
    published = []
    for minute in range(60):
        if dispatcher.round():
            published.append(minute)
        now.advance(60)

    assert published == [0, 5, 15, 35]


def test_all_that_is_due_goes_in_one_round(
    store: MemoryStore, dispatcher: Dispatcher
) -> None:
    due(store, *(f"job {n}" for n in range(2 * BATCH + 1)))

    assert dispatcher.round() == 2 * BATCH + 1


def test_with_the_broker_down_a_job_stays_due(
    store: MemoryStore,
    broker: Broker,
    dispatcher: Dispatcher,
    now: Now,
    caplog: pytest.LogCaptureFixture,
) -> None:
    due(store, "a")
    broker.down = True
    assert dispatcher.round() == 0
    assert "Job a is due, but not published: no route" in caplog.text

    broker.down = False
    assert dispatcher.round() == 0  # claimed, by this or by another worker
    now.advance(GRACE)

    assert dispatcher.round() == 1


def test_with_the_broker_down_a_round_does_not_try_them_all(
    store: MemoryStore, broker: Broker, dispatcher: Dispatcher
) -> None:
    due(store, *(f"job {n}" for n in range(3 * BATCH)))
    broker.down = True

    dispatcher.round()

    assert broker.tries == BATCH


def test_a_message_that_the_broker_refuses_stops_no_other(
    store: MemoryStore, broker: Broker, dispatcher: Dispatcher, now: Now
) -> None:
    message = Message("bad", b"", "application/json", "utf-8").encode()
    store.enqueue(NewJob("0", "bad", message), "enqueue", HINT)
    store.published("0", 0, ok=False)
    broker.refused.add("bad")
    due(store, "1", "2")

    assert dispatcher.round() == 2
    now.advance(GRACE)
    assert dispatcher.round() == 0
    assert broker.tries == 4


def test_a_message_that_no_broker_can_take_stops_no_other(
    store: MemoryStore, now: Now, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[str] = []

    def publish(message: Message) -> None:
        if message.task == "bad":
            raise TypeError("keys must be str, not tuple")
        taken.append(message.task)

    dispatcher = Dispatcher(store, publish, HINT, (ConnectionError,))
    store.enqueue(NewJob("0", "bad", Message("bad", b"", "", "").encode()), "e", HINT)
    store.published("0", 0, ok=False)
    due(store, "1", "2")

    assert dispatcher.round() == 2
    now.advance(GRACE)
    assert dispatcher.round() == 0
    assert taken == ["shop.sync"] * 2
    assert "The message of job 0 cannot be published" in caplog.text


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"task":"t"}', '{"!new":1}', "null", "3"]
)
def test_a_message_that_cannot_be_read_stops_no_other(
    store: MemoryStore,
    dispatcher: Dispatcher,
    caplog: pytest.LogCaptureFixture,
    text: str,
) -> None:
    due(store, "0", "1")
    store._jobs["0"].fields["message"] = text

    assert dispatcher.round() == 1
    assert "message of job 0 cannot be read" in caplog.text


def test_a_word_that_comes_after_the_next_run_changes_nothing(
    store: MemoryStore,
) -> None:
    def publish(_: Message) -> None:
        run = begin(store)
        store.interrupt("job", run.lease.fence, "drain")

    due(store, "job")
    slow = Dispatcher(store, publish, HINT, (ConnectionError,))
    assert slow.round() == 1

    assert store.next_due() == 0
    assert [job.hints for job in store.claim_due(10, GRACE)] == [0]


# -- the rescue


@pytest.fixture
def told() -> list[Released]:
    return []


@pytest.fixture
def rescue(store: MemoryStore, told: list[Released]) -> Rescue:
    return Rescue(store, told.append)


def test_only_an_ended_lease_loses_its_owner(
    store: MemoryStore, rescue: Rescue, told: list[Released], now: Now
) -> None:
    begin(store, seconds=30.0)
    now.advance(29.9)
    assert rescue.round() == 0

    now.advance(0.2)

    assert rescue.round() == 1
    assert told == [Released("job", "shop.sync", State.QUEUED)]
    assert kept(store).recoveries == 1
    assert rescue.round() == 0


def test_a_rescued_job_is_due_at_once(
    store: MemoryStore, rescue: Rescue, dispatcher: Dispatcher, now: Now
) -> None:
    begin(store, seconds=30.0)
    now.advance(30)
    rescue.round()

    assert dispatcher.round() == 1


def test_the_third_crash_without_progress_is_death_by_poison(
    store: MemoryStore,
    rescue: Rescue,
    told: list[Released],
    now: Now,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(3):
        begin(store, seconds=30.0)
        now.advance(30)
        rescue.round()

    assert [released.state for released in told] == ["QUEUED", "QUEUED", "DEAD"]
    assert "Job job (shop.sync) is dead: poison" in caplog.text
    job = kept(store)
    assert (job.reason, job.attempts, job.recoveries) == ("poison", 0, 3)


def test_a_crash_with_progress_is_none_of_them(
    store: MemoryStore, rescue: Rescue, now: Now
) -> None:
    for _ in range(6):
        run = begin(store, seconds=30.0)
        run.stage("import").__enter__().advance()
        run.save()
        now.advance(30)
        rescue.round()

    assert kept(store).state is State.QUEUED
    assert kept(store).crashes_without_progress == 0


def test_all_that_can_be_is_rescued_in_one_round(
    store: MemoryStore, rescue: Rescue, now: Now
) -> None:
    for n in range(250):
        begin(store, job_id=f"job {n}", seconds=30.0)
    now.advance(30)

    assert rescue.round() == 250
    assert store.counts()[State.QUEUED] == 250


def test_a_worker_is_named_by_what_it_began_with(store: MemoryStore) -> None:
    begin(store)

    assert kept(store).worker == WORKER
