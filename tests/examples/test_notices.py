"""Notices of ends: a mail by a real mail server, a webhook whose signature is checked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from celery import Celery
from celery.signals import before_task_publish

from examples.notices import mail, webhook
from jobkit import JobKit
from jobkit.job import Progress
from jobkit.signals import job_succeeded
from jobkit.store.memory import MemoryStore
from jobkit.store.values import Snapshot
from tests.examples.conftest import MakeExample
from tests.unit.runs import new_job
from tests.waiting import free_port, wait_until

SECRET = "a secret that both sides know"
APP = "examples.notices.tasks"


@dataclass
class Mailbox:
    """What a mail server has taken."""

    mails: list[Message] = field(default_factory=list)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802, ARG002 - aiosmtpd's names
        """Take a mail."""
        self.mails.append(message_from_bytes(envelope.content))
        return "250 OK"


@contextmanager
def mail_server(port: int) -> Iterator[Mailbox]:
    """A real mail server on this machine."""
    mailbox = Mailbox()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield mailbox
    finally:
        controller.stop()


class OtherSide(ThreadingHTTPServer):
    """Another program that is told of ends; it refuses the first POST it gets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refused = 0
        self.events: list[dict[str, Any]] = []
        self.forged = 0


class _Handler(BaseHTTPRequestHandler):
    server: OtherSide

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = dict(self.headers)
        if not self.server.refused:
            self.server.refused += 1
            self.send_response(503)
        elif not webhook.is_genuine(SECRET, headers, body):
            self.server.forged += 1
            self.send_response(401)
        else:
            event = json.loads(body)
            assert headers["Jobkit-Event"] == event["event"]
            self.server.events.append(event)
            self.send_response(204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def other_side() -> Iterator[OtherSide]:
    with OtherSide() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_an_end_is_mailed_and_posted_when_the_other_sides_are_up(
    make_example: MakeExample, other_side: OtherSide
) -> None:
    port = free_port()
    example = make_example(
        SMTP_SERVER=f"127.0.0.1:{port}",
        NOTICE_AFTER="0.5",
        WEBHOOK_URL=f"http://127.0.0.1:{other_side.server_port}/ends",
        WEBHOOK_SECRET=SECRET,
    )
    worker = example.worker(APP)
    for arguments in ("[6, 0.1]", "[1, 0.1]"):
        command = ("-A", APP, "call", "shop.report", "--args", arguments)
        example.program("celery", *command, ready="-")  # the job's id
    wait_until(lambda: "ConnectionRefusedError" in worker.log, "no server took a mail")

    with mail_server(port) as mailbox:
        wait_until(lambda: len(other_side.events) == 2, "both ends were posted")
        wait_until(lambda: mailbox.mails, "the mail has come")

    (told,) = mailbox.mails
    ends = [(event["task"], event["state"]) for event in other_side.events]
    assert ends == [("shop.report", "SUCCEEDED")] * 2
    assert (other_side.refused, other_side.forged) == (1, 0)
    assert told["Subject"] == "shop.report: succeeded after 0 minutes"
    ids = [mail.message_id(event["event"]) for event in other_side.events]
    assert told["Message-ID"] in ids
    assert len(set(ids)) == 2
    assert "6 items went well" in told.get_payload()


@pytest.fixture
def kit() -> Iterator[JobKit]:
    app = Celery("notices", broker="memory://", set_as_current=False)
    kit = JobKit(app, store=MemoryStore())
    yield kit
    before_task_publish.disconnect(kit._sent_by_name)
    app.close()


@pytest.mark.parametrize("notice", [mail, webhook])
def test_an_end_that_is_told_twice_is_one_notice(
    kit: JobKit, notice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "LONG", -1)
    before = list(job_succeeded.receivers)
    notice.connect(kit)
    try:
        kit.store.enqueue(new_job(), "enqueue", 300)
        run = kit.store.begin("job", "job", "w", 30).job
        assert run
        kit.store.succeed("job", run.fence, Snapshot(1, "", Progress(1)))
        told = {"job_id": "job", "event_id": "job:1.1000", "progress": Progress(1)}
        for _ in range(2):
            job_succeeded.send(sender=run.task, **told)
        job_succeeded.send(sender=notice.TASK, **told)
    finally:
        job_succeeded.receivers[:] = before

    (sent,) = kit.jobs.list(task=notice.TASK).items
    assert sent.task == notice.TASK


def test_a_signature_is_for_one_body_and_for_some_minutes() -> None:
    body, now = b'{"job": 1}', webhook.now()
    headers = {
        "Jobkit-Timestamp": now,
        "Jobkit-Signature": webhook.signature(SECRET, now, body),
    }
    assert webhook.is_genuine(SECRET, headers, body)
    assert not webhook.is_genuine("another secret", headers, body)
    assert not webhook.is_genuine(SECRET, headers, body + b" ")
    assert not webhook.is_genuine(SECRET, {}, body)
    later = {**headers, "Jobkit-Timestamp": str(int(now) + 1)}
    assert not webhook.is_genuine(SECRET, later, body)
    old = str(int(now) - 301)
    signed = webhook.signature(SECRET, old, body)
    stale = {"Jobkit-Timestamp": old, "Jobkit-Signature": signed}
    assert not webhook.is_genuine(SECRET, stale, body)
