"""A signed POST for each job that has ended.

It is a job of its own: the receiver of the signal only enqueues it, and it tries again
for as long as the other side is away. The other side learns from ``Jobkit-Event`` what
it has had already (a signal comes once at least, and so does a POST), and from
``Jobkit-Signature`` that it comes from here and is new.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from jobkit import Job, JobKit, JobTask, RetryPolicy
from jobkit.signals import job_cancelled, job_dead, job_partial, job_succeeded

URL = os.environ.get("WEBHOOK_URL", "")
SECRET = os.environ.get("WEBHOOK_SECRET", "")

TASK = "notices.post_webhook"
NOTICES = "notices."
"""What the names of notices begin with: else each would make another one."""

TOO_OLD = 300.0
"""Seconds after which a signature is not accepted any more."""


def connect(kit: JobKit) -> None:
    """Have the end of each job of an app posted."""

    @kit.app.task(base=JobTask, name=TASK, retry_policy=RetryPolicy(transient=20))
    def post_webhook(event: dict[str, Any]) -> None:
        post(event)

    def ended(sender: str, job_id: str, event_id: str, **_: Any) -> None:
        if not sender.startswith(NOTICES):
            event = told(kit.jobs.get(job_id), event_id)
            post_webhook.apply_async((event,), idempotency_key=event_id)

    for signal in (job_succeeded, job_partial, job_dead, job_cancelled):
        signal.connect(ended, weak=False)


def told(job: Job, event_id: str) -> dict[str, Any]:
    """What the other side is told; no arguments, which may be secret."""
    finished_at = job.finished_at.isoformat() if job.finished_at else None
    return {
        "event": event_id,
        "job": job.id,
        "task": job.task,
        "state": str(job.state),
        "finished_at": finished_at,
    }


def post(event: Mapping[str, Any]) -> None:
    """Post an event, signed anew at each try.

    Raises:
        httpx.HTTPError: It was not taken; which ones pass is what jobkit knows.
    """
    body = json.dumps(event).encode()
    timestamp = now()
    headers = {
        "Content-Type": "application/json",
        "Jobkit-Event": quote(event["event"], safe=":"),
        "Jobkit-Timestamp": timestamp,
        "Jobkit-Signature": signature(SECRET, timestamp, body),
    }
    httpx.post(URL, content=body, headers=headers, timeout=10).raise_for_status()


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over timestamp and body, so that neither can be another's."""
    signed = timestamp.encode() + b"." + body
    return "sha256=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def is_genuine(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """What the other side asks before it believes a POST; keep what it has seen too."""
    timestamp = headers.get("Jobkit-Timestamp", "")
    given = headers.get("Jobkit-Signature", "")
    if not timestamp.isdecimal() or abs(int(now()) - int(timestamp)) > TOO_OLD:
        return False
    expected = signature(secret, timestamp, body)
    return hmac.compare_digest(given.encode(), expected.encode())


def now() -> str:
    """The seconds since 1970."""
    return str(time.time_ns() // 10**9)
