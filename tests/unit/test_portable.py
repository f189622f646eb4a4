"""Dead letters leave a store as lines of JSON and come back; failed items as CSV."""

from __future__ import annotations

import csv
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from jobkit import Client, JobNotFound, Restored, State
from jobkit.job import ErrorInfo, FailedItem, Progress
from jobkit.store.base import Store
from jobkit.store.memory import MemoryStore
from jobkit.store.redis import RedisStore
from jobkit.store.values import Failure, Snapshot
from tests.servers import ValkeyServer
from tests.unit.runs import new_job

ERROR = ErrorInfo("KeyError", "'größe'", "Traceback ...", "unknown")


@pytest.fixture(params=["memory", "redis", "redis-3"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    server: ValkeyServer = request.getfixturevalue("valkey")
    partitions = 3 if request.param == "redis-3" else 1
    store = RedisStore(server.url, f"test-{uuid.uuid4().hex}", partitions)
    yield store
    store.close()


def bury(
    store: Store, job_id: str, keys: tuple[str, ...] = (), text: str = "no"
) -> None:
    job = replace(new_job(), id=job_id)
    assert store.enqueue(job, uuid.uuid4().hex, 300)
    run = store.begin(job_id, uuid.uuid4().hex, "w@test/1", 30).job
    assert run
    failed = tuple(FailedItem("s", key, "KeyError", text, 2, "7") for key in keys)
    at = Snapshot(3, "cursor 3", Progress(current=3, ok=3), failed=failed)
    store.save(job_id, run.fence, 1, at, 30)
    store.bury(job_id, run.fence, Failure(ERROR, '{"unknown":4}'), "permanent")


# -- dead letters


def test_a_dead_letter_goes_to_another_store_whole(store: Store) -> None:
    bury(store, "a", ("k1", "k2"))
    bury(store, "b")
    assert store.enqueue(replace(new_job(), id="alive"), "t", 300)
    lines = list(Client(store).export())
    other = MemoryStore()

    done = Client(other).restore(lines)

    assert (done.restored, done.existing, done.refused) == (2, 0, ())
    assert other.counts()[State.DEAD] == 2
    for job_id in ("a", "b"):
        assert other.get(job_id) == store.get(job_id)
    assert list(Client(other).failures_csv("a")) == list(
        Client(store).failures_csv("a")
    )
    names = [event.name for event in other.history("a")]
    assert names == [*(e.name for e in store.history("a")), "restored"]
    assert all("\n" not in line for line in lines)


def test_a_line_can_be_read_by_other_programs(store: Store) -> None:
    bury(store, "a", ("k1",))
    (line,) = Client(store).export()

    told = json.loads(line)
    assert (told["format"], told["version"]) == ("jobkit.dead_letter", 1)
    assert list(told) == ["format", "version", "record", "history", "failures"]
    record = told["record"]
    assert (record["id"], record["state"], record["schema"]) == ("a", "DEAD", "1")
    assert record["error"]["type"] == "KeyError"
    assert record["checkpoint"] == "cursor 3"
    assert record["message"]["task"]
    assert record["progress"]["current"] == 3
    assert [event["name"] for event in told["history"]] == ["queued", "started", "dead"]


def test_only_those_that_match_are_exported(store: Store) -> None:
    bury(store, "a")
    client = Client(store)
    assert len(list(client.export(error="KeyError"))) == 1
    assert list(client.export(error="ValueError")) == []
    assert list(client.export(task="nobody")) == []


def test_what_is_there_is_left_alone_and_counted(store: Store) -> None:
    bury(store, "a")
    client = Client(store)
    lines = list(client.export())
    client.replay("a")
    before = store.get("a")

    done = client.restore(lines)

    assert (done.restored, done.existing) == (0, 1)
    assert store.get("a") == before


def test_read_twice_it_is_restored_once(store: Store) -> None:
    bury(store, "a")
    lines = [*Client(store).export(), "", " \n"]
    other = Client(MemoryStore())
    assert other.restore(line.encode() for line in lines * 2) == Restored(1, 1)


def test_a_restored_job_can_be_found_and_replayed(store: Store) -> None:
    source = MemoryStore()
    bury(source, "a", ("k",))
    client = Client(store)
    client.restore(Client(source).export())

    assert [job.id for job in client.list(state="DEAD", error="KeyError").items] == [
        "a"
    ]
    assert client.replay("a", "restart") == "a"
    (due,) = store.claim_due(10, 10)
    assert due.id == "a"
    assert store.get("a").message == source.get("a").message  # type: ignore[union-attr]


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda told: told["record"].pop(name)


def with_record(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda told: told["record"].update(fields)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda told: told.update(format="other"), "it is no dead letter of jobkit"),
        (lambda told: told.update(version=2), "it has version 2, this jobkit reads up"),
        (lambda told: told.pop("version"), "it has no 'version'"),
        (lambda told: told.pop("history"), "it has no 'history'"),
        (lambda told: told.update(record=[]), "attribute 'items'"),
        (without("id"), "it has no 'id'"),
        (without("message"), "it has no 'message'"),
        (without("finished_at"), "its record is not that of a dead job"),
        (with_record(id=""), "its record is not that of"),
        (with_record(state="RUNNING"), "its record is not that of a dead"),
        (with_record(state="LOST"), "'LOST' is not a valid State"),
        (with_record(attempts="many"), "its attempts is no number: 'many'"),
        (with_record(created_at="4_102_444_800_000"), "its created_at is no number"),
        (with_record(finished_at="\u0664\u0661"), "its finished_at is no number"),
        (with_record(created_at="9" * 23), "out of range"),
        (with_record(owner="a\ud800"), "surrogates not allowed"),
        (with_record(attempts=""), "with base 10: ''"),
        (with_record(attempts=3), "a field of the record is no text"),
        (with_record(schema="9"), "schema 9, this jobkit reads up to 1"),
        (with_record(error={"type": "E"}), "ErrorInfo.__init__() missing"),
        (with_record(message={"task": "t"}), "Message.__init__() missing"),
        (lambda told: told["history"].append({"name": "odd"}), "it has no "),
        (lambda told: told["failures"].append("odd"), "values to unpack"),
    ],
)
def test_a_bad_line_is_told_and_the_others_go_on(
    spoil: Callable[[dict[str, Any]], object], why: str
) -> None:
    source, store = MemoryStore(), MemoryStore()
    bury(source, "a")
    bury(source, "b")
    good, bad = Client(source).export()
    told = json.loads(bad)
    spoil(told)

    done = Client(store).restore([good, json.dumps(told), "{", "[]", "\xff{}"])

    assert (done.restored, done.existing) == (1, 0)
    (number, said), *others = done.refused
    assert number == 2
    assert why in said
    assert [number for number, _ in others] == [3, 4, 5]
    assert sum(store.counts().values()) == 1


# -- failed items


def rows(client: Client, job_id: str) -> list[dict[str, str]]:
    return list(csv.DictReader(client.failures_csv(job_id)))


def test_failed_items_are_rows_of_csv(store: Store) -> None:
    bury(store, "a", ("17", 'a"b,c\nd'))

    first, second = rows(Client(store), "a")

    assert list(first) == [
        *("stage", "key", "error", "message", "attempts"),
        *("first_at", "last_at", "open", "item"),
    ]
    assert (first["stage"], first["key"], first["error"]) == ("s", "17", "KeyError")
    assert (first["attempts"], first["open"], first["item"]) == ("2", "yes", "7")
    assert second["key"] == 'a"b,c\nd'


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_no_cell_is_a_formula(begin: str) -> None:
    store = MemoryStore()
    bury(store, "a", (begin + "cmd|' /C calc'!A0",), text=begin + "1+1")
    (row,) = rows(Client(store), "a")
    assert row["key"] == "'" + begin + "cmd|' /C calc'!A0"
    assert row["message"] == "'" + begin + "1+1"


def test_many_rows_come_page_by_page(store: Store) -> None:
    bury(store, "a", tuple(str(n) for n in range(1203)))
    found = rows(Client(store), "a")
    assert [row["key"] for row in found] == [str(n) for n in range(1203)]


def test_a_job_without_failures_has_a_header_alone(store: Store) -> None:
    bury(store, "a")
    assert rows(Client(store), "a") == []
    with pytest.raises(JobNotFound):
        Client(store).failures_csv("nobody")
