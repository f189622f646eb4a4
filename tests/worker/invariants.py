"""What must hold in every store at any time, whatever a test did."""

from __future__ import annotations

from typing import Any

import redis

from jobkit import State
from tests.waiting import wait_until
from tests.worker.fleet import Fleet

INDEXES = ("state", "task", "queue", "owner")
"""Kinds of keys that hold sets of jobs, by a value."""

SINGLE_INDEXES = (
    *("all", "due", "leases", "expire", "untold", "unheard", "uncopied"),
    "unannounced",
)


def check(fleet: Fleet) -> None:
    """Demand that nothing is wrong; workers may be in the middle of something."""
    found: list[str] = []

    def sound() -> bool:
        found[:] = violations(fleet)
        return not found

    try:
        wait_until(sound, "the store is sound", timeout=3)
    except AssertionError as error:
        raise AssertionError("The store is not sound: " + "; ".join(found)) from error


def violations(fleet: Fleet) -> list[str]:
    """What is wrong in the store: keys that stay for ever, runs that nobody keeps."""
    found: list[str] = []
    with redis.Redis.from_url(fleet.setup.store, decode_responses=True) as client:
        for tag in fleet.store.keys.tags():
            found += _leaked_keys(client, tag)
            found += _runs_without_lease(client, tag)
    return found


def _leaked_keys(client: Any, tag: str) -> list[str]:
    names = client.scan_iter(match=_literally(tag) + "*", count=1000)
    return [f"{name} stays for ever" for name in names if _leaks(client, tag, name)]


def _leaks(client: Any, tag: str, name: str) -> bool:
    kind, _, job_id = name.removeprefix(f"{tag}:").partition(":")
    if kind in INDEXES or (kind in SINGLE_INDEXES and not job_id):
        return False
    if client.ttl(name) != -1:
        return False
    if kind == "unique":
        job_id = client.get(name)
    state = client.hget(f"{tag}:job:{job_id}", "state")
    return state is None or State(state).finished


def _runs_without_lease(client: Any, tag: str) -> list[str]:
    running = set(client.zrange(f"{tag}:state:RUNNING", 0, -1))
    leased = set(client.zrange(f"{tag}:leases", 0, -1))
    return [f"job {job_id} runs without a lease" for job_id in running - leased] + [
        f"job {job_id} has a lease and does not run" for job_id in leased - running
    ]


def _literally(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "[]?*{}" else letter for letter in text)
