"""The commands that tell how long jobs take, and where their work belongs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from jobkit import State, clock
from jobkit.commands import jobs as commands
from jobkit.statistics import PAGE, in_words
from tests.servers import ValkeyServer
from tests.store.lives import failure, kept, new_job, rewrite, snapshot, started
from tests.surfaces.conftest import MakeFleet, here, jobs, told
from tests.waiting import wait_until
from tests.worker.fleet import Fleet

ENOUGH = 20


@pytest.fixture
def fleet(make_fleet: MakeFleet) -> Fleet:
    return make_fleet()


def advice(fleet: Fleet, *options: str) -> dict[str, str]:
    found = told(here(commands, fleet, "advise", "--json", *options))["advice"]
    return {one["task"]: one["what"] for one in found}


def finish(
    fleet: Fleet,
    task: str,
    seconds: float = 0.1,
    *,
    waited: float = 0.0,
    queue: str = "",
    count: int = ENOUGH,
    stages: Iterable[str] = (),
) -> None:
    """Jobs that succeeded, after they waited and ran for so long."""
    for number in range(count):
        job = new_job(f"{task} {number}", task, queue or fleet.setup.name)
        fleet.store.enqueue(replace(job, stages=tuple(stages)), "token", 300)
        fence = started(fleet.store, job.id).fence
        fleet.store.succeed(job.id, fence, snapshot(0))
        end = kept(fleet.store, job.id).finished_at
        assert end
        begun = end - timedelta(seconds=seconds)
        created = begun - timedelta(seconds=waited)
        rewrite(
            fleet.store,
            job.id,
            started_at=str(clock.milliseconds(begun)),
            created_at=str(clock.milliseconds(created)),
        )


# -- with a worker


def test_what_a_worker_did_is_told_and_advised_on(fleet: Fleet) -> None:
    short = [fleet.send("add", n, 1).id for n in range(ENOUGH)]
    partial = [fleet.send("sift", 3, [2]).id for _ in range(ENOUGH)]
    died = fleet.send("end_as", "reject").id
    fleet.worker("w", concurrency=2).start()
    for job_id in (*short, *partial, died):
        fleet.wait_for(job_id, timeout=60)
    finish(fleet, "slow", 11)

    seen = told(jobs(fleet, "stats", "--json"))

    tasks = {one["task"]: one for one in seen["tasks"]}
    assert seen["jobs"] == 3 * ENOUGH + 1
    add, sift, slow = (tasks[name] for name in ("t.add", "t.sift", "slow"))
    assert (add["count"], add["failed"], add["partial"]) == (ENOUGH, 0, 0)
    assert 0 <= add["p50"] <= add["p95"] < 5
    assert (sift["count"], sift["partial"]) == (ENOUGH, 1)
    assert (sift["staged"], sift["saved"]) == (True, True)
    assert (slow["p50"], slow["p95"]) == (11, 11)
    assert tasks["t.end_as"]["failed"] == 1
    (queue,) = seen["queues"]
    assert (queue["queue"], queue["count"]) == (fleet.setup.name, 3 * ENOUGH + 1)
    # The last had to wait for those before it.
    assert queue["p95"] > 0
    assert told(jobs(fleet, "advise", "--json"))["advice"] == [
        {
            "task": "slow",
            "what": "background",
            "why": "5 % take 11 s or more.",
        },
        {
            "task": "t.add",
            "what": "inline would do",
            "why": f"95 % take {in_words(add['p95'])} or less, no stages, "
            "never PARTIAL.",
        },
        {
            "task": "t.end_as",
            "what": "too few",
            "why": "1 of the 20 ended jobs it takes.",
        },
        {
            "task": "t.sift",
            "what": "background",
            "why": "100 % ended as PARTIAL; it has stages to show.",
        },
    ]


@pytest.mark.long
@pytest.mark.timeout(120)
def test_jobs_that_took_long_belong_into_the_background(fleet: Fleet) -> None:
    slow = [fleet.send("wait_long", 10.5).id for _ in range(ENOUGH)]
    fleet.worker("w", "-P", "threads", concurrency=ENOUGH).start()
    for job_id in slow:
        fleet.wait_for(job_id, timeout=60)

    assert advice(fleet) == {"t.wait_long": "background"}


# -- tables


def test_statistics_are_tables(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(
        jobkit_queues={"high": {"target": 30}, "low": {"weight": 1}},
        jobkit_routes={"*": "low"},
    )
    finish(fleet, "mail", 0.25, waited=20, queue="high", count=3)
    finish(fleet, "bill", 4, waited=45, queue="high", count=1)
    finish(fleet, "tidy", 90, waited=1, queue="low", count=1)
    fleet.store.enqueue(new_job("waits", "mail", "low"), "token", 300)

    done = jobs(fleet, "stats")

    assert (done.returncode, done.stderr) == (0, "")
    lines = [re.sub(" {2,}", " | ", line.strip()) for line in done.stdout.splitlines()]
    assert lines[:5] == [
        "task | jobs | p50 | p95 | failed | partial",
        "bill | 1 | 4 s | 4 s | 0 % | 0 %",
        "mail | 3 | 250 ms | 250 ms | 0 % | 0 %",
        "tidy | 1 | 90 s | 90 s | 0 % | 0 %",
        "",
    ]
    assert lines[5] == (
        "queue | jobs | p50 wait | p95 wait | target | late | waiting | oldest"
    )
    assert lines[6] == "high | 4 | 20 s | 45 s | 30 s | 25 % | 0 | -"
    assert lines[7].startswith("low | 1 | 1 s | 1 s | - | - | 1 | ")
    assert re.fullmatch(r"From 5 jobs that ended since [-\d]+ [:\d]+\.", lines[8])


def test_without_rich_they_are_plain_lines(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobkit.commands.terminal.Console", None)
    finish(fleet, "mail", 0.25, count=1)
    finish(fleet, "bill\x1b[31m\n", 61, stages=["all"])

    bill, mail, _, queue, summary = here(commands, fleet, "stats").stdout.splitlines()

    assert bill == "bill\ufffd[31m\t20\t61 s\t61 s\t0 %\t0 %"
    assert mail == "mail\t1\t250 ms\t250 ms\t0 %\t0 %"
    assert queue.startswith(f"{fleet.setup.name}\t21\t0 ms\t0 ms\t-\t-\t0\t-")
    assert summary.startswith("From 21 jobs that ended since ")
    first, second, _ = here(commands, fleet, "advise").stdout.splitlines()
    assert first == (
        "bill\ufffd[31m\tbackground, checkpoints\t5 % take 61 s or more; it has "
        "stages to show; it saves checkpoints."
    )
    assert second == "mail\ttoo few\t1 of the 20 ended jobs it takes."


def test_advice_is_a_table_whose_reasons_are_whole(fleet: Fleet) -> None:
    finish(fleet, "mail", 0.25)

    header, line, summary = jobs(fleet, "advise").stdout.splitlines()

    assert header.split() == ["task", "advice", "why"]
    assert line.split("  ")[-1].strip() == (
        "95 % take 250 ms or less, no stages, never PARTIAL."
    )
    assert "From 20 jobs" in summary


def test_of_an_empty_store_both_say_so(fleet: Fleet) -> None:
    assert here(commands, fleet, "stats").stdout == "No job has ended yet.\n"
    assert here(commands, fleet, "advise").stdout == "No job has ended yet.\n"
    assert told(here(commands, fleet, "stats", "--json")) == {
        "tasks": [],
        "queues": [],
        "jobs": 0,
        "since": None,
    }
    assert advice(fleet) == {}


def test_one_task_and_fewer_jobs_can_be_looked_at(fleet: Fleet) -> None:
    finish(fleet, "mail", 0.25)
    time.sleep(0.005)  # ends are told apart by milliseconds
    finish(fleet, "bill", 0.5)

    assert advice(fleet, "--task", "mail") == {"mail": "inline would do"}
    assert advice(fleet, "--jobs", "20") == {"bill": "inline would do"}
    assert here(commands, fleet, "stats", "--jobs", "0").returncode == 2


@pytest.mark.parametrize("command", ["stats", "advise"])
def test_a_store_that_is_away_is_an_error_in_a_line(
    make_fleet: MakeFleet, command: str
) -> None:
    done = jobs(make_fleet(store="redis://127.0.0.1:1/0"), command)

    assert done.returncode == 1
    assert done.stderr.startswith("Error: The job store at redis://127.0.0.1:1/0 ")
    assert "Traceback" not in done.stderr


# -- at scale


@pytest.mark.long
@pytest.mark.timeout(600)
def test_of_very_many_jobs_the_newest_are_read_in_two_seconds(
    fleet: Fleet, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ = valkey
    store = fleet.store
    for number in range(100_000):
        job = new_job(f"job-{number:06}", f"task {number % 7}", fleet.setup.name)
        store.enqueue(job, "token", 300)
        fence = started(store, job.id).fence
        if number % 10:
            store.succeed(job.id, fence, snapshot(5))
        else:
            store.bury(job.id, fence, failure(), "permanent")
    assert store.counts()[State.DEAD] == 10_000
    read, list_ = list[int](), store.list

    def counting(**options: Any) -> Any:
        page = list_(**options)
        read.append(len(page.items))
        return page

    monkeypatch.setattr(store, "list", counting)
    begun = clock.monotonic()
    found = advice(fleet)
    took = clock.monotonic() - begun
    seen = told(here(commands, fleet, "stats", "--json"))

    print(f"{took:.2f} s for {sum(read) // 2} records")  # noqa: T201
    assert set(found) == {f"task {n}" for n in range(7)}
    assert took < 2
    # Of each end a page may have been read in vain.
    assert sum(read) // 2 <= 2_000 + 2 * PAGE
    assert (seen["jobs"], sum(one["count"] for one in seen["tasks"])) == (2_000, 2_000)
    assert wait_until(lambda: jobs(fleet, "advise").returncode == 0, "as a command")
