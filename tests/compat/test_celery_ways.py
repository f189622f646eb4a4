"""What plain Celery does, and a job does too, in a worker that a process embeds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from jobkit import clock
from tests.servers import ValkeyServer

ROOT = Path(__file__).parents[2]

Play = Callable[[str], Any]


@pytest.fixture
def play(empty_valkey: ValkeyServer) -> Play:
    """What a scenario of ``embedded.py`` came to."""

    def played(name: str) -> Any:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.compat.embedded",
                str(empty_valkey.port),
                name,
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=50,
        )
        return json.loads(done.stdout.splitlines()[-1])

    return played


def test_a_delayed_job_knows_its_eta_and_no_header_of_ours(play: Play) -> None:
    before = clock.wall()
    eta, headers = play("delayed")
    assert datetime.fromisoformat(eta).timestamp() >= before + 0.3
    assert headers == {"tenant": "acme"}


def test_the_eta_of_a_retry_is_its_own(play: Play) -> None:
    first, second = play("delayed_retry")
    assert datetime.fromisoformat(first) < datetime.fromisoformat(second)


def test_self_retry_works_in_an_embedded_worker(play: Play) -> None:
    assert play("retry") == 1


def test_what_a_class_beneath_does_around_the_body_is_done(play: Play) -> None:
    assert play("around") == ["around", "job-1"]


def test_a_replacement_waits_for_its_countdown(play: Play) -> None:
    before = clock.wall()
    assert play("replaced_later") >= before + 1.0


def test_a_job_is_replaced_by_a_chain(play: Play) -> None:
    assert play("replaced_by_chain") == 7


def test_a_strangers_message_is_kept_as_it_was_written(play: Play) -> None:
    told, content_type, stamps = play("stranger")
    assert told == [[1, 2], {"colour": "red"}]
    assert content_type == "application/x-python-serialize"
    assert stamps == {"colour": "red"}


def test_a_frozen_signature_runs_as_often_as_it_is_applied(play: Play) -> None:
    assert play("frozen") == 3


def test_a_second_run_enqueues_no_finished_child_again(play: Play) -> None:
    assert play("second_run") is True


def test_a_replacement_may_be_through_before_the_run_that_asked_for_it(
    play: Play,
) -> None:
    assert play("slow_to_leave") == 7
