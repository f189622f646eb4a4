"""The ends of jobs, told to receivers: when it happens, and when nobody did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery.signals import before_task_publish

from jobkit import JobKit, ProgressTask, State, clock
from jobkit.job import Progress
from jobkit.rounds import UNHEARD_FOR, UNTOLD_FOR, Rounds
from jobkit.signals import job_cancelled, job_partial, job_succeeded
from jobkit.store.memory import MemoryStore
from jobkit.store.values import Snapshot
from tests.unit.conftest import MakeApp, Now
from tests.unit.runs import kept, new_job


@pytest.fixture
def store(now: Now) -> MemoryStore:
    return MemoryStore(now=now)


@pytest.fixture
def kit(make_app: MakeApp, store: MemoryStore) -> Iterator[JobKit]:
    made = JobKit(make_app(broker_url="memory://", result_backend="cache+memory://"))
    made = JobKit(made.app, store=store)
    yield made
    before_task_publish.disconnect(made._sent_by_name)


class Listener:
    """A receiver that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def __call__(self, sender: str, signal: object, **told: Any) -> None:  # noqa: ARG002
        self.told.append({"sender": sender, **told})

    @property
    def events(self) -> list[str]:
        return [told["event_id"] for told in self.told]


def end(store: MemoryStore, job_id: str = "job", *, tell: bool = True) -> None:
    """End a job as a process does that dies before it tells anybody."""
    store.enqueue(new_job(job_id), "enqueue", 300)
    run = store.begin(job_id, job_id, "w", 30).job
    assert run
    snapshot = Snapshot(7, "", Progress(current=7))
    assert store.succeed(job_id, run.fence, snapshot, tell=tell)


def test_an_end_of_which_nobody_told_is_told_by_a_round(
    kit: JobKit, store: MemoryStore, now: Now
) -> None:
    listener = Listener()
    job_succeeded.connect(listener)
    rounds = Rounds(kit)
    end(store)
    rounds.tell()
    assert listener.told == []

    now.advance(UNTOLD_FOR)
    rounds.tell()
    now.advance(3600)
    rounds.tell()

    (told,) = listener.told
    assert told == {
        "sender": kept(store).task,
        "job_id": "job",
        "event_id": "job:1.1000000",
        "progress": Progress(current=7),
    }


def test_all_that_nobody_told_is_told_in_one_round(
    kit: JobKit, store: MemoryStore, now: Now
) -> None:
    listener = Listener()
    job_succeeded.connect(listener)
    for number in range(101):
        end(store, f"job {number}")
    now.advance(UNTOLD_FOR)
    Rounds(kit).tell()
    assert len(set(listener.events)) == 101


def test_a_process_without_receivers_leaves_an_end_to_others_for_a_while(
    kit: JobKit, store: MemoryStore, now: Now
) -> None:
    rounds = Rounds(kit)
    end(store, "old")
    now.advance(UNHEARD_FOR)
    end(store, "young")
    rounds.tell()

    listener = Listener()
    job_succeeded.connect(listener)
    now.advance(UNTOLD_FOR)
    rounds.tell()
    assert listener.events == ["young:1.4600000"]


def test_an_end_for_other_receivers_is_left_to_them(
    kit: JobKit, store: MemoryStore, now: Now
) -> None:
    now.milliseconds = round(clock.wall() * 1000)
    other, listener = Listener(), Listener()
    job_partial.connect(other)
    rounds = Rounds(kit)
    end(store)
    now.advance(UNTOLD_FOR)
    rounds.tell()

    job_succeeded.connect(listener)
    now.advance(UNTOLD_FOR)
    rounds.tell()
    assert (other.told, len(listener.told)) == ([], 1)


def test_an_end_that_a_newer_version_wrote_holds_up_no_other(
    kit: JobKit, store: MemoryStore, now: Now
) -> None:
    listener = Listener()
    job_succeeded.connect(listener)
    for name in ("a", "b", "c"):
        end(store, name)
    store._jobs["a"].fields["schema"] = "99"
    now.advance(UNTOLD_FOR)
    Rounds(kit).tell()
    assert [told["job_id"] for told in listener.told] == ["b", "c"]


def test_what_celery_and_receivers_have_not_heard_is_told_once(
    kit: JobKit, store: MemoryStore, now: Now
) -> None:
    listener = Listener()
    job_cancelled.connect(listener)
    store.enqueue(new_job("job"), "enqueue", 300)
    store.ask("job", "cancel", "ada", "")
    now.advance(UNTOLD_FOR)
    Rounds(kit).tell()
    assert len(listener.told) == 1


def test_an_end_for_other_receivers_is_dropped_after_an_hour(
    kit: JobKit, store: MemoryStore, now: Now
) -> None:
    other, listener = Listener(), Listener()
    job_partial.connect(other)
    rounds = Rounds(kit)
    end(store)
    now.advance(UNTOLD_FOR)
    rounds.tell()

    job_succeeded.connect(listener)
    now.advance(3600)
    rounds.tell()
    assert other.told == listener.told == []


def test_who_cancels_a_job_that_waits_tells_of_it(
    kit: JobKit, store: MemoryStore, now: Now
) -> None:
    listener = Listener()
    job_cancelled.connect(listener)
    store.enqueue(new_job(), "enqueue", 300)
    kit.jobs.cancel("job", reason="too late")
    now.advance(3600)
    Rounds(kit).tell()

    (told,) = listener.told
    assert (told["reason"], told["event_id"]) == ("too late", "job:0.1000000")


def test_who_tells_in_time_leaves_nothing_to_tell(kit: JobKit) -> None:
    listener = Listener()
    job_succeeded.connect(listener)

    @kit.app.task(base=ProgressTask, name="quick", shared=False)
    def quick() -> None:
        """Nothing."""

    quick.apply(task_id="one")
    (event,) = listener.events
    job = kit.local.get("one")
    assert job
    assert job.state is State.SUCCEEDED
    assert event.startswith("one:1.")
    assert list(kit.local.claim_notes("unheard", 0, 10)) == []


def test_of_a_job_that_another_task_goes_on_with_its_end_alone_is_told(
    kit: JobKit,
) -> None:
    listener = Listener()
    job_succeeded.connect(listener)

    @kit.app.task(base=ProgressTask, name="second", shared=False)
    def second() -> None:
        """Nothing."""

    @kit.app.task(base=ProgressTask, bind=True, name="first", shared=False)
    def first(self: Any) -> None:
        self.replace(second.si())

    first.apply(task_id="one")
    assert [told["sender"] for told in listener.told] == ["second"]
