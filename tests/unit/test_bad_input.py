"""What people get wrong is answered by an error that says what to do."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import redis
from celery import Celery, Task

from jobkit import (
    Client,
    CodecError,
    JobKit,
    JobkitError,
    JobNotFound,
    LimitError,
    NotAllowed,
    ProgressTask,
    RetryPolicy,
    SchemaError,
    SettingsError,
    Stage,
    StageError,
    State,
    StoreError,
    StoreUnavailable,
)
from jobkit.store.memory import MemoryStore
from jobkit.store.redis import RedisStore
from jobkit.store.values import Snapshot
from tests.servers import ValkeyServer
from tests.unit.conftest import NOWHERE, MakeApp
from tests.unit.runs import ID, WORKER, begin, new_job

STAGES = ["count", "import"]

Body = Callable[[Any], object]


def run(app: Celery, body: Body, **options: Any) -> str:
    """The message of the error that a task ends with; it is final and recorded."""

    @app.task(
        base=ProgressTask,
        bind=True,
        name=f"t-{uuid.uuid4()}",
        shared=False,
        **{"stages": STAGES, **options},
    )
    def task(self: Any) -> object:
        return body(self)

    result = task.apply()
    with pytest.raises(JobkitError):
        result.get()
    job = Client(app.jobkit.local).get(result.id)  # type: ignore[attr-defined]
    assert job.state is State.DEAD
    assert job.error
    assert job.error.message == str(result.result)
    assert (job.error.verdict, job.starts) == ("permanent", 1)
    return str(result.result)


# -- in the body of a task


def iterating(cursor: object) -> Body:
    def body(task: Any) -> None:
        with task.stage("import") as stage:
            list(stage.iterate(range(3), cursor=lambda _: cursor))

    return body


def test_a_cursor_that_cannot_be_kept(app: Celery) -> None:
    told = run(app, iterating({"page": [object()]}))

    assert "cursor of stage 'import'['page'][0] is of type builtins.object" in told
    assert "Kept are str, int, float" in told


def test_a_cursor_of_5_kib(app: Celery) -> None:
    told = run(app, iterating("x" * 5 * 1024))

    assert "cursor of stage 'import' takes 5122 bytes, at most 4096 are kept" in told
    assert "Store a key to the data instead" in told


def test_a_checkpoint_by_hand_has_the_same_limits(app: Celery) -> None:
    def body(task: Any) -> None:
        with task.stage("import") as stage:
            stage.checkpoint("x" * 5 * 1024)

    assert "at most 4096 are kept" in run(app, body)


def test_a_step_value_that_cannot_be_kept(app: Celery) -> None:
    told = run(app, lambda task: task.step("count", lambda: {1, 2}))

    assert "value of step 'count' is of type builtins.set, which is not kept" in told


def test_a_step_value_over_64_kib(app: Celery) -> None:
    told = run(app, lambda task: task.step("count", lambda: "x" * 70_000))

    assert "value of step 'count' takes 70002 bytes, at most 65536 are kept" in told


def test_a_stage_that_is_not_declared(app: Celery) -> None:
    told = run(app, lambda task: task.stage("imprt"))

    assert "Stage 'imprt' is not declared" in told
    assert "['count', 'import']. Add it to stages=[...]" in told


def test_a_stage_of_a_task_that_has_none(app: Celery) -> None:
    told = run(app, lambda task: task.stage("import"), stages=())

    assert "the task has no stages. Add stages=['import'] to it" in told


def test_a_stage_that_is_used_again(app: Celery) -> None:
    def body(task: Any) -> None:
        task.step("count", int)
        task.step("count", int)

    assert "Stage 'count' is used a second time in one run" in run(app, body)


def test_a_stage_inside_another(app: Celery) -> None:
    def body(task: Any) -> None:
        with task.stage("count"):
            task.step("import", int)

    assert "'import' begins inside stage 'count': close that one" in run(app, body)


def test_stages_out_of_order(app: Celery) -> None:
    def body(task: Any) -> None:
        task.step("import", int)
        task.step("count", int)

    assert "Stage 'count' comes after 'import'" in run(app, body)


@pytest.mark.parametrize("total", [-1, "x", 2.5, True])
def test_a_total_that_is_none(app: Celery, total: Any) -> None:
    def in_iterate(task: Any) -> None:
        with task.stage("import") as stage:
            stage.iterate([1], total=total)

    ways: list[Body] = [lambda task: task.stage("import", total=total), in_iterate]
    for way in ways:
        told = run(app, way)
        assert "total of stage 'import' must be a whole number from 0 on" in told
        assert f"it is {total!r}" in told


@pytest.mark.parametrize("total", [-1, "x", 2.5])
def test_a_total_of_celery_progress_that_is_none(app: Celery, total: Any) -> None:
    told = run(app, lambda task: task.set_progress(1, total), stages=())

    assert (
        f"must be a whole number from 0 on, or None when it is not known; it is {total!r}"
        in told
    )


def test_progress_outside_of_a_stage(app: Celery) -> None:
    told = run(app, lambda task: task.increment_progress())

    assert "No stage is open: report progress inside `with self.stage(...)`" in told


def test_a_stage_that_is_iterated_outside_of_its_block(app: Celery) -> None:
    told = run(app, lambda task: list(task.stage("import").iterate([1])))

    assert "Stage 'import' is not open" in told
    assert "write `with self.stage('import') as stage:`" in told


def test_progress_that_goes_back(app: Celery) -> None:
    told = run(app, lambda task: task.increment_progress(-5), stages=())

    assert "cannot advance by -5: progress never goes back" in told


def counts_itself(task: Any) -> None:
    with task.stage("import") as stage:
        for _ in stage.iterate(range(5)):
            stage.advance()


def sets_progress(task: Any) -> None:
    with task.stage("import") as stage:
        for item in stage.iterate(range(5)):
            task.set_progress(item + 1, 5)


def advances_behind(task: Any) -> None:
    with task.stage("import") as stage:
        list(stage.iterate(range(5)))
        stage.advance(2)


@pytest.mark.parametrize("body", [counts_itself, sets_progress, advances_behind])
def test_counting_what_is_counted(app: Celery, body: Body) -> None:
    told = run(app, body)

    assert "Stage 'import' counts the items that it goes through" in told
    assert "leave advance and set_progress out" in told


def test_iterating_what_was_counted(app: Celery) -> None:
    def body(task: Any) -> None:
        with task.stage("import") as stage:
            stage.advance(2)
            stage.each(["a", "b", "c"], str)

    assert "'import' was advanced by hand: it would skip" in run(app, body)


@pytest.mark.parametrize("source", [{1, 2}, frozenset("ab")])
def test_a_source_without_an_order(app: Celery, source: Any) -> None:
    def body(task: Any) -> None:
        with task.stage("import") as stage:
            list(stage.iterate(source))

    assert "Stage 'import' iterates a set" in run(app, body)


async def nobody_awaits(*_: Any) -> None:
    """What a web framework would await."""


class Nobody:
    """A handler that is an object."""

    async def __call__(self, *_: Any) -> None:
        """What a web framework would await."""


@pytest.mark.parametrize(
    "handler", [nobody_awaits, partial(nobody_awaits, 1), Nobody()]
)
def test_a_handler_that_nobody_awaits(app: Celery, handler: Any) -> None:
    def body(task: Any) -> None:
        with task.stage("import") as stage:
            stage.each([1], handler)

    assert "The handler of stage 'import' is async" in run(app, body)


def test_a_body_that_nobody_awaits(app: Celery) -> None:
    with pytest.raises(SettingsError, match=r"'t': its body is async.*asyncio.run"):
        app.task(base=ProgressTask, name="t", shared=False)(nobody_awaits).delay()


def test_a_body_that_another_class_awaits(app: Celery) -> None:
    class Awaiting(Task):  # type: ignore[type-arg]
        abstract = True

        def __call__(self, *args: Any) -> Any:
            return asyncio.run(self.run(*args))

    class Async(ProgressTask, Awaiting):
        abstract = True

    async def body() -> str:
        return "awaited"

    task: Any = app.task(base=Async, name="t", shared=False)(body)

    assert task.apply().get() == "awaited"


def test_a_time_to_wait_that_is_none(app: Celery) -> None:
    def body() -> None:
        pass

    task: Any = app.task(base=ProgressTask, name="t", shared=False)(body)
    with pytest.raises(TypeError, match="float"):
        task.run_or_delay(wait=None)  # and no broker was asked


@pytest.mark.parametrize(
    "count", [True, float("inf"), float("nan"), Decimal(1), "1", 10**400, None]
)
def test_a_count_that_is_none(app: Celery, count: Any) -> None:
    ways: list[Body] = [
        lambda task: task.increment_progress(count),
        lambda task: task.set_progress(count, 10),
    ]
    for way in ways:
        told = run(app, way, stages=())
        assert "counts its items in whole numbers of up to 2**53" in told
        assert f"this is {count!r}" in told


class Whole:
    """A whole number of another library's, as numpy's are."""

    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize("count", [7, 7.9, Whole()])
def test_a_count_of_another_type(app: Celery, count: Any) -> None:
    @app.task(base=ProgressTask, bind=True, shared=False)
    def task(self: Any) -> None:
        self.set_progress(count, 7.0)

    job_id = task.apply().id
    progress = Client(app.jobkit.local).get(job_id).progress  # type: ignore[attr-defined]

    assert (progress.current, progress.total) == (7, 7)


def test_a_source_that_cannot_tell_its_cursor(app: Celery) -> None:
    def body(task: Any) -> None:
        with task.stage("import") as stage:
            stage.iterate(lambda _: [1])

    told = run(app, body)

    assert "iterates a callable source without a cursor" in told
    assert "cursor=function(item), or use one of jobkit.sources" in told


# -- in what a task declares


def declare(app: Celery, **options: Any) -> None:
    """Declare a task that is wrong; Celery looks at it when the app is used."""

    @app.task(base=ProgressTask, name="sync", shared=False, **options)
    def sync() -> None:
        pass

    app.finalize()


@pytest.mark.parametrize(
    ("stages", "part"),
    [
        ("import", "list of names and Stages, not 'import'"),
        (["a", "b", "a"], "Stage 'a' is declared twice in ['a', 'b', 'a']"),
        ([("import", 8)], "A stage is a name or a Stage, not ('import', 8)"),
        ({"import": 8}, "list of names and Stages, not {'import': 8}"),
        ([None], "A stage is a name or a Stage, not None"),
        ([""], "A stage needs a name that is a text: ''"),
    ],
)
def test_stages_that_are_none(app: Celery, stages: Any, part: str) -> None:
    with pytest.raises(SettingsError) as told:
        declare(app, stages=stages)

    assert str(told.value).startswith("Task 'sync': ")
    assert part in str(told.value)


def test_a_weight_that_is_none() -> None:
    with pytest.raises(SettingsError, match=r"'import' has weight 0; .* above 0"):
        Stage("import", weight=0)


@pytest.mark.parametrize("was", [7, ["sync"], ("sync", 7)])
def test_a_former_name_that_is_none(was: Any) -> None:
    with pytest.raises(SettingsError, match=r"Stage 'import' was .*a tuple of names"):
        Stage("import", was=was)


@pytest.mark.parametrize(
    "stages",
    [
        ["sync", Stage("import", was="sync")],
        [Stage("load", was="sync"), Stage("import", was=("get", "sync"))],
    ],
    ids=["that is declared", "of two stages"],
)
def test_a_former_name_of_another_stage(app: Celery, stages: Any) -> None:
    with pytest.raises(SettingsError, match="was 'sync', which another stage is or"):
        declare(app, stages=stages)


@pytest.mark.parametrize(
    ("policy", "part"),
    [
        ("sometimes", "'sometimes'"),
        ({"transien": 5}, "transient"),
        ({"transient": "5"}, "transient"),
        (5, "5"),
    ],
)
def test_a_policy_that_is_none(app: Celery, policy: Any, part: str) -> None:
    with pytest.raises(SettingsError) as told:
        declare(app, retry_policy=policy)

    assert part in str(told.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lease_seconds", 0),
        ("lease_seconds", "30"),
        ("checkpoint_interval", -1),
        ("checkpoint_every", 0),
        ("checkpoint_every", 2.5),
    ],
)
def test_an_option_that_is_none(app: Celery, option: str, value: Any) -> None:
    with pytest.raises(SettingsError) as told:
        declare(app, **{option: value})

    assert f"Task 'sync': jobkit_{option} is {value!r}, expected" in str(told.value)


def test_a_policy_is_refused_where_it_is_made() -> None:
    with pytest.raises(SettingsError, match="unknown"):
        RetryPolicy(unknown=-1)


def test_an_unknown_setting(make_app: MakeApp) -> None:
    app = make_app(jobkit_lease_second=30)

    with pytest.raises(SettingsError, match="Did you mean jobkit_lease_seconds"):
        JobKit(app).check()


# -- in what is asked of the store


@pytest.fixture
def store(valkey: ValkeyServer) -> Iterator[RedisStore]:
    store = RedisStore(valkey.url, f"test-{uuid.uuid4().hex}")
    yield store
    store.close()


@pytest.mark.parametrize(
    "url", [NOWHERE, "redis://:s3cret@127.0.0.1:1/0", "unix:///nowhere.sock"]
)
def test_a_store_that_cannot_be_reached(url: str) -> None:
    client = Client(url)

    with pytest.raises(StoreUnavailable) as told:
        client.get("a")

    assert "cannot be reached" in str(told.value)
    assert "Is the server up, and is jobkit_store_url right?" in str(told.value)
    assert "s3cret" not in str(told.value)


def test_a_url_that_names_no_store() -> None:
    with pytest.raises(SettingsError, match=r"no store: use redis://"):
        Client("http://localhost")


def test_an_id_that_nobody_knows(make_app: MakeApp, store: RedisStore) -> None:
    app = make_app()
    JobKit(app, store=store)

    @app.task(base=ProgressTask, name="sync", shared=False)
    def sync() -> None:
        pass

    result: Any = sync.AsyncResult("order-17")
    for use in (result.job, result.cancel, lambda: next(result.watch())):
        with pytest.raises(JobNotFound, match=r"No job 'order-17': it was never"):
            use()


def test_a_record_of_a_newer_schema(store: RedisStore) -> None:
    store.enqueue(new_job(), "enqueue", hint=300)
    store._client.hset(store.keys.job(ID), "schema", 99)
    client = Client(store)
    before = store._client.hgetall(store.keys.job(ID))

    uses: list[Callable[[], object]] = [
        lambda: client.get(ID),
        lambda: client.cancel(ID),
        lambda: client.pause(ID),
        lambda: client.resume(ID),
        lambda: client.replay(ID),
        lambda: client.discard(ID),
        lambda: store.begin(ID, "token", WORKER, 30),
    ]
    for use in uses:
        with pytest.raises(SchemaError) as told:
            use()
        assert f"Job '{ID}' has schema 99, this jobkit reads up to 1" in str(told.value)
        assert "upgrade celery-jobkit" in str(told.value)
    assert store._client.hgetall(store.keys.job(ID)) == before


@pytest.mark.parametrize("kind", ["memory", "redis"])
@pytest.mark.parametrize("after", ["nonsense", "W10=", "1:"])
def test_a_place_in_a_list_that_no_page_gave(
    store: RedisStore, kind: str, after: str
) -> None:
    client = Client(MemoryStore() if kind == "memory" else store)

    with pytest.raises(StoreError, match="pass the `next` of an earlier page") as told:
        client.list(after=after)

    assert repr(after) in str(told.value)


def test_words_that_mean_nothing(store: RedisStore) -> None:
    client = Client(store)
    word: Any = "failed_item"

    with pytest.raises(JobkitError, match="failed_items, not 'failed_item'"):
        client.replay(ID, word)
    with pytest.raises(JobkitError, match=r"no state 'DED'.*'DEAD'"):
        client.list(state="DED")


def test_an_act_that_the_state_does_not_admit(store: RedisStore) -> None:
    store.enqueue(new_job(), "enqueue", hint=300)

    with pytest.raises(NotAllowed, match="only dead jobs are replayed") as told:
        Client(store).replay(ID)

    assert told.value.state == "QUEUED"


def test_a_checkpoint_that_nobody_can_read() -> None:
    store = MemoryStore()
    run = begin(store)
    store.save(ID, run.lease.fence, 1, Snapshot(1, "{}", run.progress), 30)
    store.interrupt(ID, run.lease.fence, "drain")

    with pytest.raises(CodecError, match=r"checkpoint cannot be read: \{\}"):
        begin(store)


def test_a_message_over_1_mib(make_app: MakeApp, store: RedisStore) -> None:
    app = make_app(broker_url="memory://")
    JobKit(app, store=store)

    @app.task(base=ProgressTask, name="sync", shared=False)
    def sync(text: str) -> None:
        pass

    with pytest.raises(LimitError, match="at most 1048576 are kept"):
        sync.delay("x" * 2**20)

    assert not any(store.counts().values())


def test_a_server_that_refuses_a_command(
    store: RedisStore, valkey: ValkeyServer
) -> None:
    store.enqueue(new_job(), "enqueue", hint=300)
    with redis.Redis(port=valkey.port) as client:
        client.delete(store.keys.job(ID))
        client.set(store.keys.job(ID), "not a hash")

    with pytest.raises(StoreError, match=r"refused a command.*WRONGTYPE"):
        store.get(ID)


def test_every_refusal_has_one_root() -> None:
    refusals = [CodecError, LimitError, JobNotFound, NotAllowed, SchemaError]
    refusals += [SettingsError, StageError, StoreError, StoreUnavailable]

    assert all(issubclass(refusal, JobkitError) for refusal in refusals)
