"""Run Celery's own tests with Celery's task class and with ours, and compare.

It fails when a test never passes with ours that passes with Celery's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.compat.suite import Outcome, Suite

SIDES = ("celery", "jobkit")

RETRIES = 2
"""How often a test that failed gets another chance, as many of Celery's need one."""

INTEGRATION = ["t/integration/test_tasks.py", "t/integration/test_canvas.py"]

FAILURES = {
    ("jobkit",): "BROKEN",
    ("celery",): "passes with jobkit only",
    ("celery", "jobkit"): "fails with both",
}

console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())


@dataclass(slots=True)
class Account:
    """How each test went on each side, try for try."""

    finished: bool = True
    tries: dict[str, dict[str, list[Outcome]]] = field(
        default_factory=lambda: {side: {} for side in SIDES}
    )

    def add(self, side: str, outcomes: dict[str, Outcome]) -> None:
        """Take in what a run has shown."""
        for test, outcome in outcomes.items():
            self.tries[side].setdefault(test, []).append(outcome)

    def tests(self) -> list[str]:
        """Every test that ran on a side."""
        return list(dict.fromkeys(test for side in SIDES for test in self.tries[side]))

    def bad(self, side: str) -> list[str]:
        """The tests that have not gone well on a side so far."""
        tries = self.tries[side]
        return [test for test, all_ in tries.items() if all(one.bad for one in all_)]

    def words(self, side: str, test: str) -> list[str]:
        """The words for each try of a test."""
        return [outcome.word for outcome in self.tries[side].get(test, ())]

    def verdict(self, test: str) -> str:
        """What the tries of a test mean; nothing when they all went the same way."""
        theirs, ours = (self.words(side, test) for side in SIDES)
        if not theirs or not ours:
            return "ran on one side only"
        bad = tuple(side for side in SIDES if test in self.bad(side))
        if bad:
            return FAILURES[bad]
        shaky = [side for side in SIDES if len(self.words(side, test)) > 1]
        if shaky:
            return f"unsteady with {' and '.join(shaky)}"
        return "" if theirs == ours else "differs"


def main() -> int:
    """Run both sides, one after the other; the exit code."""
    arguments = _arguments()
    suite = Suite.fetch()
    console.print(f"{suite.folder.name}: {', '.join(arguments.tests)}")
    options = ["-k", arguments.k] if arguments.k else []
    account = Account()
    for side in SIDES:
        _try(suite, account, side, arguments.tests, options)
    for _ in range(RETRIES):
        for side in SIDES:
            again = account.bad(side)
            if again:
                _try(suite, account, side, again)
    return _report(account)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tests", nargs="*", help="files or tests below t/integration/")
    parser.add_argument("-k", help="only the tests that pytest's -k picks")
    arguments = parser.parse_args()
    arguments.tests = arguments.tests or INTEGRATION
    return arguments


def _try(
    suite: Suite,
    account: Account,
    side: str,
    tests: Sequence[str],
    options: Sequence[str] = (),
) -> None:
    console.print(f"\n[bold]With {side}'s task class[/]")
    start = time.monotonic()
    run = suite.run(tests, side, options)
    account.finished &= run.finished
    account.add(side, run.outcomes)
    counts = Counter(outcome.word for outcome in run.outcomes.values())
    told = ", ".join(f"{number} {word}" for word, number in counts.most_common())
    console.print(f"{told or 'nothing ran'}, {time.monotonic() - start:.0f} s")


def _report(account: Account) -> int:
    verdicts = {test: account.verdict(test) for test in account.tests()}
    told = {test: verdict for test, verdict in verdicts.items() if verdict}
    broken = [test for test, verdict in told.items() if verdict == "BROKEN"]
    for test in broken:
        console.rule(escape(test))
        console.print(account.tries["jobkit"][test][-1].text, markup=False)
    if told:
        console.print(_table(account, told))
    console.print(f"{len(verdicts)} tests, {len(told)} listed, {len(broken)} broken")
    if not account.finished:
        console.print("A run was cut short: what it has not shown is not known.")
    return 1 if broken or not account.finished else 0


def _table(account: Account, verdicts: dict[str, str]) -> Table:
    table = Table("verdict", *(f"with {side}" for side in SIDES))
    table.add_column("test", overflow="fold")
    for test, verdict in sorted(verdicts.items(), key=lambda item: item[::-1]):
        words = (", ".join(account.words(side, test)) or "-" for side in SIDES)
        table.add_row(verdict, *words, escape(test.removeprefix("t/integration/")))
    return table


if __name__ == "__main__":
    sys.exit(main())
