"""The lines of limits in memory, as ``prelude_limits.lua`` has them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from jobkit.store.slots import Claim, LimitState, Standing

LOOK_AGAIN = 500
STEPS = 16
SHOWN = 100


@dataclass(slots=True, eq=False)
class Place:
    """Where one job stands."""

    id: str
    fence: int
    claims: tuple[Claim, ...]
    ticket: int
    stage: Standing = "lapsed"
    line: str = ""


@dataclass(slots=True)
class Line:
    """One limit: who holds, who is promised (by ticket), who waits (by number)."""

    held: dict[str, int] = field(default_factory=dict)
    promised: dict[str, int] = field(default_factory=dict)
    wait: dict[str, int] = field(default_factory=dict)
    code: tuple[int, float | None] | None = None
    set: tuple[int, float | None] | None = None
    issued: float = 0.0
    started: float = 0.0
    closed: int = 0

    def head(self) -> str:
        """Who is the first in the line."""
        return min(self.wait, key=lambda job_id: (self.wait[job_id], job_id))

    def state(self, name: str) -> LimitState | None:
        """What people see of it."""
        now = self.set or self.code
        if now is None:
            return None
        return LimitState(
            name.partition(":")[2],
            *now,
            changed=self.set is not None,
            waiting=len(self.wait),
            holders=tuple(sorted(self.held, key=lambda job: (self.held[job], job))),
            promised=tuple(
                sorted(self.promised, key=lambda job: (self.promised[job], job))
            ),
        )


class Lines:
    """All limits and places; ``at`` is the time of the verb in milliseconds."""

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.lines: dict[str, Line] = {}
        self.ends: dict[str, int] = {}
        self.outbox: dict[str, int] = {}
        self.ready: dict[str, int] = {}
        self.later: dict[str, int] = {}
        self._numbers = itertools.count(1)

    def line(self, name: str) -> Line:
        """A limit, made when it is new."""
        return self.lines.setdefault(name, Line())

    def number(self) -> int:
        """The next number: for tickets, places in lines, and turns."""
        return next(self._numbers)

    def terms(self, claim: Claim) -> tuple[int, float | None]:
        """What is in force."""
        return self.line(claim.name).set or (claim.n, claim.per)

    def _pace(self, claim: Claim) -> tuple[float, float]:
        n, per = self.terms(claim)
        interval = int((per or 0) * 1000) / n
        return interval, (max(1, n // 10) - 1) * interval

    def may_start(self, claim: Claim) -> float:
        """When a job that was let go may begin, by a rate."""
        interval, slack = self._pace(claim)
        line = self.line(claim.name)
        return max(line.started - slack - interval, line.closed)

    def may_go(self, claim: Claim) -> float:
        """When a rate lets the next job go."""
        _, slack = self._pace(claim)
        return max(self.line(claim.name).issued - slack, self.may_start(claim))

    def spend(self, claim: Claim, which: str, at: int) -> None:
        """Move a clock of a rate one interval on."""
        line, (interval, _) = self.line(claim.name), self._pace(claim)
        moved = round(max(getattr(line, which), at) + interval, 3)
        setattr(line, which, moved)

    def close(self, claim: Claim, till: int) -> None:
        """Let nobody start before some time."""
        line = self.line(claim.name)
        line.closed = max(line.closed, till)
        if line.wait:
            self.later[claim.name] = math.ceil(self.may_go(claim))

    def touch(self, names: Iterable[str]) -> None:
        """Look at these lines in the next round."""
        for name in names:
            if self.line(name).wait and name not in self.ready:
                self.ready[name] = self.number()

    def tidy(self, name: str) -> None:
        """Forget a limit that nobody uses or waits for; not the clocks of a rate."""
        line = self.line(name)
        if line.wait:
            return
        self.ready.pop(name, None)
        self.later.pop(name, None)
        if not (line.held or line.promised or line.set):
            if line.issued or line.started or line.closed:
                line.code = None
            else:
                del self.lines[name]

    def tidy_all(self, claims: Sequence[Claim]) -> None:
        """Forget what is not used any more."""
        for claim in claims:
            self.tidy(claim.name)

    def leave(self, place: Place) -> None:
        """Take a job out of whatever it has."""
        if place.stage == "waiting":
            self.line(place.line).wait.pop(place.id, None)
        for claim in place.claims:
            self.line(claim.name).held.pop(place.id, None)
            self.line(claim.name).promised.pop(place.id, None)
        self.ends.pop(place.id, None)
        self.outbox.pop(place.id, None)
        self.touch(claim.name for claim in place.claims)

    def put(self, place: Place, stage: Standing, line: str = "") -> None:
        """Write down where a job stands."""
        place.stage, place.line = stage, line
        self.places[place.id] = place

    def is_next(self, place: Place, i: int) -> bool:
        """Whether nobody in a claim's line comes before a job."""
        wait = self.line(place.claims[i].name).wait
        if i > 0:
            return not wait
        return all(number >= place.ticket for number in wait.values())

    def note(self, claim: Claim) -> None:
        """Remember what the code says of a limit."""
        line = self.line(claim.name)
        if claim.per is None or line.wait:
            line.code = claim.n, claim.per

    def join(self, place: Place, i: int) -> None:
        """Wait for one claim."""
        claim = place.claims[i]
        number = self.number() if i else place.ticket
        self.line(claim.name).wait[place.id] = number
        self.put(place, "waiting", claim.name)
        self.note(claim)
        if claim.per is not None:
            self.later[claim.name] = math.ceil(self.may_go(claim))

    def admits(self, claim: Claim, at: int) -> bool:
        """Whether a limit lets one more job go."""
        n, per = self.terms(claim)
        if per is not None:
            return self.may_go(claim) <= at
        line = self.line(claim.name)
        promised = len(line.promised)
        return len(line.held) + promised < n and promised < max(2, n // 4)

    def obstacle(self, place: Place, mine: int | None, at: int) -> int | None:
        """The first claim for which a job has to wait."""
        for i, claim in enumerate(place.claims):
            queued = i != mine and not self.is_next(place, i)
            if queued or not self.admits(claim, at):
                return i
        return None

    def promise(self, place: Place, at: int, span: int) -> None:
        """Keep the slots for a job that is on its way."""
        for claim in place.claims:
            if claim.per is None:
                self.line(claim.name).promised[place.id] = place.ticket
            self.note(claim)
        self.ends[place.id] = at + span
        self.put(place, "promised")

    def let_go(self, place: Place, at: int, span: int) -> None:
        """Let a job go: its message is to be published."""
        for claim in place.claims:
            if claim.per is not None:
                self.spend(claim, "issued", at)
        self.promise(place, at, span)
        self.outbox[place.id] = at + LOOK_AGAIN

    def change(self, name: str, n: int, per: float | None, at: int) -> None:
        """Put other terms in force; what was spent at the old rate is forgiven."""
        line = self.line(name)
        line.set = n, per
        if per is not None:
            most = at + int(per * 1000) / n
            line.issued, line.started = min(line.issued, most), min(line.started, most)

    def hold(self, place: Place, at: int, lease: int, *, permitted: bool) -> None:
        """Take the slots for a run; it spends a rate if it was not let go by it."""
        for claim in place.claims:
            if claim.per is None:
                self.line(claim.name).held[place.id] = at + lease
            else:
                self.spend(claim, "started", at)
                if not permitted:
                    self.spend(claim, "issued", at)
            self.note(claim)
        self.ends[place.id] = at + lease
        self.put(place, "held")
        for claim in place.claims:
            if claim.per is None:
                self._displace(claim)

    def _displace(self, claim: Claim) -> None:
        line, n = self.line(claim.name), self.terms(claim)[0]
        while line.promised and len(line.held) + len(line.promised) > n:
            last = max(line.promised, key=lambda job: (line.promised[job], job))
            youngest = self.places[last]
            self.leave(youngest)
            names = [theirs.name for theirs in youngest.claims]
            self.join(youngest, names.index(claim.name))

    def extend(self, place: Place, till: int) -> None:
        """Keep the slots of a run."""
        for claim in place.claims:
            if claim.per is None:
                self.line(claim.name).held[place.id] = till
        self.ends[place.id] = till

    def missing(self, place: Place, known: Place | None, at: int) -> int | None:
        """The first claim for which a run has to wait."""
        promised = known is not None and known.stage == "promised"
        own: set[str] = set()
        if known and known.stage in ("held", "promised"):
            own = {claim.name for claim in known.claims}
        for i, claim in enumerate(place.claims):
            if claim.per is not None and promised:
                free = self.may_start(claim) <= at
            elif claim.per is not None:
                free = self.is_next(place, i) and self.may_go(claim) <= at
            else:
                free = claim.name in own or self._is_free(place, i)
            if not free:
                return i
        return None

    def _is_free(self, place: Place, i: int) -> bool:
        line, n = self.line(place.claims[i].name), self.terms(place.claims[i])[0]
        older = sum(ticket < place.ticket for ticket in line.promised.values())
        return self.is_next(place, i) and len(line.held) + older < n

    def serve(self, at: int, span: int, steps: int) -> list[str]:
        """Free what has run out, and let go whoever is next, the lines by turns."""
        for job_id in _passed(self.ends, at, steps):
            place = self.places[job_id]
            self.leave(place)
            self.put(place, "lapsed")
            self.tidy_all(place.claims)
        for name in _passed(self.later, at, steps):
            del self.later[name]
            self.ready.setdefault(name, self.number())
        gone: list[str] = []
        for _ in range(steps):
            if not self.ready:
                break
            name = min(self.ready, key=lambda name: (self.ready[name], name))
            del self.ready[name]
            if self._serve_line(name, at, span, gone) and self.line(name).wait:
                self.ready[name] = self.number()
            self.tidy(name)
        return gone

    def _serve_line(self, name: str, at: int, span: int, gone: list[str]) -> bool:
        """Serve the head of one line; whether to come back to that line."""
        line = self.line(name)
        if not line.wait:
            return False
        place = self.places[line.head()]
        mine = [claim.name for claim in place.claims].index(name)
        i = self.obstacle(place, mine, at)
        if i is None:
            self.leave(place)
            self.let_go(place, at, span)
            gone.append(place.id)
            return True
        if i == mine:
            if place.claims[i].per is not None:
                self.later[name] = math.ceil(self.may_go(place.claims[i]))
            return False
        del line.wait[place.id]
        self.join(place, i)
        return i < mine


def _passed(times: dict[str, int], at: int, limit: int) -> list[str]:
    passed = sorted((time, name) for name, time in times.items() if time <= at)
    return [name for _, name in passed[:limit]]
