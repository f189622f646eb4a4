"""A hundred thousand dead letters: found, replayed and exported in good time."""

from __future__ import annotations

import time
import tracemalloc
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from celery import Celery
from celery.signals import before_task_publish

from jobkit import Client, JobKit, JobTask, State
from jobkit.job import ErrorInfo
from jobkit.store.memory import MemoryStore
from jobkit.store.redis import RedisStore
from jobkit.store.values import Failure, Letter
from tests.servers import ValkeyServer
from tests.store.lives import new_job

MANY = 100_000
TASKS = 20

PAGE_SECONDS = 0.040
RATE = 1_000
MEMORY = 8 * 1024 * 1024

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def letter(task: str) -> Letter:
    """A dead job with a traceback as long as they get."""
    source = MemoryStore()
    source.enqueue(new_job("job", task), "token", 300)
    run = source.begin("job", "token", "w@test/1", 30).job
    assert run
    error = ErrorInfo("KeyError", "no", "Traceback ...\n" * 300, "unknown")
    source.bury("job", run.fence, Failure(error), "permanent")
    found = source.take_out("job")
    assert found
    return found


PARTITIONS = pytest.mark.parametrize(
    "partitions", [1, 3], ids=["one partition", "three"], scope="module"
)


@pytest.fixture(scope="module")
def store(partitions: int, valkey: ValkeyServer) -> Iterator[RedisStore]:
    """For all tests that only read."""
    with filled(partitions, valkey) as store:
        yield store


@pytest.fixture
def own_store(partitions: int, valkey: ValkeyServer) -> Iterator[RedisStore]:
    with filled(partitions, valkey) as store:
        yield store


@contextmanager
def filled(partitions: int, valkey: ValkeyServer) -> Iterator[RedisStore]:
    """A store with that many dead letters."""
    store = RedisStore(valkey.url, f"test-{uuid.uuid4().hex[:12]}", partitions)
    letters = [letter(f"shop.task_{n}") for n in range(TASKS)]
    for number in range(MANY):
        kind = letters[number % TASKS]
        # Every hundred of them died in one millisecond.
        died = int(kind.fields["finished_at"]) - number // 100
        fields = {"id": f"job-{number:06}", "finished_at": str(died)}
        store.restore(Letter({**kind.fields, **fields}, kind.events), "t")
    yield store
    store.close()


def fastest(client: Client, **wanted: Any) -> float:
    spans = []
    after = None
    for _ in range(30):
        begun = time.perf_counter()
        page = client.list(state="DEAD", limit=50, after=after, **wanted)
        spans.append(time.perf_counter() - begun)
        after = page.next
    return min(spans)  # a busy machine can only add


@PARTITIONS
def test_a_page_of_one_task_comes_at_once(store: RedisStore) -> None:
    client = Client(store)
    spans = {
        "task": fastest(client, task="shop.task_7"),
        "error": fastest(client, error="KeyError"),
        "task and error": fastest(client, task="shop.task_7", error="KeyError"),
        "rare": fastest(client, task="shop.never"),
        "rare error": fastest(client, error="Never"),
    }
    print({name: f"{span * 1000:.1f} ms" for name, span in spans.items()})  # noqa: T201
    assert max(spans.values()) < PAGE_SECONDS


@PARTITIONS
def test_they_are_exported_one_by_one(store: RedisStore) -> None:
    tracemalloc.start()
    begun = time.perf_counter()
    count = sum(1 for _ in Client(store).export(task="shop.task_7"))
    span = time.perf_counter() - begun
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"export: {count / span:.0f} a second, {peak / 2**20:.1f} MiB")  # noqa: T201
    assert count == MANY / TASKS
    assert peak < MEMORY


@PARTITIONS
def test_they_are_replayed_at_more_than_a_thousand_a_second(
    own_store: RedisStore,
) -> None:
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True
    kit = JobKit(app, store=own_store)
    for number in range(TASKS):
        cast("Any", app).task(
            one, name=f"shop.task_{number}", base=JobTask, shared=False
        )
    dead = kit.jobs.counts()[State.DEAD]
    tracemalloc.start()
    begun = time.perf_counter()

    done = kit.jobs.replay_all(everything=True, expect=dead)

    span = time.perf_counter() - begun
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    before_task_publish.disconnect(kit._sent_by_name)
    print(f"replay: {dead / span:.0f} a second, {peak / 2**20:.1f} MiB")  # noqa: T201
    assert done.count == dead == MANY
    counts = kit.jobs.counts()
    assert (counts[State.DEAD], counts[State.QUEUED]) == (0, MANY)
    assert dead / span > RATE
    assert peak < MEMORY


def one() -> None:
    """A task without arguments."""
