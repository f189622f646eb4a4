"""The verbs of limits: slots that runs hold, rates that they keep, and lines.

They share one slot of a cluster, apart from the jobs: nothing here looks at a
record. A job has one *place*: it holds all the slots that it claims, or it is
promised them (its message is published), or it waits in the line of one limit and
holds none. A slot belongs to a job and a fence, for as long as its lease. Verbs
that make room answer with the jobs that were let go by it: their message is to
be published, and until ``confirm`` they are named again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from jobkit.job import Page

Standing = Literal["held", "promised", "waiting", "lapsed", "lost"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a job wants of one limit.

    A slot of ``n``; or with ``per`` (seconds) a start, of which there are ``n``
    in that time, spread evenly.
    """

    key: str
    n: int
    per: float | None = None

    @property
    def name(self) -> str:
        """The name that the store knows it by: slots and rates are apart."""
        return name_of(self.key, rate=self.per is not None)


def name_of(key: str, *, rate: bool) -> str:
    """The store's name of a limit."""
    return ("rate:" if rate else "slot:") + key


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to ``acquire``: how the job stands, and who was let go meanwhile."""

    standing: Standing
    let_go: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Turns:
    """The answer to ``grant``: who was let go, and when (seconds) the next rate may."""

    let_go: tuple[str, ...] = ()
    wait: float | None = None


@dataclass(frozen=True, slots=True)
class LimitState:
    """A limit in use.

    ``n`` (in ``per`` seconds, of a rate) is what is in force, ``changed`` whether it
    was set while running. ``holders`` are the ids of jobs that run under it,
    ``promised`` those whose message is published, 100 of each at most; ``waiting``
    counts the others.
    """

    key: str
    n: int
    per: float | None
    changed: bool
    waiting: int
    holders: tuple[str, ...]
    promised: tuple[str, ...]


class Slots(Protocol):
    """What a store knows of limits; see the module for what its verbs share."""

    def acquire(
        self,
        job_id: str,
        fence: int,
        claims: Sequence[Claim],
        lease: float,
        span: float,
    ) -> Admission:
        """Take all the slots that a run claims, or none and a place in a line.

        With the fence 0 the job does not run yet: it is promised the slots, for
        ``span`` seconds, or waits. ``held``, ``promised`` and ``waiting`` say which;
        ``lost`` that a later run of the job has been here.
        """

    def release(
        self, job_id: str, fence: int, span: float, *, keep: bool = False
    ) -> Sequence[str]:
        """Give back what a run of this fence holds; who is let go by it.

        With the fence 0 what a job that does not run is promised, or waits for.
        ``keep`` promises the slots to the job's next run.
        """

    def grant(self, limit: int, span: float) -> Turns:
        """Free what has run out, and let go whoever is next; also the unconfirmed."""

    def confirm(self, job_ids: Sequence[str]) -> None:
        """Note that jobs that were let go are on their way."""

    def renew_slots(self, job_id: str, fence: int, lease: float) -> bool:
        """Keep the slots of a run; False when they are not its own any more."""

    def set_limit(self, key: str, n: int | None, per: float | None = None) -> None:
        """Change a limit (a rate, with ``per``) while its jobs run.

        None takes the change back, of slots and rate alike.
        """

    def slow_down(self, claims: Sequence[Claim], delay: float) -> None:
        """Let nobody start under the rates among these claims for ``delay`` seconds."""

    def limit(self, key: str, *, rate: bool = False) -> LimitState | None:
        """How one limit stands; None when nobody has used it and it was not set."""

    def limits(self, after: str | None = None, limit: int = 50) -> Page[LimitState]:
        """Limits that are held, waited for, or changed, in the order of names."""
