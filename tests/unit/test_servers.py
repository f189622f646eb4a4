"""The servers of the tests do what tests rely on."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kombu
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers import RabbitServer, ValkeyServer
from tests.waiting import wait_until


@contextmanager
def client(server: ValkeyServer) -> Iterator[redis.Redis]:
    once = Retry(NoBackoff(), 0)
    with redis.Redis(port=server.port, socket_timeout=0.5, retry=once) as connection:
        yield connection


def is_gone(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True
    return "State:\tZ" in status


def target(file: Path) -> str:
    try:
        return str(file.readlink())
    except FileNotFoundError:  # closed meanwhile
        return ""


def listening_addresses(pid: int) -> set[str]:
    sockets = {
        found[1]
        for file in Path(f"/proc/{pid}/fd").iterdir()
        if (found := re.match(r"socket:\[(\d+)\]", target(file)))
    }
    tables = [Path(f"/proc/net/{table}").read_text() for table in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()]
    return {
        row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in sockets
    }


LOOPBACK = {"0100007F", "00000000000000000000000001000000"}


def test_a_server_answers_as_soon_as_it_is_started(valkey: ValkeyServer) -> None:
    with client(valkey) as connection:
        assert connection.info("server")["process_id"] == valkey.pid


def test_the_emptied_server_has_no_keys(empty_valkey: ValkeyServer) -> None:
    with client(empty_valkey) as connection:
        assert connection.dbsize() == 0


def test_two_servers_do_not_meet(
    valkey: ValkeyServer, valkey_server: ValkeyServer
) -> None:
    assert valkey.port != valkey_server.port
    assert valkey.pid != valkey_server.pid


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_server_comes_back_with_its_data_on_the_same_port(
    valkey_server: ValkeyServer, end: str
) -> None:
    before = (valkey_server.url, valkey_server.pid)
    with client(valkey_server) as connection:
        connection.set("kept", "yes")

    getattr(valkey_server, end)()
    assert not valkey_server.running
    assert is_gone(before[1])
    valkey_server.start()

    assert valkey_server.url == before[0]
    assert valkey_server.pid != before[1]
    with client(valkey_server) as connection:
        assert connection.get("kept") == b"yes"


def test_a_server_that_keeps_nothing_comes_back_empty() -> None:
    with ValkeyServer() as server:
        with client(server) as connection:
            connection.set("kept", "no")
        server.restart()
        with client(server) as connection:
            assert connection.dbsize() == 0


def test_a_frozen_server_does_not_answer_until_it_goes_on(
    valkey_server: ValkeyServer,
) -> None:
    valkey_server.pause()
    with client(valkey_server) as connection, pytest.raises(redis.TimeoutError):
        connection.ping()

    valkey_server.resume()
    with client(valkey_server) as connection:
        assert connection.ping()


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_frozen_server_can_be_ended(valkey_server: ValkeyServer, end: str) -> None:
    pid = valkey_server.pid
    valkey_server.pause()

    getattr(valkey_server, end)()

    assert is_gone(pid)


def test_a_server_that_runs_is_not_started_twice(valkey: ValkeyServer) -> None:
    with pytest.raises(RuntimeError, match="ValkeyServer runs already"):
        valkey.start()


def test_a_server_that_died_can_be_started_again(valkey_server: ValkeyServer) -> None:
    os.kill(valkey_server.pid, signal.SIGKILL)
    wait_until(lambda: not valkey_server.running, "the server is dead")

    valkey_server.start()

    assert valkey_server.running


def test_a_server_that_cannot_start_says_why() -> None:
    server = ValkeyServer(options=("--maxmemory", "nonsense"))

    with (
        pytest.raises(RuntimeError, match=r"ended with 1 .*\n(.*\n)*.*maxmemory"),
        server,
    ):
        pass
    assert not server.running
    assert not server.directory.exists()


def test_the_folder_of_a_server_goes_with_it() -> None:
    with ValkeyServer(append_only=True) as server:
        assert server.directory.exists()

    assert not server.directory.exists()


def test_servers_do_not_outlive_a_killed_test_process() -> None:
    code = (
        "import os, signal\n"
        "from tests.servers import ValkeyServer\n"
        "server = ValkeyServer().start()\n"
        "print(server.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
        check=False,
    )

    assert killed.returncode == -signal.SIGKILL
    pid = int(killed.stdout)
    wait_until(lambda: is_gone(pid), "the server of the killed process is gone")


def test_valkey_listens_on_the_loopback_interface_only(valkey: ValkeyServer) -> None:
    assert listening_addresses(valkey.pid) <= LOOPBACK


def test_rabbitmq_listens_on_the_loopback_interface_only(rabbit: RabbitServer) -> None:
    addresses = listening_addresses(rabbit.pid)

    assert addresses
    assert addresses <= LOOPBACK


def say(url: str, text: str) -> None:
    with (
        kombu.Connection(
            url, transport_options={"confirm_publish": True}
        ) as connection,
        connection.SimpleQueue("said") as queue,
    ):
        queue.put(text)


def hear(url: str) -> object:
    with kombu.Connection(url) as connection, connection.SimpleQueue("said") as queue:
        message = queue.get(timeout=10)
        message.ack()
        return message.payload


def test_rabbitmq_takes_and_gives_a_message(rabbit: RabbitServer) -> None:
    say(rabbit.url, "hello")

    assert hear(rabbit.url) == "hello"


def test_virtual_hosts_do_not_meet(rabbit: RabbitServer) -> None:
    here, there = rabbit.add_vhost("here"), rabbit.add_vhost("there")

    say(here, "to here")
    say(there, "to there")

    assert hear(here) == "to here"
    assert hear(there) == "to there"


def test_rabbitmq_comes_back_after_a_kill_with_its_messages(
    rabbit_server: RabbitServer,
) -> None:
    before = (rabbit_server.url, rabbit_server.pid)
    say(rabbit_server.url, "kept")

    rabbit_server.kill()
    rabbit_server.start()

    assert rabbit_server.url == before[0]
    assert rabbit_server.pid != before[1]
    assert hear(rabbit_server.url) == "kept"


def test_waiting_returns_what_was_waited_for() -> None:
    answers = iter([None, 0, "", "here"])

    assert wait_until(lambda: next(answers), "an answer is there") == "here"


def test_waiting_in_vain_tells_what_for_and_the_last_value() -> None:
    started = time.monotonic()
    with pytest.raises(
        AssertionError, match=r"0.05 s in vain until it rains; last: \[\]"
    ):
        wait_until(list, "it rains", timeout=0.05)

    assert time.monotonic() - started >= 0.05
