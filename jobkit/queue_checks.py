"""Whether the routing map is obeyed: its rules, and its order of queues."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from jobkit.checks import Check, Finding, Setup, listed, setting
from jobkit.order import STRATEGY, Order

OWN_WORKERS = "celery -A PROJECT worker -Q QUEUE   (workers of its own for each queue)"


def without_map(setup: Setup) -> Iterator[Finding]:
    """Whether settings are there that mean nothing without a map."""
    if setup.routing_map is not None:
        return
    settings = {
        "jobkit_queue_order": setup.settings.queue_order != "weighted",
        "jobkit_time_slice": setup.settings.time_slice is not None,
    }
    idle = [name for name, is_set in settings.items() if is_set]
    if idle:
        found = f"Without jobkit_queues or jobkit_routes nobody reads {listed(idle)}."
        fix = setting(setup.conf, "jobkit_routes", {"*": "normal"})
        yield Finding("queues", "warning", found, fix)


def rules(setup: Setup) -> Iterator[Finding]:
    """Whether each rule is for a task that there is."""
    if setup.routing_map is None:
        return
    unused = list(setup.routing_map.unused(setup.names))
    for line in unused:
        near = "Did you mean" in line
        fix = "celery -A PROJECT jobs routes   (what goes where)"
        yield Finding("routes", "warning" if near else "info", line, fix)
    if not unused:
        yield Finding("routes", "ok", "Each rule is for a task of this app.")


def order(setup: Setup) -> Iterator[Finding]:
    """Whether workers serve the queues in the order that the map has."""
    if setup.routing_map is None:
        return
    troubles = [*_broker(setup), *_weights(setup)]
    yield from troubles
    if not troubles:
        kind = setup.settings.queue_order
        yield Finding("queue order", "ok", f"Workers keep to the {kind} order.")


def _broker(setup: Setup) -> Iterable[Finding]:
    if setup.broker == "redis":
        return _redis(setup)
    if setup.broker == "amqp":
        return _rabbitmq(setup)
    found = (
        f"kombu has no order of queues for this broker ({setup.broker or 'unknown'})."
    )
    return [Finding("queue order", "warning", found, OWN_WORKERS)]


def _redis(setup: Setup) -> Iterator[Finding]:
    theirs = setup.transport_options.get(STRATEGY)
    if not isinstance(theirs, Order):
        yield Finding(
            "queue order",
            "info",
            f"The project's own {STRATEGY} ({theirs!r}) decides, not the map.",
            f"Remove {STRATEGY} from broker_transport_options.",
        )
        return
    confs = [(w.name, w.conf) for w in setup.job_workers] or [("this app", setup.conf)]
    ahead = [name for name, conf in confs if not conf.get("worker_disable_prefetch")]
    if ahead:
        yield Finding(
            "queue order",
            "warning",
            f"Taken ahead, where an urgent job cannot overtake: {listed(ahead)}.",
            setting(setup.conf, "worker_disable_prefetch", value=True),
        )


def _rabbitmq(setup: Setup) -> Iterator[Finding]:
    pools = [worker.pool for worker in setup.job_workers]
    odd = {pool for pool in pools or [str(setup.conf.worker_pool)] if pool != "prefork"}
    if odd:
        yield Finding(
            "queue order",
            "warning",
            f"On RabbitMQ the {listed(odd)} pool takes from its queues in turn, without "
            "weights or order.",
            f"{setting(setup.conf, 'worker_pool', 'prefork')}; or {OWN_WORKERS}",
        )
        return
    yield Finding(
        "queue order",
        "info",
        "On RabbitMQ a worker of several queues keeps to the order by taking one message "
        "of each ahead. Of quorum queues it keeps them while long jobs run.",
        OWN_WORKERS,
    )


def _weights(setup: Setup) -> Iterator[Finding]:
    """Strict order and time slices go by the places in the map, not by weights."""
    by_place = setup.settings.queue_order == "strict" or setup.settings.time_slice
    queues = setup.routing_map.queues.values() if setup.routing_map else ()
    for urgent, patient in pairwise(queues):
        if by_place and urgent.weight < patient.weight:
            yield Finding(
                "queue order",
                "warning",
                f"{urgent.name!r} is before {patient.name!r} in jobkit_queues and so "
                "more urgent, but weighs less.",
                "Write the queues of jobkit_queues from urgent to patient.",
            )


QUEUE_CHECKS: tuple[Check, ...] = (without_map, rules, order)
