"""What ``celery -A tests.worker.app worker`` loads, set up by the environment."""

import os

from tests.worker.setup import VARIABLE, Setup, make_app

app = make_app(Setup.decode(os.environ[VARIABLE]))
