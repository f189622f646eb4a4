"""The events of a job that a browser is sent."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from typing_extensions import override

from jobkit import Client, Job
from jobkit.job import Progress
from jobkit.store.redis import RedisStore
from jobkit.store.values import TICKS_KEPT, Snapshot
from jobkit.web import hub, jobs_app, stream
from tests.servers import ValkeyServer
from tests.store.lives import LEASE, dead, enqueued, rewrite, running, started
from tests.surfaces.sites import Events, Site, hub_threads, served
from tests.waiting import free_port, wait_until

AWAY = "Open pages wait for the job store: The job store at redis://127.0.0.1:{}"


@pytest.fixture
def store(valkey: ValkeyServer) -> Iterator[RedisStore]:
    store = RedisStore(valkey.url, f"web-{uuid.uuid4().hex[:12]}")
    yield store
    store.close()


@pytest.fixture
def site(store: RedisStore) -> Iterator[Site]:
    with served(jobs_app(Client(store), authorize=lambda *_: True)) as site:
        yield site


def tell(store: RedisStore, run: Job, *seqs: int) -> None:
    for seq in seqs:
        snapshot = Snapshot(seq, "", Progress(current=seq, ok=seq))
        assert store.save(run.id, run.fence, seq, snapshot, LEASE).owner


def counts(events: Events, until: int) -> list[int]:
    """The counts that are told, up to one of them."""
    seen = []
    for _, told in events:
        seen.append(told["progress"]["current"])
        if seen[-1] == until:
            return seen
    return seen


def test_a_snapshot_comes_first_then_what_happens_then_the_end(
    store: RedisStore, site: Site
) -> None:
    enqueued(store)
    with site.events("job") as events:
        assert events.response.headers["content-type"].startswith("text/event-stream")
        assert events.next()["state"] == "QUEUED"
        run = started(store)
        assert events.next()["event"] == "started"
        tell(store, run, 1, 2)
        store.succeed("job", run.fence, Snapshot(3, "", Progress(current=3)))
        rest = list(events)  # it is closed after the end

    assert [(kind, told["event"]) for kind, told in rest] == [
        ("message", "progressed"),
        ("message", "progressed"),
        ("end", "succeeded"),
    ]
    assert [told["progress"]["current"] for _, told in rest] == [1, 2, 3]
    assert (rest[-1][1]["finished"], rest[-1][1]["actions"]) == (True, [])
    wait_until(lambda: not hub_threads(), "nobody is followed any more")


def test_a_job_that_has_ended_is_told_and_closed(store: RedisStore, site: Site) -> None:
    dead(store)
    with site.events("job") as events:
        ((kind, told),) = list(events)
    assert (kind, told["state"]) == ("end", "DEAD")


@pytest.mark.long
def test_what_the_store_did_not_tell_is_seen_at_the_next_look(
    store: RedisStore, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "LOOK", 0.2)
    enqueued(store, "changed")
    enqueued(store, "gone")
    with site.events("changed") as changed, site.events("gone") as gone:
        changed.next()
        gone.next()
        rewrite(store, "changed", state="PAUSED")
        assert changed.next()["state"] == "PAUSED"
        store._client.delete(store.keys.job("gone"))
        assert list(gone) == []


@pytest.mark.parametrize("company", [False, True], ids=["alone", "in company"])
@pytest.mark.parametrize("cut", [1, 2, 5])
def test_who_comes_back_misses_nothing_and_sees_nothing_twice(
    store: RedisStore, site: Site, cut: int, company: bool
) -> None:
    run = running(store)
    with ExitStack() as stack:
        other = stack.enter_context(site.events("job")) if company else None
        with site.events("job") as events:
            events.next()
            tell(store, run, *range(1, cut + 1))
            assert counts(events, cut) == list(range(1, cut + 1))
            last = events.last
        tell(store, run, *range(cut + 1, 9))
        if other:
            counts(other, 8)  # the hub has told it all by now

        events = stack.enter_context(site.events("job", last))
        seen = counts(events, 8)
        tell(store, run, 9, 10)
        seen += counts(events, 10)

    assert seen == list(range(cut + 1, 11))


class Busy(RedisStore):
    """A store in which a job goes on whenever somebody begins to follow it."""

    run: Job | None = None

    @override
    def place(self, job_id: str, after: str = "") -> str:
        place = super().place(job_id, after)
        if self.run:
            tell(self, self.run, 1)
            time.sleep(0.01)
            tell(self, self.run, 2)
        return place


def test_a_snapshot_is_not_followed_by_what_was_before_it(store: RedisStore) -> None:
    busy = Busy(store.url, store.keys.prefix)
    busy.run = running(store)
    with (
        served(jobs_app(Client(busy), public=True)) as site,
        site.events("job") as events,
    ):
        assert events.next()["progress"]["current"] == 2
        tell(store, busy.run, 3)
        seen = counts(events, 3)
    assert min(seen) >= 2
    busy.close()


def test_it_goes_on_in_another_process_too(store: RedisStore, site: Site) -> None:
    run = running(store)
    with site.events("job") as events:
        events.next()
        tell(store, run, 1)
        events.next()
        last = events.last
    tell(store, run, 2)
    with (
        served(jobs_app(Client(store), public=True)) as other,
        other.events("job", last) as events,
    ):
        assert events.next()["progress"]["current"] == 2


def test_who_was_away_for_too_long_gets_a_snapshot(
    store: RedisStore, site: Site
) -> None:
    run = running(store)
    with site.events("job") as events:
        events.next()
        last = events.last
    tell(store, run, *range(1, TICKS_KEPT + 5))

    with site.events("job", last) as events:
        told = events.next()
    assert (told["event"], told["progress"]["current"]) == ("snapshot", TICKS_KEPT + 4)


def test_who_knows_the_end_is_told_not_to_come_again(
    store: RedisStore, site: Site
) -> None:
    run = running(store)
    with site.events("job") as events:
        events.next()
        store.succeed("job", run.fence, Snapshot(1, "", Progress()))
        assert [kind for kind, _ in events] == ["end"]
        last = events.last
    with site.events("job", last) as events:
        assert events.status == 204


def test_a_second_reader_who_comes_later_is_told_the_same(
    store: RedisStore, site: Site
) -> None:
    run = running(store)
    with site.events("job") as first:
        first.next()
        tell(store, run, 1, 2)
        assert counts(first, 2) == [1, 2]
        with site.events("job") as second:
            assert second.next()["progress"]["current"] == 2
            tell(store, run, 3, 4)
            assert (counts(first, 4), counts(second, 4)) == ([3, 4], [3, 4])


def test_readers_are_offered_what_they_may_do(store: RedisStore) -> None:
    run = running(store)

    def authorize(request: Any, _: Job) -> Any:
        return request.query_params["as"]

    with (
        served(jobs_app(Client(store), authorize=authorize)) as site,
        site.events("job", query="?as=read") as reader,
        site.events("job", query="?as=act") as actor,
    ):
        assert reader.next()["actions"] == []
        assert actor.next()["actions"] == ["cancel", "pause"]
        tell(store, run, 1)
        assert reader.next()["actions"] == []
        assert actor.next()["actions"] == ["cancel", "pause"]


@pytest.mark.long
def test_an_owner_that_falls_silent_is_told(
    store: RedisStore, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "STALE", 0.2)
    enqueued(store)
    run = store.begin("job", "token", "w", 0.4).job
    assert run
    with site.events("job") as events:
        assert not events.next()["stale"]
        told = events.wait_for("stale")
        assert (told["stale"], told["state"]) == (True, "RUNNING")
        store.renew("job", run.fence, LEASE)
        assert not events.wait_for("renewed")["stale"]


@pytest.mark.long
def test_silence_is_filled_with_comments(
    store: RedisStore, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "COMMENT_EVERY", 0.1)
    run = running(store)
    with site.events("job") as events:
        events.next()
        timer = threading.Timer(0.5, tell, (store, run, 1))
        timer.start()
        events.next()
        timer.join()
        assert events.comments >= 2


def test_a_reader_that_hangs_up_is_forgotten(store: RedisStore, site: Site) -> None:
    running(store)
    with site.events("job") as events:
        events.next()
        assert hub_threads()
    wait_until(lambda: not hub_threads(), "nobody is followed any more")


def test_a_record_of_a_newer_jobkit_stops_nobody_else(
    store: RedisStore, site: Site
) -> None:
    runs = [running(store, job_id) for job_id in ("newer", "other")]
    with site.events("newer") as newer, site.events("other") as other:
        newer.next()
        other.next()
        rewrite(store, "newer", schema="99")
        store.ask("other", "pause", "", "")
        store._client.xadd(
            store.keys.events("newer"), {"name": "x", "at": "1", "state": "RUNNING"}
        )
        assert list(newer) == []
        assert other.next()["asked"] == "pause"
        tell(store, runs[1], 1)
        assert other.next()["progress"]["current"] == 1


def test_who_may_not_see_it_any_more_is_asked_to_come_back(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LONGEST", 0.3)
    monkeypatch.setattr(stream, "COMMENT_EVERY", 0.1)
    running(store)
    allowed = [True, False]
    with served(jobs_app(Client(store), authorize=lambda *_: allowed.pop(0))) as site:
        with site.events("job") as events:
            assert len(list(events)) == 1  # it ends, in order
        with site.events("job", events.last) as events:
            assert events.status == 404


def test_a_reader_that_is_too_slow_is_cut_off() -> None:
    async def read() -> tuple[bool, bool]:
        reader = hub.Reader()
        for _ in range(hub.BACKLOG):
            reader.push(None)
        await asyncio.sleep(0)
        before = reader.dropped.is_set()
        reader.push(None)
        await asyncio.sleep(0)
        return before, reader.dropped.is_set()

    assert asyncio.run(read()) == (False, True)


def test_a_connection_that_takes_nothing_is_cut_off(
    store: RedisStore, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "BACKLOG", 4)
    run = running(store)
    host, port = "127.0.0.1", int(site.url.rpartition(":")[2])
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect((host, port))
        connection.sendall(b"GET /jobs/job/events HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(hub_threads, "it is followed")
        message = "x" * 60_000
        for seq in range(1, 2000):
            progress = Progress(current=seq, message=message)
            store.save("job", run.fence, seq, Snapshot(seq, "", progress), LEASE)
            if not hub_threads():
                break
        wait_until(lambda: not hub_threads(), "it has been dropped")


SHOP = """
import sys, uvicorn
from jobkit import Client
from jobkit.web import jobs_app
url, prefix, port = sys.argv[1:]
app = jobs_app(Client(url, prefix=prefix), public=True)
uvicorn.run(app, port=int(port), ws="none", lifespan="off", log_level="warning")
"""


def test_a_server_that_shuts_down_does_not_wait_for_its_readers(
    store: RedisStore,
) -> None:
    running(store)
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-c", SHOP, store.url, store.keys.prefix, str(port)],
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            wait_until(lambda: _listens(port), "the server listens")
            with Events(f"http://127.0.0.1:{port}", "/jobs/job/events") as events:
                events.next()
                server.terminate()
                assert list(events) == []
                assert server.wait(10) in {0, -signal.SIGTERM}
        finally:
            server.kill()
        assert server.stderr
        assert server.stderr.read() == ""


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def test_readers_live_through_a_restart_of_the_store(
    valkey_server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisStore(valkey_server.url, timeout=0.5)
    run = running(store)
    with (
        served(jobs_app(Client(store), public=True)) as site,
        site.events("job") as events,
    ):
        events.next()
        tell(store, run, 1)
        assert events.next()["progress"]["current"] == 1
        valkey_server.kill()
        wait_until(
            lambda: AWAY.format(valkey_server.port) in caplog.text,
            "the hub has seen it",
        )
        valkey_server.start()
        wait_until(lambda: _answers(store), "the store answers")
        tell(store, run, 2)
        assert events.next()["progress"]["current"] == 2
    told = [r for r in caplog.records if r.name.startswith("jobkit")]
    assert [r.levelno for r in told] == [logging.WARNING]
    store.close()


@pytest.mark.long
def test_readers_of_a_store_that_forgot_get_a_snapshot_or_the_end(
    valkey_server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisStore(valkey_server.url, timeout=0.5)
    run = running(store, "kept")
    running(store, "gone")
    with (
        served(jobs_app(Client(store), public=True)) as site,
        site.events("kept") as kept,
        site.events("gone") as gone,
    ):
        kept.next()
        gone.next()
        tell(store, run, *range(1, 4))
        assert counts(kept, 3) == [1, 2, 3]
        with redis.Redis(port=valkey_server.port) as server:
            server.delete(store.keys.ticks("kept"), *server.keys("*:gone"))
            rewrite(store, "kept", progress=Progress(current=9).encode())
        valkey_server.stop()
        wait_until(
            lambda: AWAY.format(valkey_server.port) in caplog.text,
            "the hub has seen it",
        )
        valkey_server.start()

        told = kept.next()
        assert (told["event"], told["progress"]["current"]) == ("snapshot", 9)
        assert list(gone) == []
    store.close()


def _answers(store: RedisStore) -> bool:
    try:
        store.ping()
    except Exception:  # noqa: BLE001 - whatever it is, it is not there yet
        return False
    return True


def followers(store: RedisStore) -> int:
    """How many connections wait for news in the store's server."""
    return sum("b" in one["flags"] for one in store._client.client_list())


@pytest.mark.long
def test_many_readers_are_one_subscription(store: RedisStore, site: Site) -> None:
    wait_until(lambda: not hub_threads(), "the readers of other tests have gone")
    runs = [running(store, f"job-{number}") for number in range(5)]
    with ExitStack() as stack:
        readers = [
            stack.enter_context(site.events(run.id)) for run in runs for _ in range(4)
        ]
        for reader in readers:
            reader.next()
        assert len(hub_threads()) == 1
        for run in runs:
            tell(store, run, 1)
        assert [reader.next()["progress"]["current"] for reader in readers] == [1] * 20
        wait_until(lambda: followers(store) == 1, "the hub waits for news")
        assert max(followers(store) for _ in range(50)) == 1


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_thousand_readers_are_one_subscription(valkey: ValkeyServer) -> None:
    store = RedisStore(valkey.url, f"web-{uuid.uuid4().hex[:12]}")
    runs = [running(store, f"job-{number}") for number in range(50)]
    with served(jobs_app(Client(store), public=True)) as site:
        port = int(site.url.rpartition(":")[2])
        seen = asyncio.run(_thousand(store, runs, port))
    assert seen == [3] * 1000
    store.close()


async def _thousand(store: RedisStore, runs: list[Job], port: int) -> list[int]:
    opened = []
    for number in range(1000):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        job_id = runs[number % len(runs)].id
        writer.write(f"GET /jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        opened.append((reader, writer))
    for reader, _ in opened:
        await reader.readuntil(b'"event":"snapshot"')
    assert await asyncio.to_thread(followers, store) <= 1
    commands = store._client.info("stats")["total_commands_processed"]
    await asyncio.sleep(10)
    idle = store._client.info("stats")["total_commands_processed"] - commands
    assert idle < 100, "1,000 readers that hear nothing cost the store next to nothing"
    since = time.monotonic()
    for run in runs:
        await asyncio.to_thread(tell, store, run, 1, 2, 3)
    seen = []
    for reader, _ in opened:
        await asyncio.wait_for(reader.readuntil(b'"current":3'), 60)
        seen.append(3)
    assert time.monotonic() - since <= 1
    for _, writer in opened:
        writer.close()
    return seen


@pytest.mark.long
def test_a_comment_comes_every_fifteen_seconds(store: RedisStore, site: Site) -> None:
    run = running(store)
    with site.events("job") as events:
        events.next()
        timer = threading.Timer(16, tell, (store, run, 1))
        timer.start()
        events.next()
        assert events.comments == 1
