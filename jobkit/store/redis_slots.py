"""Limits in Redis or Valkey: every verb is one Lua script in the limits' own slot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jobkit.job import Page
from jobkit.store import replies, scripts
from jobkit.store.scripts import Verb
from jobkit.store.server import Server
from jobkit.store.slots import Admission, Claim, LimitState, Turns, name_of


class RedisSlots(Server):
    """The verbs of limits."""

    def acquire(
        self,
        job_id: str,
        fence: int,
        claims: Sequence[Claim],
        lease: float,
        span: float,
    ) -> Admission:
        """Take slots, or a place in a line; see ``Slots.acquire``."""
        times = replies.ms(lease), replies.ms(span)
        answer = self._limits(scripts.ACQUIRE, job_id, fence, _text(claims), *times)
        return Admission(answer[0], tuple(answer[1:]))

    def release(
        self, job_id: str, fence: int, span: float, *, keep: bool = False
    ) -> Sequence[str]:
        """Give slots back; see ``Slots.release``."""
        end = int(keep), replies.ms(span)
        return tuple(self._limits(scripts.RELEASE, job_id, fence, *end))

    def grant(self, limit: int, span: float) -> Turns:
        """Let go whoever is next; see ``Slots.grant``."""
        wait, *let_go = self._limits(scripts.GRANT, limit, replies.ms(span))
        return Turns(tuple(let_go), int(wait) / 1000 if wait else None)

    def confirm(self, job_ids: Sequence[str]) -> None:
        """Note that jobs are on their way."""
        self._limits(scripts.CONFIRM, json.dumps(list(job_ids)))

    def renew_slots(self, job_id: str, fence: int, lease: float) -> bool:
        """Keep the slots of a run; see ``Slots.renew_slots``."""
        answer = self._limits(scripts.RENEW_SLOTS, job_id, fence, replies.ms(lease))
        return bool(answer == "ok")

    def set_limit(self, key: str, n: int | None, per: float | None = None) -> None:
        """Change a limit; see ``Slots.set_limit``."""
        kinds = (False, True) if n is None else (per is not None,)
        for rate in kinds:
            told = replies.text(n), replies.ms(per or 0) if n else ""
            self._limits(scripts.SET_LIMIT, name_of(key, rate=rate), *told)

    def slow_down(self, claims: Sequence[Claim], delay: float) -> None:
        """Close rates for a while; see ``Slots.slow_down``."""
        self._limits(scripts.SLOW_DOWN, _text(claims), replies.ms(delay))

    def limit(self, key: str, *, rate: bool = False) -> LimitState | None:
        """How one limit stands."""
        answer = self._limits(scripts.LIMITS, name_of(key, rate=rate), "", 1)
        return _state(answer[0])

    def limits(self, after: str | None = None, limit: int = 50) -> Page[LimitState]:
        """Limits in use; see ``Slots.limits``."""
        answer = self._limits(scripts.LIMITS, "", after or "", limit)
        more = answer[-1][0] if len(answer) == limit else None
        found = (_state(row) for row in answer)
        return Page(tuple(state for state in found if state), more)

    def _limits(self, verb: Verb, *arguments: str | int) -> Any:
        return self._run(verb, self.keys.limits, *arguments)


def _text(claims: Sequence[Claim]) -> str:
    return json.dumps([[c.name, c.n, replies.ms(c.per or 0)] for c in claims])


def _state(row: Sequence[Any]) -> LimitState | None:
    name, n, period, changed, changed_period, waiting, holders, promised = row
    if not (n or changed):
        return None
    per = int(changed_period or period or 0) / 1000
    return LimitState(
        name.partition(":")[2],
        n=int(changed or n),
        per=per or None,
        changed=bool(changed),
        waiting=int(waiting),
        holders=tuple(holders),
        promised=tuple(promised),
    )
