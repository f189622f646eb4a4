"""celery-progress's own script, untouched, reads what we tell it."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from typing import Any

import pytest

from jobkit import Client
from jobkit.job import Progress
from jobkit.store.redis import RedisStore
from jobkit.store.values import Snapshot
from jobkit.web import wsgi
from tests.servers import ValkeyServer
from tests.store.lives import LEASE, enqueued, failure, rewrite, running

NODE = shutil.which("node")
# Calls the script's class with each document; what it shows, and whether it asks again.
HARNESS = """
const vm = require("node:vm"), fs = require("node:fs");
const [script, documents] = JSON.parse(fs.readFileSync(0, "utf8"));
const context = vm.createContext({ document: { getElementById: () => null } });
const Bar = vm.runInContext(script + "; CeleryProgressBar", context);
const seen = documents.map((data) => {
  const element = () => ({ style: {}, textContent: "" });
  const calls = [], bar = element(), message = element();
  const watch = (name) => (...rest) => {
    calls.push(name);
    return Bar.prototype[name + "Default"].apply(progress, rest);
  };
  const options = { progressBarElement: bar, progressBarMessageElement: message };
  for (const name of ["onProgress", "onSuccess", "onError", "onRetry", "onIgnored"])
    options[name] = watch(name);
  const progress = new Bar("/", options);
  const done = progress.onData(data);
  return { calls, again: done === false, width: bar.style.width, text: message.textContent };
});
console.log(JSON.stringify(seen));
"""


@pytest.fixture
def store(valkey: ValkeyServer) -> Iterator[RedisStore]:
    store = RedisStore(valkey.url, f"web-{uuid.uuid4().hex[:12]}")
    yield store
    store.close()


def begun(store: RedisStore, name: str, **progress: Any) -> int:
    """A running job that is at 37 %; its fence."""
    run = running(store, name)
    known = {"current": 37, "total": 100, "percent": 37.0, "message": "Orders"}
    snapshot = Snapshot(37, "", Progress(**{**known, **progress}))
    store.save(name, run.fence, 1, snapshot, LEASE)
    return run.fence


def begun_as(store: RedisStore, name: str) -> str:
    begun(store, name)
    return name


def documents(store: RedisStore) -> dict[str, dict[str, Any]]:
    """What is told of a job in each of its states."""
    told: dict[str, dict[str, Any]] = {}

    halfway = partial(begun, store)

    def note(name: str) -> None:
        body = wsgi.progress(Client(store), name).body
        assert body
        told[name] = body

    ends: dict[str, Callable[[], object]] = {
        "queued": lambda: enqueued(store, "queued"),
        "started": lambda: running(store, "started"),
        "running": lambda: halfway("running"),
        "uncounted": lambda: halfway(
            "uncounted", current=412, total=None, percent=None
        ),
        "silent": lambda: rewrite(store, begun_as(store, "silent"), lease_until="1"),
        "retry": lambda: store.retry("retry", halfway("retry"), failure(), 60),
        "failure": lambda: store.bury("failure", halfway("failure"), failure(), "x"),
        "success": lambda: store.succeed(
            "success", halfway("success"), Snapshot(38, "", Progress())
        ),
        "revoked": lambda: store.interrupt("revoked", halfway("revoked"), "cancel"),
        "paused": lambda: store.interrupt("paused", halfway("paused"), "pause", "x"),
    }
    for name, bring in ends.items():
        bring()
        note(name)
    return told


def test_only_states_that_celery_knows_are_told(store: RedisStore) -> None:
    told = documents(store)
    assert {name: (one["state"], one["complete"]) for name, one in told.items()} == {
        "queued": ("PENDING", False),
        "started": ("STARTED", False),
        "running": ("PROGRESS", False),
        "uncounted": ("PROGRESS", False),
        "silent": ("PROGRESS", False),
        "retry": ("RETRY", True),
        "failure": ("FAILURE", True),
        "success": ("SUCCESS", True),
        "revoked": ("REVOKED", True),
        "paused": ("PENDING", False),
    }
    for one in told.values():
        progress = one["progress"]
        assert isinstance(progress["current"], int)
        assert isinstance(progress["total"], int)
        assert isinstance(progress["percent"], int | float)
    assert told["failure"]["progress"]["percent"] == 37.0


@pytest.mark.skipif(not NODE, reason="node is not installed")
def test_its_script_shows_them(store: RedisStore) -> None:
    told = documents(store)
    script = files("celery_progress") / "static/celery_progress/celery_progress.js"
    done = subprocess.run(
        [str(NODE), "-e", HARNESS],
        input=json.dumps([script.read_text(), list(told.values())]),
        capture_output=True,
        text=True,
        check=True,
    )
    seen = dict(zip(told, json.loads(done.stdout), strict=True))

    def shown(name: str) -> tuple[str, bool, str]:
        one = seen[name]
        return one["calls"][-1], one["again"], one["text"]

    assert shown("queued") == ("onProgress", True, "Waiting for task to start...")
    assert shown("started") == ("onProgress", True, "Task started...")
    assert shown("running") == ("onProgress", True, "37 of 100 processed. Orders")
    assert shown("uncounted") == ("onProgress", True, "412 of 412 processed. Orders")
    assert shown("paused")[:2] == ("onProgress", True)
    assert "paused. Orders" in shown("paused")[2]
    assert "silent" in shown("silent")[2]
    assert seen["running"]["width"] == "37%"
    assert "onRetry" in seen["retry"]["calls"]
    assert seen["retry"]["again"]
    assert (
        "Retrying after 60s" in seen["retry"]["text"] or "60" in seen["retry"]["text"]
    )
    assert "undefined" not in json.dumps(seen)
    assert shown("failure")[:2] == ("onError", False)
    assert seen["failure"]["width"] == "37%"
    assert shown("success")[:2] == ("onSuccess", False)
    assert shown("revoked")[:2] == ("onError", False)
