"""What the demo shows: live bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobkit import Job, State

STYLES = {
    State.QUEUED: "yellow",
    State.RUNNING: "cyan",
    State.RETRYING: "yellow",
    State.SUCCEEDED: "green",
    State.PARTIAL: "magenta",
    State.DEAD: "red",
}

QUIET = 1.6
"""Seconds without news of a running job after which the screen says so."""

EVERY = 2.0
"""Seconds between two plain lines."""


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage, as far as the record told of it."""

    name: str
    current: int = 0
    total: int | None = None
    begun: bool = False
    done: bool = False


class Screen:
    """Shows what the store says of one job; ``say`` adds a line of its history."""

    def __init__(self, console: Console, *, live: bool) -> None:
        self._console = console
        self._began = time.monotonic()
        self._heard = self._began
        self._printed = 0.0
        self._job: Job | None = None
        self._stages: tuple[StageView, ...] = ()
        self._live = Live(
            console=console, get_renderable=self.render, refresh_per_second=8
        )
        self._is_live = live
        self.lines: list[Text] = []

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str, style: str = "") -> None:
        """Print a line with the time since the start."""
        stamp = f"{time.monotonic() - self._began:6.1f} s  "
        line = Text.assemble((stamp, "dim"), (text, style))
        self.lines.append(line)
        self._console.print(line, soft_wrap=True)

    def show(self, job: Job) -> None:
        """Take in what the store says now."""
        now = time.monotonic()
        self._job, self._heard = job, now
        self._stages = stages_of(job, self._stages)
        if not self._is_live and (job.state.finished or now - self._printed >= EVERY):
            self._printed = now
            self.say(plain(job))

    def render(self) -> RenderableType:
        """The bars."""
        job = self._job
        if job is None:
            return Text("")
        bars = Table.grid(padding=(0, 2), expand=True)
        bars.add_column(no_wrap=True)
        bars.add_column(ratio=1)
        bars.add_column(justify="right", no_wrap=True)
        bars.add_column(justify="right", no_wrap=True, min_width=18)
        for stage in self._stages:
            bars.add_row(*_stage_row(stage))
        bars.add_row()
        bars.add_row(*_whole_row(job))
        silent = time.monotonic() - self._heard
        return Padding(
            Group(bars, Text(""), _status(job, silent), _counts(job)), (1, 2)
        )


def stages_of(job: Job, before: tuple[StageView, ...]) -> tuple[StageView, ...]:
    """The stages after this news: the record's progress tells of the current one."""
    known = {stage.name: stage for stage in before}
    progress, ended = job.progress, job.state is State.SUCCEEDED
    index = -1 if progress.stage_index is None else progress.stage_index
    stages = []
    for place, name in enumerate(job.stages):
        stage = known.get(name, StageView(name))
        if place == index:
            stage = replace(
                stage, current=progress.current, total=progress.total, begun=True
            )
        stages.append(replace(stage, done=ended or place < index))
    return tuple(stages)


def plain(job: Job) -> str:
    """The job in one line."""
    progress = job.progress
    total = "?" if progress.total is None else f"{progress.total:,}"
    parts = [
        f"{job.state:9}",
        f"{progress.stage or '-'} {progress.current:,}/{total}",
        *(text for text in (_percent(job), _pace(job)) if text),
        f"run {job.fence} on {node_of(job) or '-'}",
    ]
    return "  ".join(parts)


def node_of(job: Job) -> str:
    """The short name of the worker that a record tells of."""
    return job.worker.partition("@")[0]


def _stage_row(stage: StageView) -> tuple[RenderableType, ...]:
    bar = ProgressBar(
        total=1 if stage.done else stage.total or 1,
        completed=1 if stage.done else stage.current,
        complete_style="cyan",
        finished_style="green",
    )
    counted = "" if not stage.begun else f"{stage.current:,}"
    if stage.total is not None:
        counted += f" / {stage.total:,}"
    state = "done" if stage.done else "" if stage.begun else "waits"
    return Text(stage.name), bar, Text(counted), Text(state, style="dim")


def _whole_row(job: Job) -> tuple[RenderableType, ...]:
    bar = ProgressBar(
        total=100,
        completed=job.progress.percent or 0,
        complete_style="bold magenta",
        finished_style="bold green",
    )
    name, percent = Text("the job", style="bold"), Text(_percent(job), style="bold")
    return name, bar, percent, Text(_pace(job))


def _percent(job: Job) -> str:
    percent = job.progress.percent
    return "" if percent is None else f"{percent:.1f} %"


def _pace(job: Job) -> str:
    progress = job.progress
    if progress.rate is None or job.state is not State.RUNNING:
        return ""
    if progress.eta_seconds is None:
        return f"{progress.rate:,.0f}/s"
    return f"{progress.rate:,.0f}/s  {progress.eta_seconds:.0f} s left"


def _status(job: Job, silent: float) -> Text:
    text = Text()
    text.append(f" {job.state} ", style=f"reverse {STYLES.get(job.state, '')}")
    if job.state is State.RUNNING:
        text.append(f"  run {job.fence} on {node_of(job)}")
        if silent > QUIET:
            told = f"  no sign of life for {silent:.1f} s"
            text.append(told, style="bold yellow")
    return text


def _counts(job: Job) -> Text:
    counts = {
        "errors": job.attempts,
        "rate limits": job.rate_limited,
        "recoveries": job.recoveries,
        "interruptions": job.interruptions,
    }
    told = " · ".join(f"{name} {number}" for name, number in counts.items())
    return Text(f" {told}", style="dim")
