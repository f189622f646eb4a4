"""Short ways to bring a limit where a test needs it."""

from jobkit.store.base import Store
from jobkit.store.slots import Claim, LimitState

LEASE, SPAN = 30.0, 10.0
ONE = (Claim("shop", 1),)


def take(
    store: Store, job: str, fence: int = 1, claims: tuple[Claim, ...] = ONE
) -> str:
    """How a run stands that begins."""
    return store.acquire(job, fence, claims, LEASE, SPAN).standing


def line_up(store: Store, job: str, claims: tuple[Claim, ...] = ONE) -> str:
    """How a job stands that is enqueued."""
    return take(store, job, 0, claims)


def give_back(
    store: Store, job: str, fence: int = 1, *, keep: bool = False
) -> list[str]:
    """Who is let go by the end of a run."""
    return list(store.release(job, fence, SPAN, keep=keep))


def state(store: Store, key: str = "shop", *, rate: bool = False) -> LimitState:
    """How a limit stands that is in use."""
    found = store.limit(key, rate=rate)
    assert found
    return found
