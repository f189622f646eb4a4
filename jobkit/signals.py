"""Signals of Celery's own kind, sent by the process in which it happens.

The sender is the task's name. Every receiver gets ``job_id``, and:

===================  ==================  ========================================
signal               with                sent in
===================  ==================  ========================================
``job_queued``       ``delay``           the process that enqueues
``job_started``      ``job``             the process that runs the job
``job_progressed``   ``progress``        the same, after each save
``job_retrying``     ``error, delay``    the same
``job_succeeded``    ``progress``        the same, or a worker
``job_partial``      ``progress``        the same, or a worker
``job_dead``         ``reason, error``   the same, or a worker
``job_cancelled``    ``reason``          the same, where it was cancelled, or a worker
``job_recovered``    -                   the worker that takes it from a dead one
===================  ==================  ========================================

The four that tell of an end also bring ``event_id``. They come once at least to
receivers that are connected in all workers: when the process dies in which the job ended,
a worker tells of it within 15 seconds, if one runs within the hour. Who hears it twice has
got the same ``event_id``. A receiver that raises has heard it; what must not be lost it
enqueues. A replay takes an end back that nobody has heard of yet; discarding a dead letter
sends nothing. A job whose failed items a replay has handled ends twice: as partial, and
then as succeeded.

``job_dead_letter_expiring`` (with ``expires_at``) is sent by a worker,
``jobkit_dead_letter_notice`` before a dead job's record goes; seldom twice.
"""

from celery.utils.dispatch import Signal

job_queued = Signal(name="job_queued", providing_args=["job_id", "delay"])
job_started = Signal(name="job_started", providing_args=["job_id", "job"])
job_progressed = Signal(name="job_progressed", providing_args=["job_id", "progress"])
job_retrying = Signal(name="job_retrying", providing_args=["job_id", "error", "delay"])
job_succeeded = Signal(
    name="job_succeeded", providing_args=["job_id", "event_id", "progress"]
)
job_partial = Signal(
    name="job_partial", providing_args=["job_id", "event_id", "progress"]
)
job_dead = Signal(
    name="job_dead", providing_args=["job_id", "event_id", "reason", "error"]
)
job_cancelled = Signal(
    name="job_cancelled", providing_args=["job_id", "event_id", "reason"]
)
job_recovered = Signal(name="job_recovered", providing_args=["job_id"])
job_dead_letter_expiring = Signal(
    name="job_dead_letter_expiring", providing_args=["job_id", "expires_at"]
)
