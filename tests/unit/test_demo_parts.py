"""The parts of the demo: shop, client, ledger, account and screen."""

import io
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import httpx
import pytest
from rich.console import Console

from examples.order_sync.ledger import Account, Ledger, Share, account
from examples.order_sync.promises import (
    Bounds,
    Mending,
    Strike,
    mended,
    promises,
    table,
)
from examples.order_sync.screen import Screen, plain, stages_of
from examples.order_sync.shop import (
    BLOCK,
    BURSTS,
    LIMITED,
    LONG,
    LONG_BURSTS,
    PAGE,
    SLOW,
    SLOW_PAGES,
    Answer,
    Shop,
    ShopServer,
)
from examples.order_sync.shop_client import (
    amount_of,
    count_orders,
    orders_after,
    repair,
)
from jobkit import Job, Progress, RateLimited, State

TOP = Path(__file__).parents[2]

# -- the shop -----------------------------------------------------------------------


def walk(shop: Shop) -> list[tuple[int, Answer]]:
    """Ask for every page until it comes: all answers."""
    answers, after = [], 0
    while after < shop.orders:
        answer = shop.answer(f"/orders?after={after}")
        answers.append((after, answer))
        if answer.status == 200:
            after = answer.body["orders"][-1]["id"]
    return answers


def test_a_shop_does_the_same_for_the_same_seed() -> None:
    assert walk(Shop(20_000, seed=7)) == walk(Shop(20_000, seed=7))


def test_a_shop_does_something_else_for_another_seed() -> None:
    one, other = walk(Shop(20_000, seed=7)), walk(Shop(20_000, seed=8))

    assert one != other
    assert Shop(9, 7).order(1) != Shop(9, 8).order(1)


def test_a_shop_hands_out_every_order_once() -> None:
    pages = [
        answer.body["orders"]
        for _, answer in walk(Shop(1234, seed=3))
        if answer.status == 200
    ]

    assert [len(page) for page in pages] == [PAGE] * 4 + [234]
    assert [order["id"] for page in pages for order in page] == list(range(1, 1235))


@pytest.mark.parametrize("seed", range(5))
def test_every_block_of_pages_has_its_troubles(seed: int) -> None:
    shop = Shop(BLOCK * PAGE, seed)
    troubles = [shop.trouble(page) for page in range(BLOCK)]
    failures = Counter(len(one.failures) for one in troubles)
    statuses = Counter(int(status) for one in troubles for status in one.failures)

    assert failures[LONG] == LONG_BURSTS
    assert failures[1] == LIMITED + BURSTS
    assert statuses == {429: LIMITED, 503: LONG_BURSTS * LONG + BURSTS}
    assert sum(one.seconds == SLOW for one in troubles) == SLOW_PAGES


def test_a_page_fails_a_few_times_and_then_never_again() -> None:
    shop = Shop(BLOCK * PAGE, seed=2)
    page = next(n for n in range(BLOCK) if len(shop.trouble(n).failures) == LONG)
    asked = [shop.answer(f"/orders?after={page * PAGE + n}") for n in range(10)]

    assert [int(answer.status) for answer in asked] == [503] * LONG + [200] * (
        10 - LONG
    )
    assert shop.stats() == {"503": LONG, "200": 10 - LONG}


def test_who_is_too_fast_is_told_how_long_to_wait() -> None:
    shop = Shop(BLOCK * PAGE, seed=2)
    answers = [answer for _, answer in walk(shop) if answer.status == 429]

    assert [answer.headers for answer in answers] == [{"Retry-After": "1"}] * LIMITED


def test_nothing_comes_after_the_last_order() -> None:
    shop = Shop(10, seed=1)

    assert shop.answer("/orders?after=10").body == {"orders": []}
    assert shop.answer("/orders?after=99").body == {"orders": []}


def test_malformed_orders_are_malformed_until_the_shop_is_repaired() -> None:
    shop = Shop(1000, seed=3, bad=37)

    def malformed() -> set[int]:
        return {n for n in range(1, 1001) if shop.order(n)["cents"] is None}

    assert malformed() == Shop(1000, seed=3, bad=37).bad
    assert len(malformed()) == 37
    number = next(iter(shop.bad))
    assert shop.answer(f"/orders/{number}").body["cents"] is None
    shop.repair()
    assert malformed() == set()
    assert shop.answer(f"/orders/{number}").body == shop.order(number)
    assert shop.answer("/orders/1001").status == 404


# -- the shop and its client over HTTP ----------------------------------------------


def seed_with_troubles() -> int:
    """A seed whose first pages have a burst, a long burst and a limit."""

    def has_all(seed: int) -> bool:
        kinds = {Shop(0, seed).trouble(page).failures for page in range(6)}
        return {failures[:1] * len(failures) for failures in kinds} >= {
            (503,),
            (503,) * LONG,
            (429,),
        }

    return next(seed for seed in range(10_000) if has_all(seed))


@pytest.fixture
def shop_url() -> Iterator[str]:
    with ShopServer(Shop(6 * PAGE, seed_with_troubles())) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


def test_a_shop_speaks_http_over_one_connection(shop_url: str) -> None:
    ports = set()
    with httpx.Client(base_url=shop_url) as client:
        for path in ("/orders/count", "/stats", "/nothing", "/orders?after=x"):
            response = client.get(path)
            ports.add(
                response.extensions["network_stream"].get_extra_info("client_addr")
            )
            assert response.http_version == "HTTP/1.1"

    assert len(ports) == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/orders/count", 200),
        ("/nothing", 404),
        ("/orders?after=x", 400),
    ],
)
def test_a_shop_knows_what_it_was_asked(path: str, status: int, shop_url: str) -> None:
    assert httpx.get(shop_url + path).status_code == status


def test_the_client_reads_on_after_every_trouble(shop_url: str) -> None:
    seen: list[int] = []
    troubles: list[Exception] = []
    while len(seen) < count_orders(shop_url):
        try:
            for order in orders_after(shop_url, seen[-1] if seen else None):
                seen.append(order["id"])  # noqa: PERF401 - it may break off
        except (RateLimited, httpx.HTTPStatusError) as error:
            troubles.append(error)

    assert seen == list(range(1, 6 * PAGE + 1))
    assert {type(error) for error in troubles} == {RateLimited, httpx.HTTPStatusError}
    assert len(troubles) == 2


def test_the_client_passes_on_how_long_to_wait(shop_url: str) -> None:
    waits = set()
    for page in range(6):
        try:
            next(orders_after(shop_url, page * PAGE))
        except RateLimited as error:
            waits.add(error.retry_after)
        except httpx.HTTPStatusError:
            continue

    assert waits == {1.0}


def test_an_order_without_an_amount_is_asked_for_again() -> None:
    with ShopServer(Shop(10, seed=3, bad=1)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        (number,) = server.shop.bad
        order = {**server.shop.order(number)}
        try:
            with pytest.raises(ValueError, match=f"order {number} has no amount"):
                amount_of(server.url, order)
            repair(server.url)
            assert amount_of(server.url, order) >= 100
        finally:
            server.shutdown()
            thread.join()


def test_the_client_begins_after_an_order_in_the_middle_of_a_page(
    shop_url: str,
) -> None:
    def rest() -> list[int] | None:
        try:
            return [order["id"] for order in orders_after(shop_url, 6 * PAGE - 7)]
        except (RateLimited, httpx.HTTPStatusError):
            return None

    answers = [rest() for _ in range(LONG)]

    assert answers[-1] == list(range(1494, 1501))


# -- the ledger -----------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.sqlite")


def write(path: str, *runs: tuple[int, range]) -> None:
    for fence, orders in runs:
        with Ledger(path) as ledger:
            for order in orders:
                ledger.record(order, fence=fence)


def test_an_account_finds_what_is_missing_and_what_was_repeated(path: str) -> None:
    write(path, (1, range(1, 7)), (2, range(4, 9)), (4, range(8, 10)))

    found = account(path, range(1, 13))

    assert (found.expected, found.handled, found.missing) == (12, 9, 3)
    assert found.repeated == 4
    assert {fence: share.rows for fence, share in found.by_fence.items()} == {
        1: 6,
        2: 5,
        4: 2,
    }
    assert {fence: share.repeated for fence, share in found.by_fence.items()} == {
        1: 3,
        2: 1,
        4: 0,
    }


def test_an_order_that_nobody_expects_does_not_stand_for_another(path: str) -> None:
    write(path, (1, range(5)))

    found = account(path, range(1, 6))

    assert (found.handled, found.missing) == (4, 1)


def test_an_order_handled_thrice_is_repeated_twice(path: str) -> None:
    write(path, (1, range(1, 2)), (2, range(1, 2)), (3, range(1, 2)))

    assert account(path, range(1, 2)).repeated == 2


def test_a_ledger_counts_different_orders(path: str) -> None:
    write(path, (1, range(10)), (2, range(5, 15)))

    with Ledger(path) as ledger:
        assert ledger.count() == 15


def test_the_fastest_second_is_the_most_rows_within_one(path: str) -> None:
    moments = [0.0, 0.2, 0.4, 1.3, 1.35, 1.39, 5.0, 5.99]
    with Ledger(path) as ledger:
        for number, moment in enumerate(moments):
            ledger._connection.execute(
                "INSERT INTO handled VALUES (?, 1, 1, ?)", (number, moment)
            )

    assert account(path, range(8)).fastest_second == 4


def test_an_empty_ledger_has_everything_missing(path: str) -> None:
    write(path, (1, range(0)))

    found = account(path, range(1, 4))

    assert found == Account(3, 0, 3, 0, {}, 0)


# -- the account -----------------------------------------------------------------------

FIELDS = {
    "id": "j1",
    "task": "shop.sync_orders",
    "state": "RUNNING",
    "worker": "w1@order-sync/77",
    "fence": "3",
    "starts": "3",
    "attempts": "0",
    "recoveries": "1",
    "interruptions": "1",
    "stages": '["count","import","reconcile"]',
    "created_at": "1000",
    "updated_at": "2000",
}


def job(state: State = State.RUNNING, **progress: Any) -> Job:
    record = Job.from_fields({**FIELDS, "state": state})
    return replace(record, progress=Progress(stage_count=3, **progress))


ENDED = job(State.SUCCEEDED)
KILL = Strike(SIGKILL, "w1", fence=1, at=0.0, recovered_after=6.5)
STOP = Strike(SIGTERM, "w2", fence=2, at=9.0, recovered_after=2.4, left_after=1.0)
LEDGER = Account(1000, 1000, 0, 80, {1: Share(400, 80, 7)}, fastest_second=100)
BOUNDS = Bounds(lease=5.0, checkpoint_interval=1.0, poll=0.5)


def broken(**given: Any) -> list[str]:
    case = {
        "account": LEDGER,
        "job": ENDED,
        "strikes": [KILL, STOP],
        "setbacks": 0,
        "bounds": BOUNDS,
        **given,
    }
    return [line.what for line in promises(**case) if not line.kept]


def test_an_account_in_order_breaks_no_promise() -> None:
    assert broken() == []


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"job": job(State.DEAD)}, "state"),
        ({"job": replace(ENDED, attempts=1)}, "errors counted as attempts"),
        ({"setbacks": 1}, "percentage went back"),
        (
            {
                "account": replace(
                    LEDGER,
                    by_fence={1: Share(400, 80, 7), 2: Share(1, 1, 8)},
                    repeated=81,
                )
            },
            "repeated otherwise",
        ),
        (
            {
                "account": replace(
                    LEDGER, by_fence={1: Share(400, 351, 7)}, repeated=351
                )
            },
            "repeated after kill -9 of w1",
        ),
        (
            {"strikes": [replace(KILL, recovered_after=7.1), STOP]},
            "running again after SIGKILL",
        ),
        (
            {"strikes": [KILL, replace(STOP, recovered_after=2.6)]},
            "running again after SIGTERM",
        ),
        (
            {"strikes": [KILL, replace(STOP, recovered_after=None)]},
            "running again after SIGTERM",
        ),
        ({"strikes": [KILL, replace(STOP, left_after=None)]}, "w2 left after SIGTERM"),
    ],
    ids=[
        "ended as dead",
        "an attempt too many",
        "went back",
        "repeated without a kill",
        "repeated too much",
        "slow after a kill",
        "slow after a stop",
        "never recovered",
        "never left",
    ],
)
def test_a_promise_that_was_broken_is_named(given: dict[str, Any], what: str) -> None:
    assert broken(**given) == [what]


PARTIAL = job(State.PARTIAL)
MENDED = Mending(PARTIAL, ENDED, ENDED, failed=[3, 7], replayed={3, 7})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({}, []),
        ({"before": ENDED}, ["state before the repair"]),
        ({"after": replace(ENDED, open_failures=1)}, ["failed orders left"]),
        ({"replay": PARTIAL}, ["the replay"]),
        (
            {"failed": [7, 7], "replayed": {7, 8}},
            [
                "of which are there twice",
                "others replayed",
            ],
        ),
        ({"replayed": {3}}, ["failed orders replayed"]),
        ({"replayed": {3, 8}}, ["others replayed"]),
        ({"failed": [3, 7, 9]}, ["malformed orders in its ledger"]),
    ],
)
def test_an_account_of_a_replay_names_what_is_wrong(
    change: dict[str, Any], what: list[str]
) -> None:
    lines = mended(replace(MENDED, **change), 2)
    assert [line.what for line in lines if not line.kept] == what


def test_missing_orders_break_two_promises() -> None:
    short = replace(LEDGER, handled=999, missing=1)

    assert broken(account=short) == ["orders handled", "orders missing"]


def test_a_strike_that_no_counter_knows_of_breaks_promises() -> None:
    lost = replace(ENDED, recoveries=0)

    assert broken(job=lost) == ["recoveries", "errors counted as attempts"]


# -- the screen ---------------------------------------------------------------------------


def shown(*jobs: Job, live: bool = False) -> str:
    console = Console(file=io.StringIO(), width=90, force_terminal=False)
    screen = Screen(console, live=False)
    for one in jobs:
        screen.show(one)
    if live:
        console.print(screen.render())
    file: Any = console.file
    return str(file.getvalue())


IMPORTING = job(
    stage="import",
    stage_index=1,
    current=20_600,
    total=50_000,
    percent=42.96,
    rate=2480.0,
    eta_seconds=12.2,
)


def test_a_line_says_how_far_the_job_is_and_where() -> None:
    assert plain(IMPORTING) == (
        "RUNNING    import 20,600/50,000  43.0 %  2,480/s  12 s left  run 3 on w1"
    )


def test_a_line_does_not_say_what_is_not_known() -> None:
    waiting = replace(job(State.QUEUED), worker="", fence=0)

    assert plain(waiting) == "QUEUED     - 0/?  run 0 on -"


def test_stages_keep_what_was_told_of_them() -> None:
    counting = job(stage="count", stage_index=0, current=0, total=1)
    before = stages_of(counting, ())
    after = stages_of(IMPORTING, before)

    assert [(one.begun, one.done) for one in before] == [(True, False)] + 2 * [
        (False, False)
    ]
    assert [(one.begun, one.done) for one in after] == [
        (True, True),
        (True, False),
        (False, False),
    ]
    assert (after[1].current, after[1].total) == (20_600, 50_000)


def test_at_the_end_every_stage_is_done() -> None:
    assert all(one.done for one in stages_of(ENDED, ()))


def test_the_bars_say_what_the_record_says() -> None:
    text = shown(IMPORTING, live=True)

    for word in ("20,600 / 50,000", "43.0 %", "2,480/s", "waits", "RUNNING", "w1"):
        assert word in text
    assert "recoveries 1" in text


def test_without_a_terminal_the_end_is_always_told() -> None:
    lines = shown(IMPORTING, IMPORTING, IMPORTING, ENDED).splitlines()

    assert [line.split()[2] for line in lines] == ["RUNNING", "SUCCEEDED"]


def test_the_account_is_a_table() -> None:
    console = Console(file=io.StringIO(), width=90)
    console.print(table(list(promises(LEDGER, ENDED, [KILL, STOP], 1, BOUNDS))))
    file: Any = console.file
    text = str(file.getvalue())

    assert "kept" in text
    assert text.count("BROKEN") == 1


# -- the whole ------------------------------------------------------------------------------


def demo(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.order_sync.demo", *options],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_small_demo_keeps_every_promise(tmp_path: Path) -> None:
    picture = tmp_path / "demo.svg"
    done = demo("--no-kill", "--orders", "600", "--picture", str(picture))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every promise was kept: missing 0." in done.stdout
    assert "37 orders failed" in done.stdout
    assert picture.read_text().startswith("<svg")


@pytest.mark.long
@pytest.mark.timeout(180)
def test_the_demo_keeps_every_promise() -> None:
    done = demo()

    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill -9" in done.stdout
    assert "SIGTERM to" in done.stdout
    assert "too short" not in done.stdout
