"""What jobs cost their store, by the count of the server itself."""

from __future__ import annotations

import redis

from tests.servers import ValkeyServer
from tests.worker.fleet import FleetFactory

JOBS = 10


def calls(server: ValkeyServer, *commands: str) -> int:
    with redis.Redis.from_url(server.url) as client:
        stats = client.info("commandstats")
        names = [f"cmdstat_{command}" for command in commands]
        return sum(int(stats[name]["calls"]) for name in names if name in stats)


def script_calls(server: ValkeyServer) -> int:
    return calls(server, "evalsha", "eval", "fcall")


def test_a_short_job_takes_three_scripts(
    valkey_server: ValkeyServer, make_fleet: FleetFactory
) -> None:
    fleet = make_fleet(valkey_server.url, jobkit_dispatch_interval=3600)
    fleet.start("a")
    warm = fleet.send("add", 0, 0)
    fleet.wait_for(warm.id)

    before = script_calls(valkey_server)
    results = [fleet.send("add", n, n) for n in range(JOBS)]
    assert [result.get(timeout=20) for result in results] == [
        2 * n for n in range(JOBS)
    ]
    for result in results:
        fleet.wait_for(result.id)

    assert script_calls(valkey_server) - before == 3 * JOBS


def test_a_result_takes_none_where_the_store_is(
    valkey_server: ValkeyServer, make_fleet: FleetFactory
) -> None:
    fleet = make_fleet(
        valkey_server.database_url(2),
        result_backend=valkey_server.database_url(1),
        jobkit_dispatch_interval=3600,
    )
    fleet.start("a")
    warm = fleet.send("add", 0, 0)
    fleet.wait_for(warm.id)

    scripts, alone = script_calls(valkey_server), calls(valkey_server, "exec", "get")
    jobs = [fleet.send("add", n, n) for n in range(JOBS)]
    for job in jobs:
        fleet.wait_for(job.id)

    assert script_calls(valkey_server) - scripts == 3 * JOBS
    assert calls(valkey_server, "exec", "get") - alone == 0
    assert [job.get(timeout=20) for job in jobs] == [2 * n for n in range(JOBS)]


def test_a_result_is_stored_without_being_read(
    valkey_server: ValkeyServer, make_fleet: FleetFactory
) -> None:
    fleet = make_fleet(valkey_server.url, jobkit_dispatch_interval=3600)
    fleet.start("a")
    warm = fleet.send("add", 0, 0)
    fleet.wait_for(warm.id)

    before = calls(valkey_server, "get")
    jobs = [fleet.send("add", n, n) for n in range(JOBS)]
    for job in jobs:
        fleet.wait_for(job.id)
    after = calls(valkey_server, "get")

    assert after - before == 0
    assert [job.get(timeout=20) for job in jobs] == [2 * n for n in range(JOBS)]
