"""Workers serve their queues by the weights of the map, or strictly in its order."""

import uuid
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from kombu import Connection

from jobkit import State
from tests.servers import RabbitServer
from tests.waiting import wait_until
from tests.worker.fleet import FleetFactory
from tests.worker.promises import CLASSIC, QUORUM, REDIS
from tests.worker.setup import Broker

WEIGHTS = {"critical": 8, "high": 4, "normal": 2, "low": 1}
WHOLE = sum(WEIGHTS.values())

TOLERANCE = {REDIS: 0.10, CLASSIC: 0.15, QUORUM: 0.15}
"""By how much a share may be off, of what it should be."""

OVERTAKEN = 3
"""Jobs that may start before an urgent one where the order is by weights."""

FEW, MANY = 300, pytest.param(1_000, marks=pytest.mark.long)
LONG_QUORUM = pytest.param(QUORUM, marks=pytest.mark.long)

on_brokers = pytest.mark.parametrize(
    "broker", [REDIS, CLASSIC, LONG_QUORUM], indirect=True
)


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """Which broker a test is for."""
    return str(request.node.callspec.params["broker"])


class Queues:
    """A fleet with queues of its own, which are called by their names in the map."""

    def __init__(self, make_fleet: FleetFactory, kind: str = "", **conf: Any) -> None:
        if kind == QUORUM:
            conf["task_create_missing_queue_type"] = "quorum"
        self.prefix = f"order-{uuid.uuid4().hex[:8]}"
        queues = {self.full(name): {"weight": n} for name, n in WEIGHTS.items()}
        self.fleet = make_fleet(jobkit_queues=queues, **conf)
        self.sent: dict[str, str] = {}

    def full(self, name: str) -> str:
        """The name that the broker knows a queue by."""
        return f"{self.prefix}-{name}"

    def send(self, queue: str, task: str = "quick", count: int = 1) -> list[str]:
        """Enqueue jobs; their ids."""
        ids = [
            self.fleet.send(task, queue=self.full(queue), ignore_result=True).id
            for _ in range(count)
        ]
        self.sent.update(dict.fromkeys(ids, queue))
        return ids

    def fill(self, starts: int) -> None:
        """Enqueue so much that no queue runs empty within so many starts."""
        for queue, weight in WEIGHTS.items():
            self.send(queue, count=round(1.2 * starts * weight / WHOLE) + 10)

    def consume(self, *names: str) -> tuple[str, str]:
        """The option of a worker that serves these queues alone."""
        return "-Q", ",".join(self.full(name) for name in names)

    def started(self) -> list[str]:
        """The ids of the jobs that have started, in their order."""
        return [entry.job for entry in self.fleet.journal.entries()]

    def wait_for(self, starts: int, timeout: float = 60.0) -> list[str]:
        """Wait until so many jobs have started; their ids."""
        return wait_until(
            lambda: (there := self.started())[starts - 1 :] and there,
            f"{starts} jobs have started",
            timeout,
        )[:starts]

    def open(self, job_id: str) -> None:
        """Let a gated job end."""
        (self.fleet.folder / f"gate-{job_id}").touch()

    def taken(self, queue: str) -> bool:
        """Whether the broker has given all messages of a queue to a worker."""
        return self.left(queue) == 0

    def left(self, queue: str) -> int:
        """How many messages of a queue the broker has given to no worker."""
        with Connection(self.fleet.setup.broker) as connection:
            channel: Any = connection.default_channel
            there = channel.queue_declare(self.full(queue), passive=True)
        return int(there.message_count)


def check_shares(queues: Queues, started: Sequence[str], tolerance: float) -> None:
    """Whether each queue has had its share of these starts."""
    counts = Counter(queues.sent[job_id] for job_id in started)
    whole = sum(WEIGHTS[name] for name in counts)
    for name, count in counts.items():
        due = len(started) * WEIGHTS[name] / whole
        # One more or less is no share, where there are few.
        assert abs(count - due) <= max(tolerance * due, 1.5), (name, counts)


@on_brokers
@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.long), 2])
@pytest.mark.parametrize("starts", [FEW, MANY])
def test_full_queues_get_their_shares(
    make_fleet: FleetFactory, kind: str, processes: int, starts: int
) -> None:
    queues = Queues(make_fleet, kind)
    queues.fill(starts)

    queues.fleet.start("a", concurrency=processes)
    started = queues.wait_for(starts, 180)

    check_shares(queues, started, TOLERANCE[kind])
    # (c)17: the most patient queue had its first turn within a round.
    first = [queues.sent[job_id] for job_id in started].index("low")
    assert first <= WHOLE + processes


@pytest.mark.parametrize("broker", [REDIS, CLASSIC], indirect=True)
def test_workers_of_different_queues_serve_theirs_by_the_weights(
    make_fleet: FleetFactory, kind: str
) -> None:
    queues = Queues(make_fleet, kind)
    queues.fill(FEW)
    apart = (("critical", "low"), ("high", "normal"))

    for name, mine in zip("ab", apart, strict=True):
        queues.fleet.worker(name, *queues.consume(*mine)).launch()
    started = queues.wait_for(200)

    for mine in apart:
        theirs = [job_id for job_id in started if queues.sent[job_id] in mine]
        assert {queues.sent[job_id] for job_id in theirs} == set(mine)
        check_shares(queues, theirs[:90], TOLERANCE[kind])


@on_brokers
@pytest.mark.parametrize("order", ["weighted", "strict"])
@pytest.mark.parametrize("patient", [FEW, MANY])
def test_an_urgent_job_overtakes_all_that_wait(
    make_fleet: FleetFactory, kind: str, order: str, patient: int
) -> None:
    queues = Queues(make_fleet, kind, jobkit_queue_order=order)
    for name in ("high", "normal", "low"):
        queues.send(name, "gated", count=patient // 3)
    queues.fleet.start("a", concurrency=2)
    running = queues.wait_for(2)

    # As many as a worker of two processes takes of one queue on RabbitMQ.
    urgent = queues.send("critical", "gated", count=3)
    if kind != REDIS:
        wait_until(partial(queues.taken, "critical"), "the worker has them")
    for started in range(2, 7):
        queues.open(running[started - 2])
        running = queues.wait_for(started + 1)

    places = [running.index(job_id) - 2 for job_id in urgent if job_id in running]
    assert min(places) <= (0 if order == "strict" else OVERTAKEN)
    if order == "strict":
        assert places == [0, 1, 2]


@pytest.mark.long
@pytest.mark.parametrize("broker", [CLASSIC], indirect=True)
def test_a_worker_that_is_busy_for_long_leaves_what_waits_to_others(
    make_fleet: FleetFactory,
) -> None:
    queues = Queues(make_fleet)
    queues.fleet.start("a", concurrency=1)
    (long,) = queues.send("low", "gated")
    queues.wait_for(1)
    left = queues.send("low") + queues.send("critical")
    for name in ("low", "critical"):
        wait_until(partial(queues.taken, name), "the worker has taken it")

    queues.fleet.start("b")
    for job_id in left:
        queues.fleet.wait_for(job_id)
    queues.open(long)
    later = queues.send("high") + queues.send("normal")
    queues.fleet.workers["b"].stop()
    for job_id in (long, *later):
        queues.fleet.wait_for(job_id)

    jobs = [queues.fleet.jobs.get(job_id) for job_id in (*left, long, *later)]
    assert [(job.state, job.starts) for job in jobs] == [(State.SUCCEEDED, 1)] * 5
    assert all("b@test" in job.worker for job in jobs[:2])


@pytest.mark.parametrize("broker", [CLASSIC], indirect=True)
def test_tasks_that_wait_for_their_time_leave_room_for_others(
    make_fleet: FleetFactory,
) -> None:
    queues = Queues(make_fleet)
    low = queues.full("low")
    queues.fleet.start("a")
    for _ in range(20):
        queues.fleet.app.send_task("t.plain", queue=low, countdown=600)

    (job_id,) = queues.send("low")

    assert queues.fleet.wait_for(job_id).state is State.SUCCEEDED


@pytest.mark.long
def test_the_order_holds_when_rabbitmq_was_away(
    rabbit_server: RabbitServer, make_fleet: FleetFactory
) -> None:
    confirmed = {"broker_transport_options": {"confirm_publish": True}}
    make = partial(make_fleet, broker=Broker(rabbit_server.url, confirmed))
    queues = Queues(make, jobkit_queue_order="strict", jobkit_hint_seconds=600)
    (worker,) = queues.fleet.start("a")
    patient = queues.send("low", "gated", count=5)
    (first,) = queues.wait_for(1)
    # Long enough for what was taken ahead to have gone back.
    wait_until(lambda: queues.left("low") == 3, "the worker looks ahead")
    wait_until(lambda: queues.left("low") == 4, "the worker lets go")

    rabbit_server.kill()
    rabbit_server.start()
    wait_until(lambda: worker.log.count("Connected to amqp") == 2, "it is back", 60)
    urgent = queues.send("critical", "gated", count=2)
    wait_until(partial(queues.taken, "critical"), "the worker has them")
    for number, job_id in enumerate((first, *urgent), 2):
        queues.open(job_id)
        queues.wait_for(number)

    assert queues.wait_for(3)[1:] == urgent
    for job_id in patient:
        queues.open(job_id)
    jobs = [queues.fleet.wait_for(job_id, timeout=60) for job_id in patient]
    assert [job.state for job in jobs] == [State.SUCCEEDED] * 5


def test_a_long_job_makes_room_for_more_urgent_ones(make_fleet: FleetFactory) -> None:
    queues = Queues(make_fleet, jobkit_time_slice=0.3, jobkit_dispatch_interval=0.1)
    fleet = queues.fleet
    fleet.start("a")
    low = fleet.send("walk", 200, queue=queues.full("low")).id
    (behind,) = queues.send("low")
    fleet.journal.wait_for(low, count=80)
    # It has had its slice twice by now, but only one as patient as itself waits.
    assert fleet.jobs.get(low).interruptions == 0

    urgent = queues.send("critical", count=3)
    jobs = [fleet.wait_for(job_id) for job_id in (*urgent, low)]

    assert [job.state for job in jobs] == [State.SUCCEEDED] * 4
    assert (jobs[-1].interruptions, jobs[-1].attempts, jobs[-1].recoveries) == (1, 0, 0)
    assert fleet.journal.items(low) == list(range(1, 201))
    events = [(event.name, event.detail) for event in fleet.jobs.history(low)]
    assert ("interrupted", "slice") in events
    order = [entry.job for entry in fleet.journal.entries() if entry.job != low]
    assert order[:3] == urgent
    goes_on = fleet.journal.entries(low, fence=2)[0].at
    assert all(fleet.journal.entries(job_id)[0].at < goes_on for job_id in urgent)
    fleet.wait_for(behind)


def test_a_job_of_a_patient_queue_starts_beside_endless_urgent_ones(
    make_fleet: FleetFactory,
) -> None:
    queues = Queues(make_fleet)
    queues.send("critical", count=200)
    queues.fleet.start("a", concurrency=2)
    before = len(queues.wait_for(20))

    (low,) = queues.send("low")
    sent = len(queues.started())
    queues.fleet.journal.wait_for(low)

    assert before <= queues.started().index(low) <= sent + 2 * OVERTAKEN
