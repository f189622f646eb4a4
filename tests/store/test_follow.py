"""How several jobs are followed at once, and followed on after a break."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from jobkit.store.base import Store
from jobkit.store.values import EVENTS_KEPT, TICKS_KEPT, News
from tests.store.lives import LEASE, enqueued, running, snapshot, started

IDLE = 0.02


def told(news: Sequence[News]) -> list[tuple[str, str]]:
    return [(one.job_id, one.event.name) for one in news]


def follow(store: Store, places: dict[str, str]) -> list[News]:
    """All there is to see now; the places go on."""
    seen: list[News] = []
    while found := store.follow(places, IDLE):
        places.update({news.job_id: news.place for news in found})
        seen += found
    return seen


def number(place: str) -> list[list[int]]:
    return [[int(n) for n in part.split("-")] for part in place.split(".")]


def test_several_jobs_are_followed_at_once(store: Store) -> None:
    jobs = ["a", "b", "c", "d"]
    runs = {job_id: running(store, job_id) for job_id in jobs}
    places = {job_id: store.place(job_id) for job_id in jobs}
    running(store, "other")
    for job_id in jobs:
        store.save(job_id, runs[job_id].fence, 1, snapshot(1), LEASE)
        store.succeed(job_id, runs[job_id].fence, snapshot(2))

    seen = told(follow(store, places))

    assert sorted(seen) == [(j, e) for j in jobs for e in ("progressed", "succeeded")]
    for job_id in jobs:
        assert [e for j, e in seen if j == job_id] == ["progressed", "succeeded"]


def test_nothing_new_is_told_as_nothing(store: Store) -> None:
    running(store)
    assert list(store.follow({"job": store.place("job")}, 0)) == []
    assert list(store.follow({"job": store.place("job")}, IDLE)) == []


def test_it_goes_on_without_gap_or_repeat(store: Store) -> None:
    enqueued(store)
    first = store.place("job")
    run = started(store)
    for seq in range(1, 5):
        store.save("job", run.fence, seq, snapshot(seq), LEASE)
    store.succeed("job", run.fence, snapshot(5))
    whole = follow(store, {"job": first})
    assert len(whole) == 6

    for cut, place in enumerate([first, *(news.place for news in whole)]):
        assert store.place("job", place) == place
        assert follow(store, {"job": place}) == whole[cut:]


def test_places_only_grow(store: Store) -> None:
    enqueued(store)
    places = [store.place("job")]
    run = started(store)
    for seq in range(1, 5):
        store.save("job", run.fence, seq, snapshot(seq), LEASE)
    places += [news.place for news in follow(store, {"job": places[0]})]

    numbers = [number(place) for place in places]
    for earlier, later in pairwise(numbers):
        assert earlier != later
        assert all(a <= b for a, b in zip(earlier, later, strict=True))


def test_a_place_whose_progress_is_gone_is_not_gone_on_from(store: Store) -> None:
    run = running(store)
    old = store.place("job")
    for seq in range(1, TICKS_KEPT + 2):
        store.save("job", run.fence, seq, snapshot(seq), LEASE)

    place = store.place("job", old)

    assert place != old
    assert follow(store, {"job": place}) == []


def test_a_place_whose_events_are_gone_is_not_gone_on_from(store: Store) -> None:
    enqueued(store)
    old = store.place("job")
    for number in range(EVENTS_KEPT // 2 + 1):
        run = started(store, token=str(number))
        store.interrupt("job", run.fence, "drain")

    assert store.place("job", old) != old


NONSENSE = (
    "x",
    "-",
    "1-1",
    "1-1.1-1.1-1",
    "1-1.x",
    "٣",
    "9" * 40,
    "1-1.2-2\n",
    "9" * 15,
)


def test_what_is_no_place_is_answered_with_now(store: Store) -> None:
    run = running(store)
    for seq, nonsense in enumerate(NONSENSE, 1):
        place = store.place("job", nonsense)
        store.save("job", run.fence, seq, snapshot(seq), LEASE)
        news = store.follow({"job": place}, IDLE)
        assert told(news) == [("job", "progressed")]


def test_a_job_may_be_followed_before_it_is_recorded(store: Store) -> None:
    places = {"job": store.place("job")}
    enqueued(store)
    assert told(follow(store, places)) == [("job", "queued")]


def test_who_waits_is_woken_by_any_of_them(store: Store) -> None:
    running(store, "a")
    run = running(store, "b")
    places = {job_id: store.place(job_id) for job_id in ("a", "b")}
    with ThreadPoolExecutor(1) as threads:
        woken = threads.submit(store.follow, places, 20)
        store.save("b", run.fence, 1, snapshot(1), LEASE)
        assert told(list(woken.result(10))) == [("b", "progressed")]
