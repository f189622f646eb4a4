"""The Lua scripts: one verb a file, each with the contract of its header."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jobkit.job import SCHEMA
from jobkit.store.values import (
    BLOCKED_FOR,
    DUPLICATE,
    EVENTS_KEPT,
    LEDGER_KEPT,
    REPLACED,
    REQUEUED_FOR,
    RESENT,
    RESOLVED,
    TICKS_KEPT,
    TICKS_LINGER,
    Retention,
)

FIELDS = (
    *("id", "schema", "task", "state", "reason", "queue", "priority"),
    *("dead_letter_queue", "owner", "fence", "worker", "attempts", "starts"),
    *("recoveries", "interruptions", "crashes_without_progress", "crash_limit"),
    *("rate_limited", "budgets", "position", "stages", "checkpoint", "progress"),
    *(
        "error",
        "open_failures",
        "request",
        "replay_of",
        "replay_root",
        "replays",
        "created_at",
        "published_at",
    ),
    *("started_at", "updated_at", "finished_at", "due_at", "lease_until"),
    *("unique_key", "generation"),
)
"""What a script returns of a record: all of it but the message."""


@dataclass(frozen=True, slots=True)
class Verb:
    """The contract of a script: its name and its arguments in their order.

    ``prelude`` is what a family of verbs shares beside what all do.
    """

    name: str
    arguments: tuple[str, ...]
    prelude: str = ""


def _verb(name: str, arguments: str = "", prelude: str = "") -> Verb:
    return Verb(name, tuple(arguments.split()), prelude)


ENQUEUE = _verb(
    "enqueue",
    "id token task message queue priority dead_letter_queue owner stages "
    "crash_limit delay hint again unique_key unique_until on_held blocked",
)
AMEND = _verb("amend", "id token unique_key message")
PUBLISHED = _verb("published", "id hint ok hints fence")
BEGIN = _verb("begin", "id token worker lease task generation")
RENEW = _verb("renew", "id fence lease")
SAVE = _verb("save", "id fence seq position checkpoint progress lease failed resolved")
CEDE = _verb("cede", "id fence")
SUCCEED = _verb(
    "succeed",
    "id fence position checkpoint progress reason tell "
    "result_key result result_seconds result_database database",
)
FAILURES = _verb("failures", "id after limit")
REPLAY_ITEMS = _verb("replay_items", "id child message checkpoint actor reason")
RETRY = _verb("retry", "id fence attempt rate_limited budgets error delay message")
BURY = _verb("bury", "id fence attempt rate_limited budgets error reason tell")
INTERRUPT = _verb("interrupt", "id fence kind reason")
REPLACE = _verb(
    "replace",
    "id fence task message queue priority dead_letter_queue stages crash_limit grace "
    "unique_key unique_until",
)
CRASH = _verb("crash", "id worker error")
RESCUE = _verb("rescue", "limit error")
CLAIM_DUE = _verb("claim_due", "limit grace")
UNBLOCK = _verb("unblock", "id grace")
NEXT_DUE = _verb("next_due")
WAITING = _verb("waiting", "queues age")
PRUNE = _verb("prune", "limit")
TOLD = _verb("told", "id")
UNTOLD = _verb("untold", "age limit")
ASK = _verb("ask", "id request")
RESUME = _verb("resume", "id actor")
REPLAY = _verb("replay", "id mode actor reason death")
DISCARD = _verb("discard", "id actor reason")
ACQUIRE = _verb("acquire", "id fence claims lease span", "prelude_limits")
RELEASE = _verb("release", "id fence keep span", "prelude_limits")
GRANT = _verb("grant", "limit span", "prelude_limits")
CONFIRM = _verb("confirm", "ids", "prelude_limits")
RENEW_SLOTS = _verb("renew_slots", "id fence lease", "prelude_limits")
SET_LIMIT = _verb("set_limit", "name n period", "prelude_limits")
SLOW_DOWN = _verb("slow_down", "claims delay", "prelude_limits")
LIMITS = _verb("limits", "name after limit", "prelude_limits")
BACKLOG = _verb("backlog", "states depth")
ENDED = _verb("ended", "states span spans")
CLAIM_NOTES = _verb("claim_notes", "kind age limit grace")
NOTED = _verb("noted", "id kind death")
COLLECT = _verb(
    "collect",
    "id dropped task message queue priority dead_letter_queue stages crash_limit "
    "reason error foreign tell",
)
BULK = _verb("bulk", "ids act bulk actor reason")
RESTORE = _verb("restore", "id token fields events failures")
LIST = _verb(
    "list",
    "index state task queue owner dead_letter_queue error since until "
    "after_score after_id limit budget whole",
)

VERBS = (
    *(
        ENQUEUE,
        AMEND,
        PUBLISHED,
        BEGIN,
        RENEW,
        SAVE,
        CEDE,
        SUCCEED,
        RETRY,
        BURY,
        INTERRUPT,
    ),
    *(REPLACE, CRASH, RESCUE, CLAIM_DUE, NEXT_DUE, PRUNE, ASK, RESUME, REPLAY),
    *(
        DISCARD,
        LIST,
        TOLD,
        UNTOLD,
        FAILURES,
        REPLAY_ITEMS,
        BULK,
        RESTORE,
        WAITING,
        UNBLOCK,
    ),
    *(CLAIM_NOTES, NOTED, COLLECT, BACKLOG, ENDED),
    *(ACQUIRE, RELEASE, GRANT, CONFIRM, RENEW_SLOTS, SET_LIMIT, SLOW_DOWN, LIMITS),
)


@cache
def read(name: str) -> str:
    """The text of a script's file."""
    return files(__package__).joinpath("lua", f"{name}.lua").read_text("utf-8")


def header(source: str) -> tuple[str, ...]:
    """The arguments that a script's header declares, in their order."""
    declared = re.findall(r"^-- ARGV\[(\d+)\] (\w+)$", source, re.MULTILINE)
    if [int(number) for number, _ in declared] != list(range(1, len(declared) + 1)):
        raise ValueError(f"The header's arguments are not in order: {declared}")
    return tuple(name for _, name in declared)


def constants(retention: Retention) -> str:
    """The Lua that stands before the prelude: what Python knows better."""
    kept = {
        "SUCCEEDED": retention.succeeded,
        "PARTIAL": retention.partial,
        "CANCELLED": retention.cancelled,
        "DEAD": retention.dead,
    }
    spans = {state: int(span * 1000) for state, span in kept.items()}
    table = ", ".join(f"{state} = {span}" for state, span in spans.items())
    single = "".join(
        f"local RETENTION_{state} = {span}\n" for state, span in spans.items()
    )
    return (
        f"local RETENTION = {{ {table} }}\n"
        f"{single}"
        f"local REPLACED, RESOLVED = '{REPLACED}', '{RESOLVED}'\n"
        f"local DUPLICATE = '{DUPLICATE}'\n"
        f"local LEDGER_KEPT, BLOCKED_FOR = {LEDGER_KEPT}, {int(BLOCKED_FOR * 1000)}\n"
        f"local REQUEUED_FOR, RESENT = "
        f"{int(REQUEUED_FOR * 1000)}, {int(RESENT * 1000)}\n"
        f"local SCHEMA, EVENTS_KEPT, TICKS_KEPT, TICKS_LINGER = "
        f"{SCHEMA}, {EVENTS_KEPT}, {TICKS_KEPT}, {int(TICKS_LINGER * 1000)}\n"
    )


def source(verb: Verb, retention: Retention) -> str:
    """A whole script, as the server gets it.

    It has of the preludes what it uses, directly or not: a server runs through
    all of a script's text at each call.
    """
    body, family = read(verb.name), read(verb.prelude) if verb.prelude else ""
    used, needed = _words(_code(body)), []
    for part in reversed(_parts(constants(retention) + read("prelude") + family)):
        if _words(_DECLARED.findall(part)[0]) & used:
            used |= _words(part)
            needed.append(part)
    names = ", ".join(f"'{name}'" for name in FIELDS)
    return re.sub(r"\bFIELDS\b", names, "".join(reversed(needed)) + body)


_DECLARED = re.compile(r"^local (?:function )?([\w, ]+)")


def _parts(text: str) -> list[str]:
    """The declarations of the top level, without what is a comment."""
    return re.findall(r"(?ms)^local .*?(?=^local |\Z)", _code(text))


def _code(text: str) -> str:
    return re.sub(r"(?m)^ *--.*\n| +-- .*$", "", text)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", re.sub(r"'[^'\n]*'", "", text)))
