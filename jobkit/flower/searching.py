"""Lists of jobs by filters, and by a part of their ids."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from jobkit.client import Client
from jobkit.errors import JobNotFound
from jobkit.job import Job, Page
from jobkit.states import State

LOOKS = 4
"""Pages of the store that a search by text looks through for one of its own."""

LOOKED_AT = 250
"""Jobs of each of them."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a list is narrowed to. ``text`` is an id, or a part of one."""

    state: str | None = None
    task: str | None = None
    queue: str | None = None
    owner: str | None = None
    text: str | None = None
    after: str | None = None
    limit: int = 50

    def dead(self) -> Wanted:
        """The dead letters among them."""
        return replace(self, state=str(State.DEAD))

    def page(self, client: Client, after: str | None, limit: int) -> Page[Job]:
        """A page of the store's list."""
        return client.list(
            state=self.state,
            task=self.task,
            queue=self.queue,
            owner=self.owner,
            after=after,
            limit=limit,
        )

    def fits(self, job: Job) -> bool:
        """Whether a job is one of the list."""
        given = (self.state, self.task, self.queue, self.owner)
        has = (job.state, job.task, job.queue, job.owner)
        return all(
            want in (None, value) for want, value in zip(given, has, strict=True)
        )


def search(client: Client, wanted: Wanted) -> Page[Job]:
    """A page of jobs, newest first.

    A whole id is found at once. For a part of one a thousand jobs are looked
    through, so that a page may be short although more follow.
    """
    text = wanted.text
    if text is None:
        return wanted.page(client, wanted.after, wanted.limit)
    with suppress(JobNotFound):
        job = client.get(text)
        return Page((job,) if wanted.fits(job) else ())
    found: list[Job] = []
    after = wanted.after
    for _ in range(LOOKS):
        page = wanted.page(client, after, LOOKED_AT)
        found += [job for job in page.items if text in job.id]
        after = page.next
        if after is None or len(found) >= wanted.limit:
            break
    return Page(tuple(found), after)
