"""On RabbitMQ: a worker looks ahead in each queue, and starts what the order says.

RabbitMQ knows no order between the queues of a consumer. So a worker with the
routing map takes one message more of each queue than it can run, and when a
process is free it begins with the one whose turn it is. While long jobs keep all
its processes busy it lets go of what waits, for workers that have time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from operator import attrgetter
from typing import Any

from celery import bootsteps
from celery.worker.state import task_ready

from jobkit import clock
from jobkit.order import Order

BUSY = 2.0
"""Seconds without a free process after which a worker lets go of what waits."""

LONG = 60.0
"""Seconds after which a message of a less urgent queue goes back to its place: it
must not be acknowledged for its age, or ever more of them would be taken."""

LOOK_EVERY = 1.0


class LookaheadStep(bootsteps.StartStopStep):
    """Gives each queue a window of its own, and the pool what the order says.

    A worker of one queue, and one whose pool does not tell when a process is free,
    does as Celery does.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._window = 0
        self._rests = False
        self._timer: Any = None
        self._shelf: Shelf | None = None
        order: Order | None = parent.app.jobkit.order
        if order is not None and _can_choose(parent):
            self._shelf = _shelf(parent, order, partial(self._go_on, parent))
            # The strategies of the tasks are made later, and take it from here.
            parent.on_task_request = partial(self._put, self._shelf)

    def include_if(self, parent: Any) -> bool:  # noqa: ARG002 - Celery's signature
        """Whether it has anything to do in this worker."""
        return self._shelf is not None

    def start(self, parent: Any) -> None:
        """Open the windows, before the worker consumes."""
        wanted = parent.qos.value
        parent.qos.callback = partial(self._widen, parent)
        parent.qos.prev = wanted
        # As Celery has it for quorum queues, which have no other kind of limit.
        parent.qos_global = False
        parent.task_consumer.channel.basic_qos(0, 0, a_global=True)
        # Zero means no limit.
        self._open(parent, wanted + 1 if wanted else 0)
        self._timer = parent.timer.call_repeatedly(LOOK_EVERY, self._look, (parent,))

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Forget what was not begun: its connection is gone, or its worker goes."""
        self._rests = False
        if self._timer is not None:
            self._timer.cancel()
        if self._shelf is not None:
            self._shelf.clear()

    def _open(self, parent: Any, window: int) -> None:
        self._window = window
        parent.task_consumer.channel.basic_qos(0, window, a_global=False)

    def _widen(self, parent: Any, prefetch_count: int) -> None:
        """Make room: the pool has grown, or tasks wait here for their time."""
        if prefetch_count < self._window:
            return
        # A window is a consumer's from its beginning to its end.
        parent.task_consumer.cancel()
        self._open(parent, 2 * prefetch_count)
        if not self._rests:
            parent.task_consumer.consume()

    def _put(self, shelf: Shelf, request: Any) -> None:
        request.shelved_at = clock.monotonic()
        shelf.put(request)

    def _look(self, parent: Any) -> None:
        """Let go of what waits for long, and take no more while nothing ends."""
        shelf = self._shelf
        if shelf is None:
            return
        longest = LONG
        if not self._rests and shelf.stands_still(BUSY):
            self._rests, longest = True, 0.0
            parent.task_consumer.cancel()
        for request in shelf.give_up(partial(_may_go_back, parent.app, longest)):
            request.reject(requeue=True)
            task_ready(request)
        # They are due in the store.
        for request in shelf.give_up(attrgetter("acknowledged")):
            task_ready(request)

    def _go_on(self, parent: Any) -> None:
        """A process is free, and nothing waits for it."""
        if self._rests:
            self._rests = False
            parent.task_consumer.consume()


def _can_choose(consumer: Any) -> bool:
    worker = consumer.controller
    return (
        consumer.conninfo.transport.driver_type == "amqp"
        and worker.semaphore is not None
        and worker.pool_cls.uses_semaphore
        and len(consumer.app.amqp.queues.consume_from) > 1
    )


def _shelf(consumer: Any, order: Order, idle: Callable[[], None]) -> Shelf:
    worker, app = consumer.controller, consumer.app
    return Shelf(
        order,
        list(app.amqp.queues.consume_from),
        queue_of=partial(_queue, app),
        acquire=worker.semaphore.acquire,
        release=worker.semaphore.release,
        start=worker._process_task,  # noqa: SLF001 - what waits for a process calls it
        idle=idle,
        leaving=app.jobkit.drain.is_set,
    )


def _queue(app: Any, request: Any) -> str:
    """The queue that a request came from; empty where it cannot be told."""
    key = request.delivery_info.get("routing_key")
    queues = app.amqp.queues.consume_from
    if key in queues:
        return str(key)
    return next((str(n) for n, queue in queues.items() if queue.routing_key == key), "")


def _may_go_back(app: Any, seconds: float, request: Any) -> bool:
    """Whether a message has waited, and goes back as if nothing had been."""
    queue = app.amqp.queues.consume_from.get(_queue(app, request))
    waits = clock.monotonic() - request.shelved_at >= seconds
    if queue is None or request.acknowledged or not waits:
        return False
    # Of a message in a quorum queue RabbitMQ counts how often it came back.
    return (queue.queue_arguments or {}).get("x-queue-type") != "quorum"


class Shelf:
    """The requests that wait for a process of this worker, by their queue.

    ``acquire`` calls back when a process is free, ``start`` begins a request, and
    ``idle`` hears of a free process when nothing waits. While ``leaving`` nothing
    begins any more: a pool that closes waits half a minute for what it has just
    been given.
    """

    def __init__(
        self,
        order: Order,
        queues: Iterable[str],
        queue_of: Callable[[Any], str],
        acquire: Callable[[Callable[[], None]], Any],
        release: Callable[[], None],
        start: Callable[[Any], None],
        idle: Callable[[], None],
        leaving: Callable[[], bool] = bool,
    ) -> None:
        self._turns = order()
        self._queue_of = queue_of
        self._acquire = acquire
        self._release = release
        self._start = start
        self._idle = idle
        self._leaving = leaving
        self._asked = False
        self._moved = clock.monotonic()
        self._waiting: dict[str, deque[Any]] = {name: deque() for name in queues}
        self._turns.update(self._waiting)

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, request: Any) -> None:
        """Take in a request; it or a more urgent one begins when there is room."""
        queue = self._queue_of(request)
        if queue not in self._waiting:
            self._waiting[queue] = deque()
            self._turns.update(self._waiting)
        if not len(self):
            self._moved = clock.monotonic()
        self._waiting[queue].append(request)
        self._ask()

    def clear(self) -> None:
        """Forget all: the broker delivers them again."""
        self._asked = False
        for waiting in self._waiting.values():
            waiting.clear()

    def stands_still(self, seconds: float) -> bool:
        """Whether requests wait here, and none has begun for so long."""
        return len(self) > 0 and clock.monotonic() - self._moved >= seconds

    def give_up(self, which: Callable[[Any], bool]) -> list[Any]:
        """Take out the requests of which ``which`` is true."""
        given = []
        for queue, waiting in self._waiting.items():
            given += [request for request in waiting if which(request)]
            kept = [request for request in waiting if request not in given]
            self._waiting[queue] = deque(kept)
        return given

    def _ask(self) -> None:
        if len(self) and not self._asked and not self._leaving():
            self._asked = True
            self._acquire(self._next)

    def _next(self) -> None:
        """A process is free."""
        if not len(self):
            # Still asked for: what comes meanwhile is compared before one begins.
            self._idle()
        self._asked = False
        if self._leaving():
            self._release()
            return
        for queue in self._turns.consume(len(self._waiting)):
            if self._waiting[queue]:
                self._turns.rotate(queue)
                self._moved = clock.monotonic()
                self._start(self._waiting[queue].popleft())
                self._ask()
                return
        self._release()
