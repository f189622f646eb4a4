"""The numbers that the tests hold jobkit to, and marks that several files use."""

import pytest

REDIS, CLASSIC, QUORUM = "redis", "rabbitmq-classic", "rabbitmq-quorum"

on_all_brokers = pytest.mark.parametrize(
    "broker", [REDIS, CLASSIC, QUORUM], indirect=True
)

on_all_brokers_at_length = pytest.mark.parametrize(
    "broker",
    [REDIS, CLASSIC, pytest.param(QUORUM, marks=pytest.mark.long)],
    indirect=True,
)
"""For what quorum queues are not likely to change."""

on_all_brokers_in_the_long_form = pytest.mark.parametrize(
    "broker",
    [
        REDIS,
        *(pytest.param(kind, marks=pytest.mark.long) for kind in (CLASSIC, QUORUM)),
    ],
    indirect=True,
)
"""For what has nothing to do with the broker, as far as anybody knows."""

on_quorum_queues = pytest.mark.parametrize("broker", [QUORUM], indirect=True)

backend_writes_here = pytest.mark.filterwarnings(
    "ignore:Call to deprecated setex:DeprecationWarning"
)
"""For tests in whose own process Celery's Redis backend stores a result."""

RECOVERY = 2.0
"""Seconds after the end of the lease by which another worker goes on."""

NOTICED = 2.0
"""Seconds after the end of a child by which another goes on."""

HANDOVER = 2.0
"""Seconds after SIGTERM by which another worker goes on."""

ANSWER = 2.0
"""Seconds within which a running job stops for a cancel or a pause."""

CHECKPOINT_INTERVAL = 1.0
"""Seconds of work that a killed worker may have done in vain."""

SLACK = 0.5
"""Seconds that a busy machine may add to a measured time."""
