"""A record, read from the text fields that the store keeps."""

from dataclasses import MISSING, fields

import pytest

from jobkit import clock
from jobkit.job import _READERS, Job, Progress
from jobkit.states import State

LEAST = {
    "id": "a",
    "task": "t",
    "state": "QUEUED",
    "created_at": "1000",
    "updated_at": "2000",
}


def test_each_field_that_may_be_missing_has_a_reader() -> None:
    optional = {field.name for field in fields(Job) if field.default is not MISSING}
    assert set(_READERS) == optional
    assert {field.name for field in fields(Job)} - optional == set(LEAST)


def test_a_record_of_the_least_fields_has_the_defaults_of_the_others() -> None:
    assert Job.from_fields(LEAST) == Job(
        id="a",
        task="t",
        state=State.QUEUED,
        created_at=clock.from_milliseconds(1000),
        updated_at=clock.from_milliseconds(2000),
    )


def test_what_the_store_empties_is_as_if_it_were_not_there() -> None:
    empty = dict.fromkeys(
        ("reason", "priority", "owner", "progress", "error", "request", "message"), ""
    )
    moments = {"due_at": "", "finished_at": "0", "lease_until": ""}
    assert Job.from_fields({**LEAST, **empty, **moments}) == Job.from_fields(LEAST)


def test_an_empty_dead_letter_queue_is_the_usual_one_and_a_root_the_parent() -> None:
    told = {"queue": "low", "dead_letter_queue": "", "replay_of": "b"}
    job = Job.from_fields({**LEAST, **told, "replay_root": ""})
    assert (job.dead_letter_queue, job.replay_root) == ("low.dead", "b")
    assert job.progress == Progress()


@pytest.mark.parametrize("name", [name for name in _READERS if _READERS[name] is int])
def test_an_empty_number_is_a_damaged_record(name: str) -> None:
    with pytest.raises(ValueError, match="base 10: ''"):
        Job.from_fields({**LEAST, name: ""})


@pytest.mark.parametrize("name", list(LEAST))
def test_what_every_record_has_is_missed_by_its_name(name: str) -> None:
    with pytest.raises(KeyError, match=name):
        Job.from_fields({known: LEAST[known] for known in LEAST if known != name})
