"""The commands by which people look after dead letters."""

from __future__ import annotations

import csv
import json
import uuid
from pathlib import Path

import pytest
import redis

from jobkit import State
from jobkit.clock import from_milliseconds, wall
from jobkit.commands import dlq as commands
from jobkit.job import ErrorInfo, FailedItem, Progress
from jobkit.store.values import Failure, Snapshot
from tests.surfaces.conftest import Done, MakeFleet, here, refused, run, told
from tests.worker.fleet import Fleet


@pytest.fixture
def fleet(make_fleet: MakeFleet) -> Fleet:
    return make_fleet()


def dlq(fleet: Fleet, *arguments: str) -> Done:
    """Run one of the commands in this process, as Celery does."""
    return here(commands, fleet, *arguments)


def bury(fleet: Fleet, error: str = "KeyError", text: str = "no such order") -> str:
    """A dead job with a failed item; its id."""
    job_id = str(fleet.send("add", 1, 2).id)
    job = fleet.store.begin(job_id, uuid.uuid4().hex, "w@test/1", 30).job
    assert job
    item = FailedItem("import", "=7", "KeyError", "no", 3, "7")
    at = Snapshot(5, "", Progress(current=5, stage="import"), failed=(item,))
    fleet.store.save(job_id, job.fence, 1, at, 30)
    info = ErrorInfo(error, text, f"Traceback ...\n{error}: {text}")
    fleet.store.bury(job_id, job.fence, Failure(info), "permanent")
    return job_id


def states(fleet: Fleet, *job_ids: str) -> list[State]:
    return [fleet.jobs.get(job_id).state for job_id in job_ids]


# -- seeing


def test_dead_letters_are_listed(fleet: Fleet) -> None:
    first, second = bury(fleet), bury(fleet, "OSError", "a\x1b[31m[b]red[/b]")

    done = run(fleet, "dlq", "list")

    header, *lines, summary = done.stdout.splitlines()
    assert header.split() == ["id", "task", "died", "reason", "error"]
    assert [line.split()[0] for line in lines] == [second, first]
    assert "t.add" in lines[1]
    assert lines[1].rstrip().endswith("KeyError: no such order")
    assert lines[0].rstrip().endswith("OSError: a\ufffd[31m[b]red[/b]")
    assert summary == "2 dead letters."
    assert (done.returncode, done.stderr) == (0, "")


def test_an_empty_list_says_so(fleet: Fleet) -> None:
    fleet.send("add", 1, 2)
    assert dlq(fleet, "list").stdout == "no dead letters.\n"


def test_they_are_listed_for_programs_page_by_page(fleet: Fleet) -> None:
    ids = [bury(fleet) for _ in range(3)]

    first = told(dlq(fleet, "list", "--json", "--limit", "2", "--task", "t.add"))
    second = told(dlq(fleet, "list", "--json", "--after", first["next"]))

    found = [job["id"] for page in (first, second) for job in page["items"]]
    assert sorted(found) == sorted(ids)
    assert second["next"] is None
    job = first["items"][0]
    assert (job["error"]["type"], job["error"]["message"]) == (
        *("KeyError", "no such order"),
    )
    assert (job["state"], job["task"], job["replays"]) == ("DEAD", "t.add", 0)


def test_they_are_chosen_by_error_and_time(fleet: Fleet) -> None:
    bury(fleet)
    other = bury(fleet, "OSError")

    def found(*options: str) -> list[str]:
        page = told(dlq(fleet, "list", "--json", *options))
        return [job["id"] for job in page["items"]]

    assert found("--error", "OSError", "--since", "1h") == [other]
    assert found("--until", "1h") == []
    assert (
        found("--since", from_milliseconds(int(wall() * 1000) + 9999).isoformat()) == []
    )
    assert "neither a time" in refused(dlq(fleet, "list", "--since", "soon"), 2)


def test_one_is_shown_with_its_past(fleet: Fleet) -> None:
    job_id = bury(fleet)

    done = dlq(fleet, "show", job_id)

    assert f"id:            {job_id}\n" in done.stdout
    assert "KeyError: no such order" in done.stdout
    assert [word for word in ("queued", "started", "dead") if word in done.stdout] == [
        *("queued", "started", "dead")
    ]
    document = told(dlq(fleet, "show", job_id, "--json"))
    assert [event["name"] for event in document["history"]][-1] == "dead"
    assert "No job 'nobody'" in refused(dlq(fleet, "show", "nobody"))


def test_failed_items_are_printed_as_csv(fleet: Fleet) -> None:
    done = dlq(fleet, "failures", bury(fleet))

    (row,) = csv.DictReader(done.stdout.splitlines())
    assert (row["key"], row["error"], row["item"]) == ("'=7", "KeyError", "7")


# -- acting


def test_some_are_replayed_by_their_ids(fleet: Fleet) -> None:
    first, second = bury(fleet), bury(fleet)

    done = dlq(fleet, "replay", first, "--reason", "fixed", "--actor", "ann")

    assert (done.returncode, done.stdout) == (0, f"{first} replayed.\n")
    assert states(fleet, first, second) == [State.QUEUED, State.DEAD]
    assert fleet.jobs.history(first)[-1].detail == "resume by ann: fixed"


def test_what_is_refused_is_told_and_the_others_are_replayed(fleet: Fleet) -> None:
    first, alive = bury(fleet), str(fleet.send("add", 1, 2).id)

    done = dlq(fleet, "replay", alive, first, "nobody")

    said = refused(done)
    assert f"Job {alive!r} is QUEUED and not dead" in said
    assert "No job 'nobody'" in said
    assert done.stdout == f"{first} replayed.\n"


def test_all_that_match_are_replayed_by_a_job(fleet: Fleet) -> None:
    ids = [bury(fleet) for _ in range(3)]
    other = bury(fleet, "OSError")
    chosen = ("replay", "--all", "--error", "KeyError")

    seen = dlq(fleet, *chosen, "--dry-run")
    assert seen.stdout.splitlines()[-1] == "3 dead letters."
    assert sorted(seen.stdout.split()[:3]) == sorted(ids)
    assert "say --yes" in refused(dlq(fleet, *chosen), 2)
    wrong = dlq(fleet, *chosen, "--yes", "--expect", "2")
    assert "3 dead letters match, and not 2" in refused(wrong)
    assert states(fleet, *ids) == [State.DEAD] * 3

    document = told(dlq(fleet, *chosen, "--yes", "--expect", "3", "--json"))

    with redis.Redis.from_url(fleet.setup.broker) as client:
        client.delete(fleet.setup.name)
    assert document["count"] == 3
    fleet.store.published(document["job_id"], 0, ok=False)  # it is due again
    fleet.start("w")
    assert fleet.wait_for(document["job_id"]).state is State.SUCCEEDED
    for job_id in ids:
        assert fleet.wait_for(job_id).starts == 2
    assert states(fleet, other) == [State.DEAD]


def test_without_a_filter_it_takes_one_more_word(fleet: Fleet) -> None:
    bury(fleet)
    done = dlq(fleet, "replay", "--all", "--yes")
    assert "everything=True" in refused(done)
    assert told(dlq(fleet, "discard", "--all", "--everything", "--yes", "--json"))


def test_nothing_matches_is_no_error(fleet: Fleet) -> None:
    done = dlq(fleet, "replay", "--all", "--task", "t.never")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "No dead letter matches: nothing to do.\n"


@pytest.mark.parametrize("command", ["replay", "discard"])
def test_ids_or_all_but_not_both(fleet: Fleet, command: str) -> None:
    assert "not both" in refused(dlq(fleet, command), 2)
    assert "not both" in refused(dlq(fleet, command, "a", "--all"), 2)
    assert "go with --all" in refused(dlq(fleet, command, "a", "--task", "t"), 2)


def test_some_are_discarded_by_their_ids(fleet: Fleet) -> None:
    job_id = bury(fleet)
    assert told(dlq(fleet, "discard", job_id, "--json")) == {
        "discarded": [job_id],
        "refused": [],
    }
    assert states(fleet, job_id) == [State.CANCELLED]


# -- keeping


def test_an_export_is_read_by_another_project(
    fleet: Fleet, make_fleet: MakeFleet, tmp_path: Path
) -> None:
    ids = [bury(fleet) for _ in range(3)]
    file = tmp_path / "dead.jsonl"
    done = dlq(fleet, "export", "--error", "KeyError", "-o", str(file))
    assert (done.returncode, done.stderr) == (0, "3 dead letters exported.\n")
    other = make_fleet()
    with file.open("a") as more:
        more.write("no line\n")

    done = dlq(other, "import", str(file))

    assert refused(done).startswith("Line 4 is refused: Expecting value")
    assert done.stdout == "3 restored, 0 there already, 1 refused.\n"
    assert states(other, *ids) == [State.DEAD] * 3
    again = dlq(other, "import", "--json", str(file))
    assert json.loads(again.stdout)["existing"] == 3


def test_a_store_out_of_reach_is_an_error_without_traceback(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet(store="redis://:secret@127.0.0.1:1/0")
    for command in (["list"], ["replay", "x"], ["export"]):
        said = refused(dlq(fleet, *command))
        assert "cannot be reached" in said
        assert "secret" not in said
    assert "cannot be reached" in refused(run(fleet, "dlq", "list"))


def test_without_the_extra_there_are_plain_lines(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobkit.commands.terminal.Console", None)
    job_id = bury(fleet)
    line, summary = dlq(fleet, "list").stdout.splitlines()
    assert line.split("\t")[:2] == [job_id, "t.add"]
    assert summary == "1 dead letter."


def test_the_failed_items_of_a_partial_job_are_replayed(fleet: Fleet) -> None:
    job_id = str(fleet.send("sift", 5, [2]).id)
    fleet.start("a")
    assert fleet.wait_for(job_id).state is State.PARTIAL

    said = dlq(fleet, "replay", job_id, "--mode", "failed_items").stdout

    child = said.removeprefix(f"{job_id} replayed by job ").removesuffix(".\n")
    assert fleet.wait_for(child).replay_of == job_id
    assert "resume or restart" in refused(
        dlq(fleet, "replay", "--all", "--everything", "--yes", "--mode", "failed_items")
    )
