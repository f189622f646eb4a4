"""Lists over several partitions: where each goes on, and how they merge."""

from __future__ import annotations

import base64
import json
from typing import Any

from jobkit.errors import StoreError
from jobkit.filters import Wanted
from jobkit.job import Job, Page
from jobkit.store import replies


def index(wanted: Wanted) -> str:
    """The index that a list walks: the narrowest of those that apply."""
    if wanted.state:
        return f"state:{wanted.state}"
    for kind in ("owner", "task", "queue"):
        if name := getattr(wanted, kind):
            return f"{kind}:{name}"
    return "all"


def places(after: str | None, partitions: int) -> dict[int, tuple[str, str]]:
    """Where to go on in each partition that has more."""
    if after is None:
        return dict.fromkeys(range(partitions), ("", ""))
    try:
        saved = json.loads(base64.urlsafe_b64decode(after.encode()))
        return {int(part): (place[0], place[1]) for part, place in saved.items()}
    except (ValueError, TypeError, IndexError, AttributeError):
        raise StoreError(
            f"{after!r} is no place in a list: pass the `next` of an earlier page.",
        ) from None


def merged(pages: dict[int, Any], limit: int) -> Page[Job]:
    """One page out of a part of each partition's list."""
    rows = [
        (int(float(score)), job_id, score, partition, record)
        for partition, (found, _, _) in pages.items()
        for job_id, score, record in found
    ]
    rows.sort(key=lambda row: (row[0], row[1]), reverse=True)
    shown, rest = rows[:limit], rows[limit:]
    left = {row[3] for row in rest}
    following: dict[int, tuple[str, str]] = {}
    for partition, (found, score, job_id) in pages.items():
        if partition in left:
            # Just above its first job, so that none that is newer comes between.
            following[partition] = (found[0][1], found[0][0] + "\0")
        elif job_id:
            following[partition] = (score, job_id)
    for _, job_id, score, partition, _ in shown:
        if partition in left:
            following[partition] = (score, job_id)
    items = tuple(replies.job(row[4]) for row in shown)
    return Page(items, token(following) if following else None)


def token(following: dict[int, tuple[str, str]]) -> str:
    """Where to go on in each partition, as one text; ``places`` reads it."""
    return base64.urlsafe_b64encode(json.dumps(following).encode()).decode()
