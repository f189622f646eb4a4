"""What only the store in memory has: threads that share it."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from jobkit import clock
from jobkit.store.memory import MemoryStore
from tests.store.lives import LEASE, enqueued, kept, running, snapshot


def test_its_clock_is_that_of_the_machine() -> None:
    store = MemoryStore()
    before = clock.wall()
    job = enqueued(store)
    assert before - 0.001 <= job.created_at.timestamp() <= clock.wall()


def test_a_ping_and_a_close_change_nothing() -> None:
    store = MemoryStore()
    enqueued(store)
    store.ping()
    store.close()
    assert store.get("job")


def test_threads_do_not_lose_each_others_writes() -> None:
    store = MemoryStore()
    run = running(store)
    together = Barrier(4)

    def work(number: int) -> None:
        together.wait(10)
        for step in range(50):
            seq = step * 4 + number + 1
            store.save("job", run.fence, seq, snapshot(seq), LEASE)
            enqueued(store, f"job {number} {step}")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert kept(store).position == 200
    assert sum(store.counts().values()) == 201
