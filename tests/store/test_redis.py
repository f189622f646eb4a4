"""What only a store behind a network has: URLs, outages, partitions and keys."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from redis.cluster import RedisCluster

from jobkit import clock as wall
from jobkit.errors import SettingsError, StoreError, StoreUnavailable
from jobkit.states import State
from jobkit.store.address import safe_url
from jobkit.store.connection import connect
from jobkit.store.keys import Keys
from jobkit.store.redis import RedisStore
from jobkit.store.server import BUSY_CODES
from tests.servers import ValkeyServer
from tests.store.clocks import Clock
from tests.store.conftest import RedisFactory
from tests.store.lives import (
    CRASHED,
    HINT,
    LEASE,
    dead,
    enqueued,
    kept,
    new_job,
    rewrite,
    running,
    snapshot,
    started,
)
from tests.waiting import free_port, wait_until


@pytest.fixture
def store(valkey: ValkeyServer) -> Iterator[RedisStore]:
    store = RedisStore(valkey.url, f"test-{uuid.uuid4().hex[:12]}")
    yield store
    store.close()


def test_its_clock_is_that_of_the_server(store: RedisStore) -> None:
    before = wall.wall()
    job = enqueued(store)
    # The server's clock is this machine's here, read in another process.
    assert before - 1 <= job.created_at.timestamp() <= wall.wall() + 1
    due_in = store.next_due()
    assert due_in
    assert HINT - 10 < due_in <= HINT


def test_a_whole_life_by_the_servers_clock(store: RedisStore) -> None:
    run = running(store)
    store.save("job", run.fence, 1, snapshot(1), LEASE)
    assert store.rescue() == []
    assert store.succeed("job", run.fence, snapshot(2))
    assert store.prune() == 0
    assert kept(store).state is State.SUCCEEDED


def test_scripts_come_back_when_the_server_forgot_them(store: RedisStore) -> None:
    enqueued(store)
    store._client.script_flush()
    assert started(store).fence == 1


def test_stores_of_different_prefixes_do_not_meet(
    make_redis_store: RedisFactory,
) -> None:
    one, other = make_redis_store(), make_redis_store()
    enqueued(one)
    assert other.get("job") is None
    assert other.list().items == ()
    assert other.claim_due(10, 60) == []


def test_jobs_are_spread_over_all_partitions() -> None:
    keys = Keys("jobkit", 4)
    partitions = [keys.partition(str(number)) for number in range(400)]
    assert min(partitions.count(partition) for partition in range(4)) > 60
    assert keys.job("7") == f"{{jobkit:{keys.partition('7')}}}:job:7"


def test_a_server_that_is_down_is_unavailable() -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    store = RedisStore(url, timeout=0.2)
    with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
        store.begin("job", "token", "w1", LEASE)
    assert "secret" not in str(caught.value)
    for ask in (store.ping, store.counts, store.prune, store.list):
        with pytest.raises(StoreUnavailable):
            ask()
    with pytest.raises(StoreUnavailable):
        store.watch("job", 1)
    store.close()


def test_a_server_that_hangs_is_unavailable_after_the_time_limit(
    valkey_server: ValkeyServer,
) -> None:
    store = RedisStore(valkey_server.url, timeout=0.2)
    run = running(store)
    valkey_server.pause()
    try:
        before = wall.monotonic()
        with pytest.raises(StoreUnavailable):
            store.renew("job", run.fence, LEASE)
        assert wall.monotonic() - before < 5
    finally:
        valkey_server.resume()
    assert store.renew("job", run.fence, LEASE).owner
    store.close()


def test_records_outlive_the_servers_death(valkey_server: ValkeyServer) -> None:
    store = RedisStore(valkey_server.url)
    run = running(store)
    store.save("job", run.fence, 1, snapshot(3), LEASE)
    valkey_server.stop()
    valkey_server.start()

    assert kept(store).checkpoint == "cursor 3"
    assert store.succeed("job", run.fence, snapshot(4))
    store.close()


def test_a_watch_goes_on_longer_than_the_time_limit_of_a_reply(
    valkey: ValkeyServer,
) -> None:
    prefix = f"test-{uuid.uuid4().hex[:12]}"
    store = RedisStore(valkey.url, prefix, timeout=0.6)
    run = running(store)
    events = store.watch("job", timeout=0.9)
    before = wall.monotonic()
    assert next(events) is None
    assert wall.monotonic() - before >= 0.8

    store.succeed("job", run.fence, snapshot(1))
    event = next(events)
    assert event
    assert event.name == "succeeded"
    store.close()


def test_a_command_that_the_server_refuses_is_an_error(store: RedisStore) -> None:
    store._client.set(store.keys.job("job"), "not a hash")
    with pytest.raises(StoreError, match=r"refused a command.*WRONGTYPE"):
        store.get("job")
    with pytest.raises(StoreError, match=r"refused a command.*WRONGTYPE"):
        store.begin("job", "token", "w1", LEASE)


@pytest.mark.parametrize("code", BUSY_CODES)
def test_a_server_that_takes_no_commands_for_a_while_is_unavailable(
    store: RedisStore, code: str
) -> None:
    answer = f"return redis.error_reply('{code} for a while.')"
    refused = pytest.raises(StoreUnavailable, match=f"takes no commands now: {code}")
    with refused, store._errors:
        store._client.eval(answer, 0)
    with pytest.raises(StoreError) as caught, store._errors:
        store._client.eval(answer.replace(code, code + "X"), 0)
    assert not isinstance(caught.value, StoreUnavailable)


def test_a_master_without_its_replicas_is_unavailable_until_they_come(
    valkey_server: ValkeyServer,
) -> None:
    store = RedisStore(valkey_server.url)
    run = running(store)
    store._client.config_set("min-replicas-to-write", 1)
    with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
        store.renew("job", run.fence, LEASE)
    store._client.config_set("min-replicas-to-write", 0)
    assert store.renew("job", run.fence, LEASE).owner
    store.close()


def test_a_server_that_runs_somebodys_script_is_unavailable_meanwhile(
    valkey_server: ValkeyServer,
) -> None:
    store = RedisStore(valkey_server.url)
    run = running(store)
    store._client.config_set("busy-reply-threshold", 1)
    with (
        redis.Redis(port=valkey_server.port) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        script = pool.submit(other.eval, "while true do end", 0)
        wait_until(lambda: "BUSY" in _refusal(store.ping), "the script runs")
        for ask in (lambda: store.renew("job", run.fence, LEASE), store.counts):
            assert "takes no commands now" in _refusal(ask)
        store._client.script_kill()
        assert isinstance(script.exception(30), redis.ResponseError)
    assert store.renew("job", run.fence, LEASE).owner
    store.close()


def _refusal(ask: Callable[[], object]) -> str:
    """What is said of a store that is unavailable; nothing if it is there."""
    try:
        ask()
    except StoreUnavailable as error:
        return str(error)
    return ""


@pytest.mark.parametrize("budget", [1, 2, 5])
@pytest.mark.parametrize("partitions", [1, 3])
def test_pages_go_on_when_nothing_on_them_matches(
    make_redis_store: RedisFactory,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    budget: int,
    partitions: int,
) -> None:
    monkeypatch.setattr("jobkit.store.letters.LIST_BUDGET", budget)
    store = make_redis_store(partitions)
    for number in range(20):
        queue = "rare" if number % 9 == 0 else "common"
        store.enqueue(new_job(f"job {number}", queue=queue), "token", HINT)
        clock.advance(number % 2)

    found, after, first = [], None, True
    while after is not None or first:
        page = store.list(task="shop.sync", queue="rare", after=after, limit=5)
        found += [job.id for job in page.items]
        after, first = page.next, False
    assert sorted(found) == ["job 0", "job 18", "job 9"]


def test_a_place_whose_jobs_all_left_still_leads_on(
    make_redis_store: RedisFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobkit.store.letters.LIST_BUDGET", 2)
    store = make_redis_store()
    for number in range(6):
        enqueued(store, f"job {number}")
    page = store.list(state=State.QUEUED, limit=2)
    for job in page.items:
        started(store, job.id)

    rest = []
    while page.next:
        page = store.list(state=State.QUEUED, limit=2, after=page.next)
        rest += [job.id for job in page.items]
    assert rest == ["job 3", "job 2", "job 1", "job 0"]


def test_a_job_whose_key_expired_leaves_the_lists(
    make_redis_store: RedisFactory, clock: Clock
) -> None:
    store = make_redis_store()
    dead(store)
    store._client.delete(store.keys.job("job"))
    for wanted in ({}, {"task": "shop.sync"}, {"queue": "normal"}):
        assert store.list(**wanted).items == ()  # type: ignore[arg-type]

    clock.advance(store.retention.dead)
    store.prune()
    assert sum(store.counts().values()) == 0
    keys: Any = store._client.keys(f"{{{store.keys.prefix}:*")
    assert [key for key in keys if ":events:" not in key] == []


def test_a_newer_record_does_not_stop_the_rounds(
    make_redis_store: RedisFactory, clock: Clock
) -> None:
    store = make_redis_store()
    running(store)
    rewrite(store, "job", schema="2")
    clock.advance(LEASE)
    assert [released.id for released in store.rescue()] == ["job"]
    assert [due.id for due in store.claim_due(10, 60)] == ["job"]
    assert store.crash("job", "w9", CRASHED)


@pytest.mark.parametrize(
    ("url", "kind", "port"),
    [
        ("redis://h:1/2", redis.Connection, 1),
        ("valkey://h:1/2", redis.Connection, 1),
        ("rediss://h:1/2", redis.SSLConnection, 1),
        ("valkeys://h:1/2", redis.SSLConnection, 1),
        ("unix:///run/valkey.sock?db=2", redis.UnixDomainSocketConnection, None),
        (
            "redis+socket:///run/valkey.sock?db=2",
            redis.UnixDomainSocketConnection,
            None,
        ),
    ],
)
def test_every_kind_of_url_is_understood(
    url: str, kind: type, port: int | None
) -> None:
    pool = connect(url, 1.5)().connection_pool
    options = pool.connection_kwargs
    assert pool.connection_class is kind
    assert (options.get("port"), options["db"]) == (port, 2)
    assert options["socket_timeout"] == 1.5


def test_a_sentinel_url_may_name_many() -> None:
    url = "sentinel://:pw@one:1;sentinel://two:2/3?master_name=jobs"
    pool = connect(url, 1.5)().connection_pool
    assert pool.service_name == "jobs"
    options = [
        sentinel.connection_pool.connection_kwargs
        for sentinel in pool.sentinel_manager.sentinels
    ]
    hosts = [(each["host"], each["port"]) for each in options]
    assert hosts == [("one", 1), ("two", 2)]
    assert pool.connection_kwargs["db"] == 3


def test_a_cluster_that_is_away_is_unavailable_when_it_is_first_used() -> None:
    with ValkeyServer() as server:
        url = f"redis+cluster://:secret@127.0.0.1:{server.port}"
    store = RedisStore(url, timeout=0.2)
    for ask in (store.ping, store.counts, lambda: store.begin("a", "b", "c", LEASE)):
        with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
            ask()
        assert "secret" not in str(caught.value)
    store.close()


def test_a_cluster_is_found_when_it_comes_late() -> None:
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with ValkeyServer(options=options) as server:
        store = RedisStore(f"redis+cluster://127.0.0.1:{server.port}", timeout=0.5)
        with pytest.raises(StoreUnavailable):
            store.counts()  # it has no slots yet
        with redis.Redis(port=server.port) as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: _reached(store), "the cluster is found")
        enqueued(store)
        store.close()


def _reached(store: RedisStore) -> bool:
    try:
        return store.get("job") is None
    except StoreUnavailable:
        return False


def test_threads_that_come_at_once_use_one_client(cluster: str) -> None:
    store = RedisStore(cluster)
    with ThreadPoolExecutor(4) as pool:
        clients = list(pool.map(lambda _: store._client, range(8)))
    assert len(set(map(id, clients))) == 1
    store.close()


def test_a_cluster_url_leads_to_a_cluster(cluster: str) -> None:
    store = RedisStore(cluster)
    assert isinstance(store._client, RedisCluster)
    store.close()


@pytest.mark.parametrize("kind", ["valkey", "cluster"])
def test_a_closed_store_leaves_no_connection(
    request: pytest.FixtureRequest, kind: str
) -> None:
    server = request.getfixturevalue(kind)
    url = server if isinstance(server, str) else server.url
    with redis.Redis.from_url(url.replace("+cluster", "")) as client:

        def connections() -> int:
            return int(client.info("clients")["connected_clients"])

        before = connections()
        store = RedisStore(url)
        store.counts()
        assert connections() > before
        store.close()
        wait_until(lambda: connections() <= before, "all are closed")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("amqp://guest:guest@h", r"'amqp://guest:\*\*\*@h' is no store: use redis://"),
        ("", "is no store"),
        ("valkey+cluster://h", "is no store"),
        ("sentinel://h:1/0", "which group it means: add"),
        ("redis://h:abc", "'redis://h:abc' is no address.*port is malformed"),
        ("redis://h:99999", "a number up to 65535"),
        ("redis://[h", "host or port is malformed"),
        ("redis://:secret/x@h", r"'redis://:\*\*\*@h'.*/ is written as %2F"),
        ("redis://:1/secret@h", r"'redis://:\*\*\*@h'.*database"),
        ("redis://:secret@h/abc", r":\*\*\*@h/abc'.*the database.*is no number"),
        ("redis://h/1/2", "the database.*is no number"),
        ("redis://h?foo=1&password=secret", "there is no option 'foo'"),
        ("unix:///s?foo=1", "there is no option 'foo'"),
        ("unix:/s", "must specify"),
        ("redis://h?socket_timeout=abc", "Invalid value for 'socket_timeout'"),
        ("rediss://h?ssl_cert_reqs=some", "some"),
        ("sentinel://:secret@a:x?master_name=jobs", "host or port is malformed"),
        ("sentinel://a:1;sentinel://b:x?master_name=jobs", "port is malformed"),
        ("sentinel://a:1/zero?master_name=jobs", "the database.*is no number"),
        ("redis+cluster://h:abc", r"'redis\+cluster://h:abc'.*malformed"),
        ("redis+cluster://h:1?foo=1", "there is no option 'foo'"),
        ("redis+cluster://h:1/2", "only the database 0"),
    ],
)
def test_a_url_of_no_store_is_refused(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        RedisStore(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://:pw@h:1/0", "redis://:***@h:1/0"),
        ("redis://ada:pw@h:1/0", "redis://ada:***@h:1/0"),
        ("redis://ada:p@ss:word@h:1/0", "redis://ada:***@h:1/0"),
        ("unix:///s?password=pw&db=1", "unix:///s?password=***&db=1"),
    ],
)
def test_a_password_is_not_shown(url: str, safe: str) -> None:
    assert safe_url(url) == safe


def test_no_password_of_a_sentinel_url_is_shown() -> None:
    url = "sentinel://:pw1@one:1;sentinel://:pw2@two:2/0?master_name=jobs"
    assert "pw" not in safe_url(url)
