"""An app whose receiver is killed, with its worker, while it hears of a first end."""

import os
import signal
from pathlib import Path
from typing import Any

from jobkit.signals import job_cancelled, job_dead, job_succeeded
from tests.worker.app import app, setup
from tests.worker.journal import Journal

__all__ = ["app"]

journal = Journal(Path(setup.journal))


def note(job_id: str, event_id: str, **_: Any) -> None:
    """Write the event down; the first time, die of it."""
    told = journal.entries(f"told-{job_id}")
    journal.write(f"told-{job_id}", 1, event_id)
    if not told:
        os.killpg(os.getpgrp(), signal.SIGKILL)


for end in (job_succeeded, job_dead, job_cancelled):
    end.connect(note, weak=False)
