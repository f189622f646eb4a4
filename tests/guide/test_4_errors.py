from __future__ import annotations

from celery import Celery

from jobkit import JobTask, Permanent, RateLimited, State, Transient
from tests.guide.conftest import Run


def test_errors_are_judged_by_their_kind(app: Celery, run: Run) -> None:
    """A fault that will pass is tried again; one that will not ends the job.

    ``Transient``, ``RateLimited`` and ``Permanent`` say it outright. Of others
    jobkit knows the usual ones, such as a lost connection; each kind has a
    number of retries of its own, and waiting for a rate limit is no attempt.
    """
    errors = [
        Transient("the shop restarts"),
        RateLimited(retry_after=30),
        ConnectionError("no route"),
    ]

    @app.task(base=JobTask, name="shop.ping", shared=False)
    def ping() -> str:
        if errors:
            raise errors.pop(0)
        return "pong"

    @app.task(base=JobTask, name="shop.refund", shared=False)
    def refund() -> None:
        raise Permanent("there is no such order")

    pinged, refunded = run(ping), run(refund)

    assert pinged.state is State.SUCCEEDED
    assert (pinged.starts, pinged.attempts, pinged.rate_limited) == (4, 2, 1)
    assert refunded.state is State.DEAD
    assert (refunded.starts, refunded.reason) == (1, "permanent")
