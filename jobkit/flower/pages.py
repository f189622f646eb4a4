"""The pages, what they show as JSON, and the commands behind their buttons."""

from __future__ import annotations

import json
from functools import partial
from http import HTTPStatus
from importlib.resources import files
from typing import Any, cast

from tornado.web import HTTPError

from jobkit import showing
from jobkit.flower import charts
from jobkit.flower.guarded import Guarded
from jobkit.flower.reading import Answer
from jobkit.flower.searching import Wanted, search
from jobkit.job import Job, ReplayMode
from jobkit.states import State

MOST_ROWS = 200
"""Rows of one page, whatever is asked for; as many jobs in one command."""

CHARTED = 500
"""Ended jobs of which the chart of waiting times is: those that ended last."""

DRAWN = 10.0
"""Seconds for which charts are shown again."""

ASSETS = {
    "jobs.js": "text/javascript",
    "task.js": "text/javascript",
    "jobs.css": "text/css",
}

COMMANDS = ("cancel", "pause", "resume", "replay", "discard")


class Page(Guarded):
    """A page of ours: a frame that its script fills."""

    is_page = True

    def show(self, name: str, **shown: Any) -> None:
        """Render a page with what all of them need."""
        shown = {
            "root": self.application.reverse_url("jobkit_jobs"),
            "may_command": self.may_command,
            "read_only": self.is_read_only,
            **shown,
        }
        self.render(f"jobkit/{name}.html", jobkit=shown)


class JobsPage(Page):
    """The list of jobs."""

    def get(self) -> None:
        """Show the frame; the filters are in its address."""
        self.show("jobs", states=[*map(str, State)])


class DeadLettersPage(Page):
    """The list of dead letters."""

    def get(self) -> None:
        """Show the frame; the filters are in its address."""
        self.show("dead_letters")


class JobPage(Page):
    """One job."""

    async def get(self, job_id: str) -> None:
        """Show the frame, if there is such a job."""
        try:
            await self.ask(("job", job_id), partial(_detail, self, job_id))
        except HTTPError as error:
            # A store that is away says nothing of the job: the script tries again.
            if error.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
        self.show("job", id=job_id)


class Document(Guarded):
    """What a page shows, as JSON."""

    def show(self, answer: Answer, **more: Any) -> None:
        """Answer with what the store says, and since when if it is away."""
        self.document(
            {**answer.value, **more, "store": answer.down, "age": round(answer.age, 1)}
        )

    def number(self, name: str, default: int, most: int) -> int:
        """A whole number from 1 on; what is more than ``most`` is that."""
        text = self.get_query_argument(name, "") or str(default)
        if not (text.isascii() and text.isdigit() and int(text[:9])):
            raise HTTPError(400, f"{name} is a whole number from 1 on, not {text!r}.")
        return min(int(text[:9]), most)

    def word(self, name: str) -> str | None:
        """A filter; None when it is not set."""
        return self.get_query_argument(name, "") or None


class JobsDocument(Document):
    """A page of the list, with the number of jobs in each state."""

    async def get(self) -> None:
        """Answer with the jobs that match, newest first."""
        wanted = self.wanted()
        answer = await self.ask((type(self), wanted), partial(self.read, wanted))
        self.show(answer)

    def wanted(self) -> Wanted:
        """The filters of the address."""
        return Wanted(
            **{name: self.word(name) for name in ("state", "task", "queue", "owner")},
            text=self.word("text"),
            after=self.word("after"),
            limit=self.number("limit", 50, MOST_ROWS),
        )

    def line(self, job: Job) -> dict[str, Any]:
        """What is shown of a job."""
        return showing.row(job)

    def read(self, wanted: Wanted) -> dict[str, Any]:
        """Read it from the store; not on Flower's loop."""
        client = self.kit.jobs
        page = search(client, wanted)
        return {
            "jobs": [self.line(job) for job in page.items],
            "next": page.next,
            "counts": {str(state): count for state, count in client.counts().items()},
        }


class DeadLettersDocument(JobsDocument):
    """A page of the dead letters."""

    def wanted(self) -> Wanted:
        """The filters of the address, and DEAD."""
        return super().wanted().dead()

    def line(self, job: Job) -> dict[str, Any]:
        """What is shown of a dead letter."""
        return showing.dead_letter(job)


class ChartsDocument(Document):
    """The charts above the list: of all jobs, whatever it is narrowed to."""

    async def get(self) -> None:
        """Answer with those for which there is something to draw."""
        self.show(await self.ask("charts", self.read, DRAWN))

    def read(self) -> dict[str, Any]:
        """Read the numbers from the store, and draw them; not on Flower's loop."""
        client = self.kit.jobs
        drawn = (
            charts.minutes(client.ended(charts.MINUTES)),
            charts.waits(client.statistics(newest=CHARTED, waiting=False).queues),
        )
        return {"charts": [chart for chart in drawn if chart]}


class JobDocument(Document):
    """One job, whole."""

    async def get(self, job_id: str) -> None:
        """Answer with all that is shown of it."""
        self.show(await self.ask(("job", job_id), partial(_detail, self, job_id)))


class FailuresDocument(Document):
    """A page of the failed items of a job."""

    async def get(self, job_id: str) -> None:
        """Answer with the items in the order they failed."""
        after, limit = self.word("after"), self.number("limit", 50, MOST_ROWS)
        if after and not (after.isascii() and after.isdigit()):
            raise HTTPError(400, f"{after!r} is no place in a list of failed items.")
        key = ("failures", job_id, after, limit)
        self.show(await self.ask(key, partial(self.read, job_id, after, limit)))

    def read(self, job_id: str, after: str | None, limit: int) -> dict[str, Any]:
        """Read it from the store; not on Flower's loop."""
        self.kit.jobs.get(job_id)
        page = self.kit.jobs.failures(job_id, after=after, limit=limit)
        return {"items": [*map(showing.failure, page.items)], "next": page.next}


class Command(Guarded):
    """Does one thing to one job, or to many."""

    async def post(self, job_id: str, name: str) -> None:
        """Do it, and answer with the job's id: after a replay that of another one."""
        given = self.given()
        done = await self.command(partial(self.act, name, job_id, given))
        self.document({"id": done})

    def given(self) -> dict[str, Any]:
        """The options in the body: ``mode`` of a replay, ``reason``."""
        if not self.request.body:
            return {}
        kind = self.request.headers.get("Content-Type", "").partition(";")[0]
        if kind.strip() != "application/json":
            raise HTTPError(415, "Options are sent as JSON, or not at all.")
        try:
            given = json.loads(self.request.body)
        except (ValueError, RecursionError):
            raise HTTPError(400, "The body is not JSON.") from None
        texts = {"mode", "reason"}
        if not isinstance(given, dict) or not all(
            isinstance(value, str) for name, value in given.items() if name in texts
        ):
            raise HTTPError(400, "The body is an object, mode and reason are texts.")
        return given

    def act(self, name: str, job_id: str, given: dict[str, Any]) -> str:
        """Carry it out; not on Flower's loop."""
        client = self.kit.jobs
        said = {"reason": given.get("reason", ""), "actor": self.actor}
        match name:
            case "cancel" | "pause":
                if not getattr(client, name)(job_id, **said):
                    raise HTTPError(
                        409, f"Job {job_id!r} cannot be told to {name} now."
                    )
            case "resume":
                client.resume(job_id, actor=said["actor"])
            case "replay":
                mode = cast("ReplayMode", given.get("mode", "resume"))
                return client.replay(job_id, mode, **said)
            case _:
                client.discard(job_id, **said)
        return job_id


class ManyCommand(Command):
    """Does one thing to each of many jobs."""

    async def post(self, name: str) -> None:  # type: ignore[override] # its own route
        """Do it, and answer with what became of each."""
        given = self.given()
        ids = given.get("ids")
        if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
            raise HTTPError(400, "ids is the list of the jobs.")
        if not 1 <= len(ids) <= MOST_ROWS:
            raise HTTPError(400, f"From 1 to {MOST_ROWS} jobs at a time.")
        done: list[str] = []
        refused: dict[str, str] = {}
        for job_id in dict.fromkeys(ids):
            try:
                await self.command(partial(self.act, name, job_id, given))
                done.append(job_id)
            except HTTPError as error:
                if error.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
                refused[job_id] = error.get_message() or ""
        self.document({"done": done, "refused": refused})


class Asset(Guarded):
    """Our scripts and styles."""

    def get(self, name: str) -> None:
        """Answer with one of them."""
        if name not in ASSETS:
            raise HTTPError(404, f"There is no {name!r}.")
        self.set_header("Content-Type", f"{ASSETS[name]}; charset=UTF-8")
        self.set_header("Cache-Control", "private, no-cache")
        self.finish(files(__package__).joinpath("assets", name).read_bytes())


def _detail(handler: Guarded, job_id: str) -> dict[str, Any]:
    client = handler.kit.jobs
    job = client.get(job_id)
    return showing.detail(
        job, client.history(job_id), arguments=handler.kit.settings.show_arguments
    )


ROUTES: tuple[tuple[str, type[Guarded], str], ...] = (
    (r"/jobs", JobsPage, "jobkit_jobs"),
    (r"/dead-letters", DeadLettersPage, "jobkit_dead_letters"),
    (r"/jobs/assets/([\w.]+)", Asset, "jobkit_asset"),
    (r"/jobs/api/jobs", JobsDocument, ""),
    (r"/jobs/api/charts", ChartsDocument, ""),
    (r"/jobs/api/dead-letters", DeadLettersDocument, ""),
    (r"/jobs/api/jobs/(.+)/failures", FailuresDocument, ""),
    (r"/jobs/api/jobs/(.+)", JobDocument, ""),
    (rf"/jobs/api/({'|'.join(COMMANDS)})", ManyCommand, ""),
    (rf"/jobs/(.+)/({'|'.join(COMMANDS)})", Command, ""),
    (r"/jobs/(.+)", JobPage, "jobkit_job"),
)
"""Where everything is, below Flower's prefix; the first that fits."""
