"""What ``celery -A tests.worker.app worker`` loads, set up by the environment."""

import os
from pathlib import Path
from typing import Any

from jobkit.signals import job_cancelled
from tests.worker.journal import Journal
from tests.worker.setup import VARIABLE, Setup, make_app

setup = Setup.decode(os.environ[VARIABLE])
app = make_app(setup)


@job_cancelled.connect(weak=False)
def clean_up(job_id: str, **_: Any) -> None:
    """What a user would do after a cancel: here it is only written down."""
    Journal(Path(setup.journal)).write("clean-up", 1, job_id)
