"""The one base of all our pages: who may come in, from where, and what errors say."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Awaitable, Callable, Hashable
from http import HTTPStatus
from typing import Any, ClassVar

from flower.api import BaseApiHandler
from tornado.web import HTTPError, authenticated

from jobkit.errors import (
    JobkitError,
    JobNotFound,
    NotAllowed,
    SchemaError,
    StoreUnavailable,
)
from jobkit.flower.reading import FRESH, Answer, Reader
from jobkit.kit import JobKit

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

STATUS: tuple[tuple[type[Exception], int], ...] = (
    (JobNotFound, 404),
    (NotAllowed, 409),
    (StoreUnavailable, 503),
    (SchemaError, 503),
    (JobkitError, 400),
    (UnicodeError, 400),
)
"""What an error of jobkit is in HTTP; the first that fits."""


class Guarded(BaseApiHandler):  # type: ignore[misc] # Flower has no types
    """A page or a document of ours, behind Flower's own rules.

    Pages and what they show ask for Flower's login where there is one. Commands
    (POST) are as Flower's API: without a login they need
    ``FLOWER_UNAUTHENTICATED_API``. They are refused in ``read_only``, and to pages
    of other sites in every mode.
    """

    is_page: ClassVar[bool] = False

    def initialize(self, kit: JobKit, reader: Reader) -> None:
        """Take over what all handlers share."""
        self.kit = kit
        self.reader = reader

    def set_default_headers(self) -> None:
        """Let nobody else read it, frame it, or run a script in it."""
        super().set_default_headers()
        for name in ("Origin", "Headers", "Methods"):
            self.clear_header(f"Access-Control-Allow-{name}")
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Cache-Control", "no-store")

    def options(self, *_: Any, **__: Any) -> None:
        """Refuse: no other site may ask."""
        raise HTTPError(405)

    def prepare(self) -> None:
        """Refuse who may not come in, before any of our own code runs."""
        if not self._user():
            if not self.is_page:
                raise HTTPError(403 if self.is_command else 401, "Log in first.")
            authenticated(lambda _: None)(self)
        elif self.is_command:
            super().prepare()
            self._check_command()

    @property
    def is_command(self) -> bool:
        """Whether it wants something done."""
        return self.request.method not in ("GET", "HEAD", "OPTIONS")

    @property
    def is_read_only(self) -> bool:
        """Whether Flower may only look; older ones have no such option."""
        return bool(getattr(self.application.options, "read_only", False))

    @property
    def may_command(self) -> bool:
        """Whether who is here may have something done."""
        try:
            super().prepare()
        except HTTPError:
            return False
        return not self.is_read_only

    @property
    def actor(self) -> str:
        """Who it is, for a job's history."""
        user: Any = self.current_user
        if not isinstance(user, str) and self.application.options.basic_auth:
            _, _, text = self.request.headers["Authorization"].partition(" ")
            user = b64decode(text).decode(errors="replace").partition(":")[0]
        return f"{user} (Flower)" if isinstance(user, str) else "Flower"

    async def ask(
        self, key: Hashable, question: Callable[[], Any], fresh: float = FRESH
    ) -> Answer:
        """What the store says; errors of jobkit become those of HTTP."""
        return await self._in_http(self.reader.ask(key, question, fresh))  # type: ignore[no-any-return]

    async def command(self, command: Callable[[], Any]) -> Any:
        """Have something done."""
        return await self._in_http(self.reader.command(command))

    def document(self, content: Any) -> None:
        """Answer with JSON."""
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.finish(json.dumps(content))

    def write_error(self, status_code: int, **info: Any) -> None:
        """Say what is wrong, without a traceback: as a page, or as JSON."""
        if not hasattr(self, "_current_user"):
            self.current_user = None  # who they are may be what went wrong
        error = info.get("exc_info", (None, None))[1]
        if isinstance(error, HTTPError):
            message = error.get_message() or self._reason
        else:
            message = "Something went wrong here: Flower's log has more."
        if status_code == HTTPStatus.UNAUTHORIZED:
            self.set_header("WWW-Authenticate", 'Basic realm="flower"')
        if self.is_page and status_code != HTTPStatus.UNAUTHORIZED:
            self.render("jobkit/error.html", jobkit={"message": message})
        else:
            self.document({"error": message})

    def check_xsrf_cookie(self) -> None:
        """Look where a command comes from, before Flower does; older ones do not."""
        self._check_site()
        super().check_xsrf_cookie()

    def _user(self) -> Any:
        try:
            return self.current_user
        except TypeError:  # Flower's comparison takes ASCII alone
            raise HTTPError(401) from None

    def _check_command(self) -> None:
        if self.is_read_only:
            raise HTTPError(403, "This Flower is read-only.")
        self._check_site()

    def _check_site(self) -> None:
        headers = self.request.headers
        site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
        foreign = origin is not None and origin.partition("://")[2] != self.request.host
        if foreign or site not in (None, "same-origin"):
            raise HTTPError(403, "Another site may not command.")

    async def _in_http(self, answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        except (JobkitError, UnicodeError) as error:
            (status, *_) = (code for kind, code in STATUS if isinstance(error, kind))
            raise HTTPError(status, str(error)) from error
