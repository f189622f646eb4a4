"""Signed tokens: who holds one may see, or steer, one job for a while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from itsdangerous import BadData, URLSafeSerializer

from jobkit import clock
from jobkit.errors import SettingsError

Scope = Literal["read", "act"]

SHORTEST_SECRET = 16


class Tokens:
    """Signs and reads tokens; a token is for one job, one scope and some time.

    ``secret`` is a text of at least 16 characters, or several, oldest first, of
    which the last signs and all are accepted.

    Raises:
        SettingsError: A secret is too short, or there is none.
    """

    def __init__(self, secret: str | Sequence[str]) -> None:
        secrets = [secret] if isinstance(secret, str) else list(secret)
        if not secrets or any(len(one) < SHORTEST_SECRET for one in secrets):
            raise SettingsError(
                f"A secret for job tokens needs {SHORTEST_SECRET} characters at least: "
                "make one with `python -c 'import secrets; print(secrets.token_hex())'`."
            )
        self._serializer = URLSafeSerializer(secrets, salt="jobkit.web")

    def sign(
        self, job_id: str, scope: Scope = "read", *, seconds: float = 86_400.0
    ) -> str:
        """A token for a job, for ``seconds`` from now; safe in a URL.

        Raises:
            SettingsError: There is no such scope.
        """
        if scope not in get_args(Scope):
            raise SettingsError(f"A token's scope is read or act, not {scope!r}.")
        return str(self._serializer.dumps([job_id, scope, int(clock.wall() + seconds)]))

    def scope(self, token: str, job_id: str) -> Scope | None:
        """What a token allows for a job; None if it is another's, expired or forged."""
        try:
            signed_id, scope, expires = self._serializer.loads(token)
            over = clock.wall() >= float(expires)
        except (BadData, TypeError, ValueError):
            return None
        if signed_id != job_id or over:
            return None
        return "act" if scope == "act" else "read"
