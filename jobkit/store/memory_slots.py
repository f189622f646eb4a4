"""Limits in the memory of this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jobkit.job import Page
from jobkit.store.memory_lines import LOOK_AGAIN, STEPS, Lines, Place
from jobkit.store.memory_records import milliseconds
from jobkit.store.memory_shelf import Shelf, wall
from jobkit.store.slots import Admission, Claim, LimitState, Turns, name_of
from jobkit.store.values import Retention


class MemorySlots(Shelf):
    """The verbs of limits."""

    def __init__(
        self, retention: Retention | None = None, now: Callable[[], int] = wall
    ) -> None:
        super().__init__(retention, now)
        self._lines = Lines()

    def acquire(
        self,
        job_id: str,
        fence: int,
        claims: Sequence[Claim],
        lease: float,
        span: float,
    ) -> Admission:
        """Take slots, or a place in a line."""
        with self._change() as at:
            lines, known = self._lines, self._lines.places.get(job_id)
            answer = self._as_it_is(known, fence, at + milliseconds(lease))
            if answer:
                return answer
            ticket = known.ticket if known else lines.number()
            place = Place(job_id, fence, tuple(claims), ticket)
            if fence == 0:
                blocked = lines.obstacle(place, None, at)
                if blocked is None:
                    lines.let_go(place, at, milliseconds(span))
                else:
                    lines.join(place, blocked)
                return Admission(place.stage)
            if known:
                lines.leave(known)
            missing = lines.missing(place, known, at)
            if missing is None:
                permitted = known is not None and known.stage == "promised"
                lines.hold(place, at, milliseconds(lease), permitted=permitted)
            else:
                lines.join(place, missing)
            lines.tidy_all(known.claims if known else ())
            let_go = lines.serve(at, milliseconds(span), STEPS)
            return Admission(place.stage, tuple(let_go))

    def _as_it_is(self, known: Place | None, fence: int, till: int) -> Admission | None:
        if known and fence == 0 and known.stage != "lapsed":
            return Admission(known.stage)
        if known is None or known.stage != "held" or fence > known.fence:
            return None
        if fence < known.fence:
            return Admission("lost")
        self._lines.extend(known, till)
        return Admission("held")

    def release(
        self, job_id: str, fence: int, span: float, *, keep: bool = False
    ) -> Sequence[str]:
        """Give slots back."""
        with self._change() as at:
            lines, place = self._lines, self._lines.places.get(job_id)
            if place is None or (place.stage == "held") != (fence > 0):
                return ()
            if fence not in (0, place.fence):
                return ()
            lines.leave(place)
            if keep:
                lines.promise(place, at, milliseconds(span))
            else:
                del lines.places[job_id]
            lines.tidy_all(place.claims)
            return tuple(lines.serve(at, milliseconds(span), STEPS))

    def grant(self, limit: int, span: float) -> Turns:
        """Let go whoever is next."""
        with self._change() as at:
            lines = self._lines
            gone = lines.serve(at, milliseconds(span), limit)
            left = sorted((due, job) for job, due in lines.outbox.items() if due <= at)
            for _, job_id in left[:limit]:
                lines.outbox[job_id] = at + LOOK_AGAIN
                gone.append(job_id)
            wait = None
            if lines.ready:
                wait = 0.0
            elif lines.later:
                wait = max(0, min(lines.later.values()) - at) / 1000
            return Turns(tuple(gone), wait)

    def confirm(self, job_ids: Sequence[str]) -> None:
        """Note that jobs are on their way."""
        with self._change():
            for job_id in job_ids:
                self._lines.outbox.pop(job_id, None)

    def renew_slots(self, job_id: str, fence: int, lease: float) -> bool:
        """Keep the slots of a run."""
        with self._change() as at:
            place = self._lines.places.get(job_id)
            if place is None or (place.stage, place.fence) != ("held", fence):
                return False
            self._lines.extend(place, at + milliseconds(lease))
            return True

    def set_limit(self, key: str, n: int | None, per: float | None = None) -> None:
        """Change a limit, or take that back."""
        with self._change() as at:
            for rate in (False, True) if n is None else (per is not None,):
                name = name_of(key, rate=rate)
                if n is None:
                    self._lines.line(name).set = None
                else:
                    self._lines.change(name, n, per, at)
                self._lines.touch([name])
                self._lines.tidy(name)

    def slow_down(self, claims: Sequence[Claim], delay: float) -> None:
        """Close rates for a while."""
        with self._change() as at:
            for claim in claims:
                if claim.per is not None:
                    self._lines.close(claim, at + milliseconds(delay))

    def limit(self, key: str, *, rate: bool = False) -> LimitState | None:
        """How one limit stands."""
        with self._changed:
            name = name_of(key, rate=rate)
            line = self._lines.lines.get(name)
            return line.state(name) if line else None

    def limits(self, after: str | None = None, limit: int = 50) -> Page[LimitState]:
        """Limits in use."""
        with self._changed:
            lines = self._lines.lines
            names = sorted(name for name in lines if name > (after or ""))
            found = [(name, lines[name].state(name)) for name in names]
            page = [(name, state) for name, state in found if state][:limit]
            more = page[-1][0] if len(page) == limit else None
            return Page(tuple(state for _, state in page), more)
