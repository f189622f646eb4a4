"""The server of a store: its client, its errors, and the running of scripts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import redis
from redis import ConnectionPool
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    TryAgainError,
)

from jobkit.errors import (
    DuplicateJob,
    JobNotFound,
    SchemaError,
    SettingsError,
    StoreError,
    StoreUnavailable,
)
from jobkit.job import SCHEMA, NewJob
from jobkit.states import State
from jobkit.store import address, scripts
from jobkit.store.address import safe_url
from jobkit.store.connection import connect
from jobkit.store.direct import Direct
from jobkit.store.keys import Keys
from jobkit.store.scripts import Verb
from jobkit.store.values import Retention

UNAVAILABLE = (
    *(redis.ConnectionError, redis.TimeoutError, OSError, redis.OutOfMemoryError),
    *(ReadOnlyError, ClusterDownError, MasterDownError, TryAgainError),
    RedisClusterException,
)
"""What a server that is away, full, or changing its master makes of a command."""

CLIENT_ERRORS = (*UNAVAILABLE, redis.RedisError)
"""What comes out of a client; all of it is turned into an error of ours."""

BUSY_CODES = ("NOREPLICAS", "NOREPLPERSIST", "MISCONF", "BUSY", "UNKILLABLE")
"""What a server answers that takes no command, or no write, for a while."""

# A pipeline and a script of an old server put words of their own before the code.
_BUSY = re.compile(rf"(?:^|: -?|-)(?:{'|'.join(BUSY_CODES)})\b")


class Errors:
    """A block in which the errors of a client come as ours, with the server's URL.

    It holds no state of a call, so one serves all threads. A class and no generator:
    every command pays for it.
    """

    def __init__(self, url: str) -> None:
        self._where = safe_url(url)

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and isinstance(error, CLIENT_ERRORS):
            raise self._ours(error) from error

    def _ours(self, error: Exception) -> StoreError:
        why = str(error).rstrip(".")
        if isinstance(error, UNAVAILABLE):
            return StoreUnavailable(
                f"The job store at {self._where} cannot be reached: {why}. "
                "Is the server up, and is jobkit_store_url right?",
            )
        if _BUSY.search(why):
            return StoreUnavailable(
                f"The job store at {self._where} takes no commands now: {why}.",
            )
        return StoreError(f"The job store at {self._where} refused a command: {why}")


class Server:
    """A server of Redis or Valkey, a Sentinel group or a Cluster, with scripts.

    ``timeout`` (seconds) bounds each attempt to connect and to read a reply; a
    command is sent at most twice.
    """

    def __init__(
        self,
        url: str,
        prefix: str = "jobkit",
        partitions: int = 1,
        retention: Retention = Retention(),  # noqa: B008 - frozen
        timeout: float = 2.0,
    ) -> None:
        self.url = url
        self.keys = Keys(prefix, partitions)
        self._retention = retention
        self._connect = connect(url, timeout)
        self._clients: list[Any] = []
        self._callers: list[Any] = []
        self._timeout = timeout
        self._scripts: dict[str, str] = {}
        self._errors = Errors(url)

    @property
    def _client(self) -> Any:
        if not self._clients:
            # Without a lock: of two threads at once both may connect, one is used.
            with self._errors:
                self._clients.append(self._connect())
        return self._clients[0]

    @property
    def _caller(self) -> Any:
        """What calls scripts: the client itself, where it knows more of the server."""
        if not self._callers:
            client = self._client
            plain = type(getattr(client, "connection_pool", None)) is ConnectionPool
            self._callers.append(Direct(client) if plain else client)
        return self._callers[0]

    @property
    def _options(self) -> Mapping[str, Any] | None:
        """Where it is, as options of a client; None if it is more than one server."""
        caller = self._caller
        return caller.options if isinstance(caller, Direct) else None

    @property
    def database(self) -> int:
        """The number of its database on its server."""
        return int((self._options or {}).get("db") or 0)

    def is_at(self, options: Mapping[str, Any]) -> bool:
        """Whether it is at a place; see ``Store.is_at``."""
        mine = self._options
        return mine is not None and address.place(mine) == address.place(options)

    @property
    def retention(self) -> Retention:
        """How long finished records stay."""
        return self._retention

    def script_source(self, verb: Verb) -> str:
        """The text of a verb's script."""
        return scripts.source(verb, self._retention)

    def ping(self) -> None:
        """Ask the server for a sign of life."""
        with self._errors:
            self._client.ping()

    def server(self) -> dict[str, str]:
        """What the server says of itself: its INFO, and ``save`` of its settings.

        ``save`` is missing where the server keeps its settings to itself. Of a
        Cluster one node is asked.
        """
        with self._errors:
            facts: Any = self._client.info()
            with suppress(redis.ResponseError):
                facts.update(cast("Any", self._client.config_get("save")))
        return {name: str(value) for name, value in facts.items()}

    def close(self) -> None:
        """Give the connections back."""
        for caller in self._callers:
            caller.close()
        for client in self._clients:
            # A cluster's own close forgets those of its nodes (made from a URL).
            for node in getattr(client, "get_nodes", list)():
                if node.redis_connection:
                    node.redis_connection.connection_pool.disconnect()
            client.close()

    # -- for the verbs ------------------------------------------------------------

    def _run(self, verb: Verb, tag: str, *arguments: str | bytes | int) -> Any:
        with self._errors:
            sha = self._scripts.get(verb.name) or self._load(verb)
            try:
                return self._caller.evalsha(sha, 1, tag, *arguments)
            except NoScriptError:  # the server has been restarted, or is another one
                return self._caller.evalsha(self._load(verb), 1, tag, *arguments)

    def _load(self, verb: Verb) -> str:
        sha: str = self._client.script_load(self.script_source(verb))
        self._scripts[verb.name] = sha
        return sha

    def _job(self, verb: Verb, job_id: str, *arguments: str | bytes | int) -> Any:
        return self._run(verb, self.keys.tag_of(job_id), job_id, *arguments)

    def _everywhere(self, verb: Verb, *arguments: str | int) -> Sequence[Any]:
        return [self._run(verb, tag, *arguments) for tag in self.keys.tags()]

    def _act(self, verb: Verb, job_id: str, *arguments: str) -> tuple[str, State]:
        outcome, state = self._answer(job_id, self._job(verb, job_id, *arguments))
        return outcome, State(state)

    def _answer(self, job_id: str, answer: Sequence[str]) -> tuple[str, str]:
        if answer[0] == "unknown":
            raise JobNotFound(job_id)
        self._check(job_id, answer)
        if answer[0] == "held":
            raise DuplicateJob(f"Job {job_id!r}", answer[1])
        return answer[0], answer[1]

    def _check_place(self, job: NewJob) -> None:
        if job.unique and self.keys.tag_of(job.id) != self.keys.tag_of(job.unique.key):
            raise SettingsError(
                f"Job {job.id!r} cannot have the unique key {job.unique.key!r}: with "
                f"jobkit_partitions = {self.keys.partitions} the id of a job that is "
                "unique is jobkit's to choose. Enqueue it without a task_id or an "
                "idempotency_key and outside of chains, groups and chords, or use one "
                "partition.",
            )

    @staticmethod
    def _check(job_id: str, answer: Sequence[str]) -> None:
        if answer[0] == "newer_schema":
            raise SchemaError(
                f"Job {job_id!r} has schema {answer[1]}, this jobkit reads up to "
                f"{SCHEMA}: upgrade celery-jobkit in this process.",
            )
