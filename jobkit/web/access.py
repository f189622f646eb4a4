"""Who may see a job, who may steer it, and from which pages."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from inspect import isawaitable
from typing import Any
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from jobkit.errors import SettingsError
from jobkit.job import Job
from jobkit.web.tokens import Scope, Tokens

logger = logging.getLogger(__name__)

Verdict = bool | Scope
Authorize = Callable[[Request, Job], Verdict | Awaitable[Verdict]]

_RANKS: dict[Scope | None, int] = {None: 0, "read": 1, "act": 2}


class Access:
    """Decides what the sender of a request may do with a job.

    A function ``authorize(request, job)`` answers True (see and steer), "read",
    or False; one that is not async runs in a thread. A token adds to that, and
    ``public`` lets everybody see every job.

    Raises:
        SettingsError: None of the three is given, or two contradict each other.
    """

    def __init__(
        self,
        authorize: Authorize | None,
        tokens: Tokens | None,
        origins: Sequence[str],
        *,
        public: bool,
    ) -> None:
        if authorize is None and tokens is None and not public:
            raise SettingsError(
                "jobs_app would show every job to everybody. Say who may see them: "
                "authorize=function(request, job), or tokens=Tokens(secret), or "
                "public=True if they are for all."
            )
        if authorize is not None and public:
            raise SettingsError("Jobs are public, or authorize decides: not both.")
        if isinstance(origins, str) or not all(map(_is_origin, origins)):
            raise SettingsError(
                f"Origins are a list such as ['https://shop.example'], not {origins!r}."
            )
        self._authorize = authorize
        self._tokens = tokens
        self._public = public
        self._origins = {origin.lower() for origin in origins}

    async def scope(
        self, request: Request, job: Job, threads: CapacityLimiter
    ) -> Scope | None:
        """What the sender may do with the job: act, read, or nothing."""
        held = self._of_token(request, job)
        if held == "act" or self._authorize is None:
            return held or ("read" if self._public else None)
        # What belongs to a framework's request (its user's rows) may block.
        answer: Any = await to_thread.run_sync(
            partial(self._authorize, request, job), limiter=threads
        )
        if isawaitable(answer):
            answer = await answer
        return max(_scope(answer), held, key=lambda one: _RANKS[one])

    def _of_token(self, request: Request, job: Job) -> Scope | None:
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        sent = [request.query_params.get("token", "")]
        if kind.lower() == "bearer":
            sent.append(bearer)
        if self._tokens is None:
            return None
        scopes = [self._tokens.scope(token, job.id) for token in sent if token]
        return max(scopes, key=lambda one: _RANKS[one], default=None)

    def comes_from_here(self, request: Request) -> bool:
        """Whether no page of another site has sent it; programs say no origin."""
        origin = request.headers.get("origin", "").lower()
        if origin in self._origins:
            return True
        site = request.headers.get("sec-fetch-site", "none")
        if site not in {"same-origin", "none"}:
            return False
        host = request.headers.get("host", "").lower()
        return not origin or urlsplit(origin).netloc == host != ""


def _scope(answer: object) -> Scope | None:
    if answer is True or answer == "act":
        return "act"
    if answer == "read":
        return "read"
    if answer:
        logger.error(
            "authorize answered %r, which is none of True, 'act', 'read' and False: "
            "nothing is shown",
            answer,
        )
    return None


def _is_origin(text: object) -> bool:
    if not isinstance(text, str):
        return False
    parts = urlsplit(text)
    whole = f"{parts.scheme}://{parts.netloc}"
    return parts.scheme in {"http", "https"} and bool(parts.netloc) and whole == text
