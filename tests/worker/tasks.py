"""The tasks that the tests run; whatever they do, they write down."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from celery import Celery
from celery.exceptions import Ignore, Reject
from typing_extensions import override

from jobkit import (
    JobTask,
    Limit,
    Permanent,
    ProgressTask,
    RateLimit,
    RateLimited,
    SavedStage,
    Stage,
)
from tests.worker.journal import Journal

WALK_STAGES = ("count", Stage("import", weight=8), "end")


def register(app: Celery, stages: Iterable[str]) -> None:
    """Give an app all the tasks; ``stages`` are those of ``phases``."""

    def task(name: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        options = {"base": ProgressTask, "bind": True, "shared": False, **options}
        return app.task(name=f"t.{name}", **options)

    task("walk", stages=WALK_STAGES)(walk)
    task("stumble", stages=WALK_STAGES)(stumble)
    limit = {"max_failures": 100, "max_consecutive": 20, "item_base": 0.01}
    task("sift", stages=WALK_STAGES, skip_policy=limit)(sift)
    task("gather", stages=WALK_STAGES, skip_policy=limit)(gather)
    strict = {"verdicts": {ValueError: "permanent"}}
    task("strict", stages=WALK_STAGES, retry_policy=strict)(stumble)
    task("phases", base=Phased, stages=list(map(_stage, stages)))(phases)
    task("add", base=JobTask)(add)
    task("patient", base=JobTask)(patient)
    task("quick", base=JobTask)(quick)
    task("gated", base=JobTask)(gated)
    app.task(name="t.plain", shared=False, ignore_result=True)(plain)
    task("total")(total)
    task("member")(member)
    task("blame")(blame)
    task("doom")(doom)
    task("wait_long")(wait_long)
    late = {"acks_late": True, "reject_on_worker_lost": True, "base": None}
    task("plain_doom", **late)(plain_doom)
    task("again", max_retries=3)(again)
    task("again_with_more")(again_with_more)
    wait = {"countdown": 0.1, "max_retries": 2}
    task("automatic", autoretry_for=(KeyError,), retry_kwargs=wait)(automatic)
    task("end_as")(end_as)
    _register_limited(task)
    _register_unique(task)


def _register_limited(task: Callable[..., Callable[[Callable[..., Any]], Any]]) -> None:
    once_more = {"unknown": 1, "base": 0}
    task("soft", soft_time_limit=0.5, retry_policy=once_more)(wait_long)
    task("hard", time_limit=1)(wait_long)
    register_limited(task)


def register_limited(task: Callable[..., Any]) -> None:
    """Give an app the tasks with limits."""
    shop = Limit("shop:{shop}", 1)
    task("sell", limits=[shop])(sell)
    task("walk_alone", stages=WALK_STAGES, limits=[shop])(walk_alone)
    task("stroll_limited", stages=WALK_STAGES, limits=[shop])(stroll)
    pace = RateLimit("strolls:{shop}", 5, 5.0)
    task("stroll_paced", stages=WALK_STAGES, limits=[pace])(stroll)
    task("fail_once", limits=[shop])(fail_once)
    task("sell_hard", limits=[shop], time_limit=1)(sell)
    task("sell_once", limits=[shop], retry_policy={"crashes": 1})(sell)
    task("sell_wide", limits=[Limit("wide:{shop}", 4)])(sell)
    task("sell_both", limits=[shop, Limit("api", 2)])(sell)
    task("call", limits=[RateLimit("calls:{shop}", 10, 1.0)])(sell)
    task("scold", limits=[RateLimit("calls:{shop}", 10, 1.0)])(scold)


def _register_unique(task: Callable[..., Callable[[Callable[..., Any]], Any]]) -> None:
    task("sole", unique_on=["shop"])(sole)
    shop = Limit("sole:{shop}", 1)
    task("sole_limited", unique_on=["shop"], limits=[shop])(sole)
    task("stroll_unique", stages=WALK_STAGES, unique_on=["shop"])(stroll)
    task("next_up", unique_on=["shop"], unique_until="start")(sole)
    task("newest", base=Told, unique_on=["shop"], on_duplicate="replace_queued")(sole)
    task("raising", unique_on=["shop"], on_duplicate="raise")(sole)


def _stage(text: str) -> Stage:
    name, _, was = text.partition(" was ")
    return Stage(name, was=was or ())


class Phased(ProgressTask):
    """Goes on with the import of older code, from where the setup says."""

    abstract = True

    @override
    def migrate(self, saved: dict[str, SavedStage]) -> Mapping[str, SavedStage] | None:
        place = self.app.conf.get("migrate_to")
        if place is None:
            return None
        return {"import": replace(saved["import"], current=place, cursor=place)}


def journal(task: JobTask) -> Journal:
    """The journal that the app of a task was set up with."""
    return Journal(Path(task.app.conf["journal"]))


def note(task: JobTask, item: object) -> None:
    """Write down that the running job did ``item``."""
    journal(task).write(task.job.id, task.job.fence, item)


def plain() -> None:
    """A task that is no job."""


def quick(task: JobTask) -> None:
    """A job that takes hardly any time."""
    note(task, "start")
    time.sleep(0.005)


def gated(task: JobTask) -> None:
    """A job that goes on when the test lets it: when there is a file of its name."""
    note(task, "start")
    gate = Path(task.app.conf["journal"]).with_name(f"gate-{task.job.id}")
    while not gate.exists() and not task.job.should_stop():
        time.sleep(0.005)


def patient(task: JobTask, items: int) -> None:
    """A loop of its own, which looks whether it has to stop."""
    for item in range(1, items + 1):
        if task.job.should_stop():
            return
        note(task, item)
        time.sleep(0.02)


def numbers(items: int) -> Callable[[int | None], Iterable[int]]:
    """A cursor source of the numbers from 1 to ``items``."""
    return lambda done: range((done or 0) + 1, items + 1)


def _pass(_: int) -> None:
    pass


def _go(
    task: ProgressTask,
    items: int,
    pause: float,
    meet: Callable[[int], None] = _pass,
    name: str = "import",
) -> None:
    with task.stage(name, total=items) as stage:
        for item in stage.iterate(numbers(items), cursor=int):
            note(task, item)
            meet(item)
            time.sleep(pause)


def walk(self: ProgressTask, items: int, pause: float = 0.01) -> int:
    """Three stages, of which the second goes through numbered items."""
    counted = self.step("count", lambda: items)
    _go(self, counted, pause)
    return self.step("end", lambda: counted)


def stroll(self: ProgressTask, shop: str, items: int, pause: float) -> str:
    """Walks through numbered items of a shop."""
    _go(self, items, pause)
    return shop


def _crash() -> NoReturn:
    os._exit(1)


def _kill() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a killed process goes on")


def _permanent() -> NoReturn:
    raise Permanent("no such order")


def _connection() -> NoReturn:
    raise ConnectionError("reset by peer")


def _limited() -> NoReturn:
    raise RateLimited("slow down", retry_after=1)


def _limited_long() -> NoReturn:
    raise RateLimited("come back in two minutes", retry_after=120)


def _value() -> NoReturn:
    raise ValueError("what is this")


def _memory() -> NoReturn:
    raise MemoryError


def _deaf() -> None:
    """One long item that no signal ends, as a call into C."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    time.sleep(300)


TROUBLES: dict[str, Callable[[], None]] = {
    "crash": _crash,
    "kill": _kill,
    "permanent": _permanent,
    "connection": _connection,
    "limited": _limited,
    "limited_long": _limited_long,
    "value": _value,
    "memory": _memory,
    "exit": sys.exit,
    "deaf": _deaf,
}


def stumble(
    self: ProgressTask,
    items: int,
    at: list[int],
    how: str,
    times: int = 1,
    pause: float = 0.0,
) -> int:
    """Like ``walk``, but the items ``at`` meet trouble the first ``times`` times."""

    def meet(item: int) -> None:
        if item in at and journal(self).items(self.job.id).count(item) <= times:
            TROUBLES[how]()

    _go(self, items, pause, meet)
    return items


def sift(
    self: ProgressTask,
    items: int,
    bad: list[int],
    pause: float = 0.001,
    mended: str = "",
) -> int:
    """Handles numbered items, of which some are bad until a file is there."""

    def handle(item: int) -> None:
        if item in bad and not (mended and Path(mended).exists()):
            raise LookupError(f"no order {item}")
        note(self, item)
        time.sleep(pause)

    with self.stage("import", total=items) as stage:
        stage.each(numbers(items), handler=handle, cursor=int)
    return self.step("end", lambda: items)


def gather(
    self: ProgressTask,
    items: int,
    bad: list[int],
    threads: int = 4,
    pause: float = 0.02,
) -> int:
    """Handles numbered items by threads; some are bad, and some take longer."""

    def handle(item: int) -> None:
        time.sleep(pause * (1 + item % 3) / 2)
        stage.message(self.job.item_key(item))
        if item in bad:
            raise LookupError(f"no order {item}")
        note(self, item)

    with self.stage("import", total=items) as stage:
        stage.each(numbers(items), handler=handle, cursor=int, threads=threads)
    return self.step("end", lambda: items)


def phases(self: ProgressTask, items: int, pause: float = 0.01) -> list[str]:
    """Whatever stages the setup names; the one that is or was ``import`` has items."""
    for stage in self.plan.stages:
        if "import" in (stage.name, *stage.was):
            _go(self, items, pause, name=stage.name)
        else:
            self.step(stage.name, note, self, stage.name)
    return list(self.plan.names)


def add(self: JobTask, x: int, y: int) -> int:
    """A short job."""
    note(self, f"{x}+{y}")
    return x + y


def total(self: ProgressTask, terms: list[int]) -> int:
    """The callback of chords."""
    note(self, f"total-{len(terms)}")
    return sum(terms)


def member(self: ProgressTask, number: int, victims: Iterable[int] = ()) -> int:
    """A part of a chord; victims are killed the first time."""
    first = not journal(self).entries(self.job.id)
    note(self, number)
    if number in victims and first:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def blame(self: ProgressTask, failed: str) -> None:
    """An errback of the kind that is a message of its own."""
    note(self, f"blame-{failed}")


def doom(self: ProgressTask) -> None:
    """Poison: it takes its process along, every time."""
    note(self, "doom")
    os._exit(1)


def plain_doom(self: Any) -> None:
    """Poison that is no job: Celery alone brings it back."""
    Journal(Path(self.app.conf["journal"])).write(self.request.id, 0, "doom")
    os._exit(1)


def wait_long(self: ProgressTask, seconds: float = 30.0) -> None:
    """Waits in one piece, and sees nothing of jobkit meanwhile."""
    note(self, "wait")
    time.sleep(seconds)


def again(self: ProgressTask, times: int) -> str:
    """Asks for a retry itself, a number of times."""
    note(self, f"try-{self.request.retries}")
    if self.request.retries < times:
        raise self.retry(countdown=0.2)
    return "done"


def again_with_more(self: ProgressTask, sofar: list[int]) -> list[int]:
    """Asks for a retry with other arguments."""
    note(self, f"got-{len(sofar)}")
    if len(sofar) < 3:
        raise self.retry(args=([*sofar, len(sofar)],), countdown=0)
    return sofar


def automatic(self: ProgressTask, times: int) -> str:
    """Leaves its retries to Celery's ``autoretry_for``."""
    note(self, f"try-{self.request.retries}")
    if self.request.retries < times:
        raise KeyError("not yet")
    return "done"


class Told(ProgressTask):
    """Writes down what Celery tells a task after its end."""

    abstract = True

    @override
    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        journal(self).write(task_id, 1, f"after-{args[1]}")


def sole(self: ProgressTask, shop: str, items: int = 1, how: str = "") -> str:
    """Goes through numbered items of a shop, and meets trouble when it is through."""
    with self.stage("run", total=items) as stage:
        for item in stage.iterate(numbers(items), cursor=int):
            note(self, item)
            time.sleep(0.02)
    if how == "retry" and self.request.retries == 0:
        raise self.retry(countdown=1)
    if how in TROUBLES:
        TROUBLES[how]()
    note(self, f"{shop}-{items}")
    return f"{shop}-{items}"


def end_as(self: ProgressTask, how: str) -> str:
    """Ends in one of the ways that Celery knows besides errors."""
    note(self, how)
    if how == "ignore":
        raise Ignore
    if how == "reject":
        raise Reject("not wanted", requeue=False)
    if how == "requeue late":
        time.sleep(2)  # its message is acknowledged meanwhile
    if how.startswith("requeue") and self.job.fence == 1:
        raise Reject("not now", requeue=True)
    return how


def sell(self: ProgressTask, shop: str, seconds: float = 0.0) -> None:
    """Does something for one shop, and writes down from when to when."""
    note(self, f"{shop}:begin")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if self.job.should_stop():
            return
        time.sleep(0.02)
    note(self, f"{shop}:end")


def scold(self: ProgressTask, shop: str, seconds: float) -> None:
    """Is told by a service, the first time, that all are to be slower."""
    note(self, f"{shop}:begin")
    if len(journal(self).entries(self.job.id)) == 1:
        raise RateLimited(retry_after=seconds)


def walk_alone(self: ProgressTask, shop: str, items: int) -> None:
    """Walks for one shop."""
    _go(self, items, 0.02, lambda _: note(self, shop))


def fail_once(self: ProgressTask, shop: str, seconds: float) -> None:
    """Asks for a retry the first time."""
    note(self, f"{shop}:begin")
    if self.request.retries == 0:
        raise self.retry(countdown=seconds)
