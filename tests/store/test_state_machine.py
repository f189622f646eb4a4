"""Random lives of jobs, led in memory and in the server side by side."""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)
from typing_extensions import override

from jobkit.errors import DuplicateJob, JobNotFound
from jobkit.job import FailedItem, Job, Unique
from jobkit.states import MOVES, State
from jobkit.store.base import Store
from jobkit.store.memory import MemoryStore
from jobkit.store.memory_unique import holds
from jobkit.store.values import REPLACED, Death, Dropped, Letter
from tests.servers import ValkeyServer
from tests.store.clocks import Clock, ClockedRedisStore
from tests.store.lives import CRASHED, failure, message, new_job, snapshot

JOBS = ("a", "b", "g")  # in all of three partitions
TASKS = ("x", "y")
QUEUES = ("", "p", "q")
OWNERS = ("", "ada")
KEYS = ("k", "l")
HINT, GRACE = 300.0, 20.0
DAY = 86_400

OWNER_VERBS = frozenset(
    {"renew", "save", "succeed", "retry", "bury", "interrupt", "replace"}
)
REPEATABLE = OWNER_VERBS | {
    *("enqueue", "amend", "begin", "ask", "resume", "replay", "discard", "told"),
    *("bulk", "restore"),
}
MAY_GO_BACK = frozenset({"enqueue", "replace", "replay", "bulk"})

jobs = st.sampled_from(JOBS)
owners = st.tuples(jobs, st.sampled_from(["begun", "begun", "as it is", "stale"]))
workers = st.sampled_from(["w1/1", "w1/2", "w2"])
positions = st.integers(0, 5)
items = st.lists(
    st.builds(
        FailedItem,
        st.sampled_from(["count", "import"]),
        st.sampled_from(["1", "2", "a\nb"]),
        st.just("ValueError"),
        st.just("no"),
        st.integers(1, 4),
    ),
    max_size=3,
)
uniques = st.none() | st.builds(
    Unique,
    st.sampled_from(KEYS),
    st.sampled_from(["finish", "start", 30.0, 2 * 86_400.0]),
    st.sampled_from(["return", "cancel"]),
)
words = st.sampled_from(["", "why", "so\nwhy"])
failures = st.builds(
    failure,
    st.sampled_from(["no", "never"]),
    attempt=st.booleans(),
    rate_limited=st.booleans(),
)


class TwoStores(RuleBasedStateMachine):
    """Does the same to both, and demands that both do the same."""

    def __init__(self, url: str, partitions: int) -> None:
        super().__init__()
        self.clock = Clock()
        self.memory = MemoryStore(now=self.clock)
        prefix = f"test-{uuid.uuid4().hex[:12]}"
        self.redis = ClockedRedisStore(url, self.clock, prefix, partitions)
        self.known: dict[str, Job | None] = dict.fromkeys(JOBS)
        self.letters: dict[str, Letter] = {}
        self.last: tuple[str, tuple[Any, ...], dict[str, Any], Any] | None = None

    @override
    def teardown(self) -> None:
        try:
            for job_id in JOBS:
                assert lived(self.memory, job_id) == lived(self.redis, job_id)
        finally:
            self.redis.close()

    def both(self, verb: str, *arguments: Any, **options: Any) -> Any:
        """Send a verb to both; their answer."""
        mine = answer(self.memory, verb, *arguments, **options)
        theirs = answer(self.redis, verb, *arguments, **options)
        assert mine == theirs
        self.compare_records(verb)
        self.compare_keys()
        assert server_indexes(self.redis) == expected_indexes(self.memory)
        # Without the hints it was claimed with, each word counts as another one.
        again = verb in REPEATABLE or options.get("hints") is not None
        self.last = (verb, arguments, options, mine) if again else None
        return mine

    def compare_records(self, verb: str) -> None:
        """Demand that both have the same, and that the verb may have led there."""
        client: Any = self.redis._client
        for job_id in JOBS:
            mine = self.memory._jobs.get(job_id)
            theirs = client.hgetall(self.redis.keys.job(job_id))
            assert said(mine.fields if mine else {}) == said(theirs)
            job = self.memory.get(job_id)
            assert job == self.redis.get(job_id)
            assert self.memory.failures(job_id) == self.redis.failures(job_id)
            check_move(verb, self.known[job_id], job)
            self.known[job_id] = job

    def compare_keys(self) -> None:
        """Demand that the same jobs have the unique keys, and one job each."""
        client: Any = self.redis._client
        for key in KEYS:
            mine = [
                job_id
                for job_id, record in self.memory._jobs.items()
                if holds(record, key, self.clock.now)
            ]
            theirs = client.get(f"{self.redis.keys.tag_of(key)}:unique:{key}")
            job = theirs and self.redis.get(theirs)
            till = client.hget(self.redis.keys.job(theirs or ""), "unique_till")
            has = job and (not till or self.clock.now < int(till))
            assert mine == ([theirs] if has else [])

    def write(
        self, owner: tuple[str, str], verb: str, *arguments: Any, **options: Any
    ) -> None:
        """Send a verb of a run; one that is not the owner's changes nothing."""
        job_id, kind = owner
        if kind == "begun":
            self.run(job_id, "w1/1", 2)
        job = self.known[job_id]
        fence = job.fence if job else 1
        if kind == "stale":
            fence -= 1
        owns = job and job.state is State.RUNNING and job.fence == fence
        self.both(verb, job_id, fence, *arguments, **options)
        if not owns:
            assert self.memory.get(job_id) == job

    @rule(
        seconds=st.sampled_from([0.001, 0.5, 5, 30, 301, 3600, DAY, 8 * DAY, 31 * DAY])
    )
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.last = None

    @rule()
    def leases_end(self) -> None:
        self.time_passes(30)
        self.both("rescue")

    @rule()
    def waiting_ends(self) -> None:
        self.time_passes(600)
        self.both("claim_due", 100, GRACE)

    @rule()
    def retention_ends(self) -> None:
        self.time_passes(31 * DAY)
        self.both("prune")

    @precondition(lambda self: self.last)
    @rule()
    def the_last_command_is_sent_again(self) -> None:
        assert self.last
        verb, arguments, options, first = self.last
        before = [self.memory.get(job_id) for job_id in JOBS]
        second = self.both(verb, *arguments, **options)
        assert [self.memory.get(job_id) for job_id in JOBS] == before
        assert second == first

    @rule(
        job_id=jobs,
        token=st.sampled_from(["e1", "e2"]),
        task=st.sampled_from(TASKS),
        queue=st.sampled_from(QUEUES),
        owner=st.sampled_from(OWNERS),
        delay=st.sampled_from([None, None, 0, 5, 600]),
        crash_limit=st.integers(1, 3),
        unique=uniques,
        blocked=st.sampled_from([False, False, True]),
    )
    def enqueue(
        self,
        job_id: str,
        token: str,
        unique: Unique | None = None,
        *,
        blocked: bool = False,
        **values: Any,
    ) -> None:
        key = self.beside(job_id, unique)
        job = replace(new_job(job_id, **values), unique=key, blocked=blocked)
        self.both("enqueue", job, token, HINT)

    def beside(self, job_id: str, unique: Unique | None) -> Unique | None:
        """The key, if it can be kept where the job is."""
        tags = self.redis.keys.tag_of
        return unique if unique and tags(unique.key) == tags(job_id) else None

    @rule(
        job_id=jobs,
        token=st.sampled_from(["m1", "m2"]),
        key=st.sampled_from(KEYS),
        text=st.sampled_from(["shop.more", "shop.less"]),
    )
    def amend(self, job_id: str, token: str, key: str, text: str) -> None:
        self.both("amend", job_id, token, key, message(text).encode())

    @rule(job_id=jobs, generation=st.sampled_from(["", "m1", "m2"]))
    def begin_by_a_message(self, job_id: str, generation: str) -> None:
        self.both(
            "begin", job_id, f"t at {self.clock.now}", "w1/1", 30, "x", generation
        )

    @rule(job_id=jobs)
    def unblock(self, job_id: str) -> None:
        self.both("unblock", job_id, GRACE)

    @rule(job_id=jobs, ok=st.booleans())
    def published(self, job_id: str, *, ok: bool) -> None:
        self.both("published", job_id, HINT, ok=ok)

    @rule(
        job_id=jobs,
        ok=st.booleans(),
        hints=st.sampled_from([None, 0, 1, 2]),
        behind=st.sampled_from([None, 0, 0, 1]),
    )
    def published_as_claimed(
        self, job_id: str, *, ok: bool, hints: int | None, behind: int | None
    ) -> None:
        job = self.known[job_id]
        fence = None if behind is None else (job.fence if job else 1) - behind
        self.both("published", job_id, HINT, ok=ok, hints=hints, fence=fence)

    @rule(ok=st.booleans(), late=st.booleans())
    def what_is_due_is_published(self, *, ok: bool, late: bool) -> None:
        for due in self.both("claim_due", 100, GRACE):
            if late:
                self.run(due.id, "w1/1", 2)
            told = {"hints": due.hints, "fence": due.fence}
            self.both("published", due.id, HINT, ok=ok, **told)

    @rule(
        job_id=jobs,
        token=st.sampled_from(["t1", "t2", "t3"]),
        worker=workers,
        lease=st.sampled_from([10, 30]),
    )
    def begin(self, job_id: str, token: str, worker: str, lease: float) -> None:
        self.both("begin", job_id, token, worker, lease)

    @rule(job_id=jobs, worker=workers, crash_limit=st.integers(1, 3))
    def run(self, job_id: str, worker: str, crash_limit: int) -> None:
        self.enqueue(job_id, "e1", task="x", queue="p", crash_limit=crash_limit)
        self.both("resume", job_id)
        self.begin(job_id, f"t at {self.clock.now}", worker, 30)

    @rule(owner=owners)
    def renew(self, owner: tuple[str, str]) -> None:
        self.write(owner, "renew", 30)

    @rule(owner=owners, seq=st.integers(1, 5), position=positions, bad=items)
    def save(
        self, owner: tuple[str, str], seq: int, position: int, bad: list[FailedItem]
    ) -> None:
        before = self.memory.get(owner[0])
        late = before and seq <= self.memory._jobs[owner[0]].number("save_seq")
        taken = replace(snapshot(position), failed=tuple(bad))
        self.write(owner, "save", seq, taken, 30)
        if late and owner[1] == "as it is":
            assert self.memory.get(owner[0]) == before

    @rule(
        owner=owners,
        position=positions,
        reason=st.sampled_from(["", REPLACED]),
        tell=st.booleans(),
    )
    def succeed(
        self, owner: tuple[str, str], position: int, reason: str, *, tell: bool
    ) -> None:
        self.write(owner, "succeed", snapshot(position), reason, tell=tell)

    @rule(
        owner=owners,
        met=failures,
        delay=st.sampled_from([0, 5, 1000]),
        text=st.sampled_from([None, message("shop.changed").encode()]),
    )
    def retry(
        self, owner: tuple[str, str], met: Any, delay: float, text: str | None
    ) -> None:
        self.write(owner, "retry", met, delay, text)

    @rule(owner=owners, met=failures, reason=words, tell=st.booleans())
    def bury(
        self, owner: tuple[str, str], met: Any, reason: str, *, tell: bool
    ) -> None:
        self.write(owner, "bury", met, reason, tell=tell)

    @rule(
        owner=owners,
        kind=st.sampled_from(["drain", "requeue", "pause", "cancel", "block"]),
        reason=words,
    )
    def interrupt(self, owner: tuple[str, str], kind: str, reason: str) -> None:
        self.write(owner, "interrupt", kind, reason)

    @rule(
        owner=owners,
        task=st.sampled_from(TASKS),
        queue=st.sampled_from(QUEUES),
        unique=uniques,
    )
    def replace(
        self, owner: tuple[str, str], task: str, queue: str, unique: Unique | None
    ) -> None:
        unique = self.beside(owner[0], unique)
        new = replace(new_job(owner[0], task, queue), unique=unique)
        self.write(owner, "replace", new, 5)

    @rule(job_id=jobs)
    def all_who_ever_ran_it_renew(self, job_id: str) -> None:
        job = self.known[job_id]
        owners = [
            fence
            for fence in range(job.fence + 2 if job else 2)
            if self.both("renew", job_id, fence, 30).owner
        ]
        running = job is not None and job.state is State.RUNNING
        assert owners == ([job.fence] if job and running else [])
        self.last = None

    @rule(job_id=jobs, worker=st.sampled_from(["w1", "w1/1", "w2"]))
    def crash(self, job_id: str, worker: str) -> None:
        self.both("crash", job_id, worker, CRASHED)

    @rule()
    def rescue(self) -> None:
        self.both("rescue")

    @rule()
    def claim_due(self) -> None:
        self.both("claim_due", 100, GRACE)

    @rule()
    def next_due(self) -> None:
        self.both("next_due")

    @rule(age=st.sampled_from([0, 5]))
    def waiting(self, age: float) -> None:
        self.both("waiting", ["normal"], age)

    @rule()
    def prune(self) -> None:
        self.both("prune")

    @rule(job_id=jobs, kind=st.sampled_from(["cancel", "pause"]), reason=words)
    def ask(self, job_id: str, kind: str, reason: str) -> None:
        self.both("ask", job_id, kind, "ada", reason)

    @rule(job_id=jobs)
    def resume(self, job_id: str) -> None:
        self.both("resume", job_id, "bob")

    @rule(job_id=jobs, mode=st.sampled_from(["resume", "restart"]), reason=words)
    def replay(self, job_id: str, mode: str, reason: str) -> None:
        self.both("replay", job_id, mode, "", reason)

    @rule(job_id=jobs, stale=st.booleans())
    def a_dead_letter_comes_back(self, job_id: str, *, stale: bool) -> None:
        record = self.memory._jobs.get(job_id)
        death = "0.1" if stale or record is None else record.death
        outcome = self.both("replay", job_id, "resume", "", "", death)
        # Sent again it changes nothing either, but means a death that is over.
        self.last = None
        assert not stale or record is None or outcome[0] == "refused"

    @rule(
        job_id=jobs,
        token=st.sampled_from(["d1", "d2"]),
        queue=st.sampled_from(QUEUES),
        foreign=st.booleans(),
        tell=st.booleans(),
    )
    def collect(
        self, job_id: str, token: str, queue: str, *, foreign: bool, tell: bool
    ) -> None:
        dropped = Dropped(token, "rejected", CRASHED, foreign, tell)
        self.both("collect", new_job(job_id, "x", queue), dropped)

    @rule(
        note=st.sampled_from(["uncopied", "unannounced", "unheard"]),
        done=st.booleans(),
    )
    def notes_are_claimed(self, note: str, *, done: bool) -> None:
        for death in self.both("claim_notes", note, 0, GRACE):
            self.both("noted", note, Death(death.id, "0.1"))
            if done:
                self.both("noted", note, death)

    @rule(job_id=jobs, reason=words)
    def discard(self, job_id: str, reason: str) -> None:
        self.both("discard", job_id, "ada", reason)

    @rule(
        job_ids=st.lists(jobs, unique=True),
        act=st.sampled_from(["resume", "restart", "discard"]),
        bulk=st.sampled_from(["B1", "B2"]),
        reason=words,
    )
    def bulk(self, job_ids: list[str], act: str, bulk: str, reason: str) -> None:
        self.both("bulk", job_ids, act, bulk, "ada", reason)

    @rule(job_id=jobs)
    def take_out(self, job_id: str) -> None:
        letter = self.memory.take_out(job_id)
        if letter and letter.fields["state"] == State.DEAD:
            self.letters[job_id] = letter

    @precondition(lambda self: self.letters)
    @rule(data=st.data(), token=st.sampled_from(["r1", "r2"]))
    def restore(self, data: st.DataObject, token: str) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.letters)))
        self.both("restore", self.letters[job_id], token)

    @rule(job_id=jobs)
    def told(self, job_id: str) -> None:
        self.both("told", job_id)

    @rule(age=st.sampled_from([0, 5, 600]))
    def untold(self, age: float) -> None:
        for released in self.both("untold", age):
            assert released.state in {State.DEAD, State.CANCELLED}

    @rule(
        limit=st.integers(1, 5),
        state=st.sampled_from([None, *State]),
        task=st.sampled_from([None, *TASKS]),
        queue=st.sampled_from([None, *QUEUES]),
        owner=st.sampled_from([None, *OWNERS]),
    )
    def list_jobs(self, limit: int, **wanted: Any) -> None:
        mine = walked(self.memory, limit, wanted)
        assert mine == walked(self.redis, limit, wanted)

    @rule()
    def count(self) -> None:
        counts = self.both("counts")
        listed = {state: walked(self.redis, 2, {"state": state}) for state in State}
        assert counts == {state: len(found) for state, found in listed.items()}


def answer(store: Store, verb: str, *arguments: Any, **options: Any) -> Any:
    """What a store answers; of a list, the order is not compared."""
    try:
        found = getattr(store, verb)(*arguments, **options)
    except (JobNotFound, DuplicateJob) as error:
        return str(error)
    if isinstance(found, list):
        return sorted(found, key=lambda job: getattr(job, "id", job))
    return found


def lived(store: Store, job_id: str) -> list[Any]:
    """The history without the places in it, which each store names its own way."""
    return [replace(event, id="") for event in store.history(job_id)]


def walked(store: Store, limit: int, wanted: dict[str, Any]) -> Sequence[Job]:
    """The jobs of all pages."""
    page = store.list(limit=limit, **wanted)
    found = [*page.items]
    while page.next is not None:
        page = store.list(limit=limit, after=page.next, **wanted)
        found += page.items
    return found


def said(fields: dict[str, str]) -> dict[str, str]:
    """A record's fields; one that is empty or zero says no more than none.

    The error is compared as a value: its parts may be in any order.
    """
    untold = (
        *("entered_at", "untold_since", "unique_held", "uncopied", "unannounced"),
        *("unheard", "error"),
    )
    return {
        name: value
        for name, value in fields.items()
        if value not in ("", "0") and name not in untold
    }


def check_move(verb: str, before: Job | None, after: Job | None) -> None:
    """Demand that what a verb did to a job is in the table."""
    if before is None:
        assert after is None or verb in {"enqueue", "collect", "restore"}
    elif after is None:
        assert verb in {"prune", "published"}
        assert before.state.finished or verb == "published"
    elif verb == "enqueue" and before.reason == REPLACED != after.reason:
        assert before.state is State.SUCCEEDED
        assert after.fence == before.fence
    elif verb == "collect" and before.state.finished:
        # Known, or a foreign one that is filed anew.
        assert after.state in {before.state, State.DEAD}
        assert after.fence == before.fence
    else:
        assert after.state is before.state or after.state in MOVES[before.state]
        if before.state.finished and after.state is not before.state:
            assert verb in {"replay", "discard", "bulk"}
        assert after.fence - before.fence in ({0, 1} if verb == "begin" else {0})
        assert after.position >= before.position or verb in MAY_GO_BACK


Indexes = dict[str, dict[str, int]]
FIELDS_OF_INDEXES = {
    "due": "due_at",
    "leases": "lease_until",
    "untold": "untold_since",
    "uncopied": "uncopied",
    "unannounced": "unannounced",
    "unheard": "unheard",
}


def expected_indexes(store: MemoryStore) -> Indexes:
    """What must be in the indexes, by the records alone."""
    found: Indexes = defaultdict(dict)
    for job_id, record in store._jobs.items():
        created = record.number("created_at")
        found["all"][job_id] = created
        found[f"state:{record.state}"][job_id] = record.number("entered_at")
        for kind in ("task", "queue", "owner"):
            if record.text(kind):
                found[f"{kind}:{record.text(kind)}"][job_id] = created
        for name, field in FIELDS_OF_INDEXES.items():
            if record.text(field):
                found[name][job_id] = record.number(field)
        if record.state.finished:
            kept = asdict(store.retention)
            found["expire"][job_id] = record.expires_at(kept)
    return found


def server_indexes(store: ClockedRedisStore) -> Indexes:
    """What is in the indexes of all partitions."""
    client: Any = store._client
    names = ["all", "expire", *FIELDS_OF_INDEXES]
    names += [f"state:{state}" for state in State]
    names += [f"task:{task}" for task in TASKS]
    names += [f"queue:{queue}" for queue in QUEUES]
    names += [f"owner:{owner}" for owner in OWNERS]
    places = [(tag, name) for tag in store.keys.tags() for name in names]
    with client.pipeline(transaction=False) as pipe:
        for tag, name in places:
            pipe.zrange(f"{tag}:{name}", 0, -1, withscores=True)
        answers = pipe.execute()
    found: Indexes = defaultdict(dict)
    for (tag, name), members in zip(places, answers, strict=True):
        for job_id, score in members:
            assert store.keys.tag_of(job_id) == tag
            found[name][job_id] = int(score)
    return found


def machine(url: str, partitions: int) -> type[TwoStores]:
    """The machine for one server."""

    class Lives(TwoStores):
        def __init__(self) -> None:
            super().__init__(url, partitions)

    return Lives


QUICK = settings(
    max_examples=70,
    stateful_step_count=40,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
THOROUGH = settings(QUICK, max_examples=600, stateful_step_count=80)


@pytest.mark.parametrize("partitions", [1, 3])
def test_memory_and_server_agree(valkey: ValkeyServer, partitions: int) -> None:
    run_state_machine_as_test(machine(valkey.url, partitions), settings=QUICK)


@pytest.mark.long
@pytest.mark.timeout("1200")
@pytest.mark.parametrize("partitions", [1, 3])
def test_memory_and_server_agree_for_long(
    valkey: ValkeyServer, partitions: int
) -> None:
    run_state_machine_as_test(machine(valkey.url, partitions), settings=THOROUGH)
