"""A fleet to be killed, and the seed that its killer goes by."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ValkeyServer
from tests.worker.fleet import Fleet, new_name, opened, show_logs
from tests.worker.invariants import check
from tests.worker.setup import Setup

SEED = "JOBKIT_CHAOS_SEED"

CHECKPOINT_EVERY = 50
"""Items after which the jobs save: the most that a kill makes them repeat."""


@pytest.fixture
def dice() -> random.Random:
    """Chance; the seed is shown when a test fails, and taken from the environment."""
    seed = int(os.environ.get(SEED) or secrets.randbits(32))
    print(f"{SEED}={seed}")  # noqa: T201
    return random.Random(seed)  # noqa: S311 - no secret


@pytest.fixture
def fleet(valkey: ValkeyServer, tmp_path: Path) -> Iterator[Fleet]:
    """Workers whose jobs save often, and are not poison however often they die."""
    setup = Setup(
        broker=valkey.database_url(0),
        backend=valkey.database_url(1),
        store=valkey.database_url(2),
        name=new_name(),
        journal=str(tmp_path / "journal"),
        conf={
            "jobkit_checkpoint_every": CHECKPOINT_EVERY,
            "jobkit_retry_policy": {"crashes": 1_000},
            # A worker that is killed between delivery and start takes the only
            # hint along: the next one comes after this time.
            "jobkit_hint_seconds": 2,
        },
    )
    with opened(setup, tmp_path) as fleet:
        yield fleet
        show_logs(fleet)
        check(fleet)
