"""The commands by which people look at jobs, and let them stop and go on."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobkit import State
from jobkit.commands import jobs as commands
from jobkit.commands import live, main
from jobkit.job import Job, Progress
from jobkit.store.slots import Claim
from jobkit.store.values import Snapshot
from tests.servers import ValkeyServer
from tests.surfaces.conftest import Done, MakeFleet, here, jobs, refused, told
from tests.waiting import wait_until
from tests.worker.fleet import TOP, Fleet
from tests.worker.promises import backend_writes_here
from tests.worker.setup import VARIABLE

pytestmark = backend_writes_here

ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")

EVIL = "a\x1b[31m[b]red[/b]\n<b>"


@pytest.fixture
def fleet(make_fleet: MakeFleet) -> Fleet:
    return make_fleet()


def do(fleet: Fleet, *arguments: str) -> Done:
    """Run one of the commands in this process, as Celery does."""
    return here(commands, fleet, *arguments)


def alone(fleet: Fleet, *arguments: str, **env: str) -> Done:
    """Run one of the commands for the store alone."""
    where = ("--store", fleet.setup.store, "--prefix", fleet.setup.name)
    done = CliRunner().invoke(main, (*where, *arguments), env=env)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess([], done.exit_code, done.stdout, done.stderr)


def begun(fleet: Fleet, percent: float | None = 41.0) -> str:
    """A job that runs, as far as the store knows; its id."""
    job_id = fleet.send("walk", 50).id
    assert fleet.store.begin(job_id, "token", "w@test/1", 300).job
    seen = Progress(
        *(412, 1000, percent, 10.0, 59.0, EVIL), stage="import", ok=400, failed=12
    )
    fleet.store.save(job_id, 1, 1, Snapshot(412, "", seen), 300)
    return job_id


# -- seeing


def test_jobs_are_listed_newest_first(fleet: Fleet) -> None:
    first, second = begun(fleet), fleet.send("add", 1, 2).id

    header, *lines, summary = do(fleet, "list").stdout.splitlines()

    assert header.split()[:4] == ["id", "task", "state", "progress"]
    assert [line.split()[:3] for line in lines] == [
        [second, "t.add", "QUEUED"],
        [first, "t.walk", "RUNNING"],
    ]
    assert "import, 412 of 1,000, 41 %" in lines[1]
    assert "59 s" in lines[1]
    assert summary == "2 jobs."


def test_jobs_are_chosen_and_listed_page_by_page(fleet: Fleet) -> None:
    running = begun(fleet)
    ids = [fleet.send("add", 1, 2).id for _ in range(3)]

    def found(*options: str) -> list[str]:
        page = told(do(fleet, "list", "--json", *options))
        return [job["id"] for job in page["items"]]

    assert found("--state", "running") == [running]
    assert found("--state", "queued", "--state", "RUNNING") == [*ids[::-1], running]
    assert found("--task", "t.add", "--since", "1h") == ids[::-1]
    assert found("--until", "1h") == []
    first = told(do(fleet, "list", "--json", "--limit", "2"))
    assert len(first["items"]) == 2
    rest = found("--after", first["next"])
    assert sorted([job["id"] for job in first["items"]] + rest) == sorted(
        [running, *ids]
    )
    assert "More: --after " in do(fleet, "list", "--limit", "2").stdout
    (job,) = told(do(fleet, "list", "--json", "--state", "RUNNING"))["items"]
    assert job["progress"]["percent"] == 41.0


def test_several_states_are_listed_page_by_page(fleet: Fleet) -> None:
    ids = [fleet.send("add", 1, 2).id for _ in range(3)]
    wanted = ("list", "--json", "--state", "RUNNING", "--state", "QUEUED")
    expected, after, seen = [begun(fleet), *ids[::-1]], "", []
    for _ in range(8):
        page = told(do(fleet, *wanted, "--limit", "2", "--after", after))
        seen += [job["id"] for job in page["items"]]
        if not (after := page["next"]):
            break
        assert len(page["items"]) == 2

    assert seen == expected
    other = do(fleet, "list", "--state", "DEAD", "--state", "PAUSED", "--after", "x:y")
    assert "a list of other states" in refused(other, 2)


def test_a_list_is_full_although_pages_of_the_store_are_short(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobkit.store.letters.LIST_BUDGET", 2)
    wanted = [fleet.send("add", 1, 2).id for _ in range(2)]
    for _ in range(5):
        fleet.send("walk", 1)
    chosen = ("--state", "QUEUED", "--task", "t.add")
    assert fleet.jobs.list(state="QUEUED", task="t.add").items == ()

    page = told(do(fleet, "list", "--json", *chosen))

    assert [job["id"] for job in page["items"]] == wanted[::-1]
    assert page["next"] is None


@pytest.mark.parametrize(
    "options",
    [
        ["--state", "LOST"],
        ["--since", "soon"],
        ["--since", "9" * 20 + "d"],
        ["--limit", "0"],
    ],
)
def test_a_wrong_choice_is_a_wrong_call(fleet: Fleet, options: list[str]) -> None:
    assert options[0] in refused(do(fleet, "list", *options), 2)


def test_a_job_is_shown_with_all_that_is_known(fleet: Fleet) -> None:
    job_id = begun(fleet)

    shown = do(fleet, "show", job_id).stdout
    document = told(do(fleet, "show", job_id, "--json"))

    assert f"id:            {job_id}\n" in shown
    assert "t.walk  (50,) {}" in shown
    assert "says:          a\ufffd[31m[b]red[/b]" in shown
    assert "\x1b" not in shown
    stages = [line.split() for line in shown.splitlines() if "import" in line]
    assert ["import", "current", "412", "of", "1,000", "400", "12", "0"] in stages
    assert [event["name"] for event in document["history"]][:2] == ["queued", "started"]
    assert "No job 'nobody'" in refused(do(fleet, "show", "nobody"))


# -- acting


def test_jobs_are_cancelled_with_a_reason_and_an_actor(fleet: Fleet) -> None:
    first, second = fleet.send("add", 1, 2).id, begun(fleet)

    done = do(fleet, "cancel", first, second, "--reason", "no more", "--actor", "eve")

    asked = "is asked: it stops at its next item"
    assert done.stdout == f"{first} cancelled.\n{second} {asked}.\n"
    assert (done.returncode, done.stderr) == (0, "")
    assert fleet.jobs.get(first).state is State.CANCELLED
    request = fleet.jobs.get(second).request
    assert request
    assert (request.kind, request.actor, request.reason) == ("cancel", "eve", "no more")


def test_what_cannot_be_cancelled_is_told_and_the_others_are(fleet: Fleet) -> None:
    first, second = begun(fleet), fleet.send("add", 1, 2).id
    fleet.store.succeed(first, 1, Snapshot(412, "", Progress()))

    done = do(fleet, "cancel", first, "nobody", second, "--json")

    told_ = json.loads(done.stdout)
    assert (done.returncode, told_["cancelled"], told_["asked"]) == (1, [second], [])
    assert [one["id"] for one in told_["refused"]] == [first, "nobody"]
    assert "had ended before: it is SUCCEEDED" in told_["refused"][0]["why"]
    assert "had ended before" in refused(do(fleet, "pause", first))


def test_a_job_is_paused_and_resumed(fleet: Fleet) -> None:
    job_id = fleet.send("add", 1, 2).id
    running = begun(fleet)
    assert told(do(fleet, "pause", running, "--json"))["asked"] == [running]
    assert do(fleet, "pause", job_id).stdout == f"{job_id} paused.\n"
    assert fleet.jobs.get(job_id).state is State.PAUSED
    assert do(fleet, "resume", job_id).stdout == f"{job_id} resumed.\n"
    do(fleet, "cancel", job_id)
    assert "not paused" in refused(do(fleet, "resume", job_id))


def test_a_limit_is_seen_changed_and_given_back(fleet: Fleet) -> None:
    fleet.store.acquire("a", 1, (Claim("shop:berlin", 1),), 30, 30)

    assert "1 limit." in do(fleet, "limit", "list").stdout
    done = do(fleet, "limit", "set", "shop:berlin", "3")
    assert done.stdout == "shop:berlin is limited to 3.\n"
    (seen,) = told(do(fleet, "limit", "list", "--json"))["items"]
    assert (seen["n"], seen["changed"], seen["holders"]) == (3, True, ["a"])
    do(fleet, "limit", "reset", "shop:berlin")
    (seen,) = told(do(fleet, "limit", "list", "--json"))["items"]
    assert (seen["n"], seen["changed"]) == (1, False)
    assert "from 1" in refused(do(fleet, "limit", "set", "shop:berlin", "0"))


# -- a store alone


def test_a_store_alone_is_enough_to_look_and_to_act(fleet: Fleet) -> None:
    job_id = fleet.send("add", 1, 2).id
    assert job_id in alone(fleet, "jobs", "list").stdout
    assert alone(fleet, "jobs", "cancel", job_id).returncode == 0
    assert alone(fleet, "dlq", "list").stdout == "no dead letters.\n"
    assert told(alone(fleet, "jobs", "stats", "--json"))["tasks"] == []


@pytest.mark.parametrize("command", ["doctor", "reconcile", "routes"])
def test_what_needs_the_app_says_so(fleet: Fleet, command: str) -> None:
    said = refused(alone(fleet, "jobs", command), 2)
    assert f"celery -A proj jobs {command}" in said


def test_many_dead_letters_want_the_app_but_may_be_counted_without(
    fleet: Fleet,
) -> None:
    for command in ("replay", "discard"):
        many = ("dlq", command, "--all", "--everything")
        said = refused(alone(fleet, *many, "--yes"), 2)
        assert f"celery -A proj dlq {command}" in said
        assert alone(fleet, *many, "--dry-run").stdout == "no dead letters.\n"


@pytest.mark.parametrize("value", ["1", "yep", "0"])
def test_colours_are_left_out_where_no_color_is_set(fleet: Fleet, value: str) -> None:
    assert alone(fleet, "jobs", "list", NO_COLOR=value).stdout == "no jobs.\n"


def test_the_store_may_be_named_by_the_environment(fleet: Fleet) -> None:
    env = {"JOBKIT_STORE": fleet.setup.store}
    done = CliRunner().invoke(main, ["jobs", "list"], env=env)
    assert (done.exit_code, done.stderr) == (0, "")
    missing = CliRunner().invoke(main, ["jobs", "list"], env={"JOBKIT_STORE": None})
    assert (missing.exit_code, "--store URL" in missing.stderr) == (2, True)
    assert CliRunner().invoke(main, ["jobs", "list", "--help"]).exit_code == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://:secret@127.0.0.1:1/0", "cannot be reached"),
        ("mysql://:secret@db/0", "mysql"),
    ],
)
def test_a_store_that_is_not_there_is_an_error_in_a_line(url: str, said: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("jobkit"), "--store", url, "jobs", "top"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert said in done.stderr
    assert "secret" not in done.stderr


def completed(words: str, **env: str) -> list[str]:
    """What a shell is offered for the last of some words."""
    done = subprocess.run(
        [Path(sys.executable).with_name("jobkit")],
        env={
            **os.environ,
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
            "_JOBKIT_COMPLETE": "bash_complete",
            **env,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line.removeprefix("plain,") for line in done.stdout.split()]


def test_a_shell_completes_states() -> None:
    offered = completed("jobkit jobs list --state S")
    assert [word.upper() for word in offered] == ["SCHEDULED", "SUCCEEDED"]


@pytest.mark.parametrize("command", ["jobs list", "dlq list"])
def test_a_shell_completes_queues_as_long_as_the_store_is_there(
    fleet: Fleet, command: str
) -> None:
    fleet.send("add", 1, 2)
    words = f"jobkit --prefix {fleet.setup.name} {command} --queue fl"
    assert completed(words, JOBKIT_STORE=fleet.setup.store) == [fleet.setup.name]
    assert completed(words, JOBKIT_STORE="redis://127.0.0.1:1/0") == []
    assert completed(words, JOBKIT_STORE="nonsense") == []
    assert completed(words) == []


# -- watching


@pytest.mark.parametrize(
    ("task", "arguments", "code"),
    [
        ("walk", (30,), 0),
        ("strict", (3, [1], "value"), 1),
        ("sift", (5, [2]), 3),
    ],
)
def test_a_watch_ends_with_the_job_and_tells_how(
    fleet: Fleet, task: str, arguments: tuple[Any, ...], code: int
) -> None:
    job_id = fleet.send(task, *arguments).id
    fleet.start("a")

    done = jobs(fleet, "watch", job_id, "--interval", "0.1")

    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (code, "")
    assert all(line.startswith(job_id) for line in lines)
    assert str(fleet.jobs.get(job_id).state) in lines[-1]
    assert len(lines) == len(set(lines))


def test_a_watch_ends_with_1_when_somebody_cancels(fleet: Fleet) -> None:
    fleet.start("a")
    first, second = fleet.send("walk", 3000, 0.02).id, fleet.send("add", 1, 2).id
    with piped(fleet, "watch", first, "--interval", "0.1") as (process, read):
        wait_until(lambda: "RUNNING  import" in read(), "it tells of the run")
        assert told(do(fleet, "cancel", first, second, "--json")) == {
            "cancelled": [second],
            "asked": [first],
            "refused": [],
        }
        assert process.wait(timeout=20) == 1
        assert "CANCELLED" in read().splitlines()[-1]


def test_a_watch_tells_programs_of_each_change(fleet: Fleet) -> None:
    job_id = fleet.send("walk", 30).id
    fleet.start("a")

    done = jobs(fleet, "watch", job_id, "--interval", "0.1", "--json")

    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert {row["id"] for row in rows} == {job_id}
    assert (rows[-1]["state"], rows[-1]["progress"]["percent"]) == ("SUCCEEDED", 100.0)


def test_a_watch_waits_for_a_store_that_restarts(
    make_fleet: MakeFleet, valkey_server: ValkeyServer
) -> None:
    fleet = make_fleet(store=valkey_server.database_url(0))
    job_id = begun(fleet)
    with piped(fleet, "watch", job_id, "--interval", "0.1") as (process, read):
        wait_until(lambda: "41 %" in read(), "it is up")
        valkey_server.kill()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)  # some looks long
        valkey_server.start()
        fleet.store.succeed(job_id, 1, Snapshot(1000, "", Progress(1000, 1000)))
        assert process.wait(timeout=20) == 0
        assert "SUCCEEDED" in read()


def test_a_watch_tells_only_what_is_new(fleet: Fleet) -> None:
    job = fleet.jobs.get(begun(fleet))
    further = replace(job, progress=replace(job.progress, percent=42.0))
    said: list[Job] = []

    last = live._tell_changes([[job], [job], [further]], said.append)

    assert said == [job, further]
    assert last == [further]


def test_ctrl_c_ends_a_watch_of_lines(fleet: Fleet) -> None:
    job_id = begun(fleet)
    with piped(fleet, "watch", job_id) as (process, read):
        wait_until(lambda: "41 %" in read(), "it is up")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert len(read().splitlines()) == 1


def test_a_watch_of_nobody_is_an_error_in_a_line(fleet: Fleet) -> None:
    assert "No job 'nobody'" in refused(do(fleet, "watch", "nobody"))


@contextmanager
def terminal(
    fleet: Fleet, *arguments: str, columns: int = 160
) -> Iterator[tuple[Any, Any]]:
    """A command with a terminal, and what reads all that it has shown so far."""
    with shown_to(*pty.openpty(), fleet, *arguments, columns=columns) as both:
        yield both


@contextmanager
def piped(fleet: Fleet, *arguments: str) -> Iterator[tuple[Any, Any]]:
    """A command without a terminal, and what reads all that it has said so far."""
    with shown_to(*os.pipe(), fleet, *arguments) as both:
        yield both


@contextmanager
def shown_to(
    master: int, slave: int, fleet: Fleet, *arguments: str, columns: int = 160
) -> Iterator[tuple[Any, Any]]:
    """A command that writes to one end, and what reads from the other one."""
    shown = bytearray()
    command = [*(sys.executable, "-m", "celery", "-A", "tests.worker.app"), "jobs"]
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=TOP,
        env={
            **os.environ,
            VARIABLE: fleet.setup.encode(),
            "TERM": "xterm",
            "COLUMNS": str(columns),
        },
        stdin=slave if os.isatty(slave) else subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    os.set_blocking(master, False)

    def read() -> str:
        try:
            while text := os.read(master, 65_536):
                shown.extend(text)
        except OSError:  # nothing more now, or the end
            pass
        return shown.decode(errors="replace")

    try:
        yield process, read
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_in_a_terminal_a_bar_moves_and_ctrl_c_leaves_the_job_alone(
    fleet: Fleet,
) -> None:
    job_id = begun(fleet)
    with terminal(fleet, "watch", job_id, "--interval", "0.1") as (process, read):
        wait_until(lambda: "41 %" in read(), "it shows how far the job is")
        seen = Progress(900, 1000, 90.0, stage="import")
        fleet.store.save(job_id, 1, 2, Snapshot(900, "", seen), 300)
        wait_until(lambda: "90 %" in read(), "it follows")
        assert "━" in read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert "Traceback" not in read()
    assert fleet.jobs.get(job_id).request is None


def test_a_watch_in_a_narrow_terminal_is_whole_and_has_room_for_the_echo_of_ctrl_c(
    fleet: Fleet,
) -> None:
    over = fleet.send("stroll_limited", "berlin", 5, 0.1).id
    fleet.jobs.cancel(over)
    with terminal(fleet, "watch", begun(fleet), over, columns=80) as (process, read):
        wait_until(lambda: "━" in read(), "it is up")
        lines = ANSI.sub("", read()).splitlines()
        assert 60 < max(map(len, lines)) <= 78
        assert any("CANCELLED" in line for line in lines)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130


def test_a_narrow_terminal_shows_states_whole(fleet: Fleet) -> None:
    ids = [
        fleet.send("stroll_limited", "berlin", 5, 0.1, countdown=1000).id,
        begun(fleet),
    ]
    with terminal(fleet, "list", columns=80) as (process, read):
        assert process.wait(timeout=20) == 0
        shown = ANSI.sub("", read())
        header, *_ = shown.splitlines()
        assert header.split() == ["id", "task", "state", "progress", "left"]
        assert "SCHEDULED" in shown
        assert "…" not in shown
        assert "59 s" in shown
        assert all(job_id in shown for job_id in ids)


def test_the_overview_shows_a_worker_at_work(fleet: Fleet) -> None:
    fleet.start("a")
    job_id = fleet.send("walk", 3000, 0.02).id
    fleet.wait_for(job_id, State.RUNNING)
    waiting = fleet.send("add", 1, 2).id
    with terminal(fleet, "top", "--interval", "0.1") as (process, read):
        wait_until(lambda: "QUEUED 1  RUNNING 1" in read(), "it is up")
        wait_until(lambda: "of 3,000" in read() and "━" in read(), "it has a bar")
        assert told(do(fleet, "cancel", job_id, "--json"))["asked"] == [job_id]
        wait_until(lambda: "CANCELLED 1" in read(), "it shows the end")
        assert fleet.wait_for(waiting).state is State.SUCCEEDED
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


def test_the_overview_outlives_its_store(
    make_fleet: MakeFleet, valkey_server: ValkeyServer
) -> None:
    fleet = make_fleet(store=valkey_server.database_url(0))
    with terminal(fleet, "top", "--interval", "0.1") as (process, read):
        wait_until(lambda: "There are no jobs." in read(), "it is up")
        valkey_server.kill()
        wait_until(lambda: "cannot be reached" in read(), "it says that it is away")
        valkey_server.start()
        begun(fleet)
        wait_until(lambda: "RUNNING 1" in read(), "it goes on")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


def test_the_overview_follows_what_runs_and_waits(fleet: Fleet) -> None:
    with terminal(fleet, "top", "--interval", "0.1") as (process, read):
        wait_until(lambda: "There are no jobs." in read(), "it is up")
        begun(fleet)
        wait_until(lambda: "RUNNING 1" in read() and "41 %" in read(), "it follows")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert "Traceback" not in read()


def test_the_overview_is_printed_once_where_no_terminal_is(fleet: Fleet) -> None:
    begun(fleet)
    fleet.send("add", 1, 2)

    lines = do(fleet, "top").stdout.splitlines()
    document = told(do(fleet, "top", "--json"))

    assert lines[0] == "QUEUED 1  RUNNING 1"
    assert any("import, 412 of 1,000" in line for line in lines)
    assert any(line.split()[:3] == [fleet.setup.name, "QUEUED", "1"] for line in lines)
    assert document["counts"]["QUEUED"] == 1
    assert len(document["running"]) == 1


def test_without_the_extra_there_are_plain_lines(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobkit.commands.terminal.Console", None)
    monkeypatch.setattr("jobkit.commands.live.Live", None)
    job_id = begun(fleet)
    assert do(fleet, "list").stdout.splitlines()[0].split("\t")[:2] == [
        *(job_id, "t.walk")
    ]
    assert "412 of 1,000" in do(fleet, "top").stdout
    assert "import\tcurrent\t412 of 1,000" in do(fleet, "show", job_id).stdout


def test_an_empty_store_is_no_error(fleet: Fleet, valkey: ValkeyServer) -> None:
    _ = valkey
    assert do(fleet, "list").stdout == "no jobs.\n"
    assert do(fleet, "limit", "list").stdout == "no limits.\n"
    assert do(fleet, "top").stdout == "There are no jobs.\n"


def test_a_limit_may_have_any_key(fleet: Fleet) -> None:
    keys = ["a", "evil\x1b]0;pwn\x07", "z"]
    for key in keys:
        fleet.store.acquire(key, 1, (Claim(key, 1),), 30, 30)
    said = do(fleet, "limit", "list", "--limit", "2").stdout
    assert "\x1b" not in said
    after = said.rpartition("--after ")[2].strip()
    (last,) = told(do(fleet, "limit", "list", "--json", "--after", after))["items"]
    assert last["key"] == "z"


def test_an_argument_that_is_no_text_is_a_wrong_call(fleet: Fleet) -> None:
    assert "UTF-8" in refused(do(fleet, "show", "x\udcff"), 2)


def test_who_has_no_name_is_told_by_number(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nameless)
    job_id = begun(fleet)
    do(fleet, "cancel", job_id)
    request = fleet.jobs.get(job_id).request
    assert request
    assert request.actor == f"uid {os.getuid()}"
