"""The ASGI app: to mount in FastAPI, Starlette or beside Django, or to serve alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.resources import files
from typing import Any, Protocol, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jobkit import __version__
from jobkit.client import Client
from jobkit.errors import JobkitError
from jobkit.job import Job
from jobkit.web import celery_progress, openapi, views
from jobkit.web.access import Access, Authorize
from jobkit.web.document import ACTIONS, SAFE, Showing, informed
from jobkit.web.hub import Hub
from jobkit.web.stream import EventStream, at_shutdown, opened
from jobkit.web.tokens import Scope, Tokens
from jobkit.web.views import Reply

THREADS = 20
"""Requests that may wait for the store at once; others wait for them."""

QUERY_LIMIT = 4_096
ID_LIMIT = 512

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]


class HasJobs(Protocol):
    """A JobKit, as far as it is needed here."""

    @property
    def jobs(self) -> Client:
        """The client of its jobs."""


def jobs_app(
    source: Client | HasJobs,
    *,
    authorize: Authorize | None = None,
    public: bool = False,
    tokens: Tokens | None = None,
    trusted_origins: Sequence[str] = (),
    actor: Callable[[Request], str] = lambda _: "web",
    showing: Showing = SAFE,
) -> Starlette:
    """An app that shows jobs to web pages, and lets them be steered.

    ``source`` is a JobKit or a Client. ``authorize(request, job)`` answers True
    (may see and steer it), "read", or False; it may be async. ``tokens`` lets
    those in who bring one, with ``?token=`` or as bearer. ``public=True`` shows
    every job to everybody who knows its id, and lets nobody steer. Pages of
    other sites may only steer when their origin is in ``trusted_origins``.
    ``actor`` names who steers, for the job's history.

    Raises:
        SettingsError: It does not say who may see jobs, or contradicts itself.
    """
    access = Access(authorize, tokens, trusted_origins, public=public)
    api = _Api(source, access, actor, showing)
    return Starlette(
        routes=[
            _route("/jobs/{job_id}", api.status),
            _route("/jobs/{job_id}/events", api.events),
            *(
                _route(f"/jobs/{{job_id}}/{action}", partial(api.act, action), "POST")
                for action in ACTIONS
            ),
            _route("/progress/{job_id}/", api.progress),
            _route("/openapi.json", _openapi),
            _route("/job-progress.js", _element),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _bug},
    )


class _Api:
    def __init__(
        self,
        source: Client | HasJobs,
        access: Access,
        actor: Callable[[Request], str],
        showing: Showing,
    ) -> None:
        self._source = source
        self._access = access
        self._actor = actor
        self._showing = informed(showing, lambda task: self._jobs().usual_seconds(task))
        self._hub = Hub(self._jobs, self._showing)
        self._limiters: list[CapacityLimiter] = []

    def _jobs(self) -> Client:
        # Read at each use: a JobKit may be configured after the app is made.
        return self._source if isinstance(self._source, Client) else self._source.jobs

    @property
    def _threads(self) -> CapacityLimiter:
        if not self._limiters:  # made at the first request, in the event loop
            self._limiters.append(CapacityLimiter(THREADS))
            at_shutdown(self._hub.close)
        return self._limiters[0]

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await to_thread.run_sync(call, limiter=self._threads)

    async def _seen(self, request: Request) -> tuple[Job, Scope]:
        """The job that is asked for, and what the sender may do with it.

        Raises:
            _Refused: It is not there, or not the sender's.
        """
        job_id = request.path_params["job_id"]
        if len(job_id) > ID_LIMIT:
            raise _Refused(views.unknown())
        job = await self._in_thread(lambda: self._jobs().get(job_id))
        scope = await self._access.scope(request, job, self._threads)
        if scope is None:
            raise _Refused(views.unknown())
        return job, scope

    async def status(self, request: Request) -> Response:
        job, scope = await self._seen(request)
        known = request.headers.get("if-none-match", "")
        return _response(
            await self._in_thread(lambda: views.shown(job, scope, self._showing, known))
        )

    async def progress(self, request: Request) -> Response:
        job, _ = await self._seen(request)
        return _response(Reply(200, celery_progress.document(job, self._showing)))

    async def act(self, action: str, request: Request) -> Response:
        if not self._access.comes_from_here(request):
            raise _Refused(
                views.refused(
                    403, "cross_site", "Pages of other sites may not do this."
                )
            )
        job, scope = await self._seen(request)
        if scope != "act":
            raise _Refused(
                views.refused(403, "read_only", "You may see this job, not steer it.")
            )
        steer = partial(views.act, actor=self._actor(request), showing=self._showing)
        return _response(
            await self._in_thread(lambda: steer(self._jobs(), job.id, action))
        )

    async def events(self, request: Request) -> Response:
        job, scope = await self._seen(request)
        if request.method == "HEAD":
            return Response(media_type=EventStream.media_type)
        last = request.headers.get("last-event-id", "")
        opening, reader = await opened(
            job.id, last, self._jobs, self._hub, self._showing, self._threads
        )
        leave = partial(self._hub.leave, job.id, reader)
        if opening.over:
            leave()
            return Response(status_code=204)  # a browser does not come again
        return EventStream(opening, reader, scope, leave)


class _Refused(Exception):  # noqa: N818 - an answer, and no error
    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def _route(path: str, endpoint: Endpoint, method: str = "GET") -> Route:
    async def answer(request: Request) -> Response:
        if len(request.scope.get("query_string", b"")) > QUERY_LIMIT:
            return _response(views.refused(414, "too_long", "The query is too long."))
        try:
            return await endpoint(request)
        except _Refused as refused:
            return _response(refused.reply)
        except (JobkitError, UnicodeError) as error:
            return _response(views.failed(error))

    return Route(path, answer, methods=[method])


def _response(reply: Reply) -> Response:
    if reply.body is None:
        return Response(status_code=reply.status, headers=dict(reply.headers))
    text = views.dumps(reply.body)
    return Response(text, reply.status, dict(reply.headers), "application/json")


async def _openapi(request: Request) -> Response:
    root = request.scope.get("root_path", "")
    return _response(Reply(200, openapi.description(__version__, root)))


async def _element(request: Request) -> Response:
    script = await anyio.Path(str(files("jobkit.web") / "job-progress.js")).read_bytes()
    tag = f'"{__version__}-{len(script)}"'
    headers = {
        "Cache-Control": "public, max-age=300",
        "ETag": tag,
        "X-Content-Type-Options": "nosniff",
    }
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(script, headers=headers, media_type="text/javascript")


async def _http_error(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers: dict[str, Any] = dict(getattr(error, "headers", None) or {})
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "error")
    message = {404: "There is nothing here.", 405: "This method is not allowed here."}
    reply = views.refused(status, code, message.get(status, "The request is wrong."))
    return _response(reply._replace(headers={**reply.headers, **headers}))


async def _bug(_: Request, __: Exception) -> Response:
    return _response(views.refused(500, "error", "Something went wrong; it is logged."))
