"""The judge of the chaos driver finds what is broken, and lets pass what is not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.chaos.faults import CHILD, DRAINED, FROZEN, PARTED, STORE, Blow
from tests.chaos.producer import LIMITED, LONG, RETRIED, UNIQUE, Sent
from tests.chaos.verdict import (
    HOLDERS,
    LOST,
    OWNERS,
    REPEATS,
    Evidence,
    judge,
)
from tests.worker.journal import Entry

OLD, NEW = 11, 12
EVERY = 5


def written(fence: int, pid: int, items: range, since: float) -> list[Entry]:
    """One item a tenth of a second."""
    return [
        Entry("j", fence, str(item), pid, since + 0.1 * place)
        for place, item in enumerate(items)
    ]


def broken(entries: list[Entry], *blows: Blow, kind: str = LONG) -> dict[str, int]:
    """How often each promise was, by a job whose record is left out of it."""
    work = frozenset(entry.item for entry in entries)
    sent = Sent("j", kind, work, sure=False)
    found = judge(Evidence([sent], blows, {"j": entries}, {"j": None}, EVERY)).broken
    return {promise: len(breaches) for promise, breaches in found.items() if breaches}


def resumed_at(item: int) -> list[Entry]:
    """Twenty items, then again from one of them on by another owner."""
    return [
        *written(1, OLD, range(1, 21), since=0),
        *written(2, NEW, range(item, 31), since=5),
    ]


KILLED = Blow(CHILD, 2.0, 2.0, frozenset({OLD}))
SHUT_DOWN = Blow(DRAINED, 2.0, 2.1, frozenset({OLD}))


def test_a_job_without_a_record_is_lost() -> None:
    sent = Sent("j", LONG, frozenset(), sure=True)
    found = judge(Evidence([sent], [], {}, {"j": None}, EVERY))
    assert len(found.broken[LOST]) == 1


def test_a_killed_run_may_repeat_what_came_after_its_checkpoint() -> None:
    assert broken(resumed_at(16), KILLED) == {}
    assert broken(resumed_at(15), KILLED) == {REPEATS: 1}


def test_a_kill_of_another_process_excuses_nothing() -> None:
    other = Blow(CHILD, 2.0, 2.0, frozenset({NEW}))
    assert broken(resumed_at(20), other) == {REPEATS: 1}


def test_a_run_that_was_drained_or_not_hit_may_repeat_nothing() -> None:
    assert broken(resumed_at(21), SHUT_DOWN) == {}
    assert broken(resumed_at(20), SHUT_DOWN) == {REPEATS: 1}
    assert broken(resumed_at(20)) == {REPEATS: 1}


def test_a_retried_run_may_repeat_the_item_that_failed() -> None:
    assert broken(resumed_at(20), kind=RETRIED) == {}
    assert broken(resumed_at(19), kind=RETRIED) == {REPEATS: 1}


def test_what_was_done_while_the_store_was_away_may_come_again_too() -> None:
    away = Blow(STORE, 1.35, 3.0)  # the last six of the twenty
    assert broken(resumed_at(21 - 6 - EVERY), away) == {}
    assert broken(resumed_at(20 - 6 - EVERY), away) == {REPEATS: 1}


def test_only_the_worker_that_was_cut_off_may_repeat_what_it_did_meanwhile() -> None:
    at = 1.45, 2.0
    assert broken(resumed_at(11), Blow(PARTED, *at, frozenset({OLD}))) == {}
    assert broken(resumed_at(11), Blow(PARTED, *at, frozenset({NEW}))) == {REPEATS: 1}


def test_an_old_owner_that_writes_after_the_new_one_is_one_too_many() -> None:
    late = written(1, OLD, range(31, 32), since=5.5)
    assert broken([*resumed_at(21), *late], KILLED) == {OWNERS: 1}


def test_an_old_owner_that_wakes_may_write_three_items_more() -> None:
    frozen = Blow(FROZEN, 2.0, 5.45, frozenset({OLD}))
    three = written(1, OLD, range(31, 34), since=5.5)
    four = written(1, OLD, range(31, 35), since=5.5)
    assert broken([*resumed_at(21), *three], frozen) == {}
    assert broken([*resumed_at(21), *four], frozen) == {OWNERS: 1}


def overlapping(kind: str, *jobs: list[Entry], blows: Sequence[Blow] = ()) -> int:
    """How often two of these jobs, of one shop, were found to run at a time."""
    ids = [str(place) for place, _ in enumerate(jobs)]
    sent = [Sent(i, kind, frozenset(), sure=False, shop="berlin") for i in ids]
    entries = dict(zip(ids, jobs, strict=True))
    ends = dict.fromkeys(ids)
    return len(judge(Evidence(sent, blows, entries, ends, EVERY)).broken[HOLDERS])


@pytest.mark.parametrize("kind", [LIMITED, UNIQUE])
def test_two_jobs_of_one_key_may_not_run_at_a_time(kind: str) -> None:
    first = written(1, OLD, range(1, 21), since=0)
    assert overlapping(kind, first, written(1, NEW, range(1, 5), since=1.95)) == 0
    assert overlapping(kind, first, written(1, NEW, range(1, 5), since=1.85)) == 1


def test_a_slot_may_change_hands_between_two_runs_and_a_unique_key_may_not() -> None:
    first = resumed_at(21)
    between = written(1, NEW, range(1, 5), since=3)
    assert overlapping(LIMITED, first, between) == 0
    assert overlapping(UNIQUE, first, between) == 1


def test_what_a_frozen_holder_does_on_waking_is_no_second_holder() -> None:
    frozen = Blow(FROZEN, 0.95, 3.15, frozenset({OLD}))
    other = written(1, NEW, range(1, 5), since=3)
    for items, found in ((3, 0), (4, 1)):
        late = written(1, OLD, range(11, 11 + items), since=3.2)
        holder = [*written(1, OLD, range(1, 11), since=0), *late]
        assert overlapping(LIMITED, holder, other, blows=[frozen]) == found
