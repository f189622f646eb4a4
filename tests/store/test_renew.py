"""How a run keeps its lease."""

from jobkit.clock import from_milliseconds
from jobkit.job import StopRequest
from jobkit.store.base import Store
from jobkit.store.values import Kept
from tests.store.clocks import Clock
from tests.store.lives import kept, running


def test_the_lease_lasts_from_now(store: Store, clock: Clock) -> None:
    run = running(store)
    clock.advance(20)

    assert store.renew("job", run.fence, 30) == Kept(owner=True)
    assert kept(store).lease_until == from_milliseconds(clock.now + 30_000)
    assert kept(store).updated_at == from_milliseconds(clock.now)
    clock.advance(29)
    assert store.rescue() == []


def test_a_lease_that_nobody_took_can_be_renewed(store: Store, clock: Clock) -> None:
    run = running(store)
    clock.advance(31)
    assert store.renew("job", run.fence, 30).owner
    assert store.rescue() == []


def test_the_owner_hears_what_is_asked(store: Store) -> None:
    run = running(store)
    store.ask("job", "pause", "ada", "lunch\nbreak")

    answer = store.renew("job", run.fence, 30)
    assert answer == Kept(
        owner=True, request=StopRequest("pause", "ada", "lunch\nbreak")
    )


def test_an_unknown_job_has_no_owner(store: Store) -> None:
    assert store.renew("nobody", 1, 30) == Kept(owner=False)
