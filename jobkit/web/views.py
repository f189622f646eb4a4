"""The answers of the web API: a status, a body for JSON, and headers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jobkit.client import Client
from jobkit.errors import JobkitError, JobNotFound, NotAllowed, StoreUnavailable
from jobkit.job import Job
from jobkit.web import celery_progress as contract
from jobkit.web.document import (
    ACTIONS,
    SAFE,
    Showing,
    document,
    informed,
    with_actions,
)

RETRY_AFTER = 5
"""Seconds after which a page may ask again when the store is away."""

HEADERS: Mapping[str, str] = {
    "Cache-Control": "private, no-cache",
    "Referrer-Policy": "no-referrer",
    "Vary": "Authorization, Cookie",
    "X-Content-Type-Options": "nosniff",
}


class Reply(NamedTuple):
    """An answer: its status, its body, and its headers."""

    status: int
    body: dict[str, Any] | None
    headers: Mapping[str, str] = HEADERS

    @property
    def flask(self) -> tuple[Any, int, dict[str, str]]:
        """The answer as Flask's views return it."""
        return self.body if self.body is not None else "", self.status, {**self.headers}


def status(
    jobs: Client,
    job_id: str,
    *,
    scope: str = "read",
    showing: Showing = SAFE,
    if_none_match: str = "",
) -> Reply:
    """How a job is: 200, 304 if ``if_none_match`` names this answer, 404 or 503."""
    told = informed(showing, jobs.usual_seconds)
    return _answered(lambda: shown(jobs.get(job_id), scope, told, if_none_match))


def act(
    jobs: Client,
    job_id: str,
    action: str,
    *,
    actor: str = "web",
    showing: Showing = SAFE,
) -> Reply:
    """Cancel, pause or resume a job: 200 with how it is then, or 409 if it cannot be."""
    told = informed(showing, jobs.usual_seconds)
    return _answered(lambda: _done(jobs, job_id, action, actor, told))


def progress(jobs: Client, job_id: str, *, showing: Showing = SAFE) -> Reply:
    """How a job is, as celery-progress's script expects it."""
    return _answered(lambda: Reply(200, contract.document(jobs.get(job_id), showing)))


def shown(job: Job, scope: str, showing: Showing, if_none_match: str = "") -> Reply:
    """The answer for a job that is known and may be seen."""
    body = with_actions(document(job, showing), scope)
    tag = f'"{hashlib.sha256(dumps(body).encode()).hexdigest()[:24]}"'
    headers = {**HEADERS, "ETag": tag}
    known = [part.strip().removeprefix("W/") for part in if_none_match.split(",")]
    if tag in known or "*" in known:
        return Reply(304, None, headers)
    return Reply(200, body, headers)


def dumps(body: Any) -> str:
    """The text of a body: ASCII, and without line breaks."""
    return json.dumps(body, separators=(",", ":"))


def refused(status: int, code: str, message: str, **headers: str) -> Reply:
    """An answer that something cannot be: ``code`` is for programs."""
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    error = {"code": code, "message": message}
    return Reply(status, {"error": error}, {**HEADERS, **told})


def unknown() -> Reply:
    """The answer for a job that is not there, or not for this reader."""
    return refused(404, "not_found", "There is no such job, or it is not yours to see.")


def failed(error: Exception) -> Reply:
    """The answer that an error of jobkit becomes; it tells nothing of the inside."""
    if isinstance(error, JobNotFound | UnicodeError):
        return unknown()
    if isinstance(error, NotAllowed):
        return refused(
            409, "not_allowed", f"The job is {error.state}: it cannot be done."
        )
    if isinstance(error, StoreUnavailable):
        return refused(
            *(503, "unavailable", "The job store cannot be reached now; try again."),
            Retry_After=str(RETRY_AFTER),
        )
    return refused(500, "store_error", "The job store refused; see the server's log.")


def _answered(answer: Callable[[], Reply]) -> Reply:
    try:
        return answer()
    except (JobkitError, UnicodeError) as error:
        return failed(error)


def _done(
    jobs: Client, job_id: str, action: str, actor: str, showing: Showing
) -> Reply:
    if action not in ACTIONS:
        return refused(
            404, "not_found", f"A job can be {', '.join(ACTIONS)}: no other."
        )
    if action == "resume":
        jobs.resume(job_id, actor=actor)
    else:
        ask = jobs.cancel if action == "cancel" else jobs.pause
        if not ask(job_id, actor=actor):
            raise NotAllowed("It has ended.", jobs.get(job_id).state)
    return Reply(200, with_actions(document(jobs.get(job_id), showing), "act"))
