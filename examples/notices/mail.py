"""A mail for each job that ran for more than five minutes, however it ended.

The signals of an end come once at least, and in the middle of a worker's work. So the
receiver only enqueues: a job is not lost, tries again while the mail server is away,
and is there once for each ``event_id``.
"""

from __future__ import annotations

import hashlib
import os
import smtplib
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

from jobkit import Job, JobKit, JobTask, RetryPolicy
from jobkit.signals import job_cancelled, job_dead, job_partial, job_succeeded

LONG = float(os.environ.get("NOTICE_AFTER", "300"))
"""Seconds of a job of which somebody wants to hear."""

SERVER = os.environ.get("SMTP_SERVER", "127.0.0.1:25")
SENDER = os.environ.get("MAIL_FROM", "jobs@shop.example")
RECIPIENT = os.environ.get("MAIL_TO", "staff@shop.example")

TASK = "notices.send_mail"
NOTICES = "notices."
"""What the names of notices begin with: nobody wants a notice of a notice."""


def connect(kit: JobKit) -> None:
    """Have a mail sent for each long job of an app."""

    @kit.app.task(base=JobTask, name=TASK, retry_policy=RetryPolicy(transient=20))
    def send_mail(job_id: str, event_id: str) -> None:
        send(written(kit.jobs.get(job_id), event_id))

    def ended(sender: str, job_id: str, event_id: str, **_: Any) -> None:
        if sender.startswith(NOTICES):
            return
        if seconds(kit.jobs.get(job_id)) > LONG:
            send_mail.apply_async((job_id, event_id), idempotency_key=event_id)

    for signal in (job_succeeded, job_partial, job_dead, job_cancelled):
        signal.connect(ended, weak=False)


def seconds(job: Job) -> float:
    """How long a job took from its first start to its end."""
    if job.started_at is None or job.finished_at is None:
        return 0.0
    return (job.finished_at - job.started_at).total_seconds()


def written(job: Job, event_id: str) -> EmailMessage:
    """The mail about a job that has ended.

    Its Message-ID follows from the end: should a mail go twice (the worker dies
    when the server has taken it), mailboxes see that it is the same.
    """
    mail = EmailMessage()
    mail["From"], mail["To"] = SENDER, RECIPIENT
    mail["Subject"] = (
        f"{job.task}: {job.state.lower()} after {seconds(job) / 60:.0f} minutes"
    )
    mail["Message-ID"] = message_id(event_id)
    if job.finished_at:
        mail["Date"] = format_datetime(job.finished_at)
    lines = [f"Job {job.id} of task {job.task} is {job.state}.", *_more(job)]
    mail.set_content("\n".join(lines))
    return mail


def message_id(event_id: str) -> str:
    """The Message-ID for an end; a job's id may have characters that none has."""
    name = hashlib.sha256(event_id.encode()).hexdigest()[:32]
    return f"<{name}@{SENDER.rpartition('@')[2]}>"


def _more(job: Job) -> list[str]:
    told = job.progress
    lines = [f"{told.ok} items went well, {told.failed} failed."]
    if job.error:
        lines.append(f"The last error was {job.error.type}: {job.error.message}")
    return lines


def send(mail: EmailMessage) -> None:
    """Give a mail to the server."""
    host, _, port = SERVER.partition(":")
    with smtplib.SMTP(host, int(port or 25), timeout=10) as server:
        server.send_message(mail)
