"""Whether the promises were kept, judged by what the tasks wrote down themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from jobkit import Job, State
from jobkit.store.values import DUPLICATE
from tests.chaos.faults import (
    CRASHES,
    DRAINED,
    FROZEN,
    HUNG,
    OUTAGES,
    UNSAVED,
    Blow,
)
from tests.chaos.producer import BODY, CANCELLED, RETRIED, UNIQUE, Sent
from tests.worker.journal import Entry

LOST = "lost"
TWICE = "ended twice"
WRONG = "ended wrongly"
OWNERS = "double owners"
HOLDERS = "two jobs of one key at a time"
REPEATS = "repeats beyond the bound"
BODIES = "chord bodies not once"
ATTEMPTS = "attempts without an error"
UNSEEN = "ends that Celery does not show"
HANGS = "shutdowns that hung"
STORE = "store not sound"
TROUBLE = "driver's own trouble"

PROMISES = (
    *(LOST, TWICE, WRONG, OWNERS, HOLDERS, REPEATS, BODIES, ATTEMPTS, UNSEEN),
    *(HANGS, STORE, TROUBLE),
)

LATE_ITEMS = 3
"""Items that a worker may still write after it wakes; as for test_stale_owner."""

LATE_SECONDS = 0.1
"""Seconds after it wakes within which a worker finds out: two looks of its keeper."""

SAVED_AGAIN = 1.5
"""Seconds after an outage within which a run saves again."""

SHOWN = {State.SUCCEEDED: "SUCCESS", State.CANCELLED: "REVOKED"}


@dataclass(frozen=True, slots=True)
class End:
    """How a job stood when all was over: record, history, and Celery's word."""

    job: Job
    ends: Sequence[State]
    shown: str
    value: object


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a verdict goes by; ``ends`` has None for a job without a record."""

    sent: Sequence[Sent]
    blows: Sequence[Blow]
    entries: Mapping[str, Sequence[Entry]]
    ends: Mapping[str, End | None]
    every: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was broken, by promise, and what was repeated within the bounds.

    ``overtaken`` is how many runs another owner took over before they woke.
    """

    broken: Mapping[str, Sequence[str]]
    repeated: int
    late: int
    overtaken: int


@dataclass(frozen=True, slots=True)
class Run:
    """What one fence of a job wrote, and when the next fence began to write."""

    fence: int
    entries: Sequence[Entry]
    until: float
    repeated: Sequence[str]

    @property
    def pids(self) -> set[int]:
        """Its processes: one, if all is well."""
        return {entry.pid for entry in self.entries}

    @property
    def began(self) -> float:
        """When it wrote first."""
        return self.entries[0].at

    @property
    def late(self) -> list[Entry]:
        """What it wrote after a newer fence had begun to."""
        return [entry for entry in self.entries if entry.at > self.until]


def judge(evidence: Evidence) -> Verdict:
    """Hold the evidence against the promises."""
    broken: dict[str, list[str]] = {promise: [] for promise in PROMISES}
    repeated = late = overtaken = 0
    for sent in evidence.sent:
        end = evidence.ends[sent.id]
        for promise, what in _of_end(sent, end, evidence):
            broken[promise].append(f"{sent.kind} {sent.id}: {what}")
        for run in runs(evidence.entries.get(sent.id, ())):
            repeated += len(run.repeated)
            late += len(run.late)
            overtaken += any(_slept_on(run, blow) for blow in evidence.blows)
            for promise, what in _of_run(run, sent, evidence):
                broken[promise].append(
                    f"{sent.kind} {sent.id} fence {run.fence}: {what}"
                )
    broken[HOLDERS] += _of_keys(evidence)
    hung = [blow for blow in evidence.blows if blow.kind == HUNG]
    broken[HANGS] += [f"pids {sorted(blow.pids)}" for blow in hung]
    return Verdict(broken, repeated, late, overtaken)


def runs(entries: Sequence[Entry]) -> list[Run]:
    """The runs of a job that wrote anything, by fence."""
    fences = sorted({entry.fence for entry in entries})
    found: list[Run] = []
    for fence, following in pairwise([*fences, 0]):
        own = [entry for entry in entries if entry.fence == fence]
        later = [entry for entry in entries if entry.fence > fence]
        again = {entry.item for entry in own} & {entry.item for entry in later}
        until = min((e.at for e in later), default=float("inf")) if following else 0
        found.append(Run(fence, own, until or float("inf"), sorted(again)))
    return found


def _of_end(
    sent: Sent, end: End | None, evidence: Evidence
) -> Iterator[tuple[str, str]]:
    if end is None:
        if sent.sure:
            yield LOST, "there is no record"
    elif not end.job.state.finished:
        yield LOST, f"is {end.job.state} ({end.job.reason}) at the end"
    else:
        done = {entry.item for entry in evidence.entries.get(sent.id, ())}
        missing = sent.work - done
        if end.job.state is State.SUCCEEDED and missing:
            yield LOST, f"nobody did {sorted(missing)[:5]} ({len(missing)} in all)"
        yield from _of_record(sent, end)


def _of_record(sent: Sent, end: End) -> Iterator[tuple[str, str]]:
    job = end.job
    if job.state is not State.SUCCEEDED and not _may_be_cancelled(sent, job):
        yield WRONG, f"{job.state} ({job.reason}, {job.error})"
    if len(end.ends) != 1:
        yield TWICE, f"its history has {list(end.ends)}"
    if job.attempts > (sent.kind == RETRIED):
        yield ATTEMPTS, f"{job.attempts}, the last by {job.error}"
    if end.shown != SHOWN.get(job.state):
        yield UNSEEN, f"{job.state} is shown as {end.shown}"
    if sent.kind == BODY and end.value != sent.value:
        yield BODIES, f"its value is {end.value!r} and not {sent.value}"


def _may_be_cancelled(sent: Sent, job: Job) -> bool:
    # Whoever was told of a duplicate has not sent it; whoever got no answer has.
    is_duplicate = job.reason.startswith(DUPLICATE) and not sent.sure
    may = is_duplicate if sent.kind == UNIQUE else sent.kind == CANCELLED
    return may and job.state is State.CANCELLED


def _of_run(run: Run, sent: Sent, evidence: Evidence) -> Iterator[tuple[str, str]]:
    stray = [e for e in run.late if not _just_woken(e, run, evidence.blows)]
    if stray:
        seconds = max(entry.at for entry in stray) - run.until
        yield OWNERS, f"{len(stray)} items up to {seconds:.3f} s after the next began"
    if len(run.pids) > 1:
        yield OWNERS, f"written by processes {sorted(run.pids)}"
    times = Counter(entry.item for entry in run.entries)
    twice = [item for item, count in times.items() if count > 1]
    if twice:
        yield (BODIES if sent.kind == BODY else REPEATS), f"{twice} twice in one run"
    bound = allowed(run, evidence) + (sent.kind == RETRIED)
    if len(run.repeated) > bound:
        hit = sorted({blow.kind for blow in _met(run, evidence.blows)})
        yield REPEATS, f"{len(run.repeated)} items, {bound} are allowed after {hit}"


def _of_keys(evidence: Evidence) -> Iterator[str]:
    """Jobs of one key whose times overlap.

    Times of limited jobs are their runs: between two of them another may have the
    slot. Unique ones have their key from the first run to the end of the last.
    """
    times: dict[tuple[str, str], list[tuple[str, float, float]]] = {}
    for sent in evidence.sent:
        if sent.shop:
            mine = times.setdefault((sent.kind, sent.shop), [])
            mine += [(sent.id, *time) for time in _times(sent, evidence)]
    for (kind, shop), spans in times.items():
        for (one, begin, end), (other, since, until) in combinations(spans, 2):
            both = min(end, until) - max(begin, since)
            if one != other and both > 0:
                yield f"{kind} {shop}: {one} and {other} for {both:.3f} s"


def _times(sent: Sent, evidence: Evidence) -> list[tuple[float, float]]:
    """From when to when its runs wrote, but for what they did on waking."""
    spans = []
    for run in runs(evidence.entries.get(sent.id, ())):
        at = [e.at for e in run.entries if not _just_woken(e, run, evidence.blows)]
        spans += [(at[0], at[-1])] if at else []
    if sent.kind == UNIQUE and spans:
        return [(min(begin for begin, _ in spans), max(end for _, end in spans))]
    return spans


def _just_woken(entry: Entry, run: Run, blows: Sequence[Blow]) -> bool:
    """Whether its process was frozen, and has not had the time to find out."""
    woken = [
        blow.until
        for blow in blows
        if blow.kind == FROZEN and entry.pid in blow.pids and blow.until <= entry.at
    ]
    if not woken:
        return False
    since = [e for e in run.entries if max(woken) <= e.at <= entry.at]
    return len(since) <= LATE_ITEMS or entry.at - max(woken) <= LATE_SECONDS


def _slept_on(run: Run, blow: Blow) -> bool:
    mine = blow.kind == FROZEN and bool(run.pids & blow.pids)
    return mine and blow.at <= run.until <= blow.until


def allowed(run: Run, evidence: Evidence) -> int:
    """How many of its items may come again.

    Those after its last checkpoint when it was ended without a word, besides
    those that it did while the store was out of its reach; none when it ended by itself.
    """
    met = _met(run, evidence.blows)
    if not any(blow.kind in CRASHES | OUTAGES for blow in met):
        return 0
    unsaved = sum(
        any(_during(entry, blow) for blow in met if blow.kind in UNSAVED)
        for entry in run.entries
    )
    return evidence.every + unsaved


def _during(entry: Entry, blow: Blow) -> bool:
    return blow.at <= entry.at <= blow.until + SAVED_AGAIN


def _met(run: Run, blows: Sequence[Blow]) -> list[Blow]:
    """The faults that may have had to do with the end of a run."""
    return [
        blow
        for blow in blows
        if blow.at <= run.until
        and blow.until + SAVED_AGAIN >= run.began
        and (blow.kind in OUTAGES or run.pids & blow.pids)
        and blow.kind in CRASHES | OUTAGES | {DRAINED}
    ]
